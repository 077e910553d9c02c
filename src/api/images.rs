//! Images on the node: listed with their users, pulled before a container needs one, and removed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use state::failure::Failure;
use state::image_order::{ImageOrder, order};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::watchers::Watchers;
use super::{NodeApi, Refusal, body, operations, wire};
use crate::lock::lock;
use crate::view::{FetchProgress, ImageView};

/// Time between two lines of a pull.
const LINE_EACH: Duration = Duration::from_secs(1);
/// Pulls for no container at once, over the network and by the socket.
pub(super) const OF_NETWORK: usize = 4;
pub(super) const OF_SOCKET: usize = 4;
/// The same of one caller of some names only, and the images that it may ask for before the time of one
/// is over; an agent that starts again counts anew.
const UNDER_WAY_MAX: usize = 2;
const KEPT_MAX: usize = 10;
/// Least time for which a pulled image counts: so long the node keeps it in any case.
const KEPT_LEAST: Duration = Duration::from_secs(600);

/// The node's images, as the API needs them.
pub(crate) trait NodeImages: Send + Sync + 'static {
    /// Every image, by its names.
    fn images(&self) -> impl Future<Output = Result<Vec<ImageView>, Refusal>> + Send;

    /// Removes an image that nothing uses.
    fn remove_image(&self, digest: &str)
    -> impl Future<Output = Result<ImageView, Refusal>> + Send;

    /// Removes the images that nothing uses, or only tells of them; those that are kept for a while only
    /// with `all`.
    fn prune_images(
        &self,
        all: bool,
        dry_run: bool,
    ) -> impl Future<Output = Result<Vec<ImageView>, Refusal>> + Send;

    /// Begins to fetch an image for no container.
    fn fetch_image(
        &self,
        order: ImageOrder,
    ) -> impl Future<Output = Result<ImageFetch, Refusal>> + Send;
}

/// Fetch of an image that has begun. It ends with this value.
pub(crate) struct ImageFetch {
    /// The order.
    pub(crate) order: ImageOrder,
    /// Progress.
    pub(crate) progress: Box<dyn Fn() -> FetchProgress + Send + Sync>,
    /// End, with the image's digest.
    pub(crate) done: BoxFuture<'static, Result<String, Failure>>,
    pub(crate) _cut: DropGuard,
}

/// Pulls for no container: those that are under way, and what each caller of some names asked for, so that
/// none of them takes all places, or the disk.
#[derive(Clone, Debug)]
pub(super) struct AheadPulls {
    places: Watchers,
    callers: Arc<Mutex<HashMap<Arc<str>, CallerPulls>>>,
}

/// Pulls of one caller.
#[derive(Debug, Default)]
struct CallerPulls {
    under_way: usize,
    /// Images that it asked for, with the end of the time for which each is kept.
    kept: HashMap<String, Instant>,
}

/// Fetch that is under way, at its place.
type PlacedFetch = (ImageFetch, AheadPlace);

/// Place of one pull, given back when it is dropped.
struct AheadPlace {
    _place: OwnedSemaphorePermit,
    /// `None`: the caller has to do with all containers.
    of: Option<(AheadPulls, Arc<str>)>,
    image: String,
    keep: Duration,
    /// Whether the image is on the node: one that never came is none that is kept.
    is_pulled: bool,
    /// End of its time by an earlier pull, which this one's fault does not take away.
    before: Option<Instant>,
}

/// No pull yet.
pub(super) fn pulls() -> AheadPulls {
    AheadPulls {
        places: Watchers::new("pull images for no container", OF_NETWORK, OF_SOCKET),
        callers: Arc::default(),
    }
}

impl AheadPulls {
    fn take(&self, access: &Access, order: &ImageOrder) -> Result<AheadPlace, Problem> {
        let place = self.places.take(access.peer)?;
        let of = (!access.has_all()).then(|| (self.clone(), Arc::clone(&access.by)));
        let before = match of {
            Some(_) => self.count(&access.by, order, Instant::now())?,
            None => None,
        };
        Ok(AheadPlace {
            _place: place,
            of,
            image: order.image.to_string(),
            keep: order.keep,
            is_pulled: false,
            before,
        })
    }

