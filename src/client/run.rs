//! `run`: a container by docker's flags. They become a deploy body, which the agent checks like every
//! other.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, RequestBuilder};
use state::text;
use tokio::time::Instant;

use super::agent::Agent;
use super::change::{awaiting, end_of, kept, key};
use super::fault::{EXIT_FAILED, is_away, refusal};
use super::interrupted;
use super::logs;
use super::order::{LogFlags, RunFlags};
use super::screen::Screen;

mod body;
mod session;

/// Longest wait for a container that is to run, of which most may be its image's way here.
const STARTED_WITHIN: Duration = Duration::from_secs(600);
/// Time in which an agent that is restarted is back.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// Time between two tries meanwhile.
const LOOK_EACH: Duration = Duration::from_millis(500);

/// Makes a container and starts it; answers the exit code.
pub(super) async fn run(agent: &Agent, flags: &RunFlags, screen: Screen) -> anyhow::Result<u8> {
    let name = match &flags.name {
        Some(name) => name.clone(),
        None => name_of(flags.image()),
    };
    let body = flags.body(&name, &variable)?;
    if flags.dry_run {
        screen.value(&body)?;
        return Ok(0);
    }
    if flags.is_session() {
        session::may_begin(agent, flags).await?;
    }
    match agent.see(&["containers", &name]).await {
        Ok(_) => bail!(
            "there is a container {name} on this node: `deploy` changes it, `rm` removes it, or give another --name"
        ),
        Err(error) if refusal(&error).is_some_and(|refusal| refusal.status == 404) => {}
        Err(error) => return Err(error),
    }
    let request = agent.request(Method::POST, &["containers", "deploy"]);
    let request = request.header("idempotency-key", key()).json(&body);
    // Of two who come by the look at the same moment one makes it; agents of older versions pass over it.
    let request = request.header("if-none-match", "*");
    let request = awaiting(request, "running", STARTED_WITHIN);
    if flags.detach {
        let told = match agent.open_answer(request).await {
            Ok(answer) => agent.read(answer).await?,
            Err(error) => return Err(but_kept(agent, &name, error).await),
        };
        match screen.json {
            true => screen.value(&told)?,
            false => screen.line(&text::shown(told["id"].as_str().unwrap_or(&name), 64))?,
        }
        return Ok(0);
    }
    let ended = match flags.is_session() {
        true => session::run(agent, &name, flags, request, screen).await,
        false => tokio::select! {
            ended = attend(agent, &name, request, screen) => ended,
            signal = interrupted() => stop(agent, &name, signal, screen).await,
        },
    };
    let is_others = |error: &anyhow::Error| error.is::<session::OtherCaller>() || is_taken(error);
    if flags.rm && !ended.as_ref().is_err_and(is_others) {
        let removed = remove(agent, &name).await;
        removed.with_context(|| format!("{name} is not removed; `rm {name}` removes it"))?;
        return ended;
    }
    match ended {
        Err(error) => Err(but_kept(agent, &name, error).await),
        ended => ended,
    }
}

/// Removes the container, also where the agent is just being restarted. One that was never made is not
/// there.
async fn remove(agent: &Agent, name: &str) -> anyhow::Result<()> {
    let until = Instant::now() + BACK_WITHIN;
    loop {
        let request = agent.request(Method::DELETE, &["containers", name]);
        let request = awaiting(request, "removed", STARTED_WITHIN);
        match agent.open_answer(request).await {
            Ok(_) => return Ok(()),
            Err(error) if refusal(&error).is_some_and(|refusal| refusal.status == 404) => {
                return Ok(());
            }
            Err(error) if !is_away(&error) || Instant::now() >= until => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_EACH).await,
        }
    }
}

/// Shows what the container prints until it ends; answers its exit code.
async fn attend(
    agent: &Agent,
    name: &str,
    request: RequestBuilder,
    screen: Screen,
) -> anyhow::Result<u8> {
    if let Err(error) = agent.open_answer(request).await {
        if is_taken(&error) {
            return Err(error);
        }
        // One that ran and failed has printed why; one that never ran prints nothing.
        let one = agent.see(&["containers", name]).await;
        if !one.is_ok_and(|one| one["exit_code"].is_number()) {
            return Err(error);
        }
    }
    logs::logs(agent, &LogFlags::of_all(name), screen).await?;
    let code = end_of(agent, name, None).await?;
    if code != 0 {
        let one = agent.see(&["containers", name]).await?;
        if let Some(message) = one["message"].as_str() {
            screen.tell(&text::shown(message, text::MESSAGE_CHARS_MAX));
        }
    }
    Ok(u8::try_from(code).unwrap_or(EXIT_FAILED))
}

/// Whether somebody else has made a container of this name since the look for it.
fn is_taken(error: &anyhow::Error) -> bool {
    refusal(error).is_some_and(|refusal| refusal.status == 412)
}

/// The error, with what becomes of a container that the agent has taken nevertheless.
async fn but_kept(agent: &Agent, name: &str, error: anyhow::Error) -> anyhow::Error {
    match kept(agent, name, &error).await {
        Some(kept) => error.context(kept),
        None => error,
    }
}

/// Stops what a person at the terminal, or whoever ended the client, has interrupted. A second
/// interruption leaves it to the agent.
async fn stop(agent: &Agent, name: &str, signal: u8, screen: Screen) -> anyhow::Result<u8> {
    screen.tell(&format!(
        "{name} is stopped; once more leaves that to the agent"
    ));
    let request = agent.request(Method::POST, &["containers", name, "stop"]);
    let request = awaiting(request, "stopped", STARTED_WITHIN);
    tokio::select! {
        stopped = agent.open_answer(request) => stopped.map(|_| 128 + signal),
        again = interrupted() => Ok(128 + again),
    }
}

/// Value of a variable of the caller's.
fn variable(name: &str) -> Option<String> {
    crate::config::environment(name)?.into_string().ok()
}

/// Name of a container of this image, and of no other.
fn name_of(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let last = last.split([':', '@']).next().unwrap_or(last);
    let letters = last.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    });
    let name: String = letters.take(40).collect();
    let unique = key();
    let name = name.trim_matches('-');
    format!(
        "{}-{}",
        if name.is_empty() { "container" } else { name },
        &unique[..4]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::served;

    #[tokio::test]
    async fn a_container_that_another_caller_made_meanwhile_is_neither_followed_nor_removed() {
        let taken = "412\n{\"code\": \"ChangedMeanwhile\", \"detail\": \"a container is named web already\"}";
        for detach in [false, true] {
            let answers = vec!["404\n{\"code\": \"NotFound\"}".to_owned(), taken.to_owned()];
            let (agent, asked) = served(answers).await;
            let flags = RunFlags {
                name: Some("web".to_owned()),
                rm: !detach,
                detach,
                words: vec!["nginx".to_owned()],
                ..RunFlags::default()
            };
            // Whatever it asked after that would find nobody, and be another error.
            let error = run(&agent, &flags, Screen::new(false, true))
                .await
                .unwrap_err();
            assert!(is_taken(&error), "{error:#}");
            let text = format!("{error:#}");
            assert!(text.contains("named web already"), "{text}");
            let asked = asked.await.unwrap();
            assert!(asked[1][0].starts_with("POST /containers/deploy?wait=running"));
            assert!(asked[1].iter().any(|line| line == "if-none-match: *"));
        }
    }
}
