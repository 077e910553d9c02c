//! Images and tasks of the node: for whoever asks whether an image is there to be gone back to, and
//! for signals to first processes.

use std::time::SystemTime;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::id::InstanceName;
use state::reference::ImageReference;
use state::spec::Signal;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::AgentNode;
use crate::node::images::{FetchOrder, ImageStore};
use crate::node::rollback::ImageShelf;
use crate::node::tasks::TaskReach;
use crate::runtime::containerd::image::Images;
use crate::runtime::containerd::{Containerd, RunningTasks};
use crate::runtime::{RuntimeError, StoredImage};

/// Images and tasks of an engine, for the node.
#[derive(Debug)]
pub(super) struct NodeShelves {
    images: LocalShelf,
    tasks: ContainerdTasks,
}

impl NodeShelves {
    /// Parts of this engine. Images that are fetched at the stop of the agent are given up.
    pub(super) fn of(
        engine: &Containerd,
        (stop, tracker): (&CancellationToken, &TaskTracker),
    ) -> Self {
        Self {
            images: LocalShelf {
                images: engine.images(),
                stop: stop.clone(),
                tracker: tracker.clone(),
            },
            tasks: ContainerdTasks(engine.tasks()),
        }
    }

    /// The node, which has them.
    pub(super) fn given_to(self, node: AgentNode) -> AgentNode {
        let node = node.with_shelf(self.images.clone());
        node.with_images(self.images).with_tasks(self.tasks)
    }
}

/// Images as containerd has them.
#[derive(Clone, Debug)]
struct LocalShelf {
    images: Images,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl ImageShelf for LocalShelf {
    fn has<'a>(
        &'a self,
        reference: &'a ImageReference,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        async move {
            // What is known may have been removed since.
            self.images.invalidate(digest);
            match self.images.local(reference, digest).await {
                Ok(_) => Ok(true),
                Err(RuntimeError::ImageLost(_)) => Ok(false),
                Err(error) => Err(error.to_string()),
            }
        }
        .boxed()
    }
}

impl ImageStore for LocalShelf {
    fn stored(&self) -> BoxFuture<'_, Result<Vec<StoredImage>, RuntimeError>> {
        self.images.stored().boxed()
    }

    fn discard<'a>(
        &'a self,
        digest: &'a str,
        names: &'a [String],
        obstacle: &'a (dyn Fn(StoredImage) -> Option<String> + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<String>, RuntimeError>> {
        self.images.discard(digest, names, obstacle).boxed()
    }

    fn collect(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.images.collect().boxed()
    }

    fn collect_later(&self) {
        let (images, stop) = (self.images.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            let collected = stop.run_until_cancelled(images.collect()).await;
            if let Some(Err(error)) = collected {
                tracing::warn!(%error, "removed images not collected");
            }
        });
    }

    fn begin(&self, order: FetchOrder) -> oneshot::Receiver<Result<String, RuntimeError>> {
        let (done, answer) = oneshot::channel();
        let (images, stop) = (self.images.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            let mut fetch = Box::pin(fetch(&images, &order));
            let fetched = tokio::select! {
                fetched = &mut fetch => fetched,
                () = stop.cancelled() => {
                    // It discards what it has in the middle.
                    order.cut.cancel();
                    fetch.await
                }
            };
            let _whoever_waits = done.send(fetched);
        });
        answer
    }
}

/// Fetches an image, and has it be kept; answers its digest.
async fn fetch(images: &Images, fetch: &FetchOrder) -> Result<String, RuntimeError> {
    let order = &fetch.order;
    let wanted = (order.image_pull, fetch.signatures.as_slice());
    let ensured = images.ensure(&order.image, wanted, &fetch.progress, &fetch.cut);
    let digest = ensured.await?;
    let until = SystemTime::now() + order.keep;
    images.keep(&order.image, &digest, until).await?;
    Ok(digest)
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
