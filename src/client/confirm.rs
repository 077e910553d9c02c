//! `confirm`: what of the set from CHaS waits for a person.

use std::fmt::Write as _;

use anyhow::bail;
use reqwest::Method;
use serde_json::Value;
use state::text;

use super::agent::Agent;
use super::fault::{EXIT_FAILED, EXIT_FOUND};
use super::screen::{self, Screen};

/// Shows the unconfirmed part of the set from CHaS, and (unless `only_list`) confirms just that.
pub(super) async fn confirm(agent: &Agent, only_list: bool, screen: Screen) -> anyhow::Result<u8> {
    let health = agent.see(&["health"]).await?;
    let link = &health["chas"];
    if link.is_null() {
        bail!(
            "no CHaS is configured on this node (api.chas_url): no set is applied, so nothing waits"
        );
    }
    let names: Vec<&str> = link["pending_prune"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let refused = &link["refused"];
    let (generation, confirmed) = match (names.is_empty(), refused.is_null()) {
        (true, true) => {
            match screen.json {
                true => screen.value(&awaiting(link))?,
                false => screen.line("Nothing waits for a confirmation.")?,
            }
            return Ok(0);
        }
        (true, false) => (
            &refused["generation"],
            "Confirmed: the next set of that epoch is taken, as the first of another epoch.\n",
        ),
        (false, _) => (
            &link["generation"],
            "Confirmed: they end now; what is only changed, with CHaS's next answer.\n",
        ),
    };
    let mut lines = match names.len() {
        0 => format!(
            "A signed set of epoch {}, generation {generation}, was refused: the node had left that \
             epoch for another.\n",
            refused["epoch"]
        ),
        count => format!("CHaS, by generation {generation}, would end or change {count}:\n"),
    };
    for name in names {
        writeln!(lines, "  {}", text::shown(name, 100))?;
    }
    match screen.json {
        true => screen.value(&awaiting(link))?,
        false => screen.write(&lines)?,
    }
    if only_list {
        return Ok(EXIT_FOUND);
    }
    // A script that gives this order means it; a person may have expected less.
    if screen::has_person() && !screen::asks(&format!("{agent}: confirm this?"))? {
        screen.tell("Nothing was confirmed.");
        return Ok(EXIT_FAILED);
    }
    let request = agent.request(Method::POST, &["desired-state", "confirm"]);
    let request = request.query(&[("generation", generation.to_string())]);
    agent.answer(request).await?;
    match screen.json {
        // What it was is told already, as the one value of the output.
        true => {}
        false => screen.write(confirmed)?,
    }
    Ok(0)
}

/// The part of the link to CHaS that waits for a person, in the agent's own words.
fn awaiting(link: &Value) -> Value {
    let parts = ["epoch", "generation", "pending_prune", "refused"];
    let parts = parts
        .iter()
        .filter_map(|part| Some(((*part).to_owned(), link.get(part)?.clone())));
    Value::Object(parts.collect())
}
