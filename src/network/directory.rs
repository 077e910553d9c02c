//! Directory of the instances on the network: keeps their hosts files current while containers come
//! and go. The content of a file is `hosts_files`' matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use state::id::{ContainerName, InstanceName};

use super::hosts_files::{self, HostsFiles, Peers, Written};
use super::threads::blocking;
use super::{NetworkError, Part};
use crate::lock::lock;

/// Instances on the network, and the directory that holds their hosts files.
#[derive(Debug)]
pub(super) struct HostsDirectory {
    dir: PathBuf,
    /// Whether instances see each other's names.
    shares_names: bool,
    members: Mutex<Members>,
    /// Number of the last change of [`Members`] that is in all files. Locked while files are
    /// written.
    written: tokio::sync::Mutex<u64>,
    /// Instances whose files the container itself keeps from being current, as it was told.
    spoilt: Mutex<BTreeMap<InstanceName, String>>,
}

/// Instances on the network as this agent knows them. Never locked across an await.
#[derive(Debug, Default)]
struct Members {
    by_instance: BTreeMap<InstanceName, (ContainerName, Ipv4Addr)>,
    /// Counts the changes.
    changes: u64,
}

impl HostsDirectory {
    pub(super) fn new(dir: PathBuf, shares_names: bool) -> Self {
        Self {
            dir,
            shares_names,
            members: Mutex::default(),
            written: tokio::sync::Mutex::default(),
            spoilt: Mutex::default(),
        }
    }

    /// Hosts files of an instance, whether they exist or not.
    pub(super) fn files(&self, instance: InstanceName) -> HostsFiles {
        HostsFiles {
            dir: self.dir.join(instance.to_string()),
        }
    }

    /// Adds an instance. The files are [`Self::write`]'s matter.
    pub(super) fn add(&self, instance: InstanceName, name: &ContainerName, address: Ipv4Addr) {
        let mut members = self.members();
        members
            .by_instance
            .insert(instance, (name.clone(), address));
        members.changes += 1;
    }

    /// Removes an instance. The files are [`Self::remove_files`]' matter.
    pub(super) fn remove(&self, instance: InstanceName) {
        let mut members = self.members();
        members.by_instance.remove(&instance);
        members.changes += 1;
    }

    /// Removes all instances.
    pub(super) fn clear(&self) {
        let mut members = self.members();
        members.by_instance.clear();
        members.changes += 1;
    }

    /// Brings all hosts files up to the caller's last change, or finds that another call just did.
    ///
    /// # Errors
    /// The files of `own` cannot be written. Errors about others' files are their own calls' to
    /// tell.
    pub(super) async fn write(&self, own: InstanceName) -> Result<(), NetworkError> {
        let mine = self.members().changes;
        let mut written = self.written.lock().await;
        if *written >= mine {
            return Ok(());
        }
        let failed = self.rewrite(&mut written).await?.failed;
        failed
            .into_iter()
            .find(|(instance, _)| *instance == own)
            .map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Removes an instance's files, and its line from all others'.
    pub(super) async fn remove_files(&self, instance: InstanceName) -> Result<(), NetworkError> {
        let mine = self.members().changes;
        // Under the lock: a call that is just writing would make the files again.
        let mut written = self.written.lock().await;
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
            for (instance, error) in self.rewrite(&mut written).await?.failed {
                tracing::warn!(%instance, %error, "hosts files not updated");
            }
        }
        Ok(())
    }

    /// Replaces the instances by those of `kept` that are known and all of `live`, and writes every
    /// file that differs.
    pub(super) async fn replace(
        &self,
        kept: &BTreeSet<InstanceName>,
        live: impl IntoIterator<Item = (InstanceName, ContainerName, Ipv4Addr)>,
    ) -> Result<RewrittenFiles, NetworkError> {
        {
            let mut members = self.members();
            members
                .by_instance
                .retain(|instance, _| kept.contains(instance));
            let live = live.into_iter();
            members
                .by_instance
                .extend(live.map(|(instance, name, address)| (instance, (name, address))));
        }
        self.rewrite(&mut *self.written.lock().await).await
    }

    async fn rewrite(&self, written: &mut u64) -> Result<RewrittenFiles, NetworkError> {
        let (by_instance, change) = {
            let members = self.members();
            (members.by_instance.clone(), members.changes)
        };
        let peers = by_instance.values().filter(|_| self.shares_names);
        let peers: Peers = peers.cloned().collect();
        let files: Vec<_> = by_instance
            .into_iter()
            .map(|(instance, member)| (instance, self.files(instance), member))
            .collect();
        let rewritten = blocking(move || Ok(write_all(files, &peers))).await?;
        self.tell_spoilt(&rewritten.spoilt);
        // As long as one instance's files are not written, the next call tries again.
        if rewritten.failed.is_empty() {
            *written = change;
        }
        Ok(rewritten)
    }

    /// Logs once what a container has done to its own files: nobody else is the worse for it.
    fn tell_spoilt(&self, spoilt: &BTreeMap<InstanceName, String>) {
        let mut told = lock(&self.spoilt);
        for (instance, fault) in spoilt.iter().filter(|(name, _)| !told.contains_key(name)) {
            tracing::warn!(%instance, fault, "hosts files spoilt by their container");
        }
        told.clone_from(spoilt);
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }
}

/// Outcome of writing all hosts files. One instance's failure does not keep the others from theirs.
#[derive(Debug, Default)]
pub(super) struct RewrittenFiles {
    /// Instances whose files differed, and are right now.
    pub(super) changed: Vec<InstanceName>,
    /// Instances whose files could not be written.
    pub(super) failed: Vec<(InstanceName, NetworkError)>,
    /// Instances whose files the container itself keeps from being current.
    spoilt: BTreeMap<InstanceName, String>,
}

/// Writes every file that differs. Blocks.
fn write_all(
    files: Vec<(InstanceName, HostsFiles, (ContainerName, Ipv4Addr))>,
    peers: &Peers,
) -> RewrittenFiles {
    let resolv_conf = hosts_files::host_resolv_conf().text;
    let mut rewritten = RewrittenFiles::default();
    for (instance, files, (name, address)) in files {
        match files.write(&name, address, peers, &resolv_conf) {
            Ok(Written::Changed) => rewritten.changed.push(instance),
            Ok(Written::Same) => {}
            Ok(Written::Spoilt(fault)) => drop(rewritten.spoilt.insert(instance, fault)),
            Err(error) => {
                let what = format!("cannot write to {}", files.dir.display());
                let error = NetworkError::failed(what, error).of(Part::Names);
                rewritten.failed.push((instance, error));
            }
        }
    }
    rewritten
}
