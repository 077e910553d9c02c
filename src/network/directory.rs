//! Directory of the instances on the network: keeps their hosts files current while containers come
//! and go. The content of a file is `hosts_files`' matter.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use state::desired::Addresses;
use state::id::{ContainerName, InstanceName};
use state::reach::NodeReach;
use state::spec::{Names, Network};

use super::hosts_files::{self, HostsFiles, HostsOwner, Written};
use super::threads::blocking;
use super::{NetworkError, Part};
use crate::lock::lock;

mod acquaintances;
mod apart;

use acquaintances::Acquaintances;
pub(super) use apart::Apart;

/// Instances on the network, and the directory that holds their hosts files.
#[derive(Debug)]
pub(super) struct HostsDirectory {
    dir: PathBuf,
    /// Lists of the host's name servers.
    resolv_conf: Vec<PathBuf>,
    /// Facts that decide which instances see each other's names: those that they reach.
    node: NodeReach,
    members: Mutex<Members>,
    /// Number of the last change of [`Members`] that is in all files. Locked while files are
    /// written.
    written: tokio::sync::Mutex<u64>,
    /// Instances whose files the container itself keeps from being current, as it was told.
    spoilt: Mutex<BTreeMap<InstanceName, String>>,
}

/// Instance on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: ContainerName,
    pub(super) address: Ipv4Addr,
    pub(super) address6: Option<Ipv6Addr>,
    pub(super) network: Network,
    pub(super) asked: Names,
    /// Whether its name stands for another instance of its container.
    pub(super) stands_back: bool,
}

impl Member {
    pub(super) const fn addresses(&self) -> Addresses {
        Addresses {
            address: self.address,
            address6: self.address6,
        }
    }
}

/// Instances on the network as this agent knows them. Never locked across an await.
#[derive(Debug, Default)]
struct Members {
    by_instance: BTreeMap<InstanceName, Member>,
    /// Instances without an address of their own.
    apart: BTreeMap<InstanceName, Apart>,
    /// Counts the changes.
    changes: u64,
}

