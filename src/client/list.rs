//! `ps`: the containers of a node, one a line.

use std::time::SystemTime;

use anyhow::bail;
use serde_json::{Value, json};
use state::text;

use super::agent::Agent;
use super::fault::unless_away;
use super::order::ListFlags;
use super::screen::{Colour, LOOK_EACH, Screen};
use super::table::{Cell, TextTable};
use super::times::{bytes, since, until};

/// Containers in a page.
const PAGE: &str = "500";
/// Containers, above which no node has them.
const CONTAINERS_MAX: usize = 100_000;
/// Characters of an id that docker shows.
const ID_CHARS: usize = 12;
/// Parameters of the list that filter.
const FILTERS: [&str; 4] = ["name", "label", "status", "owner"];

/// Lists containers.
pub(super) async fn list(agent: &Agent, flags: &ListFlags, screen: Screen) -> anyhow::Result<()> {
    let filters = filters(&flags.filter)?;
    let is_watched = flags.watch && screen.is_terminal && !screen.json;
    let mut is_seen = false;
    loop {
        let containers = containers(agent, &filters).await;
        let Some(containers) = unless_away(containers, is_seen, screen).await? else {
            continue;
        };
        is_seen = is_watched;
        let is_narrowed = flags.all || filters.iter().any(|(key, _)| *key == "status");
        let shown: Vec<_> = containers
            .into_iter()
            .filter(|one| is_narrowed || is_usual(one))
            .collect();
        if is_watched {
            screen.clear()?;
        }
        show(&shown, flags, screen)?;
        if !flags.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EACH).await;
    }
}

fn show(containers: &[Value], flags: &ListFlags, screen: Screen) -> anyhow::Result<()> {
    if screen.json {
        return Ok(screen.value(&json!({"containers": containers}))?);
    }
    if flags.quiet {
        for one in containers {
            screen.line(&text::shown(one["id"].as_str().unwrap_or_default(), 64))?;
        }
        return Ok(());
    }
    let mut table = TextTable::new(&[
        "CONTAINER ID",
        "IMAGE",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ])
    .keeping(&["STATUS", "PORTS", "NAMES"]);
    let now = SystemTime::now();
    for one in containers {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let id: String = text("id").chars().take(ID_CHARS).collect();
        let created = since(&one["created"], now).map(|since| format!("{since} ago"));
        let (colour, status) = status(one, now);
        table.push(vec![
            Cell::new(if flags.no_trunc { text("id") } else { id }),
            Cell::new(text("image")),
            Cell::new(created.unwrap_or_default()),
            Cell::coloured(colour, status),
            Cell::new(ports(one)),
            Cell::new(text("name")),
        ]);
    }
    let columns = screen.columns().filter(|_| !flags.no_trunc);
    Ok(screen.write(&table.text(screen, columns))?)
}

/// All containers that these filters let through, page by page.
pub(super) async fn containers(
    agent: &Agent,
    filters: &[(&str, String)],
) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut request = agent.get(&["containers"]).query(filters);
        request = request.query(&[("limit", PAGE)]);
        if let Some(after) = &after {
            request = request.query(&[("after", after)]);
        }
        let mut page = agent.answer(request).await?;
        if let Some(Value::Array(containers)) = page.get_mut("containers").map(Value::take) {
            all.extend(containers);
        }
        if all.len() > CONTAINERS_MAX {
            bail!("{agent} lists more than {CONTAINERS_MAX} containers; is this an agent?");
        }
        match page["next"].as_str() {
            Some(next) if after.as_deref() != Some(next) => after = Some(next.to_owned()),
            Some(_) | None => return Ok(all),
        }
    }
}

fn filters(given: &[String]) -> anyhow::Result<Vec<(&'static str, String)>> {
    let read = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match FILTERS.iter().find(|known| **known == key) {
            Some(known) if !value.is_empty() => Ok((*known, value.to_owned())),
            Some(_) | None => bail!(
                "--filter {text}: write KEY=VALUE, with one of these keys: {}",
                FILTERS.join(", ")
            ),
        }
    };
    given.iter().map(read).collect()
}

/// Whether a container is listed where nothing else is asked for.
fn is_usual(one: &Value) -> bool {
    one["owner"] != "unmanaged" && one["status"] != "stopped"
}

