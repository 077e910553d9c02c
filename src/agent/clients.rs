//! The file of the API's clients, looked at again and again: what it says is in force soon after it
//! changes. One that cannot be used changes nothing.

use std::sync::Arc;
use std::time::Duration;

use state::alarm::Alarm;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::api::ClientList;
use crate::config::Config;
use crate::journal::Journal;
use crate::registry::FileStamp;

/// Interval between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Time after which a file counts as written to its end.
const SETTLED: Duration = Duration::from_secs(2);

/// Keeps the clients as their file says.
#[derive(Debug)]
pub(super) struct ClientWatch {
    pub(super) clients: ClientList,
    pub(super) journal: Journal,
    /// The file that was taken in. `None`: none was, or none could be.
    pub(super) taken: Option<Option<FileStamp>>,
    /// Whether the file was looked at before.
    pub(super) is_known: bool,
}

impl ClientWatch {
    /// Looks with an interval, and when it is asked to. It never ends.
    pub(super) async fn run(mut self, config: Config, due: Arc<Notify>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = due.notified() => {}
            }
            self.look(&config).await;
        }
    }

    /// Takes the file in, if it is another one than before. Where clients are known, it is looked at
    /// twice: an editor may be at it, and half of the clients would lose what they follow.
    pub(super) async fn look(&mut self, config: &Config) {
        if std::mem::replace(&mut self.is_known, true) {
            let before = stamp(config).await;
            if before == self.taken {
                return;
            }
            tokio::time::sleep(SETTLED).await;
            if stamp(config).await != before {
                return;
            }
        }
        let (config, taken) = (config.clone(), self.taken);
        let looking = tokio::task::spawn_blocking(move || {
            // What is read is this file, or a newer one that the next look finds.
            let stamp = FileStamp::of(&config.api.clients_file).ok();
            (Some(stamp) != taken).then(|| {
                let clients = config.read_clients();
                (
                    stamp,
                    clients.map(|clients| (clients, config.missing_clients())),
                )
            })
        });
        match looking.await {
            Ok(None) => {}
            Ok(Some((stamp, Ok((clients, missing))))) => {
                self.taken = Some(stamp);
                let count = clients.len();
                if self.clients.replace(clients) {
                    tracing::info!(clients = count, "clients taken over");
                }
                self.journal.set_alarm(Alarm::ClientsUnusable, "", missing);
            }
            Ok(Some((_, Err(fault)))) => {
                self.taken = None;
                self.journal
                    .set_alarm(Alarm::ClientsUnusable, "", Some(fault));
            }
            Err(error) => tracing::debug!(%error, "clients not looked at"),
        }
    }
}

/// Stamp of the file; the inner `None`: there is none. Looked at beside the agent's own threads: a
/// file system of the network may hold up whoever asks.
async fn stamp(config: &Config) -> Option<Option<FileStamp>> {
    let path = config.api.clients_file.clone();
    let looking = tokio::task::spawn_blocking(move || FileStamp::of(&path).ok());
    looking.await.ok()
}