    /// Counts a pull; answers until when its image counted before.
    fn count(
        &self,
        by: &Arc<str>,
        order: &ImageOrder,
        now: Instant,
    ) -> Result<Option<Instant>, Problem> {
        let mut callers = lock(&self.callers);
        let pulls = callers.entry(Arc::clone(by)).or_default();
        if pulls.under_way >= UNDER_WAY_MAX {
            return Err(Problem::Busy(format!(
                "{by} pulls {UNDER_WAY_MAX} images for no container already; wait for one of them"
            )));
        }
        pulls.kept.retain(|_, end| *end > now);
        let image = order.image.to_string();
        if pulls.kept.len() >= KEPT_MAX && !pulls.kept.contains_key(&image) {
            let first = pulls.kept.values().min().map_or(now, |end| *end);
            let wait = Duration::from_secs(first.duration_since(now).as_secs() + 1);
            return Err(Problem::Refused(Refusal::Conflict(format!(
                "{by} asked for {KEPT_MAX} images already that are kept for no container; the time of \
                 the first ends in {}",
                humantime::format_duration(wait)
            ))));
        }
        pulls.under_way += 1;
        let before = pulls.kept.get(&image).copied();
        let end = pulls.kept.entry(image).or_insert(now);
        *end = (*end).max(now + order.keep.max(KEPT_LEAST));
        Ok(before)
    }
}

impl Drop for AheadPlace {
    fn drop(&mut self) {
        let Some((pulls, by)) = &self.of else { return };
        let mut callers = lock(&pulls.callers);
        let Some(pulls) = callers.get_mut(by) else {
            return;
        };
        pulls.under_way -= 1;
        if self.is_pulled {
            let end = Instant::now() + self.keep.max(KEPT_LEAST);
            let known = pulls.kept.entry(self.image.clone()).or_insert(end);
            *known = (*known).max(end);
        } else if let Some(before) = self.before {
            pulls.kept.insert(self.image.clone(), before);
        } else {
            pulls.kept.remove(&self.image);
        }
    }
}

pub(super) async fn list<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::IMAGES)?;
    let images = node.images().await?;
    let seen = images.iter().filter(|view| sees(&access, view));
    let seen: Vec<_> = seen.map(|view| shown(view, &access)).collect();
    Ok(Json(json!({"images": seen})))
}

pub(super) async fn remove<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(digest): Named,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::REMOVE_IMAGE)?;
    of_all(&access)?;
    let removed = node.remove_image(&digest).await?;
    Ok(Json(shown(&removed, &access)))
}

pub(super) async fn prune<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    let parameters = Parameters::of(query, &operations::PRUNE_IMAGES)?;
    let (all, dry_run) = (parameters.flag("all")?, parameters.flag("dry_run")?);
    of_all(&access)?;
    let pruned = node.prune_images(all, dry_run).await?;
    let bytes = pruned.iter().filter_map(|view| view.packed_bytes);
    let bytes: u64 = bytes.sum();
    let pruned: Vec<_> = pruned.iter().map(|view| shown(view, &access)).collect();
    Ok(Json(
        json!({"dry_run": dry_run, "images": pruned, "packed_bytes": bytes}),
    ))
}

/// Refuses a caller of some names: another's container may need an image next.
fn of_all(access: &Access) -> Result<(), Problem> {
    if access.has_all() {
        return Ok(());
    }
    Err(Problem::Scope(format!(
        "images are everybody's, and {} has to do with containers named {} only",
        access.by, access.names
    )))
}