/// State of a container in docker's words, with what an operator asks next.
pub(super) fn status(one: &Value, now: SystemTime) -> (Colour, String) {
    let word = one["status"].as_str().unwrap_or("unknown");
    let reason = one["reason"].as_str();
    let code = one["exit_code"].as_i64();
    let started = || since(&one["started"], now).unwrap_or_else(|| "?".to_owned());
    let next = || until(&one["next_attempt"], now).map(|left| format!(", next in {left}"));
    let with_reason = |what: &str| {
        let reason = reason.map(|reason| format!(": {reason}"));
        format!(
            "{what}{}{}",
            reason.unwrap_or_default(),
            next().unwrap_or_default()
        )
    };
    match word {
        "running" => {
            let ready = match (one["ready"].as_bool(), one["health"].is_null()) {
                (Some(true), false) => " (ready)",
                (Some(false), false) => " (not ready yet)",
                (_, true) | (None, _) => "",
            };
            let colour = if ready == " (not ready yet)" {
                Colour::Waiting
            } else {
                Colour::Good
            };
            let reason = reason
                .map(|reason| format!(", {reason}"))
                .unwrap_or_default();
            (colour, format!("Up {}{ready}{reason}", started()))
        }
        "unhealthy" => (Colour::Bad, format!("Up {} (unhealthy)", started())),
        "stopped" | "completed" => {
            let ago = since(&one["finished"], now).map(|ago| format!(" {ago} ago"));
            let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
            (
                Colour::Plain,
                format!("Exited{code}{}", ago.unwrap_or_default()),
            )
        }
        "failed" => (Colour::Bad, with_reason("Failed")),
        "restarting" => (Colour::Bad, with_reason("Restarting")),
        "pulling" => (Colour::Waiting, pulling(one)),
        "pending" => (Colour::Waiting, with_reason("Pending")),
        other => {
            let mut letters = other.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            (Colour::Waiting, first.into_iter().chain(letters).collect())
        }
    }
}

/// Progress of a pull.
fn pulling(one: &Value) -> String {
    let count = |name: &str| one["pull"][name].as_u64();
    match (count("fetched_bytes"), count("total_bytes")) {
        (Some(fetched), Some(total)) if total > 0 => {
            format!("Pulling {} of {}", bytes(fetched), bytes(total))
        }
        (Some(_) | None, _) => "Pulling".to_owned(),
    }
}

/// Ports as docker shows them.
fn ports(one: &Value) -> String {
    let ports = one["ports"].as_array().into_iter().flatten().map(|port| {
        let (container, host) = (&port["container"], &port["host"]);
        let protocol = port["protocol"].as_str().unwrap_or("tcp");
        let address = port["host_ip"].as_str().unwrap_or("0.0.0.0");
        if host.is_null() {
            format!("{container}/{protocol}")
        } else if address.contains(':') {
            format!("[{address}]:{host}->{container}/{protocol}")
        } else {
            format!("{address}:{host}->{container}/{protocol}")
        }
    });
    ports.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_told_in_dockers_words_with_what_is_asked_next() {
        let now = humantime::parse_rfc3339("2026-01-01T12:00:00Z").unwrap();
        for (shown, expected) in [
            (
                json!({"status": "running", "started": "2026-01-01T09:00:00Z"}),
                "Up 3 hours",
            ),
            (
                json!({"status": "running", "started": "2026-01-01T11:59:00Z", "ready": true, "health": {"status": "ready"}}),
                "Up 1 minute (ready)",
            ),
            (
                json!({"status": "restarting", "reason": "CrashLoop", "next_attempt": "2026-01-01T12:00:30Z"}),
                "Restarting: CrashLoop, next in 30 seconds",
            ),
            (
                json!({"status": "stopped", "exit_code": 137, "finished": "2026-01-01T11:00:00Z"}),
                "Exited (137) 1 hour ago",
            ),
            (
                json!({"status": "pulling", "pull": {"fetched_bytes": 1024, "total_bytes": 4096}}),
                "Pulling 1.0KiB of 4.0KiB",
            ),
            (json!({"status": "removing"}), "Removing"),
            // An agent that is newer may know another word, and one that is older says less.
            (json!({"status": "frozen"}), "Frozen"),
            (json!({}), "Unknown"),
        ] {
            assert_eq!(status(&shown, now).1, expected);
        }
        let shown = json!({"ports": [{"host": 8080, "container": 80, "protocol": "tcp", "host_ip": null},
            {"host": 53, "container": 53, "protocol": "udp", "host_ip": "::1"}]});
        assert_eq!(ports(&shown), "0.0.0.0:8080->80/tcp, [::1]:53->53/udp");
        assert!(filters(&["name=web".to_owned()]).is_ok());
        for wrong in ["name", "name=", "size=3"] {
            assert!(filters(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
