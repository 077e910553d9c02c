//! A record that this agent cannot read stops only what concerns itself.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::copied;
use crate::harness::run;
use crate::stand::{SOON, Stand, eventually, serves};

const COPIES: [&str; 2] = ["desired.json.a", "desired.json.b"];

/// Writes the record of `name` as a newer version of the agent might, in both copies of the state.
fn make_unreadable(state: &Path, name: &str) {
    for copy in COPIES {
        let path = state.join(copy);
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, body) = text.split_once('\n').unwrap();
        let (mut head, mut entries): (Value, Value) = (
            serde_json::from_str(head).unwrap(),
            serde_json::from_str(body).unwrap(),
        );
        let record = entries
            .as_object_mut()
            .unwrap()
            .values_mut()
            .find(|entry| entry["name"] == name && entry["spec"].is_object())
            .unwrap();
        record["run"] = json!("hibernating");
        let body = serde_json::to_string(&entries).unwrap();
        let digest = Sha256::digest(body.as_bytes());
        let hex: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        head["bytes"] = json!(body.len());
        head["sha256"] = json!(hex.concat());
        std::fs::write(path, format!("{head}\n{body}")).unwrap();
    }
    run("rm", ["-r", state.join("state").to_str().unwrap()]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_record_keeps_nobody_else_from_being_repaired_and_swept() {
    let mut stand = Stand::new().await;
    let web = |stand: &Stand, name| stand.web(name, &json!({"exposed_ports": [{"container": 80}]}));
    let known = stand.agent.deploy_and_wait(&web(&stand, "known")).await;
    let future = stand.agent.deploy_and_wait(&web(&stand, "future")).await;
    let pids = [&known, &future].map(|shown| stand.pid(shown));
    let state = stand.bed.dir.join("state");
    // The copies are written in turn, and changes that come close together are written as one.
    for n in 0..4 {
        let filler = json!({"name": "filler", "image": "never.example/x", "state": "stopped",
            "environment": {"N": n.to_string()}});
        assert_eq!(stand.agent.deploy(&filler).await.0, 202);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    copied(&state, "future", 2).await;
    stand.agent.kill_9();
    let kept = stand.bed.dir.join("kept");
    std::fs::create_dir(&kept).unwrap();
    for copy in COPIES.into_iter().chain(["last-change"]) {
        std::fs::copy(state.join(copy), kept.join(copy)).unwrap();
    }

    make_unreadable(&state, "future");
    // Damage to the network of both, and a leftover of nobody.
    let table = stand.bed.bridge.clone();
    run("nft", ["delete", "table", "ip", &table]).unwrap();
    let leftover = state.join("logs/00000000beef");
    std::fs::create_dir_all(&leftover).unwrap();
    stand.agent.start_again().await;

    eventually("the network of the others is repaired", async || {
        serves(&known).await
    })
    .await;
    eventually("what is nobody's is swept", async || !leftover.exists()).await;
    let again = stand.agent.wait_status("known", "running", SOON).await;
    assert_eq!(again["generation"], known["generation"]);
    let refused = stand.agent.deploy(&web(&stand, "future")).await;
    assert_eq!(refused.0, 409, "{}", refused.1);
    assert_eq!(
        [&known, &future].map(|shown| stand.pid(shown)),
        pids,
        "neither was touched"
    );
    assert!(
        serves(&future).await,
        "its labels say where it stands on the network"
    );
    let logs = state.join("logs").join(future["id"].as_str().unwrap());
    assert!(
        logs.exists(),
        "the logs of a container whose record is unreadable are not a leftover"
    );

    // The newer version comes back.
    stand.agent.kill_9();
    for copy in COPIES.into_iter().chain(["last-change"]) {
        std::fs::copy(kept.join(copy), state.join(copy)).unwrap();
    }
    run("rm", ["-r", state.join("state").to_str().unwrap()]).unwrap();
    stand.agent.start_again().await;
    stand.agent.wait_status("future", "running", SOON).await;
    assert_eq!([&known, &future].map(|shown| stand.pid(shown)), pids);
    stand.end().await;
}
