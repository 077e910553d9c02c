//! `kill` and `top`: signals to containers, and the processes in one.

use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde_json::Value;

use super::agent::Agent;
use super::change::unless_refused;
use super::fault::unless_away;
use super::order::{KillFlags, TopFlags};
use super::screen::{LOOK_EACH, Screen};
use super::table::{Cell, TextTable};
use super::times::{bytes, since};

/// Sends each of them a signal; one that cannot be reached is told, and the others get theirs.
pub(super) async fn kill(agent: &Agent, flags: &KillFlags, screen: Screen) -> anyhow::Result<u8> {
    let mut code = 0;
    for name in &flags.names {
        let request = agent.request(Method::POST, &["containers", name, "kill"]);
        let request = request.query(&[("signal", &flags.signal)]);
        let sent = agent.answer(request).await;
        match unless_refused(sent, name, &mut code, screen)? {
            Some(told) if screen.json => screen.value(&told)?,
            Some(_) => screen.line(name)?,
            None => {}
        }
    }
    Ok(code)
}

/// Shows the processes of a container; by `--watch` anew each two seconds.
pub(super) async fn top(agent: &Agent, flags: &TopFlags, screen: Screen) -> anyhow::Result<()> {
    let is_watched = flags.watch && screen.is_terminal && !screen.json;
    let mut is_seen = false;
    loop {
        let told = agent.see(&["containers", &flags.name, "top"]).await;
        let Some(told) = unless_away(told, is_seen, screen).await? else {
            continue;
        };
        is_seen = is_watched;
        if screen.json {
            screen.value(&told)?;
        } else {
            if is_watched {
                screen.clear()?;
            }
            let shown = table(&told, SystemTime::now());
            screen.write(&shown.text(screen, screen.columns()))?;
            if told["cut"] == true {
                screen.tell("There are more processes than are shown.");
            }
        }
        if !is_watched {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EACH).await;
    }
}

fn table(told: &Value, now: SystemTime) -> TextTable {
    let mut table = TextTable::new(&[
        "USER", "PID", "PPID", "STATE", "STARTED", "TIME", "MEMORY", "COMMAND",
    ]);
    for one in told["processes"].as_array().into_iter().flatten() {
        let number = |name: &str| {
            let number = one[name].as_u64();
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        let cpu = one["cpu_s"].as_f64().map(Duration::try_from_secs_f64);
        let words = one["command"].as_array().into_iter().flatten();
        let words: Vec<_> = words.filter_map(Value::as_str).collect();
        let started = since(&one["started"], now).map(|ago| format!("{ago} ago"));
        let memory = one["resident_bytes"].as_u64().map(bytes);
        table.push(
            [
                number("user"),
                number("pid"),
                number("parent_pid"),
                one["state"].as_str().unwrap_or("-").to_owned(),
                started.unwrap_or_else(|| "-".to_owned()),
                clock(cpu.and_then(Result::ok).unwrap_or_default()),
                memory.unwrap_or_else(|| "-".to_owned()),
                words.join(" "),
            ]
            .map(Cell::new)
            .into(),
        );
    }
    table
}

/// Time on processors as `ps` writes it.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn processes_are_rows_and_what_an_agent_leaves_out_is_a_dash() {
        let process = json!({"user": 33, "pid": 1, "parent_pid": 0, "state": "S", "cpu_s": 3725.5,
            "resident_bytes": 2048, "started": "2026-01-01T00:00:00Z",
            "command": ["nginx:\u{1b}[31m", "-g", "daemon off;"]});
        let told = json!({"processes": [process, {"pid": 7}]});
        let now = humantime::parse_rfc3339("2026-01-01T00:05:00Z").unwrap();
        let text = table(&told, now).text(Screen::new(false, true), None);
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("USER   PID   PPID"));
        let first: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        let shown = "33 1 0 S 5 minutes ago 01:02:05 2.0KiB nginx:\\u001b[31m -g daemon off;";
        assert_eq!(first.join(" "), shown);
        let second: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(second, ["-", "7", "-", "-", "-", "00:00:00", "-"]);
    }
}