impl HostsDirectory {
    pub(super) fn new(dir: PathBuf, resolv_conf: Vec<PathBuf>, node: NodeReach) -> Self {
        Self {
            dir,
            resolv_conf,
            node,
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
    pub(super) fn add(&self, instance: InstanceName, member: Member) {
        let mut members = self.members();
        members.by_instance.insert(instance, member);
        members.changes += 1;
    }

    /// Adds an instance that is not on the network. The files are [`Self::write`]'s matter.
    pub(super) fn add_apart(&self, instance: InstanceName, apart: Apart) {
        let mut members = self.members();
        members.apart.insert(instance, apart);
        members.changes += 1;
    }

    /// Address of an instance, if it is known.
    pub(super) fn address(&self, instance: InstanceName) -> Option<Ipv4Addr> {
        let members = self.members();
        members
            .by_instance
            .get(&instance)
            .map(|member| member.address)
    }

    /// IPv6 address of an instance, if it is known to have one.
    pub(super) fn address6(&self, instance: InstanceName) -> Option<Ipv6Addr> {
        self.members().by_instance.get(&instance)?.address6
    }

    /// Both addresses of all instances with IPv6.
    pub(super) fn dual(&self) -> Vec<(Ipv4Addr, Ipv6Addr)> {
        let members = self.members();
        let all = members.by_instance.values();
        all.filter_map(|member| Some((member.address, member.address6?)))
            .collect()
    }

    /// Addresses of all instances.
    pub(super) fn addresses(&self) -> Vec<(InstanceName, Ipv4Addr)> {
        let members = self.members();
        let all = members.by_instance.iter();
        all.map(|(instance, member)| (*instance, member.address))
            .collect()
    }

    /// Whether it knows the instance, or a later one of the same container at its address.
    pub(super) fn knows_since(&self, instance: InstanceName, address: Ipv4Addr) -> bool {
        let members = self.members();
        let since = members.by_instance.range(instance..);
        let mut since = since.take_while(|(next, _)| next.id == instance.id);
        since.any(|(next, member)| *next == instance || member.address == address)
    }

    /// Instances that it knows and that have a network section of their own. Of several of one
    /// container at one address the latest counts: it has the address.
    pub(super) fn ruled(&self) -> BTreeMap<InstanceName, Member> {
        let members = self.members();
        let mut ruled = BTreeMap::new();
        for (instance, member) in &members.by_instance {
            let later = (Bound::Excluded(instance), Bound::Unbounded);
            let mut later = members.by_instance.range(later);
            let is_latest = later
                .by_ref()
                .take_while(|(next, _)| next.id == instance.id)
                .all(|(_, next)| next.address != member.address);
            if is_latest && member.network.is_ruled() {
                // Its rules are about both addresses, whether it has both or not.
                let (asked, address6) = (Names::default(), None);
                let member = Member {
                    asked,
                    address6,
                    stands_back: false,
                    ..member.clone()
                };
                ruled.insert(*instance, member);
            }
        }
        ruled
    }

    /// Removes an instance. The files are [`Self::remove_files`]' matter.
    pub(super) fn remove(&self, instance: InstanceName) {
        let mut members = self.members();
        members.by_instance.remove(&instance);
        members.apart.remove(&instance);
        members.changes += 1;
    }

    /// Removes all instances.
    pub(super) fn clear(&self) {
        let mut members = self.members();
        members.by_instance.clear();
        members.apart.clear();
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

    /// Replaces the instances by those of `kept` that are known, all of `live`, and those `apart`. The
    /// files are [`Self::write_all`]'s matter.
    pub(super) fn replace(
        &self,
        kept: &BTreeSet<InstanceName>,
        live: impl IntoIterator<Item = (InstanceName, Member)>,
        apart: impl IntoIterator<Item = (InstanceName, Apart)>,
    ) {
        let mut members = self.members();
        members
            .by_instance
            .retain(|instance, _| kept.contains(instance));
        members.by_instance.extend(live);
        members.apart.retain(|instance, _| kept.contains(instance));
        members.apart.extend(apart);
    }

    /// Writes every file that differs.
    pub(super) async fn write_all(&self) -> Result<RewrittenFiles, NetworkError> {
        self.rewrite(&mut *self.written.lock().await).await
    }

    async fn rewrite(&self, written: &mut u64) -> Result<RewrittenFiles, NetworkError> {
        let (by_instance, apart, change) = {
            let members = self.members();
            let apart: Vec<_> = members.apart.clone().into_iter().collect();
            (members.by_instance.clone(), apart, members.changes)
        };
        let apart: Vec<_> = apart
            .into_iter()
            .map(|(instance, apart)| (instance, self.files(instance), apart))
            .collect();
        let files = by_instance.keys();
        let files = files.map(|instance| (*instance, self.files(*instance)));
        let (files, node) = (files.collect(), self.node.clone());
        let lists = self.resolv_conf.clone();
        let rewritten = blocking(move || {
            let known = Acquaintances::new(&node, &by_instance);
            let resolv_conf = hosts_files::host_resolv_conf(&lists).text;
            let gateway = node.subnet.gateway();
            let mut rewritten = write_all(files, &by_instance, &known, (gateway, &resolv_conf));
            for (instance, files, apart) in apart {
                let written = apart.write(&files, &lists, (gateway, &resolv_conf));
                rewritten.note(instance, &files, written);
            }
            Ok(rewritten)
        })
        .await?;
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

impl RewrittenFiles {
    fn note(&mut self, instance: InstanceName, files: &HostsFiles, written: io::Result<Written>) {
        match written {
            Ok(Written::Changed) => self.changed.push(instance),
            Ok(Written::Same) => {}
            Ok(Written::Spoilt(fault)) => drop(self.spoilt.insert(instance, fault)),
            Err(error) => {
                let what = format!("cannot write to {}", files.dir.display());
                let error = NetworkError::failed(what, error).of(Part::Names);
                self.failed.push((instance, error));
            }
        }
    }
}

/// Writes every file that differs. Blocks.
fn write_all(
    files: Vec<(InstanceName, HostsFiles)>,
    members: &BTreeMap<InstanceName, Member>,
    known: &Acquaintances<'_>,
    (gateway, resolv_conf): (Ipv4Addr, &str),
) -> RewrittenFiles {
    let mut rewritten = RewrittenFiles::default();
    for (instance, files) in files {
        let Some(member) = members.get(&instance) else {
            continue;
        };
        let peers = known.of(member);
        let owner = HostsOwner {
            name: &member.name,
            addresses: Some(member.addresses()),
            asked: &member.asked,
            gateway,
        };
        let written = files.write(owner, peers, resolv_conf);
        rewritten.note(instance, &files, written);
    }
    rewritten
}
