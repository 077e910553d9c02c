//! Events as they happen: Server-Sent Events, or an object a line, from a position on.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use state::access::NameScope;
use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::wants_objects;
use super::access::Access;
use super::error::Problem;
use super::query::{Parameters, RawQuery};
use super::watchers::Watchers;
use super::{NodeApi, operations};
use crate::feed::{EventFeed, FeedEvent};

/// Readers at once over the network. One that has nothing to read costs a few kilobytes.
pub(super) const OF_NETWORK: usize = 128;
/// Readers at once by the socket.
pub(super) const OF_SOCKET: usize = 16;
/// Events that are looked at for one piece of an answer.
const AT_ONCE: usize = 256;
/// Time without a piece after which a comment shows that the connection lives, and tells the position:
/// also where events come that this reader is not shown.
const COMMENT_AFTER: Duration = Duration::from_secs(15);
/// Time after which an answer ends, with its position: whoever reads comes back with that, and one that
/// never reads, whose host takes all for it, keeps its place no longer.
const LASTS_MAX: Duration = Duration::from_hours(6);
/// Header by which a reader of Server-Sent Events says where it stood.
const LAST_EVENT_ID: &str = "last-event-id";

/// Places of those who read events.
pub(super) fn readers() -> Watchers {
    Watchers::new("read events", OF_NETWORK, OF_SOCKET)
}

pub(super) async fn events<N: NodeApi>(
    State(node): State<Arc<N>>,
    Extension(readers): Extension<Watchers>,
    access: Access,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::EVENTS)?;
    let follows = parameters.text("follow").is_none() || parameters.flag("follow")?;
    let feed = node.feed();
    let position = position(&parameters, &headers)?;
    let reader = EventReader {
        position: position.unwrap_or_else(|| if follows { feed.newest() } else { 0 }),
        newest: feed.watch(),
        feed,
        filter: filter(&parameters, Arc::clone(&access.names))?,
        as_lines: wants_objects(&headers),
        follows,
        comments_at: Instant::now() + COMMENT_AFTER,
        ends_at: Instant::now() + LASTS_MAX,
        has_begun: false,
        has_read: false,
        is_over: false,
    };
    let permit = readers.take(access.peer)?;
    let kind = if reader.as_lines {
        "application/x-ndjson"
    } else {
        "text/event-stream"
    };
    let pieces = futures_util::stream::unfold(reader, EventReader::next);
    // Whoever may not come in any more hears nothing more, either.
    let pieces = pieces.take_until(access.end.reached()).map(move |piece| {
        let _until_the_stream_ends = &permit;
        Ok::<_, Infallible>(piece)
    });
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Position that a reader asks for. The header wins: a browser that connects again sends it along
/// with the address that it was given first.
fn position(parameters: &Parameters, headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let after = parameters.parsed("after", "the number of an event, or 0")?;
    let Some(header) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
        return Ok(after);
    };
    let number = header.to_str().ok().and_then(|text| text.parse().ok());
    let fault =
        || Problem::Request("Last-Event-ID is no number of an event of this agent".to_owned());
    Ok(Some(number.ok_or_else(fault)?))
}

fn filter(parameters: &Parameters, names: Arc<NameScope>) -> Result<Filter, Problem> {
    let owned = |words: BTreeSet<&str>| words.into_iter().map(ToOwned::to_owned).collect();
    let containers = parameters.text("container");
    Ok(Filter {
        names,
        containers: containers.map(|text| owned(text.split(',').collect())),
        kinds: parameters.words("kind")?.map(owned),
    })
}

/// Events that a reader is shown.
struct Filter {
    names: Arc<NameScope>,
    /// Names or ids. `None`: any, and the node.
    containers: Option<BTreeSet<String>>,
    kinds: Option<BTreeSet<String>>,
}

