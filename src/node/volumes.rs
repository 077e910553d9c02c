//! Volumes with names, as the API asks for them: who uses them, their archives, and their removal.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use state::access::NameScope;
use state::desired::set::Desired;
use state::id::{ContainerId, ContainerName};
use state::spec::{VolumeMount, VolumeName};
use state::store::AuditedArchive;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AgentNode, sizes};
use crate::api::{self, NodeFiles, Refusal};
use crate::archive::{
    self, ArchiveDownload, ArchiveFault, ArchiveRefusal, ArchiveRoom, ArchiveUpload,
    ArchivedAmount, OwnerShift, PackedFrom, RootEngine,
};
use crate::journal::Journal;
use crate::metrics::{Metrics, VolumeNumbers};
use crate::view::{VolumeContentView, VolumeView};
use crate::volumes::{DiskBudget, ToldFaults, VolumeFacts, VolumeRemoval, Volumes};
use crate::writer::Writer;

/// Wait for whoever makes a volume now, before the caller is sent away.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Time between two looks at who uses which volume.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Volumes and archives of the node.
#[derive(Clone, Debug)]
pub(crate) struct NodeVolumes {
    pub(crate) volumes: Volumes,
    pub(crate) archives: ArchiveRoom,
    /// Part of the engine that opens containers.
    pub(crate) roots: Arc<dyn RootEngine>,
}

impl NodeFiles for AgentNode {
    async fn volumes(&self, scope: &NameScope) -> Result<Vec<VolumeView>, Refusal> {
        let facts = self.files()?.volumes.named().await.map_err(unreadable)?;
        let facts = facts.into_iter();
        let desired = self.writer.store().desired();
        let seen = facts.filter(|facts| scope.has_volume(&facts.name));
        Ok(seen.map(|facts| view(&desired, facts)).collect())
    }

    async fn volume(&self, name: VolumeName) -> Result<VolumeView, Refusal> {
        let volumes = &self.files()?.volumes;
        let facts = volumes.facts(name.clone()).await.map_err(unreadable)?;
        let facts = facts.ok_or_else(|| Refusal::NotFound(format!("there is no volume {name}")))?;
        let is_there = facts.is_there;
        let mut view = view(&self.writer.store().desired(), facts);
        // What the kernel counts need not be counted.
        if is_there && view.content.is_none() {
            let content = volumes.count(&name).await.map_err(unreadable)?;
            view.content = Some(VolumeContentView {
                bytes: content.bytes,
                files: content.files,
                is_partial: content.is_partial,
            });
        }
        Ok(view)
    }

    async fn remove_volume(&self, name: VolumeName, scope: &NameScope) -> Result<(), Refusal> {
        let volumes = &self.files()?.volumes;
        let turn = tokio::time::timeout(TURN_MAX, volumes.turn(&name)).await;
        let Ok(Ok(turn)) = turn else {
            let fault = format!("volume {name} is being made or removed; try again later");
            return Err(Refusal::Conflict(fault));
        };
        // A container that names it from now on waits for the turn, and finds none.
        self.is_free(&name, scope)?;
        let facts = volumes.facts(name.clone()).await.map_err(unreadable)?;
        if facts.is_none() {
            return Err(Refusal::NotFound(format!("there is no volume {name}")));
        }
        self.note_archive("volume_remove", &name).await?;
        match volumes.remove(&name, turn).await {
            Ok(()) => {
                tracing::info!(volume = %name, by = api::current_call().by, "volume removed");
                Ok(())
            }
            Err(error @ VolumeRemoval::None(_)) => Err(Refusal::NotFound(error.to_string())),
            Err(error @ VolumeRemoval::InUse(..)) => Err(Refusal::Conflict(error.to_string())),
            Err(error @ VolumeRemoval::Failed(..)) => Err(Refusal::Unavailable(error.to_string())),
        }
    }

    async fn read_volume(
        &self,
        name: VolumeName,
        is_zstd: bool,
    ) -> Result<ArchiveDownload, ArchiveRefusal> {
        let NodeVolumes {
            volumes, archives, ..
        } = self.files()?.clone();
        let by = api::current_call().by;
        let place = archives.place((format!("volume {name}"), None), is_zstd, by)?;
        // Nobody removes it between the look and the use.
        let turn = tokio::time::timeout(TURN_MAX, volumes.turn(&name)).await;
        let Ok(Ok(_turn)) = turn else {
            let fault = format!("volume {name} is being made or removed");
            return Err(ArchiveRefusal::Busy(fault));
        };
        let held = volumes.begin_use(&name, false);
        is_there(&volumes, &name).await?;
        self.note_archive("volume_read", &name).await?;
        Ok(place.send(move |out: &mut dyn Write| {
            let _held = held;
            let volume = volumes.open(&name)?;
            archive::pack(&PackedFrom::Directory(volume.as_fd(), b"./"), None, out)
        }))
    }

