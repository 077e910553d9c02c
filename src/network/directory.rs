//! Keeps everybody's name files current while containers come and go. What stands in them is `names`'.

use state::id::InstanceName;

use super::{Network, NetworkError, blocking, names};

impl Network {
    /// Brings every hosts file up to the last change that the caller made, or finds that somebody else just did.
    pub(super) async fn write_names(&self) -> Result<(), NetworkError> {
        let mine = self.known().peers_changes;
        let mut written = self.names_written.lock().await;
        if *written < mine { self.rewrite_names(&mut written).await.map(drop) } else { Ok(()) }
    }

    /// Removes an instance's files and its line from everybody's.
    pub(super) async fn remove_names(&self, instance: InstanceName) -> Result<(), NetworkError> {
        let mine = self.known().peers_changes;
        // Under the lock, or somebody who is just writing would make them again.
        let mut written = self.names_written.lock().await;
        let files = self.files(instance);
        blocking(move || {
            let removed = files.remove();
            removed.map(drop).map_err(|error| NetworkError::failed(format!("cannot remove {}", files.dir.display()), error))
        })
        .await?;
        if *written < mine { self.rewrite_names(&mut written).await.map(drop) } else { Ok(()) }
    }

    /// Writes everybody's files, where they are not as they should be, and answers whose were not.
    pub(super) async fn rewrite_names(&self, written: &mut u64) -> Result<Vec<InstanceName>, NetworkError> {
        let (everybody, peers, change) = {
            let known = self.known();
            (known.peers.clone(), known.by_name(), known.peers_changes)
        };
        let files: Vec<_> = everybody.into_iter().map(|(instance, who)| (instance, self.files(instance), who)).collect();
        let rewritten = blocking(move || {
            let resolv_conf = names::host_resolv_conf();
            let mut rewritten = Vec::new();
            for (instance, files, (name, address)) in files {
                let result = files.write(&name, address, &peers, &resolv_conf);
                if result.map_err(|error| NetworkError::failed(format!("cannot write to {}", files.dir.display()), error))? {
                    rewritten.push(instance);
                }
            }
            Ok(rewritten)
        })
        .await?;
        *written = change;
        Ok(rewritten)
    }
}