impl Filter {
    fn shows(&self, event: &FeedEvent) -> bool {
        let name = event.name.as_ref();
        let is_its_own = match name {
            Some(name) => self.names.has(name),
            // The node's events may tell of any container.
            None => *self.names == NameScope::All,
        };
        let is_named = |names: &BTreeSet<String>| {
            name.is_some_and(|name| names.contains(name.as_str()))
                || event.id.is_some_and(|id| names.contains(&id.to_string()))
        };
        is_its_own
            && self.containers.as_ref().is_none_or(is_named)
            && self
                .kinds
                .as_ref()
                .is_none_or(|kinds| kinds.contains(&*event.kind))
    }
}

/// Reader of events, and how far it has come.
struct EventReader {
    feed: EventFeed,
    newest: watch::Receiver<u64>,
    position: u64,
    filter: Filter,
    as_lines: bool,
    follows: bool,
    comments_at: Instant,
    ends_at: Instant,
    has_begun: bool,
    has_read: bool,
    is_over: bool,
}

impl EventReader {
    /// The next piece of the answer, when there is one. `None`: it is over.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if self.is_over {
            return None;
        }
        let piece = self.next_piece().await?;
        let now = Instant::now();
        self.comments_at = now + COMMENT_AFTER;
        self.is_over |= now >= self.ends_at;
        Some((piece, self))
    }

    async fn next_piece(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.has_begun, true) && !self.as_lines {
            // The headers are sent with it, and the number is where the reader comes back to although
            // no event was for it.
            return Some(format!(": events follow\nid: {}\n\n", self.position).into());
        }
        loop {
            self.newest.mark_unchanged();
            let page = self.feed.read(self.position, AT_ONCE);
            if page.has_lost {
                return Some(self.lost(page.events.first().map(|event| event.number)));
            }
            self.has_read = true;
            let (is_last, piece) = self.piece(&page.events);
            if !piece.is_empty() {
                return Some(piece.into());
            }
            if !is_last {
                continue;
            }
            if !self.follows {
                return None;
            }
            tokio::select! {
                biased;
                // First, and at one moment: events that others are shown may come all the time.
                () = tokio::time::sleep_until(self.comments_at) => return Some(self.comment()),
                _ = self.newest.changed() => {}
                () = self.feed.readers_end() => return None,
            }
        }
    }

    /// A sign of life, with the position.
    fn comment(&self) -> Bytes {
        if self.as_lines {
            Bytes::from_static(b"\n")
        } else {
            format!(":\nid: {}\n\n", self.position).into()
        }
    }

    /// Part of a page that the reader is shown, and whether that was all there is.
    fn piece(&mut self, page: &[Arc<FeedEvent>]) -> (bool, Vec<u8>) {
        let mut piece = Vec::new();
        for event in page.iter().filter(|event| self.filter.shows(event)) {
            if !self.as_lines {
                let head = format!("id: {}\nevent: {}\ndata: ", event.number, event.kind);
                piece.extend_from_slice(head.as_bytes());
            }
            piece.extend_from_slice(&event.data);
            piece.extend_from_slice(if self.as_lines { b"\n" } else { b"\n\n" });
        }
        self.position = page.last().map_or(self.position, |event| event.number);
        (page.len() < AT_ONCE, piece)
    }

    /// Tells a reader that events after its position are not kept any more. One that comes with such
    /// a position is shown those that are; one that reads too slowly is cut off.
    fn lost(&mut self, first: Option<u64>) -> Bytes {
        let resumes_at = first.map_or(self.feed.newest(), |first| first - 1);
        let data = serde_json::json!({
            "kind": "events_lost", "after": self.position, "resumes_at": resumes_at,
            "message": "events after this position are not kept any more; list the containers again",
        });
        (self.position, self.is_over) = (resumes_at, self.has_read);
        let piece = if self.as_lines {
            format!("{data}\n")
        } else {
            format!("id: {resumes_at}\nevent: events_lost\ndata: {data}\n\n")
        };
        piece.into()
    }
}
