//! Credential helpers (`docker-credential-NAME get`): run as docker runs them, with bounds on their
//! time, their output and their number, and without the agent's own environment.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::table::TOKEN_USER;
use super::{RegistrySecret, authorization};

/// Time for one answer: a helper may ask a cloud's service.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// Largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Helpers that run at once.
const RUNS_MAX: usize = 4;

/// Characters of a helper's own words that are repeated.
const WORDS_MAX: usize = 200;

/// Runner of credential helpers.
#[derive(Debug)]
pub(crate) struct CredentialHelpers {
    environment: Vec<(OsString, OsString)>,
    time_max: Duration,
    runs: Semaphore,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

impl CredentialHelpers {
    /// Runner that gives its helpers this environment and no other.
    pub(crate) fn new(environment: Vec<(OsString, OsString)>) -> Self {
        Self {
            environment,
            time_max: ANSWER_TIME_MAX,
            runs: Semaphore::new(RUNS_MAX),
        }
    }

    /// Secret that the helper `name` has for `host`; `None`: it has none.
    ///
    /// # Errors
    /// A phrase, when it cannot be run, fails, or answers with something else.
    pub(crate) async fn ask(
        &self,
        name: &str,
        host: &str,
    ) -> Result<Option<RegistrySecret>, String> {
        let _run = self.runs.acquire().await;
        let program = format!("docker-credential-{name}");
        let mut command = Command::new(&program);
        command
            .arg("get")
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| format!("the credential helper {program} cannot be run: {error}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let ended = tokio::time::timeout(self.time_max, talk(&mut child, server(host))).await;
        // Its children too: one that is left would hold what it was given.
        if let Some(group) = group {
            kill_process_group(group, Signal::KILL).ok();
        }
        let (succeeded, output) = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => {
                return Err(format!("the credential helper {program} failed: {error}"));
            }
            Err(_) => {
                let seconds = self.time_max.as_secs_f32();
                return Err(format!(
                    "the credential helper {program} did not answer within {seconds} s"
                ));
            }
        };
        if succeeded || output.len() as u64 == ANSWER_BYTES_MAX {
            return secret(&output).ok_or_else(|| {
                format!(
                    "the credential helper {program} answered with something else than credentials"
                )
            });
        }
        let words = words(&output);
        if words.contains("credentials not found") {
            return Ok(None);
        }
        Err(format!("the credential helper {program} failed: {words}"))
    }
}

async fn talk(child: &mut Child, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may answer all the same.
        stdin.write_all(server.as_bytes()).await.ok();
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut output)
            .await?;
    }
    Ok((child.wait().await?.success(), output))
}

/// Name of a registry as docker gives it to helpers.
fn server(host: &str) -> &str {
    if host == "docker.io" {
        "https://index.docker.io/v1/"
    } else {
        host
    }
}

/// Secret of an answer, `None` inside where it is empty; `None`: it is no answer.
fn secret(output: &[u8]) -> Option<Option<RegistrySecret>> {
    let answer: HelperAnswer = serde_json::from_slice(output).ok()?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Some(None);
    }
    if answer.username == TOKEN_USER {
        return Some(Some(RegistrySecret::Identity(answer.secret)));
    }
    let plain = format!("{}:{}", answer.username, answer.secret);
    let value = authorization("Basic", &BASE64_STANDARD.encode(plain))?;
    Some(Some(RegistrySecret::Password(value)))
}

fn words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let words = text.trim().chars().filter(|c| !c.is_control());
    words.take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Directory with a helper `test`, and the runner that finds it.
    fn runner(script: &str) -> (tempfile::TempDir, CredentialHelpers) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docker-credential-test");
        // A file that is open for writing cannot be executed, and a fork elsewhere may keep it open.
        let draft = dir.path().join("draft");
        std::fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-p")
            .args([&draft, &file])
            .status();
        assert!(copied.unwrap().success());
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let mut helpers = CredentialHelpers::new(vec![("PATH".into(), path.into())]);
        helpers.time_max = Duration::from_secs(5);
        (dir, helpers)
    }

    async fn answer(script: &str, host: &str) -> Result<Option<RegistrySecret>, String> {
        let (_dir, helpers) = runner(script);
        helpers.ask("test", host).await
    }

    #[tokio::test]
    async fn a_helper_is_asked_by_name_and_its_answer_believed() {
        let script = r#"test "$1" = get && test -z "$HOME$CARGO" || exit 9
            read -r server; echo "{\"ServerURL\":\"$server\",\"Username\":\"u\",\"Secret\":\"$server\"}""#;
        let found = answer(script, "r.example:5000").await.unwrap();
        let expected = authorization("Basic", &BASE64_STANDARD.encode("u:r.example:5000"));
        assert!(found == expected.map(RegistrySecret::Password));
        let hub = answer(script, "docker.io").await.unwrap();
        let expected = authorization(
            "Basic",
            &BASE64_STANDARD.encode("u:https://index.docker.io/v1/"),
        );
        assert!(hub == expected.map(RegistrySecret::Password));
        let token = answer(r#"echo '{"Username":"<token>","Secret":"RT"}'"#, "r").await;
        assert!(token.unwrap() == Some(RegistrySecret::Identity("RT".to_owned())));
    }

    #[tokio::test]
    async fn a_helper_without_credentials_is_none_and_one_that_fails_says_so() {
        let none = answer("echo credentials not found in native keychain; exit 1", "r").await;
        assert!(none.unwrap().is_none());
        for (script, part) in [
            ("echo no vault today; exit 1", "no vault today"),
            ("echo hunter2", "something else"),
            ("yes", "something else"),
        ] {
            let fault = answer(script, "r").await.unwrap_err();
            assert!(
                fault.contains(part) && fault.contains("docker-credential-test"),
                "{fault}"
            );
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        let absent = CredentialHelpers::new(Vec::new()).ask("absent", "r").await;
        assert!(absent.unwrap_err().contains("cannot be run"));
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_ended_with_its_children() {
        let (dir, mut helpers) = runner(r#"sleep 1000 & echo $! >"${0%/*}/child"; wait"#);
        helpers.time_max = Duration::from_millis(500);
        let fault = helpers.ask("test", "r").await.unwrap_err();
        assert!(fault.contains("within 0.5 s"), "{fault}");
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        for _ in 0..100 {
            match std::fs::read_to_string(&stat) {
                Ok(text) if !text.contains(") Z ") => std::thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        panic!("the helper's child lives on");
    }
}
