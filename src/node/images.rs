//! Images of the node, as the API asks for them: who uses each, pulled before a container needs it, and
//! removed by order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

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

/// Cause for which no image is removed, in a phrase without a subject.
const UNKNOWN_USERS: &str =
    "may be needed by a record of this node that is unreadable or not known yet";

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

    /// Removes the names of an image. Answers the cause for which it is left, in a phrase without a
    /// subject; `None`: it is gone. `obstacle` judges it as it is right before.
    fn discard<'a>(
        &'a self,
        digest: &'a str,
        names: &'a [String],
        obstacle: &'a (dyn Fn(StoredImage) -> Option<String> + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<String>, RuntimeError>>;

    /// Removes the content of images that have no names any more.
    fn collect(&self) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Collection as of [`Self::collect`], for which nobody waits.
    fn collect_later(&self);

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
            let why = format!("an image {UNKNOWN_USERS}");
            return Err(Refusal::Unavailable(why));
        }
        Ok(())
    }

    /// Removes an image. Answers the cause for which it is left. `None`: it is gone.
    async fn discard(
        &self,
        view: &ImageView,
        kind: &'static str,
        keeps: fn(&ImageView) -> bool,
    ) -> Result<Option<String>, Refusal> {
        let image = view.digest.clone();
        self.write(move |store| store.note_image(kind, image))
            .await?;
        let obstacle = |image: StoredImage| {
            if self.may_remove().is_err() {
                return Some(UNKNOWN_USERS.to_owned());
            }
            // Anew: a deploy may need it since the list.
            let now = Users::of(&self.writer.store().desired()).view(image);
            let kept = || keeps(&now).then(|| "is to be kept for a while".to_owned());
            now.obstacle().or_else(kept)
        };
        let images = self.images()?;
        let left = images.discard(&view.digest, &view.names, &obstacle).await;
        let left = left.map_err(|error| unanswered(&error))?;
        let (image, by) = (&view.digest, api::current_call().by);
        match &left {
            None => tracing::info!(%image, by, "image removed"),
            Some(why) => tracing::info!(%image, by, %why, "image not removed"),
        }
        Ok(left)
    }

    /// Removes what nothing needs, and notes each in `pruned`.
    async fn prune_each(
        &self,
        (all, dry_run): (bool, bool),
        pruned: &mut Vec<ImageView>,
    ) -> Result<(), Refusal> {
        let keeps: fn(&ImageView) -> bool = if all { |_| false } else { is_kept };
        for view in self.listed().await? {
            if view.obstacle().is_some() || keeps(&view) {
                continue;
            }
            let left = match dry_run {
                true => None,
                false => self.discard(&view, "image_prune", keeps).await?,
            };
            if left.is_none() {
                pruned.push(view);
            }
        }
        Ok(())
    }

    /// Work that is due once something was removed, also if the caller goes away before.
    fn collection(&self) -> Result<DueCollection, Refusal> {
        Ok(DueCollection(Some(Arc::clone(self.images()?))))
    }

    async fn collect(&self) -> Result<(), Refusal> {
        let collected = self.images()?.collect().await;
        collected.map_err(|error| unanswered(&error))
    }
}

/// Collection of what was removed, which comes even where nobody waits for the answer any more.
struct DueCollection(Option<Arc<dyn ImageStore>>);

impl DueCollection {
    /// Ends it: it was done, or nothing was removed.
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for DueCollection {
    fn drop(&mut self) {
        if let Some(images) = &self.0 {
            images.collect_later();
        }
    }
}

/// Whether somebody asked for it to be kept for a while.
const fn is_kept(view: &ImageView) -> bool {
    view.kept_until.is_some()
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
            used_by: users.cloned().chain(image.made).collect(),
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
        let due = self.collection()?;
        let left = self.discard(&view, "image_remove", |_| false).await?;
        if let Some(why) = left {
            due.end();
            return Err(Refusal::Conflict(format!("image {digest} {why}")));
        }
        self.collect().await?;
        due.end();
        Ok(view)
    }

    async fn prune_images(&self, all: bool, dry_run: bool) -> Result<Vec<ImageView>, Refusal> {
        self.may_remove()?;
        let (mut pruned, due) = (Vec::new(), self.collection()?);
        let ended = self.prune_each((all, dry_run), &mut pruned).await;
        // Once for all of them, for it holds up others; and of those before a fault, too.
        if !dry_run && !pruned.is_empty() {
            self.collect().await?;
        }
        due.end();
        ended?;
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
