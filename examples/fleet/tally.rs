//! Counters of calls by second, and of the nodes that have a change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Time after which a change that has not reached all nodes counts as lost.
const REACHED_TIMEOUT: Duration = Duration::from_secs(120);

/// Kind of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Register,
    Report,
    Poll,
}

/// Number of calls in a span of time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallCounts {
    pub(crate) reports: u64,
    pub(crate) polls: u64,
    pub(crate) total: u64,
}

/// Counters that all nodes share.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) nodes: usize,
    begun: Instant,
    /// Calls that reached the server, by second since the start: registrations, reports, polls.
    seconds: Mutex<Vec<[u32; 3]>>,
    /// Times at which nodes got a generation, in order.
    generations: Mutex<BTreeMap<u64, Vec<Instant>>>,
    progress: Notify,
    /// Time of the first answer to each node since [`Tally::reset_first_answers`].
    first: Mutex<Vec<Option<Instant>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    pub(crate) fn new(nodes: usize) -> Arc<Self> {
        Arc::new(Self {
            nodes,
            begun: Instant::now(),
            seconds: Mutex::default(),
            generations: Mutex::default(),
            progress: Notify::new(),
            first: Mutex::new(vec![None; nodes]),
        })
    }

    /// Counts a call that reached the server at this time.
    pub(crate) fn called(&self, call: Call, at: Instant) {
        let second = usize::try_from(at.duration_since(self.begun).as_secs()).unwrap_or(usize::MAX);
        let mut seconds = lock(&self.seconds);
        if seconds.len() <= second {
            seconds.resize(second + 1, [0; 3]);
        }
        seconds[second][call as usize] += 1;
    }

    /// Records that a node's report was answered.
    pub(crate) fn answered(&self, node: usize, at: Instant) {
        lock(&self.first)[node].get_or_insert(at);
    }

    /// Clears the times of first answers, before they are recorded again.
    pub(crate) fn reset_first_answers(&self) {
        lock(&self.first).fill(None);
    }

    /// Records that a node has this generation.
    pub(crate) fn has(&self, generation: u64) {
        let mut generations = lock(&self.generations);
        let reached = generations.entry(generation).or_default();
        reached.push(Instant::now());
        if reached.len() == self.nodes {
            self.progress.notify_waiters();
        }
    }

    /// Waits until all nodes have this generation. Returns how long after `since` half of them had
    /// it, and all.
    pub(crate) async fn reached(
        &self,
        generation: u64,
        since: Instant,
    ) -> anyhow::Result<(Duration, Duration)> {
        let all = async {
            loop {
                let progress = self.progress.notified();
                if let Some(reached) = lock(&self.generations).get(&generation)
                    && let [.., last] = reached[..]
                    && reached.len() == self.nodes
                {
                    return (
                        reached[self.nodes / 2].duration_since(since),
                        last.duration_since(since),
                    );
                }
                progress.await;
            }
        };
        let had = || lock(&self.generations).get(&generation).map_or(0, Vec::len);
        tokio::time::timeout(REACHED_TIMEOUT, all)
            .await
            .with_context(|| {
                format!(
                    "generation {generation} reached {} of {} nodes",
                    had(),
                    self.nodes
                )
            })
    }

    fn window(&self, from: Instant, length: Duration) -> Vec<[u32; 3]> {
        let first =
            usize::try_from(from.duration_since(self.begun).as_secs()).unwrap_or(usize::MAX);
        let count = usize::try_from(length.as_secs()).unwrap_or(usize::MAX);
        lock(&self.seconds)
            .iter()
            .skip(first)
            .take(count)
            .copied()
            .collect()
    }

    pub(crate) fn calls(&self, from: Instant, length: Duration) -> CallCounts {
        let mut calls = CallCounts::default();
        for [registers, reports, polls] in self.window(from, length) {
            calls.reports += u64::from(reports);
            calls.polls += u64::from(polls);
            calls.total += u64::from(registers + reports + polls);
        }
        calls
    }

    /// The largest number of calls in one second.
    pub(crate) fn peak(&self, from: Instant, length: Duration) -> u32 {
        self.window(from, length)
            .iter()
            .map(|counts| counts.iter().sum())
            .max()
            .unwrap_or(0)
    }

    /// The time from `since` until the last node was answered. `None`: a node was not.
    pub(crate) fn all_back(&self, since: Instant) -> Option<Duration> {
        let first: Option<Vec<Instant>> = lock(&self.first).iter().copied().collect();
        first?
            .into_iter()
            .max()
            .map(|last| last.duration_since(since))
    }
}
