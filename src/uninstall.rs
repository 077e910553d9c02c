//! `uninstall`: removes from this node what the agent made. The agent is ended first; then its own runtime
//! removes, as it does when nothing is desired any more. What is not the agent's stays, and is named.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use state::id::InstanceName;
use state::store::StateLock;

use crate::agent::{self, NodeRemoval};
use crate::client::{Screen, asks};
use crate::config::{self, Config, Flags, LoadFor};
use directories::AgentDirectories;
use service::AgentService;

mod directories;
mod service;

/// Time for all of the removals.
const REMOVAL_MAX: Duration = Duration::from_secs(600);

/// Order to remove all that is the agent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UninstallOrder {
    /// Whether nobody is asked.
    pub yes: bool,
    /// Whether it is only shown.
    pub dry_run: bool,
    /// Whether volumes go as well.
    pub volumes: bool,
}

/// Carries out `uninstall`; answers the exit code.
///
/// # Errors
/// Something was not removed, with what to do; or nothing was, since nobody agreed.
pub async fn run(flags: &Flags, order: UninstallOrder) -> anyhow::Result<u8> {
    let screen = Screen::new(false, config::environment("NO_COLOR").is_some());
    if !rustix::process::geteuid().is_root() {
        bail!("only root may remove what the agent made");
    }
    let loaded = config::load(flags, &config::environment, LoadFor::Run);
    let config = agent::with_kept_subnets(loaded.outcome?);
    let service = AgentService::of(&config).await;
    let removal = NodeRemoval::new(&config, !order.volumes)?;
    let looked = removal.look().await;
    let found = looked.map_err(|fault| {
        anyhow::anyhow!("{fault}; start containerd first: without it containers cannot be removed")
    })?;
    let directories = AgentDirectories::of(&config, !order.volumes);
    let mounts = directories.mounts_of_others();
    if !mounts.is_empty() {
        bail!(
            "nothing was removed: not the agent's, but mounted in its directories, so that all in it \
             would go, too: {}; unmount that, then run this again",
            mounts.join(", ")
        );
    }
    let lines = plan(&config, &found, (&service, &directories), order.volumes).await;
    screen.line(&lines.join("\n"))?;
    if order.dry_run {
        return Ok(0);
    }
    if !order.yes && !asks("Remove all of this?")? {
        bail!("nothing was removed; --yes removes without a question");
    }
    service.end(&config).await?;
    // An agent that is started meanwhile does not start.
    let _locked = locked(&config)?;
    let removing = removal.remove(found.0);
    let Ok(mut done) = tokio::time::timeout(REMOVAL_MAX, Box::pin(removing)).await else {
        bail!("not removed within {REMOVAL_MAX:?}: run it again; it continues where it stopped");
    };
    let is_clean = done.faults.is_empty();
    if is_clean {
        // They tell a next run what is the agent's.
        directories.remove(&mut done);
        service.remove(&mut done).await;
    }
    for line in &done.removed {
        screen.line(&format!("removed {line}"))?;
    }
    if done.faults.is_empty() {
        return Ok(0);
    }
    bail!(
        "not all is removed:\n  {}\nrun it again; it continues where it stopped",
        done.faults.join("\n  ")
    )
}

/// Lines about what is to be removed, and what stays.
async fn plan(
    config: &Config,
    (instances, unmanaged): &(Vec<InstanceName>, Vec<String>),
    (service, directories): (&AgentService, &AgentDirectories),
    volumes: bool,
) -> Vec<String> {
    let mut lines = vec![format!(
        "Removes from this node: {} containers of the agent in containerd's namespace {}, their \
         snapshots and images;",
        instances.len(),
        config.containerd.namespace
    )];
    lines.push(format!(
        "  the bridge {}, its rules and netns;",
        config.network.bridge
    ));
    lines.extend(service.plan());
    lines.extend(directories.plan());
    lines.push(match volumes {
        true => "  volumes, with all that is in them.".to_owned(),
        false => format!("Kept: volumes ({}).", directories.volumes()),
    });
    if !unmanaged.is_empty() {
        lines.push(format!(
            "Not touched: {} (not managed).",
            unmanaged.join(", ")
        ));
    }
    let files = service.kept_files().await;
    let files = files.iter().map(|file| format!(", {}", file.display()));
    lines.push(format!(
        "Not touched: configuration, this program, containerd{}.",
        files.collect::<String>()
    ));
    lines
}

/// The lock of the state directory. `None`: there is none.
fn locked(config: &Config) -> anyhow::Result<Option<StateLock>> {
    let directory: &PathBuf = &config.state.dir;
    if !directory.is_dir() {
        return Ok(None);
    }
    let locked = StateLock::take(directory).map_err(|error| {
        anyhow::anyhow!(
            "{} is in use by an agent that runs yet: {error}",
            directory.display()
        )
    })?;
    Ok(Some(locked))
}
