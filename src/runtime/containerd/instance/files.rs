//! File systems of instances, opened for archives.

use std::os::fd::OwnedFd;

use containerd_client::services::v1 as api;
use containerd_client::types::Mount;
use containerd_client::types::v1::Status;
use futures_util::future::BoxFuture;
use state::id::InstanceName;
use state::reason::Reason;
use state::spec::OWN_IDS;
use uuid::Uuid;

use super::Instances;
use super::image_root::ImageRoot;
use crate::archive::{ArchiveRefusal, ContainerRoot, OwnerShift, RootEngine};
use crate::oci::host_ids::HostIds;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::{containers, snapshots};

impl From<RuntimeError> for ArchiveRefusal {
    fn from(error: RuntimeError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl RootEngine for Instances {
    fn open_root<'a>(
        &'a self,
        instance: InstanceName,
    ) -> BoxFuture<'a, Result<ContainerRoot, ArchiveRefusal>> {
        Box::pin(self.root(instance))
    }
}

impl Instances {
    async fn root(&self, instance: InstanceName) -> Result<ContainerRoot, ArchiveRefusal> {
        let looked =
            |error: CallError| error.into_error(Reason::CreateFailed, "look at a container");
        let found = containers::get(&self.client, instance)
            .await
            .map_err(looked)?;
        let found = found.ok_or_else(|| has_none(instance))?;
        let owners = owners(&found);
        if let Some(pid) = self.live_process(instance).await? {
            let opened = opened(move || ImageRoot::of_process(pid)).await?;
            // Another process has the number only if that one has ended.
            if self.live_process(instance).await? == Some(pid) {
                return Ok(ContainerRoot {
                    directory: opened,
                    owners,
                    is_running: true,
                });
            }
        }
        let mounts = snapshots::mounts(&self.client, &instance.to_string()).await;
        let mut mounts = match mounts {
            Err(CallError::NotFound(_)) => return Err(has_none(instance)),
            mounts => mounts.map_err(looked)?,
        };
        mounts.iter_mut().for_each(only_read);
        let run_dir = self.config.run_dir.clone();
        let name = Uuid::new_v4().simple().to_string();
        Ok(ContainerRoot {
            directory: opened(move || ImageRoot::open(&mounts, &run_dir, &name)).await?,
            owners,
            is_running: false,
        })
    }

    /// First process of an instance that runs, or is paused.
    async fn live_process(&self, instance: InstanceName) -> Result<Option<u32>, ArchiveRefusal> {
        let found = self.tasks.get(instance).await;
        let found =
            found.map_err(|error| error.into_error(Reason::CreateFailed, "look at a task"))?;
        let live = found.filter(|process| {
            let status = process.status();
            matches!(status, Status::Running | Status::Paused | Status::Pausing)
        });
        Ok(live.map(|process| process.pid))
    }
}

async fn opened(
    open: impl FnOnce() -> std::io::Result<ImageRoot> + Send + 'static,
) -> Result<OwnedFd, ArchiveRefusal> {
    let root = tokio::task::spawn_blocking(move || open()?.directory_itself().try_clone());
    let root = root
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
    root.map_err(|error| {
        ArchiveRefusal::Unavailable(format!("the container's files cannot be opened: {error}"))
    })
}

fn has_none(instance: InstanceName) -> ArchiveRefusal {
    ArchiveRefusal::Conflict(format!("{instance} has no files yet"))
}

/// Makes the writable layer of an overlay the topmost of those that are read: the container may start
/// meanwhile, and the kernel takes a writable layer once.
fn only_read(mount: &mut Mount) {
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    let Some(upper) = upper.map(str::to_owned) else {
        return;
    };
    let is_kept =
        |option: &String| !option.starts_with("upperdir=") && !option.starts_with("workdir=");
    mount.options.retain(is_kept);
    for option in &mut mount.options {
        if let Some(lower) = option.strip_prefix("lowerdir=") {
            *option = format!("lowerdir={upper}:{lower}");
        }
    }
}

fn owners(container: &api::Container) -> Option<OwnerShift> {
    let spec = container.spec.as_ref()?;
    let spec = serde_json::from_slice(&spec.value).ok()?;
    HostIds::of(&spec).map(|HostIds { first }| OwnerShift {
        first,
        count: OWN_IDS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writable_layer_is_read_as_the_topmost() {
        let options = ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"];
        let mut mount = Mount {
            options: options.map(str::to_owned).to_vec(),
            ..Mount::default()
        };
        only_read(&mut mount);
        assert_eq!(mount.options, ["index=off", "lowerdir=/u:/a:/b"]);
    }
}
