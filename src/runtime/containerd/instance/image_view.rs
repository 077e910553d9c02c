//! View of an image: its root directory, mounted for one look, and kept from containerd's garbage
//! collector until that is over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use containerd_client::services::v1 as api;
use state::desired::Record;
use state::reason::Reason;
use uuid::Uuid;

use super::Instances;
use super::image_root::ImageRoot;
use crate::oci::volumes;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::{CallError, ContainerdClient};
use crate::runtime::containerd::rpc::lease::Lease;
use crate::runtime::containerd::rpc::{labels, snapshots};
use crate::runtime::engine::ImageVolumes;

/// Length of a look at an image, which says who keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ViewLength {
    /// Some files: a sweep may end it, and so removes what a killed agent leaves.
    Short,
    /// Anything: nothing ends it.
    Long,
}

/// Does `work`, which may block, with the root directory of the image whose topmost snapshot is
/// `parent`.
///
/// # Errors
/// [`RuntimeError::ImageLost`] when the snapshot is not there, or was not to the end: then `work` may
/// have seen less than the image has.
pub(super) async fn in_view<T: Send + 'static>(
    client: &ContainerdClient,
    (parent, length): (&str, ViewLength),
    run_dir: &Path,
    work: impl FnOnce(io::Result<ImageRoot>) -> T + Send + 'static,
) -> Result<T, RuntimeError> {
    // Without a lease, containerd's garbage collector may take the view while it is looked at.
    let name = Uuid::new_v4().simple().to_string();
    let key = format!("chas-view-{name}");
    let mut lease = match length {
        ViewLength::Short => Lease::open(client, &key, SystemTime::now()).await?,
        ViewLength::Long => Lease::of_view(client, &key, SystemTime::now()).await?,
    };
    let mut viewed = snapshots::view(&lease.client, &key, parent).await;
    if length == ViewLength::Short && matches!(viewed, Err(CallError::NotFound(_))) {
        // A sweep may have ended the lease before it kept anything: that is no loss of the image.
        let unswept = Lease::of_view(client, &key, SystemTime::now()).await?;
        std::mem::replace(&mut lease, unswept).close().await?;
        viewed = snapshots::view(&lease.client, &key, parent).await;
    }
    let done = match viewed {
        Ok(mounts) => {
            let run_dir = run_dir.to_owned();
            let work = move || work(ImageRoot::open(&mounts, &run_dir, &name));
            let done = tokio::task::spawn_blocking(work).await;
            let done = done.map_err(|error| {
                let message = format!("the look at an image ended early: {error}");
                RuntimeError::failed(Reason::CreateFailed, message)
            });
            match length {
                ViewLength::Short => done,
                ViewLength::Long => still_there(client, &key).await.and(done),
            }
        }
        Err(CallError::NotFound(message)) => Err(RuntimeError::ImageLost(message)),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "view a snapshot")),
    };
    snapshots::discard(client, &key).await;
    lease.close().await?;
    done
}

/// Whether a view was there to the end: files of one that somebody removed are gone from under
/// whoever reads them.
async fn still_there(client: &ContainerdClient, key: &str) -> Result<(), RuntimeError> {
    match snapshots::mounts(client, key).await {
        Ok(_) => Ok(()),
        Err(CallError::NotFound(message)) => Err(RuntimeError::ImageLost(message)),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "look for a view")),
    }
}

impl Instances {
    /// Volumes that the image says this instance has, and what the instance mounts if it exists.
    pub(crate) async fn image_volumes(
        &self,
        record: &Record,
        found: Option<&api::Container>,
    ) -> Result<ImageVolumes, RuntimeError> {
        if let Some(container) = found
            && labels::are_made_of(&container.labels, record)
        {
            let spec = container.spec.as_ref().map(|spec| &*spec.value);
            let spec = spec.unwrap_or_default();
            return Ok(ImageVolumes {
                paths: volumes::of_image(spec),
                mounted: volumes::mounted(spec),
            });
        }
        let digest = record.image_digest.as_deref().unwrap_or_default();
        let image = self.images.local(&record.spec.image, digest).await?;
        if image.config.volumes.is_empty() {
            return Ok(ImageVolumes::default());
        }
        let facts = self.facts(record, &image).await?;
        // Without them its data would go into its layer, and be lost with that.
        if let Some(fault) = facts.unread {
            let message = format!("the volumes of the image are not known: {fault}");
            return Err(RuntimeError::failed(Reason::CreateFailed, message));
        }
        Ok(ImageVolumes {
            paths: facts
                .volumes
                .into_iter()
                .map(|volume| volume.path)
                .collect(),
            mounted: BTreeMap::new(),
        })
    }

    /// Does `work`, which may block, with the root directory of the record's image.
    pub(crate) async fn in_image<T: Send + 'static>(
        &self,
        record: &Record,
        work: impl FnOnce(&OwnedFd) -> T + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let digest = record.image_digest.as_deref().unwrap_or_default();
        let image = self.images.local(&record.spec.image, digest).await?;
        let work = move |root: io::Result<ImageRoot>| Ok(work(root?.directory_itself()));
        let (view, run_dir) = (
            (&*image.top_chain_id, ViewLength::Long),
            &self.config.run_dir,
        );
        let done = in_view(&self.client, view, run_dir, work).await;
        if let Err(RuntimeError::ImageLost(_)) = done {
            self.images.invalidate(digest);
        }
        done?.map_err(|error: io::Error| {
            let message = format!(
                "the image's files cannot be read: {error}; check containerd's directory and disk"
            );
            RuntimeError::failed(Reason::CreateFailed, message)
        })
    }
}
