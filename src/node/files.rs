//! Files of containers as archives, as the API asks for them: written down first, and of whatever
//! instance is there.

use std::io::{Read, Write};

use state::event::EventSubject;
use state::id::{ContainerId, ContainerName, InstanceName};
use state::policy::Denial;
use state::store::AuditedArchive;

use super::AgentNode;
use super::volumes::{NodeVolumes, unpack};
use crate::api;
use crate::archive::{
    self, ArchiveDownload, ArchivePlace, ArchiveRefusal, ArchiveUpload, ContainerRoot,
};

impl AgentNode {
    pub(super) async fn read_files(
        &self,
        id: ContainerId,
        path: String,
        is_zstd: bool,
    ) -> Result<ArchiveDownload, ArchiveRefusal> {
        let (place, name, root) = self.root(id, &path, is_zstd).await?;
        let wanted = path.clone();
        let found = blocking(move || root.find(&wanted).map(|found| (found, root.owners)));
        let (found, owners) = found.await?;
        self.note_files("archive_read", (name, id), path).await?;
        Ok(place.send(move |out: &mut dyn Write| archive::pack(&found.packed(), owners, out)))
    }

    pub(super) async fn write_files(
        &self,
        id: ContainerId,
        path: String,
        is_zstd: bool,
    ) -> Result<ArchiveUpload, ArchiveRefusal> {
        if let Some(view) = self.container(id)
            && let Some(rule) = self.writer.store().policy().non_root_rule(&view.record)
        {
            let message = "its programs must not be root, and an archive writes files of any owner";
            return Err(ArchiveRefusal::Denied(Denial::new(rule, "user", message)));
        }
        let (place, name, root) = self.root(id, &path, is_zstd).await?;
        if !root.is_running {
            let fault = format!(
                "{name} does not run, and an archive is written to one that does; start it, or write \
                 to its volume"
            );
            return Err(ArchiveRefusal::Conflict(fault));
        }
        let wanted = path.clone();
        let opened = blocking(move || root.directory(&wanted).map(|opened| (opened, root.owners)));
        let (directory, owners) = opened.await?;
        self.note_files("archive_write", (name, id), path).await?;
        Ok(place.take(move |archive: &mut dyn Read| unpack(&directory, owners, archive)))
    }

    /// A place for the archive, the name of the container, and its opened file system.
    async fn root(
        &self,
        id: ContainerId,
        path: &str,
        is_zstd: bool,
    ) -> Result<(ArchivePlace, ContainerName, ContainerRoot), ArchiveRefusal> {
        let NodeVolumes {
            archives, roots, ..
        } = self.files()?.clone();
        let Some(view) = self.container(id) else {
            return Err(ArchiveRefusal::Absent(format!(
                "container {id} was removed"
            )));
        };
        let name = view.record.name.clone();
        let seen = self.board().known(id).seen;
        let newest = seen.instances.keys().next_back().copied();
        let Some(generation) = seen.serving_instance(&view.record).or(newest) else {
            let fault = format!("{name} has no files yet, or containerd is away");
            return Err(ArchiveRefusal::Conflict(fault));
        };
        let by = api::current_call().by;
        let subject = EventSubject::new(id, Some(&view.record));
        let thing = (format!("path {path}"), Some(subject));
        let place = archives.place(thing, is_zstd, by)?;
        let root = roots.open_root(InstanceName { id, generation }).await?;
        Ok((place, name, root))
    }

    async fn note_files(
        &self,
        kind: &'static str,
        container: (ContainerName, ContainerId),
        path: String,
    ) -> Result<(), ArchiveRefusal> {
        let archive = AuditedArchive {
            volume: None,
            path: Some(path),
        };
        let noted = self.write(move |store| store.note_archive(kind, Some(container), archive));
        Ok(noted.await?)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveRefusal> + Send + 'static,
) -> Result<T, ArchiveRefusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ArchiveRefusal::Unavailable(error.to_string())))
}
