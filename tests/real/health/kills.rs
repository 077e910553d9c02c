//! The agent killed again and again: no verdict changes for that.

use serde_json::json;

use super::{ready, serving};
use crate::stand::{Stand, eventually};
use crate::state::kills::number;

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_of_the_agent_changes_a_verdict() {
    let mut stand = Stand::new().await;
    let health =
        json!({"http": {"port": 80, "path": "/index.html"}, "interval": "1s", "retries": 2});
    let (status, shown) = ready(&stand, &serving(&stand, "web", &json!({"health": health}))).await;
    assert_eq!(status, 200, "{shown:#}");
    let exec = json!({"exec": {"command": ["true"]}, "interval": "1s", "retries": 2});
    let body = stand.script(
        "exec",
        "while :; do sleep 0.1; done",
        &json!({"health": exec}),
    );
    let (status, other) = ready(&stand, &body).await;
    assert_eq!(status, 200, "{other:#}");
    let since = [&shown, &other].map(|shown| shown["health"]["since"].clone());
    let pids = [&shown, &other].map(|shown| stand.pid(shown));
    // What was found just now is on the disk within half a second.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for kill in 0..number("CHAS_TEST_HEALTH_KILLS", 20) {
        stand.agent.kill_9();
        stand.agent.start_again().await;
        for (name, since) in ["web", "exec"].iter().zip(&since) {
            // Until the first look nobody can tell whether anything runs, nor while its shim does not answer.
            eventually("it was looked at", async || {
                let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
                shown["status"] != "pending" && shown["reason"] != "ShimUnresponsive"
            })
            .await;
            let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
            let ready = (&shown["status"], &shown["ready"]);
            assert_eq!(
                ready,
                (&json!("running"), &json!(true)),
                "{kill}: {shown:#}"
            );
            let begun = |value: &serde_json::Value| value.as_str().unwrap()[..19].to_owned();
            // The wall clock is read anew for each answer.
            assert_eq!(
                begun(&shown["health"]["since"]),
                begun(since),
                "{kill}: {shown:#}"
            );
        }
        let pause = std::time::Duration::from_millis(kill * 97 % 1500);
        tokio::time::sleep(pause).await;
    }
    let log = stand.agent.log();
    let count = |phrase: &str| log.lines().filter(|line| line.contains(phrase)).count();
    assert_eq!(
        (count("container ready"), count("container unhealthy")),
        (2, 0)
    );
    assert_eq!([&shown, &other].map(|shown| stand.pid(shown)), pids);
    stand.end().await;
}
