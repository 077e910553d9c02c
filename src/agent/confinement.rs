//! Confinement of containers as `/health` shows it, and the versions of the programs that see to it.

use std::time::Duration;

use state::alarm::Alarm;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::journal::Journal;
use crate::runtime::containerd::{
    Confinement, Containerd, ContainerdClient, OciRuntime, known_faults,
};
use crate::view::{ConfinementView, LayerView};

/// Interval of looks at the versions: an update of containerd restarts it, and one of runc nothing.
const INTERVAL: Duration = Duration::from_hours(1);
/// Wait for a containerd that does not answer.
const RETRY: Duration = Duration::from_secs(30);

/// Confinement of the engine's containers, for showing.
pub(super) fn view(confinement: &Confinement, engine: &Containerd) -> ConfinementView {
    let layers = engine.confinement().into_iter();
    let layers = layers.map(|layer| LayerView {
        name: layer.name,
        in_force: layer.in_force,
        detail: layer.detail,
    });
    ConfinementView {
        granted: confinement.capabilities.clone(),
        withheld: confinement.withheld(),
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
