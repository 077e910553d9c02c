//! Containers that wait for each other, after a power cut.

use std::time::SystemTime;

use super::*;

/// Containers of the node, in chains side by side.
const CONTAINERS: usize = 30;
const CHAINS: usize = 4;

fn name(number: usize) -> String {
    format!("c{number:02}")
}

/// The set; each waits for the one before it in its chain, if they wait at all.
fn set(center: &Center, is_chained: bool) -> Vec<Value> {
    let one = |number: usize| {
        let mut body = center.web(&name(number), "a");
        let before = number.checked_sub(CHAINS).filter(|_| is_chained);
        let after = before.map(|before| json!([{"name": name(before), "condition": "ready"}]));
        // Who waits longest has the highest priority, and is the first that is looked at.
        body["priority"] = json!(50 + number);
        body["after"] = json!(after);
        body
    };
    (0..CONTAINERS).rev().map(one).collect()
}

/// Cuts the power. The time from the agent's first answer to all of them running.
async fn come_up(node: &mut Node) -> Duration {
    node.reboot().await;
    let began = Instant::now();
    loop {
        let (_, all) = node.agent.get("/containers?status=running").await;
        if all["containers"]
            .as_array()
            .is_some_and(|all| all.len() == CONTAINERS)
        {
            return began.elapsed();
        }
        assert!(began.elapsed() < BACK, "{all:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn started(node: &Node, number: usize) -> SystemTime {
    let (_, shown) = node
        .agent
        .get(&format!("/containers/{}", name(number)))
        .await;
    humantime::parse_rfc3339(shown["started"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_come_up_in_their_order_after_a_power_cut_and_in_the_time_of_a_chain() {
    let center = Center::new().await;
    let mut node = Node::start(&center, "chained", 31).await;
    node.reaches_chas(true).await;
    crate::stand::eventually("it is registered", async || {
        center.online().await.contains_key(node.id)
    })
    .await;
    center.list(node.id, &set(&center, true)).await;
    center.converged(node.id).await;
    let chained = come_up(&mut node).await;
    for number in CHAINS..CONTAINERS {
        let (own, other) = (
            started(&node, number).await,
            started(&node, number - CHAINS).await,
        );
        assert!(
            own >= other,
            "{} began before the one it waits for",
            name(number)
        );
    }
    center.list(node.id, &set(&center, false)).await;
    center.converged(node.id).await;
    let free = come_up(&mut node).await;
    println!(
        "{CONTAINERS} containers after a power cut: {chained:?} in {CHAINS} chains, {free:?} where nobody waits"
    );
    assert!(
        chained < free * 3 + Duration::from_secs(3),
        "{chained:?}, {free:?}"
    );
    node.end(&center).await;
}
