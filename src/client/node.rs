//! `cordon`, `uncordon` and `drain`: the node as such, before and after work on it.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use state::text;
use tokio::time::Instant;

use super::agent::Agent;
use super::fault::{EXIT_FAILED, is_away};
use super::order::DrainFlags;
use super::screen::{Screen, asks};

/// Time between two looks at a node that is drained.
const LOOK_EACH: Duration = Duration::from_millis(500);
/// Containers that are named in a line.
const NAMED_MAX: usize = 8;

/// The order to start nothing new, and the remark where a drain is in force, which holds back more.
const CORDON: &str = "cordon";
const DRAINED: &str = "The node is drained, and a cordon changes nothing of that: uncordon it first, \
                       then cordon it, and what was stopped starts again.";

/// Gives the node an order that is carried out at once.
pub(super) async fn order(agent: &Agent, order: &str, screen: Screen) -> anyhow::Result<u8> {
    let told = agent
        .answer(agent.request(Method::POST, &["node", order]))
        .await?;
    if screen.json {
        screen.value(&told)?;
    } else {
        screen.line(&standing(&told))?;
    }
    if order == CORDON && is_ordered(&told) {
        screen.tell(DRAINED);
    }
    Ok(0)
}

/// Drains the node, and waits until nothing runs any more that is stopped for it.
pub(super) async fn drain(agent: &Agent, flags: &DrainFlags, screen: Screen) -> anyhow::Result<u8> {
    let health = agent.see(&["health"]).await?;
    let count = &health["resources"]["container_count"];
    let question = format!(
        "{agent}: stop the {count} containers that run here, until `uncordon`, also over reboots?"
    );
    if !flags.yes && !asks(&question)? {
        screen.tell("Nothing was stopped; --yes asks no question.");
        return Ok(EXIT_FAILED);
    }
    let mut told = agent
        .answer(agent.request(Method::POST, &["node", "drain"]))
        .await?;
    let until = Instant::now() + flags.timeout;
    let mut shown = String::new();
    while !flags.no_wait && told["drained"] != true && is_ordered(&told) {
        let line = progress(&told);
        if line != shown {
            screen.tell(&line);
            shown = line;
        }
        if Instant::now() >= until {
            screen.tell("It is not drained in time, and goes on.");
            break;
        }
        tokio::time::sleep(LOOK_EACH).await;
        // An agent that is restarted meanwhile goes on with it.
        match agent.see(&["health"]).await {
            Ok(mut health) => told = health["cordon"].take(),
            Err(error) if is_away(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if screen.json {
        screen.value(&told)?;
    } else {
        screen.write(&(standing(&told) + "\n" + &left(&told)))?;
    }
    let is_done = flags.no_wait || told["drained"] == true;
    Ok(if is_done { 0 } else { EXIT_FAILED })
}

/// Whether a drain stands; somebody may have lifted it.
fn is_ordered(told: &Value) -> bool {
    !told["operator"]["drained_since"].is_null()
}

/// Names of what still runs and is to be stopped.
fn progress(told: &Value) -> String {
    let moving = told["left"].as_array().into_iter().flatten();
    let moving = moving.filter(|one| one["stays"] != true);
    let names: Vec<_> = moving.filter_map(|one| one["name"].as_str()).collect();
    let named = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>();
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let line = match told["unsure"].as_str() {
        Some(why) if names.is_empty() => format!("not known what runs: {why}"),
        Some(_) | None => format!("{} to stop: {}{more}", names.len(), named.join(", ")),
    };
    text::shown(&line, text::MESSAGE_CHARS_MAX).into_owned()
}

/// The cordon in a line.
pub(super) fn standing(told: &Value) -> String {
    let operator = &told["operator"];
    let by = operator["by"].as_str().unwrap_or("an operator");
    let line = if told["drained"] == true {
        format!("drained, by {by}: nothing is started until it is uncordoned")
    } else if !operator["drained_since"].is_null() {
        format!("being drained, by {by}")
    } else if operator.is_object() && told["chas"] == true {
        format!("cordoned by {by} and by CHaS: nothing new is started")
    } else if operator.is_object() {
        format!("cordoned by {by}: nothing new is started")
    } else if told["chas"] == true {
        "cordoned by CHaS, which alone ends that: nothing new is started".to_owned()
    } else {
        "not cordoned".to_owned()
    };
    text::shown(&line, text::MESSAGE_CHARS_MAX).into_owned()
}

/// A line for each container that still runs.
fn left(told: &Value) -> String {
    let mut lines = String::new();
    for one in told["left"].as_array().into_iter().flatten() {
        let part = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let line = format!("  still runs: {}: {}", part("name"), part("why"));
        let shown = text::shown(&line, text::MESSAGE_CHARS_MAX);
        writeln!(lines, "{shown}").expect("writing to a string cannot fail");
    }
    if let Some(why) = told["unsure"].as_str() {
        let line = format!("  it is not known what else runs: {why}");
        let shown = text::shown(&line, text::MESSAGE_CHARS_MAX);
        writeln!(lines, "{shown}").expect("writing to a string cannot fail");
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cordon_is_said_with_who_holds_it() {
        let by = |chas: bool, operator: Value, drained: bool| {
            standing(&json!({"chas": chas, "operator": operator, "drained": drained}))
        };
        let cordon = json!({"by": "uid:0", "drained_since": null});
        let drain = json!({"by": "uid:0", "drained_since": "2026-01-01T00:00:00Z"});
        for (said, holds) in [
            (by(false, Value::Null, false), "not cordoned"),
            (
                by(true, Value::Null, false),
                "cordoned by CHaS, which alone",
            ),
            (
                by(false, cordon.clone(), false),
                "cordoned by uid:0: nothing new",
            ),
            (by(true, cordon, false), "by uid:0 and by CHaS"),
            (by(false, drain.clone(), false), "being drained, by uid:0"),
            (
                by(false, drain, true),
                "drained, by uid:0: nothing is started",
            ),
        ] {
            assert!(said.contains(holds), "{said}");
        }
    }

    #[test]
    fn what_is_left_is_named_and_many_are_counted() {
        let one = |name: usize| json!({"name": format!("c{name}"), "why": "is being stopped", "stays": false});
        let mut all: Vec<_> = (0..10).map(one).collect();
        all.push(json!({"name": "foreign", "why": "is not managed", "stays": true}));
        let told = json!({"left": all});
        let line = progress(&told);
        assert!(line.starts_with("10 to stop: c0, c1,"), "{line}");
        assert!(line.ends_with("c7 and 2 more"), "{line}");
        assert!(left(&told).contains("foreign: is not managed"));
    }
}
