//! Secret values: containers see them, and nothing else does, neither on disk nor in an answer.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::{Testbed, run};
use crate::stand::{SOON, Stand, eventually};

/// A value that is nowhere by chance.
const VALUE: &str = "zyxw-verv-unmistakable-0815";

/// What a value looks like where it was not sealed.
fn looks(value: &str) -> Vec<String> {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let whole = encode(value.as_bytes());
    let hex = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    vec![
        value.to_owned(),
        whole.trim_end_matches('=').to_owned(),
        hex,
    ]
}

fn holds(content: &[u8], look: &str) -> bool {
    content
        .windows(look.len())
        .any(|part| part == look.as_bytes())
}

/// Files below `directory` that hold the value, on its own file system.
fn found_below(directory: &Path, value: &str) -> Vec<PathBuf> {
    let looks = looks(value);
    let listed =
        run("find", [directory.to_str().unwrap(), "-xdev", "-type", "f"]).unwrap_or_default();
    let files = listed.lines().map(PathBuf::from);
    let holding = files.filter(|path| {
        let content = fs::read(path).unwrap_or_default();
        looks.iter().any(|look| holds(&content, look))
    });
    holding.collect()
}

/// Proves that the value is nowhere but in the memory that is for it.
async fn assert_nowhere(stand: &Stand, name: &str, value: &str) {
    let containerd = &stand.bed.containerd;
    let [bundles, _] = containerd.bundles();
    for place in [containerd.root(), bundles, stand.bed.dir.clone()] {
        let found = found_below(&place, value);
        assert!(found.is_empty(), "{}: {found:?}", place.display());
    }
    let looks = looks(value);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_there = looks.iter().any(|look| holds(&words, look));
        assert!(!is_there, "{:?}", entry.path());
    }
    for path in [
        "/containers".to_owned(),
        format!("/containers/{name}"),
        format!("/containers/{name}/explain"),
        "/desired-state".to_owned(),
        "/plan".to_owned(),
        "/health".to_owned(),
        "/metrics".to_owned(),
        "/version".to_owned(),
        "/volumes".to_owned(),
    ] {
        let (_, answer) = stand.agent.get(&path).await;
        let answer = answer.to_string();
        let is_there = looks.iter().any(|look| answer.contains(look));
        assert!(!is_there, "{path}: {answer}");
    }
    let labels = stand.bed.ctr(&["containers", "ls"]);
    assert!(!looks.iter().any(|look| labels.contains(look)));
}

/// A script that says whether it sees its values.
const SEES: &str = "[ \"$TOKEN\" = \"$(printf '%s-%s' zyxw-verv unmistakable-0815)\" ] && echo it-sees-it; \
    [ \"$PLAIN\" = 'of two  words' ] && echo and-the-other; cat /proc/1/comm; \
    id -u; ls -ln /.chas; echo the-end; sleep 1000 & wait";

