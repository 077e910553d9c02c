//! Keeps everybody's name files current while containers come and go. What stands in them is `names`'.

use state::id::InstanceName;

use super::bridge::{Network, blocking};
use super::hosts_files;
use super::{NetworkError, Part};

impl Network {
    /// Brings every hosts file up to the last change that the caller made, or finds that somebody else just did.
    ///
    /// # Errors
    /// The files of `own` cannot be written. Those of others that cannot be are told of when it is their turn.
    pub(super) async fn write_names(&self, own: InstanceName) -> Result<(), NetworkError> {
        let mine = self.known().peers_changes;
        let mut written = self.names_written.lock().await;
        if *written >= mine {
            return Ok(());
        }
        let failed = self.rewrite_names(&mut written).await?.failed;
        failed
            .into_iter()
            .find(|(instance, _)| *instance == own)
            .map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Removes an instance's files and its line from everybody's.
    pub(super) async fn remove_names(&self, instance: InstanceName) -> Result<(), NetworkError> {
        let mine = self.known().peers_changes;
        // Under the lock, or somebody who is just writing would make them again.
        let mut written = self.names_written.lock().await;
        let files = self.files(instance);
        blocking(move || {
            let removed = files.remove();
            removed.map(drop).map_err(|error| {
                NetworkError::failed(format!("cannot remove {}", files.dir.display()), error)
                    .of(Part::Names)
            })
        })
        .await?;
        if *written < mine {
            for (instance, error) in self.rewrite_names(&mut written).await?.failed {
                tracing::warn!(%instance, %error, "its names stay as they are");
            }
        }
        Ok(())
    }

    /// Writes everybody's files, where they are not as they should be.
    pub(super) async fn rewrite_names(&self, written: &mut u64) -> Result<Rewritten, NetworkError> {
        let (everybody, peers, change) = {
            let known = self.known();
            (known.peers.clone(), known.by_name(), known.peers_changes)
        };
        let files: Vec<_> = everybody
            .into_iter()
            .map(|(instance, who)| (instance, self.files(instance), who))
            .collect();
        let rewritten = blocking(move || {
            let resolv_conf = hosts_files::host_resolv_conf();
            let mut rewritten = Rewritten::default();
            for (instance, files, (name, address)) in files {
                match files.write(&name, address, &peers, &resolv_conf) {
                    Ok(true) => rewritten.changed.push(instance),
                    Ok(false) => {}
                    Err(error) => {
                        let error = NetworkError::failed(
                            format!("cannot write to {}", files.dir.display()),
                            error,
                        );
                        rewritten.failed.push((instance, error.of(Part::Names)));
                    }
                }
            }
            Ok(rewritten)
        })
        .await?;
        // As long as somebody's are not written, whoever comes next tries again.
        if rewritten.failed.is_empty() {
            *written = change;
        }
        Ok(rewritten)
    }
}

/// What became of everybody's files. One container's that cannot be written do not keep the others' from being.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// Whose were not as they should be, and are now.
    pub(super) changed: Vec<InstanceName>,
    /// Whose are not.
    pub(super) failed: Vec<(InstanceName, NetworkError)>,
}
