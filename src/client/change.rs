//! Orders that change what a container is to do: stop, start, restart, remove, go back; and the wait for
//! its end.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use state::text;
use tokio::time::Instant;

use super::agent::{Agent, TIMEOUT};
use super::fault::{EXIT_FAILED, refusal};
use super::order::{ChangeFlags, RemoveFlags, RollbackFlags, WaitFlags};
use super::screen::{Screen, asks};

/// Longest wait that an agent takes in one request.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Time between two looks at a container that is to end.
const LOOK_EACH: Duration = Duration::from_millis(500);

/// The order that is sent for several containers, and what it is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum ContainerChange {
    Stop,
    Start,
    Restart,
    Remove,
}

impl ContainerChange {
    const fn awaited(self) -> &'static str {
        match self {
            Self::Stop => "stopped",
            Self::Start | Self::Restart => "running",
            Self::Remove => "removed",
        }
    }

    fn request(self, agent: &Agent, name: &str) -> RequestBuilder {
        let order = match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Remove => return agent.request(Method::DELETE, &["containers", name]),
        };
        agent.request(Method::POST, &["containers", name, order])
    }
}

/// A request that waits until its work is done.
pub(super) fn awaiting(request: RequestBuilder, state: &str, timeout: Duration) -> RequestBuilder {
    let timeout = timeout.min(WAIT_MAX);
    let text = format!("{}ms", timeout.as_millis());
    request
        .query(&[("wait", state), ("timeout", &text)])
        .timeout(timeout + TIMEOUT)
}

/// Key by which a request that is sent twice is carried out once.
pub(super) fn key() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Changes each of them; one that fails is told, and the others are changed nevertheless.
pub(super) async fn all(
    agent: &Agent,
    change: ContainerChange,
    flags: &ChangeFlags,
    screen: Screen,
) -> anyhow::Result<u8> {
    let mut code = 0;
    for name in &flags.names {
        let request = change.request(agent, name);
        let request = match flags.no_wait {
            true => request.timeout(TIMEOUT),
            false => awaiting(request, change.awaited(), flags.timeout),
        };
        let done = async { agent.read(agent.open_answer(request).await?).await }.await;
        match unless_refused(done, name, &mut code, screen)? {
            Some(told) if screen.json => screen.value(&told)?,
            Some(_) => screen.line(name)?,
            None => {}
        }
    }
    Ok(code)
}

/// The answer about one of several. One that the agent refused is told, and the others go on; without an
/// agent none of the others can be done either.
pub(super) fn unless_refused(
    done: anyhow::Result<Value>,
    name: &str,
    code: &mut u8,
    screen: Screen,
) -> anyhow::Result<Option<Value>> {
    match done {
        Ok(told) => Ok(Some(told)),
        Err(error) if refusal(&error).is_none() => Err(error),
        Err(error) => {
            screen.tell(&format!("{name}: {error:#}"));
            *code = EXIT_FAILED;
            Ok(None)
        }
    }
}

/// Words on a container that the agent has taken, keeps and tries again, although it is not what was waited
/// for. `None`: the agent took nothing.
pub(super) async fn kept(agent: &Agent, name: &str, error: &anyhow::Error) -> Option<String> {
    let refused = refusal(error)?;
    let one = agent.see(&["containers", name]).await.ok()?;
    // What is refused at once is no reason of a container.
    (one["reason"] == refused.code()).then(|| match one["status"] == "running" {
        true => format!(
            "{name} runs on as it was, and the change is tried again: `explain {name}` tells more, \
             `rollback {name}` takes it back"
        ),
        false => format!(
            "{name} is kept, and tried again: `explain {name}` tells more, `rm {name}` removes it"
        ),
    })
}