    async fn read_container(
        &self,
        id: ContainerId,
        path: String,
        is_zstd: bool,
    ) -> Result<ArchiveDownload, ArchiveRefusal> {
        self.read_files(id, path, is_zstd).await
    }

    async fn write_container(
        &self,
        id: ContainerId,
        path: String,
        is_zstd: bool,
    ) -> Result<ArchiveUpload, ArchiveRefusal> {
        self.write_files(id, path, is_zstd).await
    }

    async fn write_volume(
        &self,
        name: VolumeName,
        is_zstd: bool,
    ) -> Result<ArchiveUpload, ArchiveRefusal> {
        let NodeVolumes {
            volumes, archives, ..
        } = self.files()?.clone();
        let by = api::current_call().by;
        let place = archives.place((format!("volume {name}"), None), is_zstd, by)?;
        let Some(held) = volumes.begin_use(&name, true) else {
            let fault = format!("an archive is being written to volume {name} already");
            return Err(ArchiveRefusal::Busy(fault));
        };
        let turn = tokio::time::timeout(TURN_MAX, volumes.turn(&name)).await;
        let Ok(Ok(turn)) = turn else {
            let fault = format!("volume {name} is being made or removed");
            return Err(ArchiveRefusal::Busy(fault));
        };
        let facts = volumes.facts(name.clone()).await.map_err(unreadable)?;
        if facts.as_ref().is_some_and(|facts| !facts.is_there) {
            return Err(ArchiveRefusal::Conflict(missing(&name)));
        }
        self.note_archive("volume_write", &name).await?;
        if facts.is_some() {
            drop(turn);
            return Ok(place.take(move |archive| {
                let _held = held;
                unpack(&volumes.open(&name)?, None, archive)
            }));
        }
        held.makes();
        Ok(place.take(move |archive| {
            // Containers with it are launched when all of it is there.
            let _held = (held, turn);
            volumes.make(&name, |new| unpack(new, None, archive))
        }))
    }
}

impl AgentNode {
    /// The same, with the volumes of the node and their archives.
    pub(crate) fn with_volumes(mut self, volumes: NodeVolumes) -> Self {
        self.volumes = Some(volumes);
        self
    }

    pub(super) fn files(&self) -> Result<&NodeVolumes, Refusal> {
        let none = || Refusal::Unavailable("this agent has no volumes".to_owned());
        self.volumes.as_ref().ok_or_else(none)
    }

    async fn note_archive(&self, kind: &'static str, name: &VolumeName) -> Result<(), Refusal> {
        let archive = AuditedArchive {
            volume: Some(name.to_string()),
            path: None,
        };
        self.write(move |store| store.note_archive(kind, None, archive))
            .await
    }

    /// Refuses a volume that a container names, or may name.
    fn is_free(&self, name: &VolumeName, scope: &NameScope) -> Result<(), Refusal> {
        let desired = self.writer.store().desired();
        if is_use_unknown(&desired) {
            let fault = format!(
                "records of containers cannot be read now, of which some may name volume {name}; \
                 GET /health says why"
            );
            return Err(Refusal::Unavailable(fault));
        }
        let users = users(&desired, name);
        if users.is_empty() {
            return Ok(());
        }
        let told = users.iter().filter(|user| scope.has(user));
        let mut told: Vec<_> = told.map(ToString::to_string).collect();
        if told.len() < users.len() {
            told.push("others, of which the caller may not know".to_owned());
        }
        let fault = format!(
            "volume {name} is used by {}; delete them, or deploy them without it",
            told.join(", ")
        );
        Err(Refusal::Conflict(fault))
    }
}

impl NodeVolumes {
    /// Volumes and their archives, while somebody notes who uses them.
    pub(crate) fn start(
        volumes: Volumes,
        writer: &Writer,
        (journal, metrics): (Journal, &Metrics),
        roots: Arc<dyn RootEngine>,
        (stop, tracker): (&CancellationToken, &TaskTracker),
    ) -> Self {
        let archives = ArchiveRoom::new(journal, stop.clone());
        let looking = follow(volumes.clone(), writer.clone(), metrics.clone());
        let stop = stop.clone();
        tracker.spawn(async move { stop.run_until_cancelled(looking).await });
        Self {
            volumes,
            archives,
            roots,
        }
    }
}

