//! Opens the store, with the limits of this node, and ends the agent where only another one can write.

use std::sync::Arc;
use std::time::Duration;

use state::assign::HostNetwork;
use state::capacity::{Amounts, Capacity};
use state::quantity::{ByteCount, CpuMillis};
use state::store::{Limits, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::monitor::NodeFacts;
use crate::node::policy_watch;

/// Interval of the looks whether the store can be written again, and those in a row that say no.
const STUCK_LOOK: Duration = Duration::from_secs(1);
const STUCK_LOOKS: u32 = 5;

pub(super) async fn open_store(
    config: &Config,
    network: Arc<dyn HostNetwork>,
    facts: &NodeFacts,
) -> anyhow::Result<Store> {
    let limits = Limits {
        ports: config.network.port_range.clone(),
        network,
        containers_max: usize::try_from(config.containers.max)?,
        capacity: capacity(config, facts),
        new_privileges: config.containers.allow_new_privileges,
        random: state::store::random,
        disk: state::store::sound_disk,
    };
    let directory = config.state.dir.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&directory, limits)).await??;
    let policy = policy_watch::first(
        config.read_policy(),
        || config.last_policy(),
        |policy| config.completed(policy),
    );
    store.set_policy(policy);
    store
        .losses()
        .iter()
        .for_each(|loss| tracing::error!(%loss, "stored state lost or damaged"));
    Ok(store)
}

/// Capacity of the node, as it is when the agent starts.
fn capacity(config: &Config, facts: &NodeFacts) -> Capacity {
    let cores = u64::try_from(facts.cpu_cores).unwrap_or(u64::MAX);
    Capacity {
        total: Amounts {
            cpu: CpuMillis(cores.saturating_mul(1000)),
            memory: ByteCount(facts.memory_total_bytes),
        },
        system: Amounts {
            cpu: config.containers.system_cpu,
            memory: config.containers.system_memory,
        },
    }
}

/// Ends the agent where the store cannot be written until it does: systemd starts another one, which
/// finds all that was acknowledged, and no container notices.
pub(super) fn end_if_stuck(store: Arc<Store>, stop: CancellationToken, tracker: &TaskTracker) {
    let ended = stop.clone();
    let watching = async move {
        let mut looks = 0;
        while looks < STUCK_LOOKS {
            tokio::time::sleep(STUCK_LOOK).await;
            looks = if store.is_stuck() { looks + 1 } else { 0 };
        }
        tracing::error!(
            "the state cannot be written any more, because its files do not let go of a write that failed; ending, to \
             be started anew"
        );
        stop.cancel();
    };
    tracker.spawn(async move { ended.run_until_cancelled(watching).await });
}
