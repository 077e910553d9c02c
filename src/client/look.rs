//! Orders that only look: one container in full, why it is where it is, its past, and the node.

use std::time::SystemTime;

use serde_json::Value;
use state::text;

use super::agent::Agent;
use super::node::standing;
use super::screen::{Colour, Screen};
use super::table::{Cell, TextTable};
use super::times::{about, bytes, since, until};

/// Characters of a value in a difference.
const VALUE_CHARS_MAX: usize = 200;

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text::shown(text, text::MESSAGE_CHARS_MAX).into_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            text::shown(&value.to_string(), text::MESSAGE_CHARS_MAX).into_owned()
        }
    }
}

/// Shows containers in full.
pub(super) async fn inspect(agent: &Agent, names: &[String], screen: Screen) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for name in names {
        all.push(agent.see(&["containers", name]).await?);
    }
    Ok(screen.value(&Value::Array(all))?)
}

/// Says why containers are where they are.
pub(super) async fn explain(agent: &Agent, names: &[String], screen: Screen) -> anyhow::Result<()> {
    for (place, name) in names.iter().enumerate() {
        let told = agent.see(&["containers", name, "explain"]).await?;
        if screen.json {
            screen.value(&told)?;
            continue;
        }
        if place > 0 {
            screen.line("")?;
        }
        screen.write(&explanation(&told, SystemTime::now()))?;
    }
    Ok(())
}

fn explanation(told: &Value, now: SystemTime) -> String {
    let step = &told["decision"]["step"];
    let mut rows = vec![
        (
            "Container",
            format!("{} ({})", text_of(&told["name"]), text_of(&told["id"])),
        ),
        ("Status", text_of(&told["status"])),
    ];
    let mut row = |name: &'static str, value: &Value| {
        if !value.is_null() {
            rows.push((name, text_of(value)));
        }
    };
    row("Reason", &told["reason"]);
    row("Message", &told["message"]);
    row("Meaning", &told["meaning"]);
    row("Remedy", &told["unblock"]);
    row("Blocked", &told["blocked"]);
    row("Wanted", &told["desired"]["state"]);
    row("Generation", &told["desired"]["generation"]);
    row("Image", &told["desired"]["image"]);
    row("Owner", &told["desired"]["owner"]);
    row("Next step", &step["action"]);
    row("Because", &step["why"]);
    if told["attempts"].as_u64().is_some_and(|count| count > 0) {
        row("Attempts", &told["attempts"]);
    }
    let left = until(&told["next_attempt"], now);
    rows.extend(left.map(|left| ("Next attempt", format!("in {left}"))));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:<width$}   {value}\n"))
        .collect()
}

/// Shows the last generations of containers.
pub(super) async fn history(agent: &Agent, names: &[String], screen: Screen) -> anyhow::Result<()> {
    for name in names {
        let told = agent.see(&["containers", name, "history"]).await?;
        if screen.json {
            screen.value(&told)?;
            continue;
        }
        let mut table = TextTable::new(&["GENERATION", "WHEN", "BY", "HOW IT WENT", "CHANGES"]);
        let now = SystemTime::now();
        for one in told["generations"].as_array().into_iter().flatten() {
            let mark = if one["present"] == true { "*" } else { "" };
            let outcome = &one["outcome"];
            let ended = match outcome["reason"].as_str() {
                Some(reason) => format!("{}: {reason}", text_of(&outcome["result"])),
                None => text_of(&outcome["result"]),
            };
            let when = since(&one["at"], now).map(|ago| format!("{ago} ago"));
            table.push(vec![
                Cell::new(format!("{}{mark}", one["generation"])),
                Cell::new(when.unwrap_or_default()),
                Cell::new(text_of(&one["by"])),
                Cell::new(ended),
                Cell::new(changes(one)),
            ]);
        }
        screen.write(&table.text(screen, screen.columns()))?;
    }
    Ok(())
}

/// Changes of a generation, in a line.
fn changes(one: &Value) -> String {
    let changes = one["changes"].as_array().into_iter().flatten();
    let mut texts: Vec<_> = changes.map(change).collect();
    if let Some(count) = one["changes_left_out"].as_u64() {
        texts.push(format!("and {count} more"));
    }
    texts.join("; ")
}

