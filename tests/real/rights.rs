//! Clients of the API on a real node: what a token of a role and of names gets, and until when.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::audit::lines;
use crate::doors::{over_tcp, status};
use crate::harness::Testbed;
use crate::harness::agent::PROGRAM;
use crate::stand::{Stand, eventually};

/// Runs `token` as an operator does; what it prints.
pub(crate) fn token(file: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command
        .arg("token")
        .args(arguments)
        .arg("--clients-file")
        .arg(file);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Asks over TCP with this token.
async fn ask(
    stand: &Stand,
    token: &str,
    (method, path): (&str, &str),
    body: &Value,
) -> (u16, Value) {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \
         {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let answer = over_tcp(&stand.agent, request.as_bytes()).await;
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let value = serde_json::from_str(text).unwrap_or(Value::String(text.to_owned()));
    (status(&answer), value)
}

/// A stand whose agent knows these clients, with its file of them and their tokens.
pub(crate) async fn stand_with(clients: &[&[&str]]) -> (Stand, PathBuf, Vec<String>) {
    let bed = Testbed::new();
    let file = bed.dir.join("clients.yaml");
    let made = clients
        .iter()
        .map(|create| token(&file, create).trim().to_owned());
    let made = made.collect();
    let variables = [("CHAS_CLIENTS_FILE", file.to_str().unwrap())];
    let stand = Stand::with(bed, &variables).await;
    (stand, file, made)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployer_has_its_prefix_and_sees_no_values() {
    let deployer = [
        "create",
        "ci",
        "--role",
        "deploy",
        "--names",
        "web-*",
        "--expires",
        "1h",
    ];
    let viewer = ["create", "viewer", "--role", "read"];
    let admin = ["create", "ops", "--role", "admin"];
    let (stand, _, made) = stand_with(&[&deployer, &viewer, &admin]).await;
    let [ci, viewer, ops] = [&made[0], &made[1], &made[2]];
    let none = Value::Null;
    let secret = json!({"environment": {"PASSWORD": "hunter2"}});
    let script = "echo password $PASSWORD; while :; do sleep 1; done";
    let db = stand.script("db", script, &secret);
    stand.agent.deploy_and_wait(&db).await;
    let web = stand.script("web-1", script, &secret);
    let wait = "/containers/deploy?wait=running&timeout=60s";
    let (code, shown) = ask(&stand, ci, ("POST", wait), &web).await;
    assert_eq!(
        (code, &shown["spec"]["environment"]),
        (200, &json!({"PASSWORD": null})),
        "{shown}"
    );
    // The container has what it was given.
    stand.printed("web-1", "password hunter2").await;
    let web_2 = stand.script("web-2", script, &secret);
    for (token, method, path, body, expected) in [
        (
            ci,
            "POST",
            "/containers/deploy",
            &stand.script("other", script, &secret),
            403,
        ),
        (ci, "GET", "/containers/db", &none, 404),
        (ci, "GET", "/containers/db/logs", &none, 404),
        (ci, "DELETE", "/containers/db", &none, 404),
        (ci, "GET", "/containers/web-1?reveal=true", &none, 403),
        (
            ci,
            "PUT",
            "/desired-state",
            &json!({"containers": [web, db]}),
            403,
        ),
        (ci, "POST", "/desired-state/confirm", &none, 403),
        (viewer, "GET", "/containers/db", &none, 200),
        (viewer, "GET", "/containers/db/logs", &none, 200),
        (viewer, "POST", "/containers/db/stop", &none, 403),
        (viewer, "POST", "/containers/deploy", &web_2, 403),
        (ci, "POST", "/containers/deploy", &web_2, 202),
    ] {
        let (code, answer) = ask(&stand, token, (method, path), body).await;
        assert_eq!(code, expected, "{method} {path}: {answer}");
    }
    // Its whole set is a part of the node's: what it leaves out goes, and nothing of others.
    let set = json!({"containers": [web]});
    let (code, answer) = ask(&stand, ci, ("PUT", "/desired-state"), &set).await;
    assert_eq!(code, 202, "{answer}");
    eventually("the one that was left out is gone", async || {
        stand.agent.get("/containers/web-2").await.0 == 404
    })
    .await;
    let (_, listed) = ask(&stand, ci, ("GET", "/containers"), &none).await;
    let listed = listed["containers"].as_array().unwrap();
    assert!(
        listed.len() == 1 && listed[0]["name"] == "web-1",
        "{listed:?}"
    );
    let (_, shown) = stand.agent.get("/containers/db").await;
    assert_eq!(shown["status"], "running");
    let (_, revealed) = ask(&stand, ops, ("GET", "/containers/db?reveal=true"), &none).await;
    assert_eq!(revealed["spec"]["environment"]["PASSWORD"], "hunter2");
    let lines = lines(&stand);
    assert!(
        !lines
            .iter()
            .any(|line| line.to_string().contains("hunter2"))
    );
    let by = |kind: &str, name: &str| -> Vec<String> {
        let about = lines
            .iter()
            .filter(|line| line["kind"] == kind && line["name"] == name);
        about
            .map(|line| line["by"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(by("deploy", "web-1"), ["client:ci"]);
    assert_eq!(by("remove", "web-2"), ["client:ci"]);
    assert_eq!(by("deploy", "db"), ["token"]);
    assert_eq!(by("reveal", "db"), ["client:ops"]);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_right_until_it_is_taken_back_and_a_broken_file_changes_nothing() {
    let reader = ["create", "reader", "--role", "read"];
    let (stand, file, made) = stand_with(&[&reader, &["create", "reader"]]).await;
    let code = async |token: &str| {
        ask(&stand, token, ("GET", "/containers"), &Value::Null)
            .await
            .0
    };
    let [old, new] = [&made[0], &made[1]];
    assert_eq!((code(old).await, code(new).await), (200, 200));
    let listed = token(&file, &["list"]);
    let ids: Vec<_> = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("token "))
        .collect();
    token(&file, &["revoke", ids[0].trim()]);
    stand.agent.signal(rustix::process::Signal::HUP);
    eventually("the old one is worth nothing", async || {
        code(old).await == 401
    })
    .await;
    assert_eq!(code(new).await, 200);
    // Others could read it: it is not believed, and what was in force stays so.
    let text = fs::read_to_string(&file).unwrap();
    let alarm = async |says: Option<&str>| {
        let (_, health) = stand.agent.get("/health").await;
        let mut alarms = health["alarms"].as_array().unwrap().iter();
        let found = alarms.find(|alarm| alarm["name"] == "ClientsUnusable");
        let found = found.map(|alarm| alarm["message"].as_str().unwrap().to_owned());
        match (&found, says) {
            (Some(message), Some(says)) => message.contains(says),
            (found, says) => found.is_none() && says.is_none(),
        }
    };
    let open = || fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let broken = || fs::write(&file, "clients: [{name: a}]\n").unwrap();
    let mended = || {
        fs::write(&file, &text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let cases: [(&dyn Fn(), Option<&str>); 4] = [
        (&open, Some("chmod 600")),
        (&mended, None),
        (&broken, Some("clients[0].role")),
        (&mended, None),
    ];
    for (change, says) in cases {
        change();
        stand.agent.signal(rustix::process::Signal::HUP);
        eventually("the alarm is as the file", async || alarm(says).await).await;
        assert_eq!((code(old).await, code(new).await), (401, 200), "{says:?}");
    }
    token(&file, &["revoke", "reader"]);
    // Without a signal, it is seen soon as well.
    eventually("the client is none any more", async || {
        code(new).await == 401
    })
    .await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_of_a_probe_needs_the_right_to_run_programs() {
    let deployer = ["create", "ci", "--role", "deploy"];
    let runner = ["create", "ops", "--role", "exec"];
    let (stand, _, made) = stand_with(&[&deployer, &runner]).await;
    let [ci, ops] = [&made[0], &made[1]];
    let health =
        |program: &str| json!({"health": {"exec": {"command": [program]}, "interval": "1s"}});
    let body = |more: &Value| stand.script("web", "while :; do sleep 0.1; done", more);
    // What it starts, it may have probed.
    let path = "/containers/deploy?wait=ready&timeout=60s";
    let (code, shown) = ask(&stand, ci, ("POST", path), &body(&health("true"))).await;
    assert_eq!(code, 200, "{shown}");
    let pid = stand.pid(&shown).unwrap();
    let (code, refused) = ask(&stand, ci, ("POST", path), &body(&health("id"))).await;
    assert_eq!(code, 403, "{refused}");
    assert!(refused.to_string().contains("health.exec"), "{refused}");
    // Neither the same one, nor none, is another.
    let mut slower = health("true");
    slower["health"]["interval"] = json!("2s");
    let (code, shown) = ask(&stand, ci, ("POST", path), &body(&slower)).await;
    assert_eq!(code, 200, "{shown}");
    let (code, shown) = ask(&stand, ops, ("POST", path), &body(&health("id"))).await;
    assert_eq!(code, 200, "{shown}");
    assert_eq!(stand.pid(&shown).unwrap(), pid, "nothing was restarted");
    stand.end().await;
}
