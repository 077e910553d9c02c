//! Credential helpers (`docker-credential-NAME get`): run as docker runs them, with bounds on their
//! time, their output and their number, and without the agent's own environment.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use state::text::shown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::table::TOKEN_USER;
use super::{RegistrySecret, authorization};
use crate::permits::KeyedPermits;

/// Time for one answer: a helper may ask a cloud's service.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// Turns that a question waits for at most, each as long as one answer: many pulls at once may ask a
/// slow helper for one host.
const TURNS_MAX: u32 = 6;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Helpers of one name that run at once for one host: one that hangs delays no other host.
const RUNS_OF_HOST_MAX: usize = 2;

/// Helpers that run at once. More hosts than a few ask at the same moment only where helpers hang.
const RUNS_MAX: usize = 32;

/// Characters of a helper's own words that are repeated.
const WORDS_MAX: usize = 200;

/// Longest word that is repeated: a longer one may be a token.
const WORD_MAX: usize = 30;

/// Runner of credential helpers.
#[derive(Debug)]
pub(crate) struct CredentialHelpers {
    environment: Vec<(OsString, OsString)>,
    time_max: Duration,
    runs: Semaphore,
    runs_of_host: KeyedPermits,
}

/// Processes of a helper, which end with this value: one that is left would hold what it was given.
struct HelperGroup(Option<Pid>);

impl HelperGroup {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }
}

impl Drop for HelperGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            kill_process_group(group, Signal::KILL).ok();
        }
    }
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
            runs_of_host: KeyedPermits::new(RUNS_OF_HOST_MAX),
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
        let program = format!("docker-credential-{name}");
        let of_host = self.runs_of_host.of(&format!("{name} {host}"));
        let turn = async { (of_host.acquire_owned().await, self.runs.acquire().await) };
        let Ok(_turn) = tokio::time::timeout(self.time_max * TURNS_MAX, turn).await else {
            return Err(format!(
                "the credential helper {program} still hangs with earlier questions"
            ));
        };
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
        let group = HelperGroup::of(&child);
        let ended = tokio::time::timeout(self.time_max, talk(&mut child, server(host))).await;
        drop(group);
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
        let text = String::from_utf8_lossy(&output);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        let words = words(&text);
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

/// Words of a helper that failed. A wrapper may print the answer, or a bare token, and fail after
/// that, so nothing is repeated that may be a part of one.
fn words(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    if text.contains('{') || words.len() == 1 {
        return "what it printed may hold a secret, and is not repeated".to_owned();
    }
    let is_short = |word: &str| word.chars().count() <= WORD_MAX;
    let words = words.into_iter();
    let words: Vec<_> = words
        .map(|word| if is_short(word) { word } else { "…" })
        .collect();
    shown(&words.join(" "), WORDS_MAX).into_owned()
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
        for script in [
            "echo credentials not found in native keychain; exit 1",
            r#"echo '{"msg":"credentials not found in native keychain"}'; exit 1"#,
        ] {
            assert!(answer(script, "r").await.unwrap().is_none(), "{script}");
        }
        for (script, part) in [
            ("echo no vault today; exit 1", "no vault today"),
            ("echo hunter2", "something else"),
            ("echo hunter2; exit 1", "not repeated"),
            (
                "echo no; echo use of hunter2hunter2hunter2hunter2hunter2 ended; exit 1",
                "no use of … ended",
            ),
            (
                r#"echo '{"Username":"u","Secret":"hunter2"}'; exit 1"#,
                "not repeated",
            ),
            (
                r#"echo warning; echo '{"Secret":'; echo hunter2; exit 3"#,
                "not repeated",
            ),
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
        child_ends(dir.path());
    }

    #[tokio::test]
    async fn a_helper_whose_caller_gives_up_is_ended_with_its_children() {
        let (dir, helpers) = runner(r#"sleep 1000 & echo $! >"${0%/*}/child"; wait"#);
        let asked = helpers.ask("test", "r");
        let gives_up = async {
            while std::fs::read_to_string(dir.path().join("child"))
                .map_or(true, |text| !text.ends_with('\n'))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            answer = asked => panic!("it hangs, and answered {answer:?}"),
            () = gives_up => {}
        }
        child_ends(dir.path());
    }

    /// Waits until the process that a script left the id of is no more.
    fn child_ends(dir: &std::path::Path) {
        let child = std::fs::read_to_string(dir.join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        for _ in 0..100 {
            match std::fs::read_to_string(&stat) {
                Ok(text) if !text.contains(") Z ") => std::thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        panic!("the helper's child lives on");
    }

    #[tokio::test]
    async fn a_helper_that_hangs_for_one_host_delays_no_other() {
        let script = r#"read -r server; test "$server" != slow || sleep 1000; echo '{}'"#;
        let (_dir, helpers) = runner(script);
        let slow = futures_util::future::join_all((0..40).map(|_| helpers.ask("test", "slow")));
        tokio::select! {
            biased;
            _ = slow => panic!("it hangs"),
            quick = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                helpers.ask("test", "quick").await
            } => assert!(quick.unwrap().is_none()),
        }
        let (_dir, mut helpers) = runner(script);
        helpers.time_max = Duration::from_millis(300);
        let all = RUNS_OF_HOST_MAX * (TURNS_MAX as usize + 2);
        let slow = (0..all).map(|_| helpers.ask("test", "slow"));
        let answers = futures_util::future::join_all(slow).await;
        let faults: Vec<_> = answers.into_iter().map(Result::unwrap_err).collect();
        let (first, last) = (&faults[0], &faults[all - 1]);
        assert!(first.contains("did not answer"), "{first}");
        assert!(last.contains("still hangs"), "{last}");
    }

    #[tokio::test]
    async fn a_slow_helper_answers_everybody_in_turn() {
        let (_dir, mut helpers) = runner("sleep 0.7; echo '{}'");
        helpers.time_max = Duration::from_secs(2);
        let asked = (0..4 * RUNS_OF_HOST_MAX).map(|_| helpers.ask("test", "r"));
        let answers = futures_util::future::join_all(asked).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
}
