//! Images of the node, as the API asks for them: who uses each, pulled before a container needs it, and
//! removed by order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use state::desired::set::Desired;
use state::failure::Failure;
use state::id::ContainerName;
use state::image_order::ImageOrder;
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::AgentNode;
use crate::api::{self, ImageFetch, NodeImages, Refusal};
use crate::runtime::{PullProgress, RuntimeError, StoredImage};
use crate::view::{FetchProgress, ImageView};

/// Fetch of an image, as it is handed to the runtime.
#[derive(Debug)]
pub(crate) struct FetchOrder {
    /// The order.
    pub(crate) order: ImageOrder,
    /// Signatures that it needs.
    pub(crate) signatures: Vec<SignatureDemand>,
    /// Progress.
    pub(crate) progress: Arc<PullProgress>,
    /// End by the caller.
    pub(crate) cut: CancellationToken,
}

/// Images of the node.
pub(crate) trait ImageStore: fmt::Debug + Send + Sync {
    /// Every image of the agent's namespace.
    fn stored(&self) -> BoxFuture<'_, Result<Vec<StoredImage>, RuntimeError>>;

    /// Removes an image. Answers whether it is gone: a pull under way keeps it.
    fn discard<'a>(
        &'a self,
        digest: &'a str,
        names: &'a [String],
    ) -> BoxFuture<'a, Result<bool, RuntimeError>>;

    /// Begins to fetch an image, and goes on until it is there or cut. Answers its digest.
    fn begin(&self, order: FetchOrder) -> oneshot::Receiver<Result<String, RuntimeError>>;
}

impl AgentNode {
    /// The same, with images to be listed, fetched and removed.
    pub(crate) fn with_images(mut self, images: impl ImageStore + 'static) -> Self {
        self.image_store = Some(Arc::new(images));
        self
    }

    fn images(&self) -> Result<&Arc<dyn ImageStore>, Refusal> {
        let none = || Refusal::Unavailable("this agent does not look at images".to_owned());
        self.image_store.as_ref().ok_or_else(none)
    }

    async fn listed(&self) -> Result<Vec<ImageView>, Refusal> {
        let stored = self
            .images()?
            .stored()
            .await
            .map_err(|error| unanswered(&error))?;
        // After the look: an image that a deploy has brought since is in use.
        let users = Users::of(&self.writer.store().desired());
        let mut views: Vec<_> = stored.into_iter().map(|image| users.view(image)).collect();
        views.sort_by(|a, b| a.names.cmp(&b.names));
        Ok(views)
    }

    fn may_remove(&self) -> Result<(), Refusal> {
        let desired = self.writer.store().desired();
        if desired.unreadable_count() > 0 || desired.may_lack_records() {
            let why =
                "a record of this node is unreadable or not known yet, and may need any image";
            return Err(Refusal::Unavailable(why.to_owned()));
        }
        Ok(())
    }

    async fn discard(&self, view: &ImageView, kind: &'static str) -> Result<bool, Refusal> {
        let image = view.digest.clone();
        self.write(move |store| store.note_image(kind, image))
            .await?;
        let gone = self.images()?.discard(&view.digest, &view.names).await;
        let gone = gone.map_err(|error| unanswered(&error))?;
        if gone {
            let (image, by) = (&view.digest, api::current_call().by);
            tracing::info!(%image, by, "image removed");
        }
        Ok(gone)
    }
}

fn unanswered(error: &RuntimeError) -> Refusal {
    Refusal::Unavailable(error.to_string())
}

/// Containers by the images that they need.
struct Users {
    by_digest: BTreeMap<String, BTreeSet<ContainerName>>,
    /// Containers whose images are not resolved yet, by the names of these.
    by_name: BTreeMap<String, BTreeSet<ContainerName>>,
}