/// A change of one member.
pub(super) fn change(one: &Value) -> String {
    let value = |name: &str| {
        let text = one
            .get(name)
            .map_or_else(|| "-".to_owned(), Value::to_string);
        text::shown(&text, VALUE_CHARS_MAX).into_owned()
    };
    let field = text_of(&one["field"]);
    match one["hidden"] == true {
        true => format!("{field}: changed (its value is secret)"),
        false if one["before"] == one["after"] => {
            format!("{field}: changed (its value is not shown)")
        }
        false => format!("{field}: {} -> {}", value("before"), value("after")),
    }
}

/// Shows the steps that the agent would do now.
pub(super) async fn plan(agent: &Agent, screen: Screen) -> anyhow::Result<()> {
    let told = agent.see(&["plan"]).await?;
    if screen.json {
        return Ok(screen.value(&told)?);
    }
    if let Some(blocked) = told["blocked"].as_str() {
        screen.line(&format!(
            "Nothing is done: {}",
            text::shown(blocked, text::MESSAGE_CHARS_MAX)
        ))?;
    }
    let text = steps(&told["containers"], screen) + &steps(&told["leftovers"], screen);
    match text.is_empty() {
        true => Ok(screen.line("All is as it was asked for: there is nothing to do.")?),
        false => Ok(screen.write(&text)?),
    }
}

/// Steps, by container.
pub(super) fn steps(containers: &Value, screen: Screen) -> String {
    let mut table = TextTable::new(&["CONTAINER", "STEP", "BECAUSE"]);
    let mut count = 0;
    for one in containers.as_array().into_iter().flatten() {
        let name = if one["name"].is_null() {
            &one["id"]
        } else {
            &one["name"]
        };
        for step in one["steps"].as_array().into_iter().flatten() {
            let row = [name, &step["action"], &step["why"]];
            table.push(row.map(|value| Cell::new(text_of(value))).into());
            count += 1;
        }
    }
    match count {
        0 => String::new(),
        _ => table.text(screen, screen.columns()),
    }
}

/// Words on the cordons of the node. An older agent tells of CHaS's alone.
fn cordon(health: &Value) -> String {
    if health["cordon"].is_null() && health["chas"]["cordoned"] == true {
        return "cordoned by CHaS".to_owned();
    }
    standing(&health["cordon"])
}

/// Shows the node at a glance: how it is, what is at fault first.
pub(super) async fn status(agent: &Agent, screen: Screen) -> anyhow::Result<()> {
    let (health, version) = (
        agent.see(&["health"]).await?,
        agent.see(&["version"]).await?,
    );
    if screen.json {
        return Ok(screen.value(&health)?);
    }
    let word = health["status"].as_str().unwrap_or("unknown");
    let colour = match word {
        "healthy" => Colour::Good,
        "degraded" => Colour::Waiting,
        _ => Colour::Bad,
    };
    let resources = &health["resources"];
    let percent = |name: &str| resources[name].as_f64().unwrap_or_default();
    let size = |name: &str| bytes(resources[name].as_u64().unwrap_or_default());
    let link = |link: &Value| match link["reachable"].as_bool() {
        None => "none is configured".to_owned(),
        Some(true) => "answers".to_owned(),
        Some(false) => format!("does not answer: {}", text_of(&link["error"])),
    };
    let uptime = std::time::Duration::from_secs(health["uptime"].as_u64().unwrap_or_default());
    screen.write(&format!(
        "Node         {}\nAgent        {}\nContainers   {} run, {} are not as asked\n\
         CPU          {:.0} %\nMemory       {:.0} % of {}\nDisk         {} of {} free\n\
         containerd   {}\nCHaS         {}\nCordon       {}\nUp           {}\n",
        screen.coloured(colour, word),
        text_of(&version["version"]),
        resources["container_count"],
        health["unsettled"],
        percent("cpu_usage"),
        percent("memory_usage"),
        size("memory_total_bytes"),
        size("disk_available_bytes"),
        size("disk_total_bytes"),
        link(&health["containerd"]),
        link(&health["chas"]),
        cordon(&health),
        about(uptime),
    ))?;
    for alarm in health["alarms"].as_array().into_iter().flatten() {
        screen.write(&format!(
            "\n{}: {}\n  remedy: {}\n",
            screen.coloured(Colour::Bad, &text_of(&alarm["name"])),
            text_of(&alarm["message"]),
            text_of(&alarm["remedy"]),
        ))?;
    }
    for one in health["unsettled_containers"]
        .as_array()
        .into_iter()
        .flatten()
    {
        screen.write(&format!(
            "\n{} is {}: {}\n  {}\n",
            text_of(&one["name"]),
            text_of(&one["status"]),
            text_of(&one["reason"]),
            text_of(&one["message"]),
        ))?;
    }
    Ok(())
}
