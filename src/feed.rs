//! The feed: the last events, numbered and rendered once, as every reader is shown them. Bounded in
//! memory, and kept in files over a restart of the agent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use state::id::{ContainerId, ContainerName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

mod files;

pub use files::{DIRECTORY, FeedFiles};

/// Events kept: those of days on a quiet node, at some hundred bytes each.
pub const EVENTS_MAX: usize = 4096;
/// Bytes of the events kept.
const BYTES_MAX: usize = 2 << 20;
/// Distance between the numbers of two starts of the agent a second apart. The number of an event
/// that a power cut took from the disk, and that a reader knows, is never another event's.
const NUMBERS_OF_SECOND: u64 = 1_000_000;
/// Numbers that every reader can tell apart, also one that takes them for floating-point numbers.
const NUMBER_MAX: u64 = 1 << 53;

/// Event, as its readers are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// Number: it only grows, also over a restart of the agent, and not always by one.
    pub number: u64,
    /// Word of the kind.
    pub kind: Box<str>,
    /// Id of the container that it is about. `None`: the node, or a container that is not taken in.
    pub id: Option<ContainerId>,
    /// Name of that container.
    pub name: Option<ContainerName>,
    /// The event as a JSON object, on one line.
    pub data: Bytes,
}

/// Events after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPage {
    /// The events, oldest first.
    pub events: Vec<Arc<FeedEvent>>,
    /// Whether some after the position are not kept any more, or the position is none of this node.
    pub has_lost: bool,
}

#[derive(Debug)]
struct Ring {
    newest: u64,
    /// Number of the newest event that is not kept any more.
    dropped: u64,
    bytes: usize,
    events: VecDeque<Arc<FeedEvent>>,
}

/// The feed. Clones are the same.
#[derive(Clone, Debug)]
pub struct EventFeed {
    ring: Arc<Mutex<Ring>>,
    newest: Arc<watch::Sender<u64>>,
    ended: CancellationToken,
}

impl Default for EventFeed {
    fn default() -> Self {
        Self::after(Vec::new(), 0)
    }
}

impl EventFeed {
    /// The feed that goes on after these events of the agents before, oldest first. `started` is the
    /// time of the agent's start, seconds since 1970.
    #[must_use]
    pub fn after(before: Vec<FeedEvent>, started: u64) -> Self {
        let last = before.last().map(|event| event.number);
        let first = before.first().map(|event| event.number);
        let next = last.map_or(0, |last| (last / NUMBERS_OF_SECOND + 1) * NUMBERS_OF_SECOND);
        let newest = next.max(started.saturating_mul(NUMBERS_OF_SECOND));
        let mut ring = Ring {
            newest,
            dropped: first.map_or(newest, |first| first.saturating_sub(1)),
            bytes: 0,
            events: VecDeque::new(),
        };
        before.into_iter().for_each(|event| ring.keep(event));
        Self {
            newest: Arc::new(watch::Sender::new(newest)),
            ring: Arc::new(Mutex::new(ring)),
            ended: CancellationToken::new(),
        }
    }

    /// Takes in the event that `render` makes of its number.
    pub fn push(&self, render: impl FnOnce(u64) -> FeedEvent) {
        let mut ring = lock(&self.ring);
        let event = render(ring.newest + 1);
        ring.newest = event.number;
        ring.keep(event);
        // Within the lock: the number that is told never goes back.
        self.newest.send_replace(ring.newest);
    }

    /// Number of the newest event.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The newest number, whenever there is another one.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Ends every reader that has read what there is, and each that comes.
    pub fn end_readers(&self) {
        self.ended.cancel();
    }

    /// Waits until readers are to end.
    pub async fn readers_end(&self) {
        self.ended.cancelled().await;
    }

    /// At most `max` of the events after a position: the number of an event, or 0 for all that are
    /// kept.
    #[must_use]
    pub fn read(&self, position: u64, max: usize) -> FeedPage {
        let ring = lock(&self.ring);
        let is_known = (ring.dropped..=ring.newest).contains(&position);
        let has_lost = position != 0 && !is_known;
        let position = if position > ring.newest { 0 } else { position };
        let from = ring
            .events
            .partition_point(|event| event.number <= position);
        let events = ring.events.iter().skip(from).take(max).cloned().collect();
        FeedPage { events, has_lost }
    }
}

impl Ring {
    /// Appends an event, in the place of the oldest ones where there are too many.
    fn keep(&mut self, event: FeedEvent) {
        self.bytes += event.data.len();
        self.events.push_back(Arc::new(event));
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            (self.dropped, self.bytes) = (oldest.number, self.bytes - oldest.data.len());
        }
    }
}

#[cfg(test)]
mod tests;
