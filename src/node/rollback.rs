//! Generations of a container, and the way back to one by hand.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use state::event::{Event, EventKind, EventSubject};
use state::id::{ContainerId, InstanceName};
use state::reference::ImageReference;
use state::store::{Idempotent, RollbackRequest, RollbackTarget};

use super::refusal::refusal;
use super::{AgentNode, wall_ms};
use crate::api::Refusal;
use crate::view::{ChronicleView, DeployedView};

/// Images that are on the node.
pub(crate) trait ImageShelf: fmt::Debug + Send + Sync {
    /// Whether a container can be made of the image without a registry.
    ///
    /// # Errors
    /// Nobody knows now, for this reason.
    fn has<'a>(
        &'a self,
        reference: &'a ImageReference,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>>;
}

impl AgentNode {
    /// The same, with images to go back to.
    pub(crate) fn with_shelf(mut self, images: impl ImageShelf + 'static) -> Self {
        self.images = Some(Arc::new(images));
        self
    }

    /// Last generations of a container.
    pub(super) async fn chronicle(&self, id: ContainerId) -> Result<ChronicleView, Refusal> {
        let chapters = self.writer.read(move |store| store.chronicle(id)).await;
        let chapters = chapters.map_err(|error| unanswered(&error))?;
        let chapters = chapters.map_err(refusal)?;
        let gone = || Refusal::NotFound(format!("container {id} was removed"));
        let container = self.container(id).ok_or_else(gone)?;
        Ok(ChronicleView {
            container,
            chapters,
        })
    }

    /// The generation that a request goes back to, of which the image is there.
    pub(super) async fn rollback_target(
        &self,
        request: RollbackRequest,
    ) -> Result<Idempotent<RollbackTarget>, Refusal> {
        let id = request.id;
        let target = self
            .writer
            .read(move |store| store.rollback_target(&request))
            .await;
        let target = target.map_err(|error| unanswered(&error))?;
        let target = match target.map_err(refusal)? {
            Idempotent::Now(target) => target,
            before @ Idempotent::Before(_) => return Ok(before),
        };
        let record = &*target.record;
        // An instance that goes on may be of another image: its tag moved since.
        let desired = self.writer.store().desired();
        let has_other_image = desired.get(id).is_some_and(|present| {
            present.instance() == record.instance() && present.image_digest != record.image_digest
        });
        let has_instance = self.has_instance(record.instance(), id) && !has_other_image;
        let is_there = target.is_there || has_instance;
        if let (false, Some(images), Some(digest)) = (is_there, &self.images, &record.image_digest)
        {
            let reference = &record.spec.image;
            match images.has(reference, digest).await {
                Ok(true) => {}
                Ok(false) => {
                    return Err(Refusal::Conflict(format!(
                        "the image of generation {} of {}, {reference} ({digest}), is not on the node any more, and \
                         no registry is asked for it; go back to another one by ?generation=N, or deploy its body",
                        record.generation, record.name
                    )));
                }
                Err(error) => {
                    return Err(Refusal::Unavailable(format!(
                        "nobody knows now whether the image of generation {} of {} is on the node: {error}",
                        record.generation, record.name
                    )));
                }
            }
        }
        Ok(Idempotent::Now(target))
    }

    fn has_instance(&self, instance: InstanceName, id: ContainerId) -> bool {
        let seen = self.board().known(id).seen;
        seen.instances.contains_key(&instance.generation)
    }

    /// Goes back to a generation.
    pub(super) async fn go_back(
        &self,
        request: RollbackRequest,
        target: RollbackTarget,
    ) -> Result<Idempotent<DeployedView>, Refusal> {
        let (id, handle, journal) = (request.id, self.handle.clone(), self.journal.clone());
        let is_former_there = self.has_instance(target.record.instance(), id);
        let taken = self.write(move |store| {
            let answered = store.go_back(&request, &target, is_former_there, wall_ms())?;
            if let Idempotent::Now(accepted) = &answered
                && accepted.changed
            {
                let told = format!(
                    "generation {} was given up by hand, by {}; generation {} is back",
                    target.present, request.by, target.record.generation
                );
                let event = Event::from(EventKind::RolledBack { by_hand: true });
                let event = event.saying(told);
                journal.record(event.about(EventSubject::new(id, Some(&accepted.record))));
                handle.wake(id);
            }
            Ok(answered)
        });
        Ok(match taken.await? {
            Idempotent::Now(accepted) => Idempotent::Now(self.deployed(&accepted)),
            Idempotent::Before(answer) => Idempotent::Before(answer),
        })
    }
}

fn unanswered(error: &std::io::Error) -> Refusal {
    Refusal::Unavailable(format!(
        "the store below state.dir does not answer ({error}); ask again"
    ))
}
