//! The audit on a real node: who changed what stands there before it is seen, and is verified.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::stand::{SOON, Stand};

fn files(stand: &Stand) -> Vec<PathBuf> {
    let entries = fs::read_dir(stand.bed.dir.join("state/audit")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

pub(crate) fn lines(stand: &Stand) -> Vec<Value> {
    let text = fs::read_to_string(&files(stand)[0]).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn verify(stand: &Stand) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .args(["audit", "verify", "--state-dir"])
        .arg(stand.bed.dir.join("state"));
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_line_and_the_chain_is_verified_over_a_restart() {
    let mut stand = Stand::new().await;
    let secret = json!({"environment": {"PASSWORD": "hunter2"}});
    let body = stand.script("web", "while :; do sleep 1; done", &secret);
    let shown = stand.agent.deploy_and_wait(&body).await;
    assert_eq!(
        stand
            .agent
            .deploy(&json!({"name": "localhost", "image": "x"}))
            .await
            .0,
        403
    );
    stand.agent.terminate();
    stand.agent.start_again().await;
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    let all = lines(&stand);
    let told: Vec<_> = all
        .iter()
        .map(|line| (&line["kind"], &line["verdict"], &line["call"]))
        .collect();
    let deploys = json!("POST /containers/deploy");
    assert_eq!(
        told,
        [
            (&json!("deploy"), &json!("allowed"), &deploys),
            (&json!("deploy"), &json!("denied"), &deploys),
            (
                &json!("stop"),
                &json!("allowed"),
                &json!("POST /containers/web/stop")
            ),
        ]
    );
    assert_eq!(
        (&all[0]["by"], &all[0]["peer"]),
        (&json!("token"), &json!("127.0.0.1")),
        "{all:?}"
    );
    assert_eq!(all[0]["after"], shown["spec_hash"]);
    let file = &files(&stand)[0];
    assert_eq!(
        fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = fs::read_to_string(file).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    let verified = verify(&stand);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    fs::write(file, text.replacen("\"denied\"", "\"allowed\"", 1)).unwrap();
    assert_eq!(verify(&stand).status.code(), Some(1));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_cannot_be_written_refuses_or_goes_on_as_configured() {
    let mut stand = Stand::new().await;
    let body = stand.script("web", "while :; do sleep 1; done", &json!({}));
    let directory = stand.bed.dir.join("state/audit");
    fs::write(&directory, "in the way").unwrap();
    stand.agent.deploy_and_wait(&body).await;
    let (_, health) = stand.agent.get("/health").await;
    assert!(
        health["alarms"].to_string().contains("AuditFailing"),
        "{health}"
    );
    stand.agent.terminate();
    stand.agent.set("CHAS_AUDIT_FAIL_CLOSED", "true");
    stand.agent.start_again().await;
    let (status, problem) = stand.agent.ask("POST", "/containers/web/stop", None).await;
    assert_eq!(status, 503, "{problem}");
    stand.agent.wait_status("web", "running", SOON).await;
    fs::remove_file(&directory).unwrap();
    assert_eq!(
        stand
            .agent
            .ask("POST", "/containers/web/stop", None)
            .await
            .0,
        202
    );
    stand.end().await;
}