#[tokio::test(flavor = "multi_thread")]
async fn values_of_the_environment_are_seen_by_their_container_alone() {
    let stand = Stand::on(Testbed::with_private_containerd()).await;
    let more = json!({"environment": {"TOKEN": VALUE, "PLAIN": "of two  words"}});
    let plain = stand.script("plain", SEES, &more);
    let mut strict = stand.script("strict", SEES, &more);
    strict["user"] = json!("1000:1000");
    strict["security"] = json!({"read_only_rootfs": true, "capabilities": {"drop": ["ALL"]}});
    let mut shared = stand.script("shared", SEES, &more);
    shared["security"] = json!({"user_namespace": "host"});
    for (name, body) in [("plain", &plain), ("strict", &strict), ("shared", &shared)] {
        stand.agent.deploy_and_wait(body).await;
        let log = stand.printed(name, "the-end").await;
        for line in ["it-sees-it", "and-the-other"] {
            assert!(log.contains(line), "{name}: {log}");
        }
        assert!(log.contains("sh\n"), "it became the program: {log}");
        let (status, again) = stand.agent.deploy(body).await;
        assert_eq!(status, 200, "{again}");
    }
    assert_nowhere(&stand, "plain", VALUE).await;

    // A program beside it has them too, and an admin who asks sees them.
    let asked = json!({"command": ["sh", "-c", "[ \"$TOKEN\" ] && echo ${#TOKEN}"]});
    let (status, done) = stand
        .agent
        .ask("POST", "/containers/strict/exec", Some(&asked))
        .await;
    assert_eq!(
        (status, &done["stdout"]),
        (200, &json!(format!("{}\n", VALUE.len()))),
        "{done}"
    );
    let (_, shown) = stand.agent.get("/containers/plain").await;
    assert_eq!(shown["spec"]["environment"]["TOKEN"], Value::Null);
    let (_, shown) = stand.agent.get("/containers/plain?reveal=true").await;
    assert_eq!(shown["spec"]["environment"]["TOKEN"], VALUE);

    // Nothing of it is lost with the agent, nor with its memory.
    let mut stand = stand;
    stand.agent.kill_9();
    stand.agent.start_again().await;
    let (_, shown) = stand.agent.get("/containers/plain").await;
    let pid = stand.pid(&shown).unwrap();
    run("kill", ["-9", &pid]).unwrap();
    eventually("it starts again with its values", async || {
        let log = stand.agent.logs("plain", "tail=all").await;
        log.matches("it-sees-it").count() == 2
    })
    .await;
    assert_nowhere(&stand, "plain", VALUE).await;

    let mut missing = plain.clone();
    missing["name"] = json!("missing");
    missing["command"] = json!(["no-such-program"]);
    stand.agent.deploy(&missing).await;
    failed(&stand, "missing", Reason::CommandNotFound).await;
    missing["command"] = json!(["/etc"]);
    stand.agent.deploy(&missing).await;
    failed(&stand, "missing", Reason::CommandNotExecutable).await;
    stand.end().await;
}

/// Waits until a container is told to have failed for this reason; its words.
async fn failed(stand: &Stand, name: &str, reason: Reason) -> String {
    let mut shown = Value::Null;
    eventually(&format!("{name} fails for {reason}"), async || {
        shown = stand.agent.get(&format!("/containers/{name}")).await.1;
        shown["reason"] == json!(reason)
    })
    .await;
    shown["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_is_told_of_and_what_runs_runs_on() {
    let mut stand = Stand::new().await;
    let more = json!({"environment": {"TOKEN": VALUE}});
    let body = stand.script("kept", "echo up; sleep 1000 & wait", &more);
    let shown = stand.agent.deploy_and_wait(&body).await;
    let pid = stand.pid(&shown).unwrap();
    let key = stand.bed.dir.join("state/secrets.key");
    let away = stand.bed.dir.join("away.key");
    stand.agent.terminate();
    fs::rename(&key, &away).unwrap();
    stand.agent.start_again().await;
    eventually("the alarm stands", async || {
        let (_, health) = stand.agent.get("/health").await;
        health.to_string().contains("SecretsKeyUnusable")
    })
    .await;
    assert!(!key.exists(), "no other key is made");
    let (_, shown) = stand.agent.get("/containers/kept").await;
    assert_eq!(stand.pid(&shown), Some(pid), "what runs runs on");
    let (status, refused) = stand.agent.deploy(&body).await;
    assert_eq!(status, 503, "{refused}");
    assert!(!refused.to_string().contains(VALUE));
    let without = stand.script("without", "sleep 1000 & wait", &json!({}));
    stand.agent.deploy_and_wait(&without).await;
    stand
        .agent
        .ask("POST", "/containers/kept/restart", None)
        .await;
    let told = failed(&stand, "kept", Reason::SecretUnavailable).await;
    assert!(told.contains("secrets.key"), "{told}");

    stand.agent.terminate();
    fs::rename(&away, &key).unwrap();
    stand.agent.start_again().await;
    stand.agent.wait_status("kept", "running", SOON).await;
    stand.end().await;
}
