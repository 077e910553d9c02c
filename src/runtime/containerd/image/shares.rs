//! Pulls under way and what each took of the disks. When one of these has no more room, the largest
//! pull ends for the others: had each to end itself, none would ever be complete.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex as Turnstile;
use tokio::time::Instant;

use super::share::{DiskLack, PullShare};
use crate::lock::lock;

/// Time for an ended pull to give its room back, until the next one is ended.
const GIVES_BACK: Duration = Duration::from_secs(30);

/// The same where half of the reserve is gone.
const GIVES_BACK_GRAVE: Duration = Duration::from_millis(500);

/// Time between two looks at an ended pull.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of a pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PullSize {
    /// Packed layers.
    pub(crate) blobs: u64,
    /// Unpacked ones.
    pub(crate) files: u64,
}

/// Disks that pulls write to.
pub(crate) trait PulledDisks {
    /// Lack of room, and the time after which to look again.
    fn lack(&self) -> impl Future<Output = (Option<DiskLack>, Duration)> + Send;

    /// Bytes that a pull took so far.
    fn size(&self, pull: &PullShare) -> impl Future<Output = PullSize> + Send;
}

/// Pulls under way on a node.
#[derive(Debug, Default)]
pub(crate) struct PullShares {
    under_way: Mutex<BTreeMap<u64, Arc<PullShare>>>,
    entered: AtomicU64,
    /// Turn to say which pull ends.
    turn: Turnstile<()>,
}

/// Pull under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct EnteredPull<'a> {
    shares: &'a PullShares,
    id: u64,
    share: Arc<PullShare>,
}

impl Deref for EnteredPull<'_> {
    type Target = PullShare;

    fn deref(&self) -> &PullShare {
        &self.share
    }
}

impl Drop for EnteredPull<'_> {
    fn drop(&mut self) {
        lock(&self.shares.under_way).remove(&self.id);
    }
}

