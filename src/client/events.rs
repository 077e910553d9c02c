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
    // Their comments bear the position as well, which lines of JSON have in events alone.
    let request = request.header("accept", "text/event-stream");
    let mut response = agent.open_stream(request).await?;
    *has_begun = true;
    let (mut lines, mut told) = (Lines::default(), ToldEvent::default());
    loop {
        let Some(bytes) = next(agent, &mut response).await? else {
            return Ok(());
        };
        for line in lines.take(&bytes)? {
            let Some(event) = told.take(&line, position) else {
                continue;
            };
            match screen.json {
                true => screen.line(&text::shown(&event.to_string(), usize::MAX))?,
                false => screen.line(&line_of(&event, screen))?,
            }
        }
    }
}

/// Server-Sent Event of which the lines are read.
#[derive(Debug, Default)]
struct ToldEvent {
    id: Option<String>,
    data: Vec<u8>,
}

impl ToldEvent {
    /// Takes a line. The empty one at the end of an event, or of a comment, moves the position to it; the
    /// event, where there is one.
    fn take(&mut self, line: &[u8], position: &mut Option<String>) -> Option<Value> {
        if let Some(id) = line.strip_prefix(b"id: ") {
            let is_number = !id.is_empty() && id.iter().all(u8::is_ascii_digit);
            self.id = is_number.then(|| String::from_utf8_lossy(id).into_owned());
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            self.data = data.to_vec();
        } else if line.is_empty() {
            let Self { id, data } = std::mem::take(self);
            *position = id.or_else(|| position.take());
            return serde_json::from_slice(&data).ok();
        }
        None
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::served;

    #[test]
    fn a_position_is_taken_with_the_end_of_its_event_or_comment_and_kept_without_another() {
        let (mut told, mut position) = (ToldEvent::default(), None);
        let mut take = |text: &str| {
            let lines = text.lines();
            let told: Vec<_> = lines
                .filter_map(|line| told.take(line.as_bytes(), &mut position))
                .collect();
            (told, position.clone())
        };
        let at = |id: &str| Some(id.to_owned());
        assert_eq!(take(": events follow\nid: 41\n\n"), (vec![], at("41")));
        // One that broke off comes again.
        assert_eq!(take("id: 42\nevent: x\ndata: {}"), (vec![], at("41")));
        assert_eq!(take("\n"), (vec![serde_json::json!({})], at("42")));
        // An older agent's comments have none.
        assert_eq!(take(":\n\n:\nid: x\n\n"), (vec![], at("42")));
        assert_eq!(take(":\nid: 77\n\n"), (vec![], at("77")));
    }

    #[tokio::test]
    async fn a_follower_who_was_shown_nothing_comes_back_to_where_it_began() {
        // Answers end at once, as those of an agent that is restarted.
        let answers = [41, 77, 78].map(|id| format!("200\n: events follow\nid: {id}\n\n"));
        let (agent, asked) = served(answers.to_vec()).await;
        let flags = EventFlags {
            container: Vec::new(),
            kind: vec!["container_exited".to_owned()],
            since: None,
            no_follow: false,
        };
        let asked = tokio::select! {
            ended = events(&agent, &flags, Screen::new(false, true)) => panic!("{ended:?}"),
            asked = asked => asked.unwrap(),
        };
        let firsts: Vec<_> = asked.iter().map(|head| &*head[0]).collect();
        let expected = ["", "after=41&", "after=77&"];
        let expected = expected.map(|of| format!("GET /events?{of}kind=container_exited HTTP/1.1"));
        assert_eq!(firsts, expected);
    }
}
