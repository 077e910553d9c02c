//! `stats`: what containers use, as docker shows it.

use serde_json::{Value, json};

use super::agent::Agent;
use super::fault::unless_away;
use super::order::StatFlags;
use super::screen::{LOOK_EACH, Screen};
use super::table::{Cell, TextTable};
use super::times::bytes;

/// Shows what containers use; on a terminal anew each two seconds.
pub(super) async fn stats(agent: &Agent, flags: &StatFlags, screen: Screen) -> anyhow::Result<()> {
    let is_once = flags.no_stream || !screen.is_terminal || screen.json;
    let mut is_seen = false;
    loop {
        let all = usages(agent, &flags.names).await;
        let Some(all) = unless_away(all, is_seen, screen).await? else {
            continue;
        };
        is_seen = true;
        if screen.json {
            screen.value(&json!({"containers": all}))?;
        } else {
            if !is_once {
                screen.clear()?;
            }
            screen.write(&table(&all).text(screen, screen.columns()))?;
        }
        if is_once {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EACH).await;
    }
}

async fn usages(agent: &Agent, names: &[String]) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for name in names {
        all.push(agent.see(&["containers", name, "stats"]).await?);
    }
    if names.is_empty() {
        let told = agent.see(&["stats"]).await?;
        all.extend(told["containers"].as_array().into_iter().flatten().cloned());
    }
    Ok(all)
}

fn table(all: &[Value]) -> TextTable {
    let mut table = TextTable::new(&[
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ])
    .keeping(&["NAME"]);
    for one in all {
        let size = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), bytes);
        let cores = one["cpu"]["used_cores"].as_f64();
        let (used, limit) = (
            &one["memory"]["working_set_bytes"],
            &one["memory"]["limit_bytes"],
        );
        let share = used
            .as_f64()
            .zip(limit.as_f64())
            .filter(|(_, limit)| *limit > 0.0);
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let unknown = || "-".to_owned();
        table.push(
            [
                one["name"].as_str().unwrap_or_default().to_owned(),
                cores.map_or_else(unknown, percent),
                format!("{} / {}", size(used), size(limit)),
                share.map_or_else(unknown, |(used, limit)| percent(used / limit)),
                format!(
                    "{} / {}",
                    size(&one["network"]["received_bytes"]),
                    size(&one["network"]["sent_bytes"])
                ),
                format!(
                    "{} / {}",
                    size(&one["block_io"]["read_bytes"]),
                    size(&one["block_io"]["written_bytes"])
                ),
                one["pids"]["current"]
                    .as_u64()
                    .map_or_else(unknown, |pids| pids.to_string()),
            ]
            .map(Cell::new)
            .into(),
        );
    }
    table
}
