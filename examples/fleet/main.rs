//! Measures the cost of a fleet for its control plane: N of the agent's own links to CHaS, in one
//! process and without containers, against one `chas-api`. `contrib/fleet` runs it in a network of
//! its own, so that the kernel's counters are only about it.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::time::Instant;

mod control;
mod node;
mod tally;
mod wire_bytes;

use control::Control;
use tally::Tally;

/// Number of changes, made one after another.
const CHANGES: u32 = 5;
/// Pause between two changes, and before an idle measurement.
const CALM: Duration = Duration::from_secs(20);
/// Longer than a poll is kept open.
const POLL: Duration = Duration::from_secs(60);
/// Time for which the fleet is measured after the server is back: every node has called by then.
const BACK: Duration = Duration::from_secs(180);

/// Measures the cost of a fleet for one CHaS API server: idle, on a change, and after an outage of
/// the server.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// Number of nodes.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Time for which the idle fleet is measured.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
    steady: Duration,
    /// Time for which the server is down; 0s skips the outage.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    away: Duration,
    /// Interval between two reports of a node.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    health_interval: Duration,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    raise_open_files(arguments.nodes)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("cannot install the TLS provider: another one is installed")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(arguments))
}

/// Raises the limit of open files: each node has a connection for its poll, and some report at the
/// same time.
fn raise_open_files(nodes: usize) -> anyhow::Result<()> {
    let needed = u64::try_from(nodes + nodes / 2 + 200)?;
    let limit = getrlimit(Resource::Nofile);
    ensure!(
        limit.maximum.is_none_or(|most| most >= needed),
        "{nodes} nodes need {needed} open files: run ulimit -n {needed} as root first"
    );
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}

fn say(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}

async fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        nodes,
        steady,
        away,
        health_interval,
    } = arguments;
    let mut control = Control::start(health_interval).await?;
    control.list(json!([])).await?;
    let tally = Tally::new(nodes);
    let (tracker, stop) = (
        tokio_util::task::TaskTracker::new(),
        tokio_util::sync::CancellationToken::new(),
    );
    let begun = Instant::now();
    node::start_all(
        nodes,
        control.url(),
        health_interval,
        &tally,
        &tracker,
        &stop,
    )?;
    let (_, took) = tally.reached(1, begun).await?;
    let peak = tally.peak(begun, took);
    say(&format!(
        "boot: {nodes} nodes register, report and poll within {:.1} s; at most {peak} calls in one second",
        took.as_secs_f64()
    ));

    changes(&mut control, &tally).await?;
    tokio::time::sleep(health_interval + CALM).await;
    let mean = idle(&tally, steady).await?;
    if away > Duration::ZERO {
        outage(&mut control, &tally, away, mean).await?;
    }
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// Changes the set of all nodes several times, and measures until every node has it.
async fn changes(control: &mut Control, tally: &Arc<Tally>) -> anyhow::Result<()> {
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        tokio::time::sleep(CALM).await;
        let asked = Instant::now();
        control
            .list(json!([{"name": "web", "image": format!("nginx:{change}")}]))
            .await?;
        changes.push(tally.reached(u64::from(change) + 2, asked).await?);
    }
    let shown = |all: Vec<Duration>| {
        all.iter()
            .map(|took| format!("{:.2}", took.as_secs_f64()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (half, all) = changes.into_iter().unzip();
    say(&format!(
        "change: from the operator's request until all nodes have it: {} s",
        shown(all)
    ));
    say(&format!(
        "change: until half of them have it: {} s",
        shown(half)
    ));
    Ok(())
}

/// Measures the cost of an idle fleet. Returns the calls a second.
async fn idle(tally: &Arc<Tally>, steady: Duration) -> anyhow::Result<f64> {
    let (before, from) = (wire_bytes::now()?, Instant::now());
    tokio::time::sleep(steady).await;
    let bytes = wire_bytes::now()?.since(before);
    // A poll is counted when it ends, in the second in which it began.
    tokio::time::sleep(POLL).await;
    let calls = tally.calls(from, steady);
    let minutes = steady.as_secs_f64() / 60.0;
    let each = |count: u64| count as f64 / tally.nodes as f64 / minutes;
    let mean = calls.total as f64 / steady.as_secs_f64();
    say(&format!(
        "idle: a node makes {:.2} reports and {:.2} polls a minute, {:.0} an hour in all",
        each(calls.reports),
        each(calls.polls),
        each(calls.total) * 60.0
    ));
    say(&format!(
        "idle: {:.0} bytes of HTTP a node and minute, both ways ({:.0} as IP packets, acknowledgements among them); {:.1} KiB an hour",
        each(bytes.http),
        each(bytes.ip),
        each(bytes.http) * 60.0 / 1024.0
    ));
    say(&format!(
        "idle: the server has {mean:.0} calls a second, at most {}",
        tally.peak(from, steady)
    ));
    Ok(mean)
}

/// Stops the server as a power cut does, starts it again, and measures how the fleet returns.
async fn outage(
    control: &mut Control,
    tally: &Arc<Tally>,
    away: Duration,
    mean: f64,
) -> anyhow::Result<()> {
    control.cut();
    tokio::time::sleep(away).await;
    tally.reset_first_answers();
    let back = Instant::now();
    control.start_again().await?;
    tokio::time::sleep(BACK + POLL).await;
    let peak = tally.peak(back, BACK);
    let ratio = f64::from(peak) / mean;
    let all = tally
        .all_back(back)
        .context("a node did not report after the outage")?
        .as_secs_f64();
    say(&format!(
        "back after {}: at most {peak} calls in one second, {ratio:.2} times the idle mean; the last node is there after {all:.0} s",
        humantime::format_duration(away)
    ));
    for ten in 0..BACK.as_secs() / 10 {
        let from = back + Duration::from_secs(ten * 10);
        let calls = tally.calls(from, Duration::from_secs(10));
        say(&format!(
            "  {:>3} to {:>3} s: {:>6.0} calls a second",
            ten * 10,
            ten * 10 + 10,
            calls.total as f64 / 10.0
        ));
    }
    Ok(())
}
