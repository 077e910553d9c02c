//! `logs`: what a container prints, also over a restart of the agent; on a terminal nothing of it does
//! more than stand there.

use std::time::Duration;

use anyhow::bail;
use reqwest::Response;
use serde_json::Value;
use state::text;
use tokio::time::Instant;

use super::agent::Agent;
use super::fault::{AgentFault, is_away, refusal};
use super::order::LogFlags;
use super::screen::Screen;

/// Bytes of a line of an answer, above which it is none.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Longest time in which an agent that went away is asked again.
const AWAY_MAX: Duration = Duration::from_secs(120);
/// Time without a piece, after which an answer is asked for anew.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows what a container has printed, and goes on with it where that is asked for.
pub(super) async fn logs(agent: &Agent, flags: &LogFlags, screen: Screen) -> anyhow::Result<()> {
    if !flags.follow {
        return once(agent, flags, screen).await;
    }
    let mut shown = FollowedLines::default();
    let mut answered = Instant::now();
    let mut has_begun = false;
    loop {
        let taken = follow(agent, flags, &mut shown, screen).await;
        if shown.was_answered {
            (answered, has_begun, shown.was_answered) = (Instant::now(), true, false);
        }
        match taken {
            Ok(()) if !prints(agent, &flags.name).await => return Ok(()),
            Ok(()) => {}
            Err(error) if !has_begun || !is_away(&error) => return Err(error),
            Err(error) if answered.elapsed() > AWAY_MAX => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The output as text, byte by byte where no terminal is.
async fn once(agent: &Agent, flags: &LogFlags, screen: Screen) -> anyhow::Result<()> {
    let mut query = query(flags);
    query.push(("tail", flags.tail.clone()));
    query.extend(flags.since.clone().map(|since| ("since", since)));
    if flags.timestamps {
        query.push(("timestamps", "true".to_owned()));
    }
    let request = agent.get(&["containers", &flags.name, "logs"]);
    let mut response = agent.open_stream(request.query(&query)).await?;
    let is_harmless = !screen.is_terminal || flags.raw;
    let mut lines = Lines::default();
    while let Some(bytes) = next(agent, &mut response).await? {
        if is_harmless {
            screen.bytes(&bytes)?;
            continue;
        }
        for line in lines.take(&bytes)? {
            screen.line(&harmless(&line))?;
        }
    }
    Ok(screen.write(&harmless(&lines.begun))?)
}

/// The output from the last line that was shown on, until the answer ends.
async fn follow(
    agent: &Agent,
    flags: &LogFlags,
    shown: &mut FollowedLines,
    screen: Screen,
) -> anyhow::Result<()> {
    let mut query = query(flags);
    query.push(("follow", "true".to_owned()));
    match shown.last() {
        Some(last) => query.extend([("since", last), ("tail", "all".to_owned())]),
        None => {
            query.push(("tail", flags.tail.clone()));
            query.extend(flags.since.clone().map(|since| ("since", since)));
        }
    }
    shown.begin_again();
    let request = agent
        .get(&["containers", &flags.name, "logs"])
        .query(&query);
    let request = request.header("accept", "application/x-ndjson");
    let mut response = agent.open_stream(request).await?;
    shown.was_answered = true;
    let mut lines = Lines::default();
    while let Some(bytes) = next(agent, &mut response).await? {
        for line in lines.take(&bytes)? {
            // An empty one only shows that the connection lives.
            let Ok(line) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            if let Some(text) = shown.take(&line) {
                let time = line["time"].as_str().unwrap_or_default();
                let stamp = if flags.timestamps {
                    format!("{time} ")
                } else {
                    String::new()
                };
                let text = match screen.is_terminal && !flags.raw {
                    true => harmless(text.as_bytes()),
                    false => text.to_owned(),
                };
                let end = if line["partial"] == true { "" } else { "\n" };
                screen.write(&format!("{stamp}{text}{end}"))?;
            }
        }
    }
    Ok(())
}

/// Parameters that always count.
fn query(flags: &LogFlags) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    for (name, value) in [("until", &flags.until), ("stream", &flags.stream)] {
        query.extend(value.clone().map(|value| (name, value)));
    }
    query
}

/// The next piece of an answer of which something comes each 15 s, from agents of this version on; an
/// older one is asked anew, which costs little.
pub(super) async fn next(
    agent: &Agent,
    response: &mut Response,
) -> anyhow::Result<Option<Vec<u8>>> {
    let piece = tokio::time::timeout(SILENT_MAX, response.chunk()).await;
    let silent = |_| AgentFault::Unreachable(format!("the agent at {agent} is silent"));
    let piece = piece
        .map_err(silent)?
        .map_err(|error| agent.broken(&error))?;
    Ok(piece.map(|bytes| bytes.to_vec()))
}

/// Whether a container may print more: an answer may also have ended with the agent.
async fn prints(agent: &Agent, name: &str) -> bool {
    let ended = ["stopped", "failed", "removing"];
    match agent.see(&["containers", name]).await {
        Ok(one) => one["status"]
            .as_str()
            .is_some_and(|word| !ended.contains(&word)),
        Err(error) => refusal(&error).is_none(),
    }
}

/// Lines of which each answer has those of the time at which it begins.
#[derive(Default)]
struct FollowedLines {
    /// Time of the last line, and how many of that time were shown.
    last: String,
    count: usize,
    /// Lines of that time that this answer repeats.
    repeated: usize,
    /// Whether an answer has begun since that was asked.
    was_answered: bool,
}

impl FollowedLines {
    const fn has_any(&self) -> bool {
        self.count > 0
    }

    fn last(&self) -> Option<String> {
        self.has_any().then(|| self.last.clone())
    }

    /// Another answer begins, at the time of the last line.
    const fn begin_again(&mut self) {
        self.repeated = self.count;
    }

    /// The text of a line. `None`: it was shown.
    fn take<'a>(&mut self, line: &'a Value) -> Option<&'a str> {
        let (time, text) = (line["time"].as_str()?, line["line"].as_str()?);
        if time != self.last {
            (self.last, self.count, self.repeated) = (time.to_owned(), 0, 0);
        }
        if self.repeated > 0 {
            self.repeated -= 1;
            return None;
        }
        self.count += 1;
        Some(text)
    }
}

