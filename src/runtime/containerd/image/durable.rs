//! Syncs unpacked files to the disk. containerd does not: after a power cut an image that it calls
//! complete may consist of empty files.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A sync that takes longer is worth a line in the log.
const SLOW: Duration = Duration::from_secs(5);

/// Time for the disk of the images, also with many gigabytes to write.
const ONE_TIMEOUT: Duration = Duration::from_secs(600);

/// Time for all disks of the host: one that has nothing to do with images may hang for ever.
const ALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Syncs of one disk at a time.
const ONE_MAX: usize = 8;

/// Syncs of unpacked files.
#[derive(Debug)]
pub(crate) struct DiskSyncs {
    one: SyncGate,
    all: SyncGate,
}

impl Default for DiskSyncs {
    fn default() -> Self {
        Self {
            one: SyncGate::new(ONE_MAX, ONE_TIMEOUT),
            all: SyncGate::new(1, ALL_TIMEOUT),
        }
    }
}

impl DiskSyncs {
    /// Returns when everything written to the file system of `root` so far is on the disk; where
    /// nobody knows which that is, to any. None is waited for for ever.
    pub(crate) async fn sync(&self, root: Option<PathBuf>) {
        let started = Instant::now();
        let synced = match root {
            Some(root) => self.one.run(move || sync_one(root)).await,
            None => self.all.run(sync_all).await,
        };
        match synced {
            Ok(()) if started.elapsed() > SLOW => {
                tracing::warn!(took = ?started.elapsed(), "unpacked files synced slowly; check the disk");
            }
            Ok(()) => {
                tracing::debug!(took = ?started.elapsed(), "unpacked files synced");
            }
            Err(error) => {
                tracing::warn!(%error, "unpacked files not synced; a power cut may empty them");
            }
        }
    }
}

fn sync_one(root: PathBuf) -> io::Result<()> {
    rustix::fs::syncfs(File::open(root)?).map_err(io::Error::from)
}

fn sync_all() -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Gate to syncs that may hang: so many of them at once, also of those that nobody waits for.
#[derive(Debug)]
struct SyncGate {
    turns: Arc<Semaphore>,
    /// Whether the last one that was waited for did not return in time, nor since.
    hangs: Arc<AtomicBool>,
    most: Duration,
}

impl SyncGate {
    fn new(at_once: usize, most: Duration) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once)),
            hangs: Arc::default(),
            most,
        }
    }

    async fn run<F>(&self, sync: F) -> io::Result<()>
    where
        F: FnOnce() -> io::Result<()> + Send + 'static,
    {
        if self.hangs.load(Ordering::Relaxed) && self.turns.available_permits() == 0 {
            return Err(late(
                "an earlier sync hangs still; look for a mount that hangs",
            ));
        }
        let synced = tokio::time::timeout(self.most, async {
            let turns = Arc::clone(&self.turns);
            let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            let hangs = Arc::clone(&self.hangs);
            let sync = move || {
                let synced = sync();
                hangs.store(false, Ordering::Relaxed);
                drop(turn);
                synced
            };
            tokio::task::spawn_blocking(sync).await?
        });
        synced.await.unwrap_or_else(|_| {
            self.hangs.store(true, Ordering::Relaxed);
            Err(late("it took too long; look for a mount that hangs"))
        })
    }
}

fn late(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_once_and_takes_one_thread() {
        let gate = SyncGate::new(1, Duration::from_millis(50));
        let (wake, hang) = mpsc::channel::<()>();
        let hung = gate.run(move || {
            hang.recv().ok();
            Ok(())
        });
        assert_eq!(hung.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let second = gate.run(|| panic!("it takes a second thread"));
        let told = second.await.unwrap_err().to_string();
        assert!(told.starts_with("an earlier sync hangs still"), "{told}");
        wake.send(()).unwrap();
        let returned = gate.turns.acquire().await.unwrap();
        drop(returned);
        gate.run(|| Ok(())).await.unwrap();
    }
}
