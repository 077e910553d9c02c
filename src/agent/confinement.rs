//! Confinement of containers as `/health` shows it, and the versions of the programs that see to it.

use std::time::Duration;

use state::alarm::Alarm;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::journal::Journal;
use crate::runtime::containerd::{
    Confinement, ConfinementLayer, Containerd, ContainerdClient, OciRuntime, known_faults,
};
use crate::view::{ConfinementView, LayerView};

/// Interval of looks at the versions: an update of containerd restarts it, and one of runc nothing.
const INTERVAL: Duration = Duration::from_hours(1);
/// Wait for a containerd that does not answer.
const RETRY: Duration = Duration::from_secs(30);

/// Confinement of the engine's containers, for showing: kept as it becomes known, until `stop`.
pub(super) fn follow(
    limits: Confinement,
    engine: &Containerd,
    stop: CancellationToken,
    tracker: &TaskTracker,
) -> watch::Receiver<ConfinementView> {
    let mut mapping = engine.id_mapping();
    let others = engine.confinement();
    let first = limits.user_namespaces(&mapping.borrow());
    let (shown, seen) = watch::channel(view(&limits, &others, &first));
    let following = async move {
        while mapping.changed().await.is_ok() {
            let layer = limits.user_namespaces(&mapping.borrow_and_update());
            let (in_force, detail) = (layer.in_force, &layer.detail);
            tracing::info!(in_force, detail, "user namespaces of containers looked at");
            shown.send_replace(view(&limits, &others, &layer));
        }
    };
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
    seen
}

fn view(
    limits: &Confinement,
    others: &[ConfinementLayer],
    user_namespaces: &ConfinementLayer,
) -> ConfinementView {
    let layers = others.iter().chain([user_namespaces]);
    let layers = layers.map(|layer| LayerView {
        name: layer.name,
        in_force: layer.in_force,
        detail: layer.detail.clone(),
    });
    ConfinementView {
        granted: limits.capabilities.clone(),
        withheld: limits.withheld(),
        layers: layers.collect(),
    }
}

/// Raises an alarm while containerd or runc are versions with known faults, until `stop`.
pub(super) fn follow_versions(
    client: ContainerdClient,
    journal: Journal,
    stop: CancellationToken,
    tracker: &TaskTracker,
) {
    let path = config::environment("PATH").unwrap_or_default();
    let following = async move {
        let runtime = OciRuntime::default();
        loop {
            let wait = match known_faults(&client, &runtime, &path).await {
                Ok(fault) => {
                    journal.set_alarm(Alarm::RuntimeOutdated, "", fault);
                    INTERVAL
                }
                Err(_) => RETRY,
            };
            tokio::time::sleep(wait).await;
        }
    };
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
}
