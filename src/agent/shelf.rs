//! Images and tasks of the node: for whoever asks whether an image is there to be gone back to, and
//! for signals to first processes.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::id::InstanceName;
use state::reference::ImageReference;
use state::spec::Signal;

use crate::node::rollback::ImageShelf;
use crate::node::tasks::TaskReach;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::RunningTasks;
use crate::runtime::containerd::image::Images;

/// Images as containerd has them.
#[derive(Clone, Debug)]
pub(super) struct LocalShelf(pub(super) Images);

impl ImageShelf for LocalShelf {
    fn has<'a>(
        &'a self,
        reference: &'a ImageReference,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        async move {
            // What is known may have been removed since.
            self.0.invalidate(digest);
            match self.0.local(reference, digest).await {
                Ok(_) => Ok(true),
                Err(RuntimeError::ImageLost(_)) => Ok(false),
                Err(error) => Err(error.to_string()),
            }
        }
        .boxed()
    }
}

/// Tasks as containerd has them.
#[derive(Clone, Debug)]
pub(super) struct ContainerdTasks(pub(super) RunningTasks);

impl TaskReach for ContainerdTasks {
    fn send(
        &self,
        instance: InstanceName,
        signal: Signal,
    ) -> BoxFuture<'_, Result<bool, RuntimeError>> {
        self.0.send(instance, signal).boxed()
    }
}
