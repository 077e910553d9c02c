//! What a set may not end without a word from somebody.

use super::*;

/// Runs the agent's own binary as an operator does.
fn confirm(central: &Central, arguments: &[&str]) -> String {
    let agent = &central.stand.agent;
    let output = Command::new(PROGRAM)
        .arg("confirm")
        .args(arguments)
        .env_clear()
        .envs(agent.environment())
        .output()
        .unwrap();
    // What only looks says by its code that it found something.
    let found = if arguments.contains(&"--list") { 3 } else { 0 };
    assert_eq!(
        output.status.code(),
        Some(found),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_would_end_too_much_is_held_until_somebody_confirms_it() {
    let central = Central::new().await;
    let all = central.sleepers(&["a", "b", "c", "d"]);
    central.list(&all).await;
    let before = central.running().await;
    let held =
        |generation: u64| move |report: &Value| report["pending_prune"]["generation"] == generation;
    // CHaS confirms it itself, with the same generation.
    let generation = central.chas.list(&all[..1]);
    let report = central.chas.report("it is held", held(generation)).await;
    assert_eq!(
        report["pending_prune"]["names"],
        json!(["b", "c", "d"]),
        "{report:#}"
    );
    assert_eq!(
        (central.running().await, &report["converged"]),
        (before.clone(), &json!(false))
    );
    central.chas.set("prune_confirm", json!(generation));
    central.applied(generation).await;
    assert_eq!(central.running().await.len(), 1);
    central.chas.set("prune_confirm", Value::Null);
    // An operator does; over a restart of the agent, and with CHaS away.
    let mut central = central;
    central.list(&all).await;
    let generation = central.chas.list(&[]);
    central.chas.report("it is held", held(generation)).await;
    central.stand.agent.terminate();
    central.stand.agent.start_again().await;
    eventually("it has looked", async || central.running().await.len() == 4).await;
    assert!(confirm(&central, &["--list"]).contains("would end or change 4:\n  a\n  b\n"));
    assert_eq!(central.running().await.len(), 4);
    let (status, problem) = central
        .stand
        .agent
        .ask(
            "POST",
            &format!("/desired-state/confirm?generation={}", generation - 1),
            None,
        )
        .await;
    assert_eq!(status, 409, "{problem}");
    assert!(confirm(&central, &[]).contains("Confirmed"));
    central.applied(generation).await;
    assert_eq!(central.running().await.len(), 0);
    assert_eq!(
        confirm(&central, &[]),
        "Nothing waits for a confirmation.\n"
    );
    central.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_restored_stops_nothing() {
    let central = Central::new().await;
    central.list(&central.sleepers(&["a", "b", "c"])).await;
    let before = central.running().await;
    // Last week there was no c, and b was another one.
    let old_b = central
        .stand
        .script("b", "while :; do sleep 3; done", &json!({}));
    central.chas.set("epoch", json!("e2"));
    central.chas.set("generation", json!(1));
    let generation = central
        .chas
        .list(&[central.sleeper("a"), old_b, central.sleeper("new")]);
    let held = |report: &Value| {
        report["pending_prune"]["names"] == json!(["b", "c"])
            && report["observed_generation"] == generation
    };
    central.chas.report("b and c are held", held).await;
    central
        .stand
        .agent
        .wait_status("new", "running", SOON)
        .await;
    let now = central.running().await;
    assert!(
        now.len() == 4 && before.iter().all(|(name, pid)| now.get(name) == Some(pid)),
        "{before:?} {now:?}"
    );
    confirm(&central, &[]);
    central.applied(generation).await;
    let now = central.running().await;
    assert!(
        now.len() == 3 && now["a"] == before["a"] && now["b"] != before["b"],
        "{before:?} {now:?}"
    );
    central.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_state_keeps_what_chas_lists() {
    let mut central = Central::new().await;
    let first = central.list(&central.sleepers(&["a", "b", "c"])).await;
    let before = central.running().await;
    central.stand.agent.kill_9();
    std::fs::remove_dir_all(central.stand.bed.dir.join("state")).unwrap();
    central.stand.agent.start_again().await;
    // It asks without a tag, and what it is told is what runs.
    let settled = |report: &Value| {
        let theirs =
            |container: &Value| container["owner"] == "chas" && container["status"] == "running";
        let containers = report["containers"].as_array().unwrap();
        let is_anew = report["instance_uuid"] != first["instance_uuid"];
        is_anew
            && report["applied_generation"] == first["applied_generation"]
            && containers.iter().all(theirs)
    };
    let report = central
        .chas
        .report("it has taken over what runs", settled)
        .await;
    assert_eq!(
        (&report["pending_prune"], &report["converged"]),
        (&Value::Null, &json!(true)),
        "{report:#}"
    );
    assert_eq!(
        (
            report["containers"].as_array().unwrap().len(),
            central.running().await
        ),
        (3, before)
    );
    central.end().await;
}
