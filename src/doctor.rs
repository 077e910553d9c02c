//! `doctor`: every precondition and common fault of a node, each with its remedy; beside an agent that runs,
//! or in place of one that does not. Nothing is changed by it.
//!
//! Each file of a group looks at facts first, and judges them by themselves, so that every fault can be
//! planted. What the agent looks at as well is looked at by the agent's own code. All groups are looked
//! at side by side, each within [`GROUP_MAX`].

use std::future::Future;
use std::time::Duration;

use state::store::StoredGlance;
use tokio::time::timeout;

use crate::agent;
use crate::client::Screen;
use crate::config::{self, Config, Flags, LoadFor};
pub use bundle::{BundleOrder, LOG_LINES, run as bundle};
use check::{CheckAnswer, CheckGroup, DoctorCheck};
use configuration::SeenConfiguration;
use engine::SeenEngine;
use host::SeenHost;
use kernel::SeenKernel;
use leftovers::{SeenLeftovers, mounts_below};
use network::SeenNetwork;
use outside::SeenOutside;
use report::DoctorReport;
use running::SeenAgent;

mod answers;
mod bundle;
mod chas;
mod check;
mod configuration;
mod engine;
mod host;
mod kernel;
mod known;
mod leftovers;
mod mask;
mod network;
mod outside;
mod printed;
mod programs;
mod report;
mod running;
mod sources;
#[cfg(test)]
mod tests;

/// Time for a group.
const GROUP_MAX: Duration = Duration::from_secs(15);

/// Carries out `doctor`; answers the exit code: 1 if a check is at fault.
///
/// # Errors
/// The output cannot be written.
pub async fn run(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let screen = Screen::new(json, config::environment("NO_COLOR").is_some());
    let report = examine(flags).await;
    match json {
        true => screen.value(&report.json())?,
        false => screen.write(&report.text(screen))?,
    }
    Ok(u8::from(report.has_failed()))
}

/// The answers of all checks.
async fn examine(flags: &Flags) -> DoctorReport {
    let given = flags.clone();
    let loading = blocking(move || {
        let loaded = config::load(&given, &config::environment, LoadFor::Check);
        let seen = SeenConfiguration::read(&loaded.outcome);
        (seen, loaded.outcome.ok())
    });
    let Some((seen, config)) = within(loading).await.flatten() else {
        return DoctorReport::new(late(CheckGroup::Configuration));
    };
    let mut answers = seen.judge();
    match config {
        Some(config) => {
            let given = config.clone();
            let reading = within(blocking(move || agent::with_kept_subnets(given)));
            let config = reading.await.flatten().unwrap_or(config);
            answers.extend(Box::pin(examine_node(config)).await);
        }
        // The kernel is the same whatever is configured.
        None => answers.extend(kernel(None).await),
    }
    DoctorReport::new(answers)
}

async fn examine_node(config: Config) -> Vec<CheckAnswer> {
    let seen = within(SeenAgent::read(&config)).await;
    let process = seen.as_ref().and_then(|seen| seen.process);
    let runs = seen.as_ref().is_some_and(SeenAgent::runs);
    let directory = config.state.dir.clone();
    let glance = blocking(move || StoredGlance::at(&directory));
    let glance = within(glance).await.flatten();
    let glance = glance.unwrap_or_else(|| Err("they are not read in time".to_owned()));
    let images = match seen.as_ref().filter(|_| runs) {
        Some(seen) => seen.images(),
        None => glance.clone().ok().flatten().unwrap_or_default().images,
    };
    let (engine, network, outside, is_kept, kernel) = tokio::join!(
        within(SeenEngine::read(&config)),
        within(SeenNetwork::read(&config, runs, process)),
        within(SeenOutside::read(&config, &images)),
        programs::clock_is_kept(),
        kernel(process)
    );
    let directories = engine.as_ref().and_then(|seen| seen.look.clone().ok());
    let directories = directories.map(|look| look.directories).unwrap_or_default();
    let given = config.clone();
    let host = blocking(move || SeenHost::read(&given, &directories, is_kept));
    let mut host = within(host).await.flatten();
    if let (Some(host), Some(outside)) = (&mut host, &outside) {
        host.offset = outside.chas.as_ref().and_then(|chas| chas.offset);
    }
    let recorded = seen.as_ref().and_then(SeenAgent::recorded);
    let recorded = match recorded {
        Some(recorded) => Ok(Some(recorded)),
        None => glance.map(|glance| glance.map(|glance| glance.ids)),
    };
    let leftovers = leftovers(&config, recorded, (&engine, &network), runs);
    let mut answers = kernel;
    let told = [
        (CheckGroup::Agent, seen.map(|seen| seen.judge())),
        (CheckGroup::Containerd, engine.map(|seen| seen.judge())),
        (CheckGroup::Network, network.map(|seen| seen.judge())),
        (CheckGroup::Outside, outside.map(|seen| seen.judge())),
        (CheckGroup::Host, host.map(|seen| seen.judge())),
        (CheckGroup::Leftovers, Some(leftovers.judge())),
    ];
    for (group, judged) in told {
        answers.extend(judged.unwrap_or_else(|| late(group)));
    }
    answers
}

fn leftovers(
    config: &Config,
    recorded: Result<Option<std::collections::BTreeSet<state::id::ContainerId>>, String>,
    (engine, network): (&Option<SeenEngine>, &Option<SeenNetwork>),
    agent_runs: bool,
) -> SeenLeftovers {
    let late = || "not listed in time".to_owned();
    let look = engine
        .as_ref()
        .map_or_else(|| Err(late()), |seen| seen.look.clone());
    let survey = network.as_ref().map(|seen| &seen.survey);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    SeenLeftovers {
        recorded,
        managed: look.map(|look| look.managed),
        netns: survey.map_or_else(|| Err(late()), |survey| survey.netns.clone()),
        mounts: mounts_below(&mounts, &config.state.run_dir),
        has_bridge: survey.is_some_and(|survey| survey.bridge == Ok(true)),
        agent_runs,
    }
}

async fn kernel(agent: Option<u32>) -> Vec<CheckAnswer> {
    let seen = within(blocking(move || SeenKernel::read(agent)))
        .await
        .flatten();
    seen.map_or_else(|| late(CheckGroup::Kernel), |seen| seen.judge())
}

/// Answers of a group that did not come to an end: a disk, or a server, hangs.
fn late(group: CheckGroup) -> Vec<CheckAnswer> {
    let of_group = DoctorCheck::ALL
        .iter()
        .filter(|check| check.group() == group);
    let told = |check: &DoctorCheck| {
        let told = format!("not looked at within {GROUP_MAX:?}: something hangs");
        check
            .fail(told)
            .with_remedy("look for a disk or a mount that does not answer (dmesg)")
    };
    of_group.map(told).collect()
}

async fn within<T>(looking: impl Future<Output = T>) -> Option<T> {
    timeout(GROUP_MAX, Box::pin(looking)).await.ok()
}

/// Does work that blocks. `None`: it ended early.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
