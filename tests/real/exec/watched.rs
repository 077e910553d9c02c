//! Programs that are watched over a WebSocket, by clients that others wrote.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use super::{RESTS, pipes, processes};
use crate::stand::{Stand, eventually};

/// Debian's own, for which its packages of the two clients are.
const PYTHON: &str = "/usr/bin/python3";
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/exec/client.py");

fn client(stand: &Stand, case: &str) -> Command {
    let address = format!("http://{}/containers/web/exec", stand.agent.address());
    let mut command = Command::new(PYTHON);
    let token = &stand.agent.environment()["CHAS_TOKEN"];
    command.args([CLIENT, &address, token, case]);
    command
}

/// Runs a case of the client to its end; what it prints.
async fn case(stand: &Stand, case: &str) -> String {
    let mut command = client(stand, case);
    let ran = tokio::task::spawn_blocking(move || crate::harness::finish(&mut command));
    ran.await.unwrap().unwrap()
}

/// A client whose program has begun.
fn begun(stand: &Stand, case: &str) -> Child {
    let mut command = client(stand, case);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut printed = BufReader::new(child.stdout.as_mut().unwrap());
    printed.read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_clients_run_programs_with_input_terminal_and_exit_code() {
    let stand = Stand::new().await;
    let body = stand.script("web", RESTS, &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    let at_rest = processes(&stand, &shown);
    case(&stand, "kubernetes").await;
    case(&stand, "version5").await;
    case(&stand, "refused").await;
    eventually("nothing is left", async || {
        processes(&stand, &shown) == at_rest && pipes(&stand).is_empty()
    })
    .await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_program_ends_with_its_client_and_its_client_hears_of_the_agent_s_stop() {
    let mut stand = Stand::new().await;
    let body = stand.script("web", RESTS, &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    let at_rest = processes(&stand, &shown);
    for kind in ["goes", "deaf"] {
        let mut child = begun(&stand, kind);
        assert!(processes(&stand, &shown).len() > at_rest.len());
        if kind == "goes" {
            child.stdin.take().unwrap().write_all(b"\n").unwrap();
        } else {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        eventually("nothing is left", async || {
            processes(&stand, &shown) == at_rest && pipes(&stand).is_empty()
        })
        .await;
    }
    for (stops_agent, reason) in [(false, "ContainerEnded"), (true, "AgentStopped")] {
        stand
            .agent
            .wait_status("web", "running", crate::stand::SOON)
            .await;
        let child = begun(&stand, "hears");
        if stops_agent {
            stand.agent.signal(Signal::TERM);
        } else {
            let restart = "/containers/web/restart";
            stand.agent.ask("POST", restart, None).await;
        }
        let heard = tokio::task::spawn_blocking(|| child.wait_with_output());
        let heard = heard.await.unwrap().unwrap();
        let told = String::from_utf8(heard.stdout).unwrap();
        assert!(
            told.contains(&format!("\"reason\": \"{reason}\"")),
            "{told}"
        );
        assert!(told.ends_with(" 1000\n"), "{told}");
    }
    stand.agent.terminate();
    stand.agent.start_again().await;
    stand.end().await;
}
