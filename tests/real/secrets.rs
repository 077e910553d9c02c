//! Secret values: containers see them, and nothing else does, neither on disk nor in an answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
        "/secrets".to_owned(),
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
    let mut stand = Stand::on(Testbed::with_private_containerd()).await;
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

    // A program beside it has them too, whoever runs it, and none of them is on a disk; an admin who asks sees them.
    for (name, user) in [("strict", None), ("plain", Some("33:33")), ("shared", None)] {
        let mut asked = json!({"command": ["sh", "-c", "echo ${#TOKEN} $MORE $(id -u)"], "environment": {"MORE": "own"}});
        if let Some(user) = user {
            asked["user"] = json!(user);
        }
        let path = format!("/containers/{name}/exec");
        let (status, done) = stand.agent.ask("POST", &path, Some(&asked)).await;
        let id = match name {
            "strict" => 1000,
            "plain" => 33,
            _ => 0,
        };
        let printed = format!("{} own {id}\n", VALUE.len());
        assert_eq!((status, &done["stdout"]), (200, &json!(printed)), "{done}");
        let missing = json!({"command": ["no-such-program"]});
        let (status, refused) = stand.agent.ask("POST", &path, Some(&missing)).await;
        assert!(status >= 400, "{refused}");
        assert!(refused.to_string().contains("not found"), "{refused}");
    }
    let (_, shown) = stand.agent.get("/containers/plain").await;
    assert_eq!(shown["spec"]["environment"]["TOKEN"], Value::Null);
    let (_, shown) = stand.agent.get("/containers/plain?reveal=true").await;
    assert_eq!(shown["spec"]["environment"]["TOKEN"], VALUE);

    // Nothing of it is lost with the agent, nor with its memory.
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
    for _ in 0..400 {
        shown = stand.agent.get(&format!("/containers/{name}")).await.1;
        if shown["reason"] == json!(reason) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(shown["reason"], json!(reason), "{shown}");
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
    // What is in memory serves the same container.
    run("kill", ["-9", &stand.pid(&shown).unwrap()]).unwrap();
    eventually("it starts again with what it was given", async || {
        let log = stand.agent.logs("kept", "tail=all").await;
        log.matches("up").count() == 2
    })
    .await;
    // As a reboot leaves it.
    let memory = stand.bed.dir.join("run/secrets");
    run("umount", ["-l", memory.to_str().unwrap()]).unwrap();
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

/// Puts a secret; the answer.
async fn put(stand: &Stand, name: &str, body: Value) -> (u16, Value) {
    let path = format!("/secrets/{name}");
    stand.agent.ask("PUT", &path, Some(&body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_files_reach_their_containers_and_a_change_restarts_or_replaces() {
    let mut stand = Stand::on(Testbed::with_private_containerd()).await;
    let (status, put_first) = put(&stand, "token", json!({"value": VALUE})).await;
    assert_eq!(status, 201, "{put_first}");
    let (status, _) = put(&stand, "key", json!({"value_base64": "Zmlyc3Q="})).await;
    assert_eq!(status, 201);
    let file = "a file with unmistakable-words-0816";
    let look = "id -u; echo \"${#TOKEN} $(cat /etc/app.conf | wc -c)\"; cat /run/one/token | wc -c; \
        stat -L -c '%a %u:%g' /etc/app.conf /run/one/token /run/tls/key; \
        while :; do cat /run/tls/key; echo; sleep 0.2; done & echo the-end; sleep 1000 & wait";
    let more = json!({
        "user": "1000:1000",
        "security": {"read_only_rootfs": true},
        "files": [{"path": "/etc/app.conf", "content": file, "mode": "0440", "user": "0:1000"}],
        "secrets": [
            {"name": "token", "env": "TOKEN"}, {"name": "token", "path": "/run/one/token"},
            {"name": "key", "path": "/run/tls/key", "mode": "0440", "on_change": "replace"},
        ],
    });
    let body = stand.script("app", look, &more);
    stand.agent.deploy_and_wait(&body).await;
    let log = stand.printed("app", "the-end").await;
    let (value, size) = (VALUE.len(), file.len());
    for line in [
        format!("{value} {size}\n"),
        format!("\n{value}\n"),
        "440 0:1000\n400 1000:1000\n440 1000:1000\n".to_owned(),
    ] {
        assert!(log.contains(&line), "{line:?}: {log}");
    }
    stand.printed("app", "first").await;
    assert_nowhere(&stand, "app", VALUE).await;
    assert_nowhere(&stand, "app", file).await;
    let (_, shown) = stand.agent.get("/containers/app?reveal=true").await;
    assert_eq!(shown["spec"]["files"][0]["content"], file);
    assert!(
        !shown.to_string().contains(VALUE),
        "a secret is never shown"
    );

    // Replaced under the running process.
    let pid = stand.pid(&shown).unwrap();
    let (status, answer) = put(&stand, "key", json!({"value": "second"})).await;
    assert_eq!(
        (status, &answer["changed"]),
        (200, &json!(true)),
        "{answer}"
    );
    stand.printed("app", "second").await;
    let (_, shown) = stand.agent.get("/containers/app").await;
    assert_eq!(
        stand.pid(&shown).as_deref(),
        Some(&*pid),
        "the same process"
    );
    assert_eq!(shown["generation"], 2);
    let (_, again) = put(&stand, "key", json!({"value": "second"})).await;
    assert_eq!(again["changed"], false);

    // What cannot be a variable is refused, and ends nothing.
    let (status, refused) = put(&stand, "token", json!({"value": "a\u{0}b"})).await;
    assert_eq!(status, 422, "{refused}");
    assert_eq!(refused["errors"][0]["field"], "value");
    let (_, shown) = stand.agent.get("/containers/app").await;
    assert_eq!(stand.pid(&shown), Some(pid), "it runs on");

    // Made anew with another value; and the rest is there after the agent's death and a reboot's loss.
    put(&stand, "token", json!({"value": "short"})).await;
    eventually("it is made anew", async || {
        let log = stand.agent.logs("app", "tail=all").await;
        log.contains(&format!("5 {size}\n"))
    })
    .await;
    stand.agent.kill_9();
    let memory = stand.bed.dir.join("run/secrets");
    run("umount", ["-l", memory.to_str().unwrap()]).unwrap();
    stand.agent.start_again().await;
    let (_, shown) = stand.agent.get("/containers/app").await;
    run("kill", ["-9", &stand.pid(&shown).unwrap()]).unwrap();
    eventually("it starts again with all of it", async || {
        let log = stand.agent.logs("app", "tail=all").await;
        log.matches(&format!("5 {size}\n")).count() == 2
    })
    .await;
    let (status, used) = stand.agent.ask("DELETE", "/secrets/key", None).await;
    assert_eq!(status, 409, "{used}");
    stand.agent.delete_and_wait("app").await;
    let (status, _) = stand.agent.ask("DELETE", "/secrets/key", None).await;
    assert_eq!(status, 204);
    let mut without = body.clone();
    without["secrets"] = json!([{"name": "gone", "env": "X"}]);
    let (status, refused) = stand.agent.deploy(&without).await;
    assert_eq!(status, 422, "{refused}");
    assert_eq!(refused["errors"][0]["field"], "secrets[0].name");
    assert_nowhere(&stand, "app", file).await;
    stand.end().await;
}
