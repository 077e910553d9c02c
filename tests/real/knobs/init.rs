//! `init: true`: a first process that reaps what others leave behind, and hands signals on.

use serde_json::{Value, json};
use state::reason::Reason;

use crate::reasons::shows;
use crate::stand::{SOON, Stand, eventually};

/// What a program in a container prints, which is run beside its own.
async fn prints(stand: &Stand, name: &str, script: &str) -> String {
    let path = format!("/containers/{name}/exec");
    let body = json!({"command": ["sh", "-c", script]});
    let (status, answer) = stand.agent.ask("POST", &path, Some(&body)).await;
    assert_eq!(status, 200, "{answer}");
    answer["stdout"].as_str().unwrap().to_owned()
}

/// Dead processes in a container that nobody has taken away.
async fn zombies(stand: &Stand, name: &str) -> usize {
    let states = prints(stand, name, "cat /proc/[0-9]*/stat").await;
    states.lines().filter(|line| line.contains(") Z ")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reaped_signals_handed_on_and_values_are_not_the_reaper_s() {
    let stand = Stand::new().await;
    for (name, init, patience) in [("reaped", true, "60s"), ("plain", false, "0s")] {
        let body = json!({"name": name, "image": stand.image("box:1"), "command": ["sleep", "1000"], "init": init,
            "environment": {"TOKEN": "hush"}, "user": "1000:1000", "stop": {"timeout": patience, "signal": "SIGINT"}});
        stand.agent.deploy_and_wait(&body).await;
        for _ in 0..20 {
            prints(&stand, name, "true & true & exit").await;
        }
    }
    eventually("the first process took all away", async || {
        zombies(&stand, "reaped").await == 0
    })
    .await;
    assert!(zombies(&stand, "plain").await > 0);

    let first = prints(
        &stand,
        "reaped",
        "tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/environ | tr '\\0' '\\n'",
    )
    .await;
    assert!(
        first.starts_with("/.chas/reaper /.chas/env sleep 1000 "),
        "{first}"
    );
    assert!(!first.contains("TOKEN"), "{first}");
    assert_eq!(prints(&stand, "reaped", "echo $TOKEN").await, "hush\n");
    let (_, shown) = stand.agent.get("/containers/reaped").await;
    assert_eq!(shown["spec"]["init"], json!(true), "{shown}");

    // `sleep` as the first process would not notice the signal; as another it ends by it.
    stand
        .agent
        .ask("POST", "/containers/reaped/stop", None)
        .await;
    let stopped = stand.agent.wait_status("reaped", "stopped", SOON).await;
    assert_eq!(stopped["exit_code"], json!(130), "{stopped}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_as_its_program_does_and_takes_what_is_left_along() {
    let stand = Stand::new().await;
    let body = |name: &str, command: Value| {
        json!({"name": name, "image": stand.image("box:1"), "command": command, "init": true,
            "restart": {"policy": "never"}, "stop": {"timeout": "0s"}})
    };
    for (name, script, exit_code) in [
        ("seven", "sleep 1000 & exit 7", 7),
        ("killed", "kill -9 $$", 137),
        ("well", "exit 0", 0),
    ] {
        let command = json!(["sh", "-c", format!("echo began; {script}")]);
        stand.agent.deploy(&body(name, command)).await;
        stand.printed(name, "began").await;
        let path = format!("/containers/{name}");
        eventually("it has ended", async || {
            stand.agent.get(&path).await.1["exit_code"] == json!(exit_code)
        })
        .await;
    }
    stand.agent.deploy(&body("absent", json!(["nope"]))).await;
    shows(&stand.agent, "absent", Reason::CommandNotFound, "nope").await;
    stand.end().await;
}
