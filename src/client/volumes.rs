//! `volume`: the named volumes of a node, and their content.

use std::time::SystemTime;

use futures_util::TryStreamExt as _;
use reqwest::{Body, Method};
use tokio_util::io::ReaderStream;

use super::agent::Agent;
use super::change::unless_refused;
use super::fault::EXIT_FAILED;
use super::order::VolumeOrder;
use super::screen::{Screen, asks, input};
use super::table::{Cell, TextTable};
use super::times::{bytes, since};

/// Carries out an order about volumes.
pub(super) async fn volume(
    agent: &Agent,
    order: &VolumeOrder,
    screen: Screen,
) -> anyhow::Result<u8> {
    match order {
        VolumeOrder::Ls => list(agent, screen).await?,
        VolumeOrder::Inspect { names } => {
            let mut all = Vec::new();
            for name in names {
                all.push(agent.see(&["volumes", name]).await?);
            }
            screen.value(&all.into())?;
        }
        VolumeOrder::Rm { names, force } => return remove(agent, names, *force, screen).await,
        VolumeOrder::Export { name } => {
            let path = &["volumes", name.as_str(), "archive"];
            export(agent, agent.get(path), screen).await?;
        }
        VolumeOrder::Import { name } => {
            let request = agent.request(Method::PUT, &["volumes", name, "archive"]);
            import(agent, request, input()?, screen).await?;
        }
    }
    Ok(0)
}

async fn list(agent: &Agent, screen: Screen) -> anyhow::Result<()> {
    let told = agent.see(&["volumes"]).await?;
    if screen.json {
        return Ok(screen.value(&told)?);
    }
    let mut table = TextTable::new(&["VOLUME", "MADE", "LIMIT", "USED BY"]);
    let now = SystemTime::now();
    for one in told["volumes"].as_array().into_iter().flatten() {
        let made = since(&one["made_at"], now).map(|ago| format!("{ago} ago"));
        let limit = one["limit_bytes"].as_u64().map(bytes);
        table.push(vec![
            Cell::new(one["name"].as_str().unwrap_or_default()),
            Cell::new(made.unwrap_or_default()),
            Cell::new(limit.as_deref().unwrap_or("-")),
            Cell::names(&one["used_by"]),
        ]);
    }
    Ok(screen.write(&table.text(screen, screen.columns()))?)
}

async fn remove(
    agent: &Agent,
    names: &[String],
    force: bool,
    screen: Screen,
) -> anyhow::Result<u8> {
    let question = format!(
        "{agent}: remove {} with all content, for good?",
        names.join(", ")
    );
    if !force && !asks(&question)? {
        screen.tell("Nothing was removed; --force asks no question");
        return Ok(EXIT_FAILED);
    }
    each(agent, "volumes", names, screen).await
}

/// Removes each of these; one that cannot be removed is told, and the others are.
pub(super) async fn each(
    agent: &Agent,
    kind: &str,
    names: &[String],
    screen: Screen,
) -> anyhow::Result<u8> {
    let mut code = 0;
    for name in names {
        let removed = agent
            .answer(agent.request(Method::DELETE, &[kind, name]))
            .await;
        if unless_refused(removed, name, &mut code, screen)?.is_some() {
            screen.line(name)?;
        }
    }
    Ok(code)
}

/// Writes an archive to the output.
pub(super) async fn export(
    agent: &Agent,
    request: reqwest::RequestBuilder,
    screen: Screen,
) -> anyhow::Result<()> {
    if screen.is_terminal {
        anyhow::bail!(
            "a tar archive is of no use on a terminal: write it to a file with >, or pipe it"
        );
    }
    let mut response = agent.open_stream(request).await?;
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| agent.broken(&error))?
    {
        // Half an archive is none, whoever stopped reading.
        if let Err(error) = screen.bytes(&piece) {
            anyhow::bail!("the archive could not be written to its end: {error}");
        }
    }
    Ok(())
}

/// Sends an archive.
pub(super) async fn import(
    agent: &Agent,
    request: reqwest::RequestBuilder,
    archive: impl tokio::io::AsyncRead + Send + Sync + 'static,
    screen: Screen,
) -> anyhow::Result<()> {
    let pieces = ReaderStream::with_capacity(archive, 256 << 10).map_err(anyhow::Error::from);
    let request = request
        .header("content-type", "application/x-tar")
        .body(Body::wrap_stream(pieces));
    let told = agent.read(agent.open_answer(request).await?).await?;
    match screen.json {
        true => screen.value(&told)?,
        false => screen.tell(&format!("{} files, {} bytes", told["files"], told["bytes"])),
    }
    Ok(())
}