impl Users {
    fn of(desired: &Desired) -> Self {
        let (mut by_digest, mut by_name) = (BTreeMap::new(), BTreeMap::new());
        for record in desired.records() {
            let mut note = |digest: &str| {
                let users: &mut BTreeSet<_> = by_digest.entry(digest.to_owned()).or_default();
                users.insert(record.name.clone());
            };
            for record in record.with_former() {
                record.image_digest.iter().for_each(|digest| note(digest));
            }
            record
                .former_image
                .iter()
                .for_each(|image| note(&image.digest));
            if record.image_digest.is_none() {
                let name = record.spec.image.to_string();
                let users: &mut BTreeSet<_> = by_name.entry(name).or_default();
                users.insert(record.name.clone());
            }
        }
        Self { by_digest, by_name }
    }

    fn view(&self, image: StoredImage) -> ImageView {
        let by_name = image.names.iter().filter_map(|name| self.by_name.get(name));
        let users = by_name.chain(self.by_digest.get(&image.digest)).flatten();
        ImageView {
            used_by: users.cloned().collect(),
            digest: image.digest,
            names: image.names,
            managed: image.managed,
            created: image.created,
            kept_until: image.kept_until,
            packed_bytes: image.packed_bytes,
        }
    }
}

impl NodeImages for AgentNode {
    async fn images(&self) -> Result<Vec<ImageView>, Refusal> {
        self.listed().await
    }

    async fn remove_image(&self, digest: &str) -> Result<ImageView, Refusal> {
        self.may_remove()?;
        let mut listed = self.listed().await?.into_iter();
        let Some(view) = listed.find(|view| view.digest == digest) else {
            let message =
                format!("there is no image {digest} on this node; GET /images lists them");
            return Err(Refusal::NotFound(message));
        };
        if let Some(why) = view.obstacle() {
            return Err(Refusal::Conflict(format!("image {digest} {why}")));
        }
        match self.discard(&view, "image_remove").await? {
            true => Ok(view),
            false => Err(Refusal::Conflict(format!(
                "image {digest} is being pulled; try again when that is over"
            ))),
        }
    }

    async fn prune_images(&self, all: bool, dry_run: bool) -> Result<Vec<ImageView>, Refusal> {
        self.may_remove()?;
        let now = SystemTime::now();
        let mut pruned = Vec::new();
        for view in self.listed().await? {
            let is_kept = view.kept_until.is_some_and(|until| until > now) && !all;
            if view.obstacle().is_some() || is_kept {
                continue;
            }
            if dry_run || self.discard(&view, "image_prune").await? {
                pruned.push(view);
            }
        }
        Ok(pruned)
    }

    async fn fetch_image(&self, order: ImageOrder) -> Result<ImageFetch, Refusal> {
        let images = Arc::clone(self.images()?);
        let policy = self.writer.store().policy();
        let denials = policy.judge_ahead(&order.image);
        if !denials.is_empty() {
            return Err(Refusal::Denied(denials));
        }
        let signatures = policy.signatures_ahead(&order.image);
        let image = order.image.to_string();
        self.write(move |store| store.note_image("image_pull", image))
            .await?;
        let (progress, cut) = (Arc::new(PullProgress::default()), CancellationToken::new());
        let done = images.begin(FetchOrder {
            order: order.clone(),
            signatures,
            progress: Arc::clone(&progress),
            cut: cut.clone(),
        });
        let told = move || {
            let (fetched_bytes, total_bytes) = progress.get();
            FetchProgress {
                fetched_bytes,
                total_bytes,
                message: progress.noted(),
            }
        };
        Ok(ImageFetch {
            order,
            progress: Box::new(told),
            done: Box::pin(async { done.await.map_or_else(|_| Err(stopping()), ended) }),
            _cut: cut.drop_guard(),
        })
    }
}

fn stopping() -> Failure {
    Failure::new(Reason::RuntimeUnavailable, "the agent is stopping")
}

fn ended(fetched: Result<String, RuntimeError>) -> Result<String, Failure> {
    fetched.map_err(|error| match error {
        RuntimeError::Failed(failure) => failure,
        RuntimeError::Cancelled => stopping(),
        RuntimeError::Unavailable(_) | RuntimeError::ImageLost(_) => {
            Failure::new(Reason::RuntimeUnavailable, error.to_string())
        }
    })
}