/// Pulls an image, and tells how far it has come, a line each second; the last one says how it ended.
/// A caller that goes away ends the pull.
pub(super) async fn fetch<N: NodeApi>(
    State(node): State<Arc<N>>,
    Extension(pulls): Extension<AheadPulls>,
    access: Access,
    query: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::FETCH_IMAGE)?;
    let order = body::read(&access, &headers, body, |body| {
        order(&body).map_err(Problem::Invalid)
    });
    let order = order.await?;
    let place = pulls.take(&access, &order)?;
    let fetch = node.fetch_image(order).await?;
    let lines = futures_util::stream::unfold(Some((fetch, place)), next);
    // Whoever may not come in any more pulls nothing more, either.
    let lines = lines
        .take_until(access.end.reached())
        .map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// The next line, and what follows it.
async fn next(under_way: Option<PlacedFetch>) -> Option<(Bytes, Option<PlacedFetch>)> {
    let (mut fetch, mut place) = under_way?;
    let line = match tokio::time::timeout(LINE_EACH, &mut fetch.done).await {
        Err(_) => {
            let line = progress(&fetch);
            return Some((Bytes::from(format!("{line}\n")), Some((fetch, place))));
        }
        Ok(Ok(digest)) => {
            place.is_pulled = true;
            let mut line = progress(&fetch);
            line["status"] = json!("pulled");
            line["digest"] = json!(digest);
            line["kept_until"] = json!(wire::time(SystemTime::now() + fetch.order.keep));
            line
        }
        Ok(Err(failure)) => {
            let mut line = progress(&fetch);
            line["status"] = json!("failed");
            (line["reason"], line["message"]) = (json!(failure.reason), json!(failure.message));
            line
        }
    };
    Some((Bytes::from(format!("{line}\n")), None))
}

fn progress(fetch: &ImageFetch) -> Value {
    let now = (fetch.progress)();
    json!({
        "image": fetch.order.image.to_string(), "status": "pulling",
        "fetched_bytes": now.fetched_bytes, "total_bytes": now.total_bytes, "message": now.message,
    })
}

/// Whether the caller has to do with an image: of others, the name alone would tell what they run.
fn sees(access: &Access, view: &ImageView) -> bool {
    access.has_all() || view.used_by.iter().any(|name| access.names.has(name))
}

/// An image with those of its users that the caller has to do with.
fn shown(view: &ImageView, access: &Access) -> Value {
    let users = view.used_by.iter().filter(|name| access.names.has(name));
    json!({
        "digest": view.digest, "names": view.names, "managed": view.managed,
        "packed_bytes": view.packed_bytes, "created": view.created.map(wire::time),
        "kept_until": view.kept_until.map(wire::time),
        "used": !view.used_by.is_empty(), "used_by": users.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use state::spec::ImagePull;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_is_cut_gives_back_no_place_of_an_earlier_one() {
        let (pulls, by) = (pulls(), Arc::<str>::from("team"));
        let free = Arc::new(Semaphore::new(100));
        let pull = |n: usize, is_pulled: bool| {
            let order = ImageOrder {
                image: format!("r.example/a:{n}").parse().unwrap(),
                image_pull: ImagePull::IfNotPresent,
                keep: Duration::from_secs(3600),
            };
            let before = pulls.count(&by, &order, Instant::now()).ok()?;
            let place = Arc::clone(&free).try_acquire_owned().unwrap();
            drop(AheadPlace {
                _place: place,
                of: Some((pulls.clone(), Arc::clone(&by))),
                image: order.image.to_string(),
                keep: order.keep,
                is_pulled,
                before,
            });
            Some(())
        };
        for n in 0..KEPT_MAX {
            assert!(
                pull(n + 100, false).is_some(),
                "one that failed counts for nothing"
            );
            assert!(pull(n, true).is_some());
        }
        for n in 0..KEPT_MAX {
            assert!(
                pull(n, false).is_some(),
                "what is kept may be asked for again"
            );
            assert!(pull(n + 100, false).is_none(), "and its place stays taken");
        }
        tokio::time::advance(Duration::from_secs(3601)).await;
        assert!(pull(100, true).is_some());
    }
}