/// Lines of pieces.
#[derive(Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that end in a piece, without their ends.
    pub(super) fn take(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut whole = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.last() == Some(&b'\n') {
                self.begun.pop();
                whole.push(std::mem::take(&mut self.begun));
            }
        }
        if self.begun.len() > LINE_BYTES_MAX {
            bail!("a line of the answer is longer than {LINE_BYTES_MAX} bytes; is this an agent?");
        }
        Ok(whole)
    }
}

/// Printed bytes in which nothing acts on a terminal; tabs stay.
pub(super) fn harmless(printed: &[u8]) -> String {
    let printed = String::from_utf8_lossy(printed);
    let mut line = String::with_capacity(printed.len());
    for c in printed.chars() {
        match c {
            '\t' => line.push(c),
            _ => text::push(&mut line, c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_printed_acts_on_a_terminal() {
        assert_eq!(
            harmless(b"a\tb\x1b[31mc\r\xff"),
            "a\tb\\u001b[31mc\\r\u{fffd}"
        );
    }

    #[test]
    fn an_answer_that_goes_on_shows_no_line_twice_and_leaves_none_out() {
        let line = |time: &str, text: &str| json!({"time": time, "line": text});
        let mut shown = FollowedLines::default();
        let mut take = |lines: &[Value]| {
            shown.begin_again();
            let taken = lines.iter().filter_map(|line| shown.take(line));
            taken.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            take(&[line("1", "a"), line("2", "x"), line("2", "x")]),
            ["a", "x", "x"]
        );
        // The same time goes on, and then others come.
        let second = [
            line("2", "x"),
            line("2", "x"),
            line("2", "x"),
            line("3", "x"),
        ];
        assert_eq!(take(&second), ["x", "x"]);
        assert_eq!(take(&[line("4", "b")]), ["b"], "the files of then are gone");
    }

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        let mut lines = Lines::default();
        assert!(lines.take(b"ab").unwrap().is_empty());
        assert_eq!(lines.take(b"c\n\nd\ne").unwrap(), [&b"abc"[..], b"", b"d"]);
        assert!(lines.take(&vec![b'x'; LINE_BYTES_MAX]).is_err());
    }
}
