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
pub const EVENTS_MAX: usize = 2048;
/// Distance between the numbers of two starts of the agent. The number of an event that a power cut
/// took from the disk, and that a reader knows, is never another event's.
const NUMBERS_OF_START: u64 = 1_000_000;

/// Event, as its readers are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// Number: it only grows, also over a restart of the agent, and not always by one.
    pub number: u64,
    /// Word of the kind.
    pub kind: Box<str>,
    /// Container that it is about. `None`: the node.
    pub container: Option<(ContainerId, Option<ContainerName>)>,
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
        Self::after(Vec::new())
    }
}

impl EventFeed {
    /// The feed that goes on after these events of the agents before, oldest first.
    #[must_use]
    pub fn after(mut before: Vec<FeedEvent>) -> Self {
        before.drain(..before.len().saturating_sub(EVENTS_MAX));
        let last = before.last().map_or(0, |event| event.number);
        let first = before.first().map(|event| event.number);
        let newest = match last {
            0 => 0,
            last => (last / NUMBERS_OF_START + 1) * NUMBERS_OF_START,
        };
        let ring = Ring {
            newest,
            dropped: first.map_or(0, |first| first.saturating_sub(1)),
            events: before.into_iter().map(Arc::new).collect(),
        };
        Self {
            newest: Arc::new(watch::Sender::new(newest)),
            ended: CancellationToken::new(),
            ring: Arc::new(Mutex::new(ring)),
        }
    }

    /// Takes in the event that `render` makes of its number.
    pub fn push(&self, render: impl FnOnce(u64) -> FeedEvent) {
        let mut ring = lock(&self.ring);
        let event = render(ring.newest + 1);
        ring.newest = event.number;
        if ring.events.len() == EVENTS_MAX
            && let Some(oldest) = ring.events.pop_front()
        {
            ring.dropped = oldest.number;
        }
        ring.events.push_back(Arc::new(event));
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

    /// At most `max` of the events after a position: the number of an event, or 0.
    #[must_use]
    pub fn read(&self, position: u64, max: usize) -> FeedPage {
        let ring = lock(&self.ring);
        let has_lost = position < ring.dropped || position > ring.newest;
        let position = if position > ring.newest { 0 } else { position };
        let from = ring
            .events
            .partition_point(|event| event.number <= position);
        let events = ring.events.iter().skip(from).take(max).cloned().collect();
        FeedPage { events, has_lost }
    }
}

#[cfg(test)]
mod tests;
