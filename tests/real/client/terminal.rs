//! `exec -it` with a terminal, which `script` makes.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::harness::agent::PROGRAM;
use crate::stand::{SOON, Stand};

/// A person at a terminal.
pub(super) struct Person {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Person {
    pub(super) fn begin(stand: &Stand, line: &str) -> Self {
        let mut child = Command::new("script")
            .args([
                "-qefc",
                &format!("stty cols 100 rows 30; {PROGRAM} {line}"),
                "/dev/null",
            ])
            .env_clear()
            .envs(stand.agent.environment())
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let to = Arc::clone(&seen);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                to.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        Self { child, seen }
    }

    pub(super) fn types(&mut self, keys: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(keys.as_bytes())
            .unwrap();
    }

    /// What the terminal has shown.
    pub(super) fn shown(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until the client has ended; its exit code.
    pub(super) fn ends(&mut self) -> Option<i32> {
        tokio::task::block_in_place(|| self.child.wait().unwrap().code())
    }

    /// Waits until the terminal shows a text.
    pub(super) async fn sees(&self, text: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let seen = self.shown();
            if seen.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} is not in {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_a_terminal_has_the_program_s_own() {
    let stand = Stand::new().await;
    let body = stand.script("box", "sleep 1000 & wait", &json!({}));
    stand.agent.deploy_and_wait(&body).await;
    let mut person = Person::begin(&stand, "exec -it box sh");
    person.sees("#").await;
    person.types("stty size; echo at-$((1+1))\n");
    person.sees("30 100").await;
    person.sees("at-2").await;
    // The keys of signals go to the program, and not to the client.
    person.types("echo begun-$((1+0)); sleep 1000; echo slept-$((1+1))\n");
    person.sees("begun-1").await;
    person.types("\u{3}");
    person.types("echo alive-$((2+1))\n");
    person.sees("alive-3").await;
    assert!(!person.shown().contains("slept-2"));
    person.types("exit 7\n");
    assert_eq!(person.ends(), Some(7), "{}", person.shown());
    stand.end().await;
}
