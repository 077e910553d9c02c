//! A node that is cut off, with a container that is not to run for long without CHaS: over reboots, and back.

use super::*;

/// Silence until now, as the node says it of a container.
async fn silent_s(node: &Node, name: &str) -> u64 {
    let path = format!("/containers/{name}/explain");
    let (_, explained) = node.agent.get(&path).await;
    explained["on_disconnect"]["silent_s"]
        .as_u64()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_added_up_over_reboots_and_what_rests_for_it_rests_until_chas_answers() {
    let center = Center::new().await;
    let mut leads = center.web("leads", "first");
    leads["on_disconnect"] = json!({"stop_after": "24s"});
    center
        .list("node-d", &[leads, center.web("stays", "first")])
        .await;
    let mut node = Node::start(&center, "node-d", 15).await;
    node.reaches_chas(true).await;
    center.converged(node.id).await;
    node.runs(&["leads", "stays"]).await;
    assert!(silent_s(&node, "leads").await < 12);

    // In the middle of the silence the power fails. What was counted is not lost with it.
    node.machine.set_plugged(false);
    crate::stand::eventually("it is silent", async || {
        silent_s(&node, "leads").await >= 12
    })
    .await;
    node.reboot().await;
    let began = Instant::now();
    node.runs(&["leads", "stays"]).await;
    assert!(silent_s(&node, "leads").await >= 10);
    node.runs(&["stays"]).await;
    let took = began.elapsed();
    println!("ended {took:?} after the reboot");
    assert!(took < Duration::from_secs(22), "{took:?}");
    let (_, shown) = node.agent.get("/containers/leads").await;
    assert_eq!(shown["reason"], "Disconnected", "{shown:#}");

    // Now a boot begins with it, and waits for nothing but the next answer.
    node.reboot().await;
    for _ in 0..10 {
        node.runs(&["stays"]).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    node.machine.set_plugged(true);
    let deadline = Instant::now() + BACK;
    while node.running().await.len() < 2 {
        assert!(Instant::now() < deadline, "it is not started again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    center.converged(node.id).await;
    node.end(&center).await;
}