/// Removes each of them. Those that run are asked about.
pub(super) async fn remove(
    agent: &Agent,
    flags: &RemoveFlags,
    screen: Screen,
) -> anyhow::Result<u8> {
    if !flags.force {
        let mut running = Vec::new();
        for name in &flags.change.names {
            let one = match agent.see(&["containers", name]).await {
                Ok(one) => one,
                // Its removal says so.
                Err(error) if refusal(&error).is_some() => continue,
                Err(error) => return Err(error),
            };
            if ended(&one).is_none() {
                running.push(name.as_str());
            }
        }
        let names = running.join(", ");
        if !running.is_empty() && !asks(&format!("{agent}: {names} runs. Stop and remove?"))? {
            screen.tell(&format!(
                "{names} runs: nothing was removed; --force removes it"
            ));
            return Ok(EXIT_FAILED);
        }
    }
    all(agent, ContainerChange::Remove, &flags.change, screen).await
}

/// Goes back to a generation.
pub(super) async fn rollback(
    agent: &Agent,
    flags: &RollbackFlags,
    screen: Screen,
) -> anyhow::Result<u8> {
    let request = agent.request(Method::POST, &["containers", &flags.name, "rollback"]);
    let mut request = request.header("idempotency-key", key());
    if let Some(generation) = flags.to {
        request = request.query(&[("generation", generation)]);
    }
    let request = match flags.no_wait {
        true => request.timeout(TIMEOUT),
        false => awaiting(request, "running", flags.timeout),
    };
    let told = agent.read(agent.open_answer(request).await?).await?;
    match screen.json {
        true => screen.value(&told)?,
        false => screen.line(&format!(
            "{} is generation {} now: {}",
            flags.name,
            told["generation"],
            told["status"].as_str().unwrap_or("stored")
        ))?,
    }
    Ok(0)
}

/// Waits until each has ended, and shows the exit codes; answers that of the last one.
pub(super) async fn wait(agent: &Agent, flags: &WaitFlags, screen: Screen) -> anyhow::Result<u8> {
    let until = flags
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let mut code = 0;
    for name in &flags.names {
        let ended = end_of(agent, name, until).await?;
        match screen.json {
            true => screen.value(&json!({"name": name, "exit_code": ended}))?,
            false => screen.line(&ended.to_string())?,
        }
        code = u8::try_from(ended).unwrap_or(EXIT_FAILED);
    }
    Ok(code)
}

/// Exit code with which a container ends for good.
pub(super) async fn end_of(
    agent: &Agent,
    name: &str,
    until: Option<Instant>,
) -> anyhow::Result<i64> {
    loop {
        let one = agent.see(&["containers", name]).await?;
        if let Some(ended) = ended(&one) {
            return ended;
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            anyhow::bail!("{name} has not ended: it is {}", one["status"]);
        }
        tokio::time::sleep(LOOK_EACH).await;
    }
}

/// Exit code of a container that runs no more and will not by itself; an error where nothing of it ever
/// ran. `None`: it has not ended.
fn ended(one: &Value) -> Option<anyhow::Result<i64>> {
    let at_rest = matches!(one["status"].as_str(), Some("stopped" | "failed"));
    if !at_rest || !one["next_attempt"].is_null() || !one["next_run"].is_null() {
        return None;
    }
    let unknown = || {
        let why = one["message"].as_str().unwrap_or("it was stopped before");
        let why = text::shown(why, text::MESSAGE_CHARS_MAX).into_owned();
        anyhow::anyhow!("it never ran: {why}")
    };
    Some(one["exit_code"].as_i64().ok_or_else(unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_ended_when_nothing_of_it_comes_again() {
        let check = |one: Value| ended(&one).map(|ended| ended.ok());
        assert_eq!(check(json!({"status": "running"})), None);
        assert_eq!(
            check(json!({"status": "stopped", "exit_code": 7})),
            Some(Some(7))
        );
        assert_eq!(
            check(json!({"status": "failed", "exit_code": 1})),
            Some(Some(1))
        );
        let again =
            json!({"status": "failed", "exit_code": 1, "next_attempt": "2026-01-01T00:00:00Z"});
        assert_eq!(check(again), None);
        assert_eq!(
            check(json!({"status": "stopped", "exit_code": 0, "next_run": "2026-01-01T00:00:00Z"})),
            None
        );
        assert_eq!(
            check(json!({"status": "failed", "exit_code": null})),
            Some(None),
            "no success"
        );
    }
}
