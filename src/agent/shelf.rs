//! Images and tasks of the node: for whoever asks whether an image is there to be gone back to, and
//! for signals to first processes.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::id::InstanceName;
use state::reference::ImageReference;
use state::spec::Signal;

use crate::node::AgentNode;
use crate::node::rollback::ImageShelf;
use crate::node::tasks::TaskReach;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::image::Images;
use crate::runtime::containerd::{Containerd, RunningTasks};

/// Images and tasks of an engine, for the node.
#[derive(Debug)]
pub(super) struct NodeShelves {
    images: LocalShelf,
    tasks: ContainerdTasks,
}

impl NodeShelves {
    /// Those of this engine.
    pub(super) fn of(engine: &Containerd) -> Self {
        Self {
            images: LocalShelf(engine.images()),
            tasks: ContainerdTasks(engine.tasks()),
        }
    }

    /// The node, which has them.
    pub(super) fn given_to(self, node: AgentNode) -> AgentNode {
        node.with_shelf(self.images).with_tasks(self.tasks)
    }
}

/// Images as containerd has them.
#[derive(Clone, Debug)]
struct LocalShelf(Images);

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
struct ContainerdTasks(RunningTasks);

impl TaskReach for ContainerdTasks {
    fn send(
        &self,
        instance: InstanceName,
        signal: Signal,
    ) -> BoxFuture<'_, Result<bool, RuntimeError>> {
        self.0.send(instance, signal).boxed()
    }
}
