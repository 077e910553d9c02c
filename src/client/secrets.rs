//! `secret`: names of secrets, and their values on the way to the node; none comes back.

use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use reqwest::Method;

use super::agent::Agent;
use super::order::SecretOrder;
use super::screen::Screen;
use super::table::{Cell, TextTable};
use super::times::since;
use super::volumes::each;

/// Bytes of a value, above which no agent takes it.
const VALUE_BYTES_MAX: u64 = 1 << 20;

/// Carries out an order about secrets.
pub(super) async fn secret(
    agent: &Agent,
    order: &SecretOrder,
    screen: Screen,
) -> anyhow::Result<u8> {
    match order {
        SecretOrder::Ls => list(agent, screen).await?,
        SecretOrder::Set { name, file } => {
            let value = value(file.as_deref())?;
            let request = agent.request(Method::PUT, &["secrets", name]);
            let request = request
                .header("content-type", "application/octet-stream")
                .body(value);
            let told = agent.answer(request).await?;
            match screen.json {
                true => screen.value(&told)?,
                false => screen.line(name)?,
            }
        }
        SecretOrder::Rm { names } => return each(agent, "secrets", names, screen).await,
    }
    Ok(0)
}

async fn list(agent: &Agent, screen: Screen) -> anyhow::Result<()> {
    let told = agent.see(&["secrets"]).await?;
    if screen.json {
        return Ok(screen.value(&told)?);
    }
    let mut table = TextTable::new(&["SECRET", "UPDATED", "USED BY"]);
    let now = SystemTime::now();
    for one in told["secrets"].as_array().into_iter().flatten() {
        let updated = since(&one["updated"], now).map(|ago| format!("{ago} ago"));
        table.push(vec![
            Cell::new(one["name"].as_str().unwrap_or_default()),
            Cell::new(updated.unwrap_or_default()),
            Cell::names(&one["used_by"]),
        ]);
    }
    Ok(screen.write(&table.text(screen, screen.columns()))?)
}

/// The value, byte by byte as it is given.
fn value(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    let reads = |from: &mut dyn std::io::Read, value: &mut Vec<u8>| {
        from.take(VALUE_BYTES_MAX + 1).read_to_end(value)
    };
    match file {
        Some(path) => {
            let about = || format!("cannot read {}", path.display());
            let mut file = std::fs::File::open(path).with_context(about)?;
            reads(&mut file, &mut value).with_context(about)?;
        }
        None => {
            reads(&mut std::io::stdin().lock(), &mut value)?;
        }
    }
    if value.len() as u64 > VALUE_BYTES_MAX {
        bail!("the value is larger than {VALUE_BYTES_MAX} bytes");
    }
    Ok(value)
}
