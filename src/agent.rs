//! The only wiring: builds every room, starts it, and stops it in order. Only this room knows all
//! others.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use self::clients::ClientWatch;
use self::doors::Doors;
use self::events::KeptFeed;
use self::hearing::Hearing;
use self::reload::ReloadFaults;
use self::rooms::Rooms;
use self::tls::TlsWatch;
use crate::api::listener::TlsInForce;
use crate::api::{CallerToken, ClientList};
use crate::config::{Config, Reload};
use crate::log_level::LogLevel;
use crate::{notify, otlp, shutdown, signals};

mod clients;
mod confinement;
mod doors;
mod events;
mod first_token;
mod followers;
mod hearing;
mod host_paths;
mod inherited;
mod link;
mod look;
mod looks;
mod measured;
mod probes;
mod registries;
mod reload;
mod removal;
mod review;
mod rooms;
mod secrets;
mod shelf;
mod status_line;
mod store;
mod subnet;
mod tls;
mod units;
mod usage;

pub(crate) use self::look::{
    containerd_of, network_of, readable_secrets, registries_of, with_kept_subnets,
};
pub(crate) use self::removal::{NodeRemoval, RemovedNode};
pub use self::review::{review, tls_fault};
pub(crate) use self::tls::{CertificateVerdict, certificate_verdict};
pub(crate) use self::units::{is_unit_of, unit_of, unit_property};

/// Time for turns and requests under way once the agent is to stop. Work that is cut off is found
/// by the next start's first look; systemd kills after the unit's `TimeoutStopSec`, 30 s.
const DRAIN: Duration = Duration::from_secs(15);

/// Runs the agent until it is told to stop. Stops no container.
///
/// # Errors
/// The store or the host's facts keep it from starting.
pub async fn run(config: Config, reload: Reload, level: LogLevel) -> anyhow::Result<()> {
    let given = inherited::inherited();
    let config = subnet::settled(config).await;
    let tracker = TaskTracker::new();
    let stop = shutdown::on_signal(&tracker).context("signals cannot be caught")?;
    let token = CallerToken::new(config.api.token.clone());
    let (reloading, made) = (token.clone(), config.state.admin_token());
    let reload = Arc::new(reload);
    let [policy_due, clients_due, tls_due] = [(); 3].map(|()| Arc::new(Notify::new()));
    let due = [&policy_due, &clients_due, &tls_due].map(Arc::clone);
    let (faults, reload_faults) = watch::channel(ReloadFaults::default());
    signals::follow(&tracker, stop.clone(), move || {
        reload::take_in(&reload.again(), &reloading, &made, &faults);
        due.iter().for_each(|due| due.notify_one());
    })
    .context("signals cannot be caught")?;
    let clients = ClientList::default();
    let kept = KeptFeed::open(&config).await;
    let (keeping, kept_until) = (level.clone().keep(), stop.clone());
    tracker.spawn(async move { kept_until.run_until_cancelled(keeping).await });
    let (callers, told) = ((token.clone(), clients.clone()), (kept.feed.clone(), level));
    let rooms = Rooms::build(&config, callers, told, &stop, &tracker).await?;
    reload::follow(reload_faults, rooms.journal(), stop.clone(), &tracker);
    let mut watch = ClientWatch::new(clients, rooms.journal());
    watch.look(&config).await;
    let (watching, watched) = (watch.run(config.clone(), clients_due), stop.clone());
    tracker.spawn(async move { watched.run_until_cancelled(watching).await });
    let mut tls = None;
    if let Some(files) = config.api.tls.clone() {
        let in_force = TlsInForce::default();
        let mut watch = TlsWatch::new(files, in_force.clone(), rooms.journal());
        watch.look().await;
        let (watching, watched) = (watch.run(tls_due), stop.clone());
        tracker.spawn(async move { watched.run_until_cancelled(watching).await });
        tls = Some(in_force);
    }
    let hearing = Hearing::default();
    let told = (rooms.journal(), hearing.clone());
    let doors = Doors::open(&config, given, (token, tls), told).await;
    announce(&config);
    rooms.watch_policy(&config, policy_due, &stop, &tracker);
    events::tell_of_life(rooms.journal(), stop.clone(), &tracker);
    let router = rooms.start(&config, hearing, &stop, &tracker);
    notify::ready();
    doors.serve(router, stop.clone()).await;
    stop.cancel();
    notify::stopping();
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("shutdown timed out; unfinished work is left to the next start");
    }
    kept.end().await;
    otlp::end().await;
    Ok(())
}

fn announce(config: &Config) {
    let (listen, socket) = (config.api.listen, config.state.socket());
    tracing::info!(%listen, socket = %socket.display(), node = %config.node.id, version = env!("CARGO_PKG_VERSION"), "serving");
    if config.chas.is_none() {
        tracing::info!(
            "no api.chas_url (CHAS_API_URL) configured; nothing is polled or reported, containers come by push only"
        );
    }
}