/// Keeps the notes of which volumes no container names, and since when, and the sizes of the others.
async fn follow(volumes: Volumes, writer: Writer, metrics: Metrics) {
    let mut told = ToldFaults::default();
    loop {
        let desired = writer.store().desired();
        if !is_use_unknown(&desired) {
            let records = desired.records().flat_map(|record| record.with_former());
            let mounts = records.flat_map(|record| &record.spec.volumes);
            let used: BTreeSet<_> = mounts.filter_map(VolumeMount::volume).cloned().collect();
            match volumes.note_use(used).await {
                Ok(count) => metrics.show_volumes(count),
                Err(error) => tracing::debug!(%error, "volumes not looked at"),
            }
            let uses;
            (uses, told) = volumes.keep_sizes(sizes::wanted(&desired), told).await;
            let numbers = uses.iter().map(|(name, bounded)| VolumeNumbers {
                volume: name.as_str().to_owned(),
                used: bounded.used_bytes,
                limit: bounded.limit_bytes,
            });
            metrics.show_volume_sizes(numbers);
        }
        drop(desired);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Unpacks an archive into a directory, as far as its disk has room, and has it be on the disk.
pub(super) fn unpack(
    directory: &OwnedFd,
    owners: Option<OwnerShift>,
    archive: &mut dyn Read,
) -> Result<ArchivedAmount, ArchiveFault> {
    let mut budget = DiskBudget::of(directory)?;
    let amount = archive::unpack(directory.as_fd(), archive, owners, |bytes| {
        budget.take(bytes)
    })?;
    rustix::fs::syncfs(directory).map_err(std::io::Error::from)?;
    Ok(amount)
}

async fn is_there(volumes: &Volumes, name: &VolumeName) -> Result<(), ArchiveRefusal> {
    let facts = volumes.facts(name.clone()).await.map_err(unreadable)?;
    match facts {
        None => Err(ArchiveRefusal::Absent(format!("there is no volume {name}"))),
        Some(facts) if facts.is_there => Ok(()),
        Some(_) => Err(ArchiveRefusal::Conflict(missing(name))),
    }
}

fn missing(name: &VolumeName) -> String {
    format!(
        "volume {name} was made once and is not there; mount its disk, or delete the volume to begin \
         anew"
    )
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "an error is passed on by value"
)]
fn unreadable(error: std::io::Error) -> Refusal {
    Refusal::Unavailable(format!("the volumes cannot be looked at: {error}"))
}

impl From<Refusal> for ArchiveRefusal {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unavailable(text) => Self::Unavailable(text),
            Refusal::NotFound(text) => Self::Absent(text),
            Refusal::Conflict(text) => Self::Conflict(text),
            other @ (Refusal::Unconfirmed(..)
            | Refusal::Unmatched(_)
            | Refusal::Denied(_)
            | Refusal::Invalid(_)
            | Refusal::Reused(_)
            | Refusal::Full(_)) => Self::Unavailable(format!("{other:?}")),
        }
    }
}

/// Whether records that cannot be read now may name volumes.
fn is_use_unknown(desired: &Desired) -> bool {
    desired.may_lack_records() || !desired.unreadable_ids().is_empty()
}

/// Containers that name a volume, until nothing is left of them.
fn users(desired: &Desired, name: &VolumeName) -> Vec<ContainerName> {
    let names_it = |mount: &VolumeMount| mount.volume() == Some(name);
    let users = desired.records();
    let mounts = |record: &state::desired::Record| record.spec.volumes.iter().any(names_it);
    let users = users.filter(|record| record.with_former().any(mounts));
    let mut users: Vec<_> = users.map(|record| record.name.clone()).collect();
    users.sort();
    users
}

fn view(desired: &Desired, facts: VolumeFacts) -> VolumeView {
    let time = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let used_by = users(desired, &facts.name);
    let is_unused = used_by.is_empty();
    VolumeView {
        is_use_unknown: is_use_unknown(desired),
        unused_since: facts.note.unused_ms.filter(|_| is_unused).map(time),
        made: facts.note.made_ms.map(time),
        image: facts.note.image,
        is_missing: !facts.is_there,
        is_mount: facts.note.is_mount,
        limit_bytes: facts.bounded.map(|bounded| bounded.limit_bytes),
        content: facts.bounded.map(|bounded| VolumeContentView {
            bytes: bounded.used_bytes,
            files: bounded.files,
            is_partial: false,
        }),
        used_by,
        name: facts.name,
    }
}
