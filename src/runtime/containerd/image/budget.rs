//! Bytes that an image may take on the disk once it is unpacked. What its archives promise counts
//! for nothing; what they write does.

use std::future;
use std::time::Duration;

use state::quantity::ByteCount;
use state::reason::Reason;

use super::room::Room;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::ContainerdClient;
use crate::runtime::containerd::rpc::snapshots;

/// Time between two looks at the disk.
const LOOK: Duration = Duration::from_millis(500);

/// Time until files are counted again that were found not to be what filled the disk: to count them
/// is to walk through all of them.
const COUNT: Duration = Duration::from_secs(10);

/// Remainder of the bytes that an image may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageBudget {
    bytes_max: u64,
    left: u64,
}

impl ImageBudget {
    /// Budget of an image of which nothing is unpacked.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            left: bytes_max,
        }
    }

    /// Takes the bytes of a layer away.
    ///
    /// # Errors
    /// [`Reason::ImageTooLarge`]: they are more than were left.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), RuntimeError> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| self.over())?;
        Ok(())
    }

    /// Answers once the files of a layer that is being unpacked take more than is left.
    pub(crate) async fn exceeded(self, scratch: ScratchFiles<'_>) -> RuntimeError {
        outgrown(self.left, &scratch).await;
        self.over()
    }

    fn over(self) -> RuntimeError {
        let most = ByteCount(self.bytes_max);
        let message = format!(
            "the image takes more than {most} on the disk once it is unpacked, which is image.max_unpacked"
        );
        RuntimeError::failed(Reason::ImageTooLarge, message)
    }
}

/// Files that grow on a disk.
trait GrowingFiles {
    /// Free bytes of the disk. `None`: nobody can tell.
    fn free_bytes(&self) -> impl Future<Output = Option<u64>> + Send;

    /// Bytes of the files; 0 where they cannot be counted.
    fn count(&self) -> impl Future<Output = u64> + Send;
}

/// Files of a layer that is being unpacked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScratchFiles<'a> {
    pub(crate) room: &'a Room,
    pub(crate) client: &'a ContainerdClient,
    /// Key of the snapshot.
    pub(crate) key: &'a str,
}

impl GrowingFiles for ScratchFiles<'_> {
    async fn free_bytes(&self) -> Option<u64> {
        self.room.free_bytes(self.client).await
    }

    async fn count(&self) -> u64 {
        match snapshots::usage(self.client, self.key).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(?error, "files of a layer not counted");
                0
            }
        }
    }
}

/// Returns once the files take more than `left`. The disk tells when to count them, and they alone
/// who filled it: another writer there is not the image's affair.
async fn outgrown(left: u64, files: &impl GrowingFiles) {
    let Some(begun) = files.free_bytes().await else {
        return future::pending().await;
    };
    loop {
        tokio::time::sleep(LOOK).await;
        let now = files.free_bytes().await.unwrap_or(begun);
        if begun.saturating_sub(now) <= left {
            continue;
        }
        if files.count().await > left {
            return;
        }
        tokio::time::sleep(COUNT).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// A layer that writes `own` bytes in a second, beside others that write `others`.
    struct Writers {
        began: Instant,
        own: u64,
        others: u64,
        counts: AtomicU32,
        is_seen: bool,
    }

    impl GrowingFiles for Writers {
        async fn free_bytes(&self) -> Option<u64> {
            let written = self.began.elapsed().as_secs() * (self.own + self.others);
            self.is_seen.then_some(1_000_000 - written)
        }

        async fn count(&self) -> u64 {
            self.counts.fetch_add(1, Ordering::Relaxed);
            self.began.elapsed().as_secs() * self.own
        }
    }

    /// Seconds after which a layer is found to have outgrown 100 bytes, within a minute, and the
    /// times that it was counted.
    async fn found(own: u64, others: u64, is_seen: bool) -> (Option<u64>, u32) {
        let began = Instant::now();
        let counts = AtomicU32::new(0);
        let files = Writers {
            began,
            own,
            others,
            counts,
            is_seen,
        };
        let minute = Duration::from_secs(60);
        let found = tokio::time::timeout(minute, outgrown(100, &files)).await;
        let counts = files.counts.into_inner();
        (found.ok().map(|()| began.elapsed().as_secs()), counts)
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_outgrows_its_budget_is_found_and_another_writer_is_not_blamed() {
        assert_eq!(found(60, 0, true).await, (Some(2), 1));
        assert_eq!(
            found(1, 0, true).await,
            (None, 0),
            "it is not counted in vain"
        );
        let (found_at, counts) = found(1, 60, true).await;
        assert_eq!(found_at, None);
        assert!((2..=6).contains(&counts), "{counts}");
        let (found_at, _) = found(9, 60, true).await;
        assert!(
            (12..=23).contains(&found_at.unwrap()),
            "beside another writer"
        );
        assert_eq!(found(60, 0, false).await, (None, 0), "nobody can tell");
    }

    #[test]
    fn layers_are_summed() {
        let mut budget = ImageBudget::new(10);
        budget.take(4).unwrap();
        budget.take(6).unwrap();
        let over = budget.take(1).unwrap_err().to_string();
        assert!(over.contains("image.max_unpacked"), "{over}");
    }
}
