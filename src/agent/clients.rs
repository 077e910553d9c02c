//! The file of the API's clients, looked at again and again: what it says is in force soon after it
//! changes. One that cannot be used changes nothing.

use std::sync::Arc;
use std::time::Duration;

use state::alarm::Alarm;
use tokio::sync::Notify;

use super::looks::Looks;
use crate::api::ClientList;
use crate::config::Config;
use crate::journal::Journal;
use crate::registry::FileStamp;

/// Time after which a file counts as written to its end.
const SETTLED: Duration = Duration::from_secs(2);

/// Keeps the clients as their file says.
#[derive(Debug)]
pub(super) struct ClientWatch {
    clients: ClientList,
    journal: Journal,
    /// The file that was taken in. `None`: none was, or none could be.
    taken: Option<Option<FileStamp>>,
    /// Whether the file was looked at before.
    is_known: bool,
    /// Whether there were clients by the file that was taken in last.
    had_any: bool,
}

impl ClientWatch {
    pub(super) const fn new(clients: ClientList, journal: Journal) -> Self {
        Self {
            clients,
            journal,
            taken: None,
            is_known: false,
            had_any: false,
        }
    }

    /// Looks with an interval, and when it is asked to. It never ends.
    pub(super) async fn run(mut self, config: Config, due: Arc<Notify>) {
        let mut looks = Looks::new(due);
        loop {
            looks.next().await;
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
        let (config, taken, had_any) = (config.clone(), self.taken, self.had_any);
        let looking = tokio::task::spawn_blocking(move || {
            // What is read is this file, or a newer one that the next look finds.
            let stamp = FileStamp::of(&config.api.clients_file).ok();
            (Some(stamp) != taken).then(|| {
                let clients = config.read_clients();
                (
                    stamp,
                    clients.map(|clients| (clients, config.missing_clients(had_any))),
                )
            })
        });
        match looking.await {
            Ok(None) => {}
            Ok(Some((stamp, Ok((clients, missing))))) => {
                self.taken = Some(stamp);
                let count = clients.len();
                self.had_any = count > 0;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::config::{Flags, LoadFor, load};

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(file: &Path) -> Config {
        let mut flags = Flags::default();
        let file = file.to_str().unwrap().to_owned();
        flags.values.insert("api.clients_file", file);
        load(&flags, &|_| None, LoadFor::Run).outcome.unwrap()
    }

    fn clients(names: &[&str]) -> String {
        let client = |name: &&str| {
            format!("- {{name: {name}, role: read, certificates: [{name}.example]}}\n")
        };
        let clients: String = names.iter().map(client).collect();
        format!("clients:\n{clients}")
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_somebody_still_writes_is_taken_once_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clients.yaml");
        let config = config(&path);
        let (list, journal) = (ClientList::default(), Journal::default());
        let mut watch = ClientWatch::new(list.clone(), journal.clone());
        write(&path, "clients: {");
        watch.look(&config).await;
        assert_eq!(journal.alarms().len(), 1);
        // After a fault too: half of the file is no file.
        write(&path, &clients(&["ci"]));
        let writing = async {
            tokio::time::sleep(SETTLED / 2).await;
            write(&path, &clients(&["ci", "ops"]));
        };
        tokio::join!(watch.look(&config), writing);
        assert!(!list.replace(Vec::new()), "nobody was taken in yet");
        watch.look(&config).await;
        assert!(!list.replace(config.read_clients().unwrap()), "both are");
        assert_eq!(journal.alarms().len(), 0);
        // One that is gone takes them all, which is told until there is one again.
        std::fs::remove_file(&path).unwrap();
        watch.look(&config).await;
        assert!(!list.replace(Vec::new()));
        assert!(journal.alarms()[0].message.contains("no such file"));
        write(&path, "clients: []\n");
        watch.look(&config).await;
        assert_eq!(journal.alarms().len(), 0);
    }
}