impl PullShares {
    /// Adds a pull, as long as the answer lives: past the time at which it gave its room back.
    pub(crate) fn enter(&self) -> EnteredPull<'_> {
        let share = Arc::<PullShare>::default();
        let id = self.entered.fetch_add(1, Ordering::Relaxed);
        lock(&self.under_way).insert(id, Arc::clone(&share));
        let shares = self;
        EnteredPull { shares, id, share }
    }

    /// Answers once there is too little room, and it is this pull that has to end for it.
    pub(crate) async fn ended(&self, pull: &PullShare, disks: &impl PulledDisks) -> DiskLack {
        tokio::select! {
            lack = pull.ended() => lack,
            never = self.keep_room(disks) => match never {},
        }
    }

    async fn keep_room(&self, disks: &impl PulledDisks) -> Infallible {
        loop {
            let (lack, pause) = disks.lack().await;
            if lack.is_some() {
                let _turn = self.turn.lock().await;
                self.make_room(disks).await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Ends one pull after the other until there is room, or none is left.
    async fn make_room(&self, disks: &impl PulledDisks) {
        loop {
            let (Some(lack), _) = disks.lack().await else {
                return;
            };
            let gives_back = if lack.is_grave {
                GIVES_BACK_GRAVE
            } else {
                GIVES_BACK
            };
            let (ended, left) = self.ended_and_left();
            if ended.is_some_and(|at| at.elapsed() < gives_back) {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let Some(largest) = largest(left, disks).await else {
                return;
            };
            largest.end(lack);
        }
    }

    /// Time of the last pull's end that has not given its room back yet, and the pulls that go on
    /// and hear it.
    fn ended_and_left(&self) -> (Option<Instant>, Vec<Arc<PullShare>>) {
        let under_way = lock(&self.under_way);
        let ended = under_way.values().filter_map(|pull| pull.ended_at()).max();
        let begun = under_way.values().filter(|pull| pull.has_begun());
        let left = begun.filter(|pull| pull.ended_at().is_none());
        (ended, left.cloned().collect())
    }
}

/// The largest of these pulls.
async fn largest(
    mut pulls: Vec<Arc<PullShare>>,
    disks: &impl PulledDisks,
) -> Option<Arc<PullShare>> {
    if pulls.len() < 2 {
        return pulls.pop();
    }
    let sizes = join_all(pulls.iter().map(|pull| disks.size(pull))).await;
    let bytes = sizes
        .iter()
        .map(|size| size.blobs.saturating_add(size.files));
    let largest = bytes.zip(pulls).max_by_key(|(bytes, _)| *bytes);
    largest.map(|(_, pull)| {
        pull.weighed();
        pull
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of so many bytes, of which a tenth is to be left free.
    struct Disk<'a> {
        bytes: u64,
        pulls: &'a PullShares,
        /// Bytes of another writer.
        other: u64,
    }

    impl PulledDisks for Disk<'_> {
        async fn lack(&self) -> (Option<DiskLack>, Duration) {
            let pulls = lock(&self.pulls.under_way);
            let taken: u64 = pulls.values().map(|pull| pull.fetched_bytes()).sum();
            let (free, keeps) = (
                self.bytes.saturating_sub(taken + self.other),
                self.bytes / 10,
            );
            let lack = (free < keeps).then(|| DiskLack {
                text: format!("{free} free"),
                is_grave: free < keeps / 2,
            });
            (lack, Duration::from_millis(10))
        }

        async fn size(&self, pull: &PullShare) -> PullSize {
            let blobs = pull.fetched_bytes();
            PullSize { blobs, files: 0 }
        }
    }

    /// Bytes that were fetched of an image of so many, at a byte each 10 ms, and whether it is
    /// complete. What is ended gives its room back after a second; what is complete keeps it.
    async fn pull(pulls: &PullShares, disk: &Disk<'_>, bytes: u64) -> (u64, bool) {
        let pull = pulls.enter();
        pull.begin();
        let fetch = async {
            for _ in 0..bytes {
                tokio::time::sleep(Duration::from_millis(10)).await;
                pull.add_fetched(1);
            }
        };
        let complete = tokio::select! {
            () = fetch => true,
            _ = pulls.ended(&pull, disk) => false,
        };
        let fetched = pull.fetched_bytes();
        if complete {
            tokio::time::sleep(Duration::from_secs(60)).await;
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        (fetched, complete)
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_pull_ends_and_the_others_become_complete() {
        let pulls = PullShares::default();
        let disk = |bytes, other| Disk {
            bytes,
            pulls: &pulls,
            other,
        };
        let all = disk(2000, 0);
        let (large, small, tiny) = tokio::join!(
            async {
                let begun = pulls.enter();
                begun.begin();
                begun.add_fetched(100);
                let large = pull(&pulls, &all, 5000).await;
                drop(begun);
                large
            },
            async {
                // It is the smaller of the two at every look.
                tokio::time::sleep(Duration::from_secs(1)).await;
                pull(&pulls, &all, 800).await
            },
            pull(&pulls, &all, 300),
        );
        assert!(!large.1 && large.0 >= 600, "{large:?}");
        assert_eq!([small, tiny], [(800, true), (300, true)]);
        // Room that somebody else took: all of them end.
        let full = disk(2000, 1900);
        let (a, b) = tokio::join!(pull(&pulls, &full, 500), pull(&pulls, &full, 400));
        assert!(!a.1 && !b.1, "{a:?} {b:?}");
        assert!(lock(&pulls.under_way).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_cancelled_while_it_makes_room_holds_up_nobody() {
        let pulls = PullShares::default();
        let disk = Disk {
            bytes: 100,
            pulls: &pulls,
            other: 0,
        };
        let (kept, gone) = (pulls.enter(), pulls.enter());
        kept.begin();
        gone.begin();
        kept.add_fetched(40);
        gone.add_fetched(55);
        let cancelled = tokio::time::timeout(Duration::ZERO, pulls.ended(&kept, &disk));
        assert!(cancelled.await.is_err());
        let lack = pulls.ended(&gone, &disk).await;
        assert_eq!(lack.text, "5 free");
        assert!(gone.is_weighed() && !kept.is_weighed());
        drop(gone);
        let ended = tokio::time::timeout(Duration::from_secs(60), pulls.ended(&kept, &disk));
        assert!(ended.await.is_err(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_has_not_begun_to_write_is_not_ended() {
        let pulls = PullShares::default();
        let full = Disk {
            bytes: 100,
            pulls: &pulls,
            other: 100,
        };
        let waiting = pulls.enter();
        let (_, is_complete) = pull(&pulls, &full, 500).await;
        assert!(!is_complete);
        waiting.begin();
        let roomy = Disk { other: 0, ..full };
        let ended = tokio::time::timeout(Duration::from_secs(60), pulls.ended(&waiting, &roomy));
        assert!(ended.await.is_err(), "there is room by now");
    }
}
