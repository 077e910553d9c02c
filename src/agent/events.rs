//! The feed of events from the first moment of the agent to the last.

use std::time::{Duration, SystemTime};

use state::event::EventKind;
use state::time::unix_ms;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::feed::{self, EventFeed, FeedFiles};
use crate::journal::Journal;

/// Time for the last events to come to the disk.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The feed, and the task that writes it to the disk.
pub(super) struct KeptFeed {
    pub(super) feed: EventFeed,
    end: CancellationToken,
    writing: TaskTracker,
}

impl KeptFeed {
    /// The feed, which goes on where the agent before ended.
    pub(super) async fn open(config: &Config) -> Self {
        let directory = config.state.dir.join(feed::DIRECTORY);
        let opened = tokio::task::spawn_blocking(move || FeedFiles::open(&directory)).await;
        let (files, before) = opened.expect("events are read without a panic");
        let now = unix_ms(SystemTime::now()) / 1000;
        let (feed, end) = (EventFeed::after(before, now), CancellationToken::new());
        let writing = TaskTracker::new();
        writing.spawn(files.follow(feed.clone(), feed.newest(), end.clone()));
        writing.close();
        Self { feed, end, writing }
    }

    /// Waits until the last events are written.
    pub(super) async fn end(self) {
        self.end.cancel();
        if tokio::time::timeout(LAST_WORDS, self.writing.wait())
            .await
            .is_err()
        {
            tracing::warn!("the last events are not on the disk");
        }
    }
}

/// Tells that the agent has started, and when it is asked to stop; that ends every reader.
pub(super) fn tell_of_life(journal: Journal, stop: CancellationToken, tracker: &TaskTracker) {
    journal.record(EventKind::AgentStarted {
        version: env!("CARGO_PKG_VERSION"),
    });
    tracker.spawn(async move {
        stop.cancelled().await;
        journal.record(EventKind::AgentStopping);
        journal.feed().end_readers();
    });
}
