//! `events`: what happens on a node, a line each; over restarts of the agent none is told twice or left
//! out, as far as it keeps them.

use std::time::Duration;

use serde_json::Value;
use state::text;

use super::agent::Agent;
use super::fault::is_away;
use super::logs::{Lines, next};
use super::order::EventFlags;
use super::screen::{Colour, Screen};

/// Pause before an agent that went away is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Shows events.
pub(super) async fn events(
    agent: &Agent,
    flags: &EventFlags,
    screen: Screen,
) -> anyhow::Result<()> {
    let mut position = flags.since.clone();
    let mut has_begun = false;
    loop {
        let taken = take(agent, flags, &mut position, &mut has_begun, screen).await;
        match taken {
            Ok(()) if flags.no_follow => return Ok(()),
            Err(error) if flags.no_follow || !has_begun || !is_away(&error) => {
                return Err(error);
            }
            Ok(()) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn take(
    agent: &Agent,
    flags: &EventFlags,
    position: &mut Option<String>,
    has_begun: &mut bool,
    screen: Screen,
) -> anyhow::Result<()> {
    let mut query = Vec::new();
    query.extend(position.as_ref().map(|id| ("after", id.clone())));
    for (name, words) in [("container", &flags.container), ("kind", &flags.kind)] {
        if !words.is_empty() {
            query.push((name, words.join(",")));
        }
    }
    if flags.no_follow {
        query.push(("follow", "false".to_owned()));
    }
    let request = agent.get(&["events"]).query(&query);
    let request = request.header("accept", "application/x-ndjson");
    let mut response = agent.open_stream(request).await?;
    *has_begun = true;
    let mut lines = Lines::default();
    loop {
        let Some(bytes) = next(agent, &mut response).await? else {
            return Ok(());
        };
        for line in lines.take(&bytes)? {
            let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            if event["id"].is_u64() {
                *position = Some(event["id"].to_string());
            }
            match screen.json {
                true => screen.line(&text::shown(&event.to_string(), usize::MAX))?,
                false => screen.line(&line_of(&event, screen))?,
            }
        }
    }
}

fn line_of(event: &Value, screen: Screen) -> String {
    let text = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text::shown(text, text::MESSAGE_CHARS_MAX).into_owned()
    };
    let colour = if event["is_error"] == true {
        Colour::Bad
    } else {
        Colour::Plain
    };
    let parts = [
        text(&event["time"]),
        text(&event["container"]["name"]),
        screen.coloured(colour, &text(&event["kind"])),
        text(&event["code"]),
        text(&event["message"]),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("  ")
}
