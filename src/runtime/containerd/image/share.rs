//! Share that one pull has of the disks: what it fetched and unpacked, and whether it is to end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;

/// Lack of room on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskLack {
    /// The lack in words, with its remedy.
    pub(crate) text: String,
    /// Whether half of the reserve is gone, too.
    pub(crate) is_grave: bool,
}

/// Layer that a pull unpacks.
#[derive(Debug)]
struct UnpackedLayer {
    /// Snapshot that it is being unpacked into. `None`: it is complete.
    scratch: Option<String>,
    /// Bytes of its files as they were last counted.
    bytes: u64,
}

/// Share that one pull has of the disks.
#[derive(Debug, Default)]
pub(crate) struct PullShare {
    fetched_bytes: AtomicU64,
    /// Whether it has begun to write layers, and hears that it is to end.
    has_begun: AtomicBool,
    /// Layers that it unpacks or unpacked, by chain id.
    layers: Mutex<BTreeMap<String, UnpackedLayer>>,
    /// Whether its size was compared with that of others, and it is ended for it.
    is_weighed: AtomicBool,
    /// Lack for which it is ended, and since when.
    ended: Mutex<Option<(DiskLack, Instant)>>,
    end: Notify,
}

impl PullShare {
    /// Adds to the bytes that were fetched.
    pub(crate) fn add_fetched(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the pull begins to write layers: until then it takes no room, and is ended for
    /// none.
    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Notes that the pull unpacks a layer into this snapshot.
    pub(crate) fn makes(&self, chain_id: &str, scratch: &str) {
        let layer = UnpackedLayer {
            scratch: Some(scratch.to_owned()),
            bytes: 0,
        };
        lock(&self.layers).insert(chain_id.to_owned(), layer);
    }

    /// Notes what a layer takes that is complete, if it was this pull that unpacked it.
    pub(crate) fn made(&self, chain_id: &str, bytes: u64) {
        if let Some(layer) = lock(&self.layers).get_mut(chain_id) {
            *layer = UnpackedLayer {
                scratch: None,
                bytes,
            };
        }
    }

    /// Notes what a layer takes that is being unpacked.
    pub(crate) fn counted(&self, chain_id: &str, bytes: u64) {
        let mut layers = lock(&self.layers);
        let layer = layers.get_mut(chain_id);
        if let Some(layer) = layer.filter(|layer| layer.scratch.is_some()) {
            layer.bytes = bytes;
        }
    }

    /// Bytes that were fetched.
    pub(crate) fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Layers that are being unpacked, and the snapshots that they are unpacked into.
    pub(crate) fn unpacking(&self) -> Vec<(String, String)> {
        let layers = lock(&self.layers);
        let unpacking = layers.iter().filter_map(|(chain_id, layer)| {
            let scratch = layer.scratch.clone()?;
            Some((chain_id.clone(), scratch))
        });
        unpacking.collect()
    }

    /// Bytes of each layer that the pull unpacked, by chain id, as they were last counted.
    pub(crate) fn layer_sizes(&self) -> BTreeMap<String, u64> {
        let layers = lock(&self.layers);
        let sizes = layers.iter();
        sizes.map(|(id, layer)| (id.clone(), layer.bytes)).collect()
    }

    /// Bytes of all of them.
    pub(crate) fn unpacked_bytes(&self) -> u64 {
        let sizes = self.layer_sizes().into_values();
        sizes.fold(0, u64::saturating_add)
    }

    /// Notes that the pull was found to be the largest of several.
    pub(crate) fn weighed(&self) {
        self.is_weighed.store(true, Ordering::Relaxed);
    }

    /// Whether the pull is ended because it is the largest of several, and so was counted.
    pub(crate) fn is_weighed(&self) -> bool {
        self.is_weighed.load(Ordering::Relaxed)
    }

    /// Answers once the pull is to end, and for which lack.
    pub(crate) async fn ended(&self) -> DiskLack {
        loop {
            let told = self.end.notified();
            if let Some((lack, _)) = lock(&self.ended).clone() {
                return lack;
            }
            told.await;
        }
    }

    /// Time at which it was told to end.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        lock(&self.ended).as_ref().map(|(_, at)| *at)
    }

    /// Tells the pull to end.
    pub(crate) fn end(&self, lack: DiskLack) {
        *lock(&self.ended) = Some((lack, Instant::now()));
        self.end.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_of_a_layer_is_kept_once_it_cannot_be() {
        let share = PullShare::default();
        share.makes("base", "scratch 1");
        share.makes("top", "scratch 2");
        share.counted("base", 7);
        share.made("base", 10);
        share.made("another pull's", 99);
        // Told late.
        share.counted("base", 8);
        share.counted("top", 3);
        let unpacking = [("top".to_owned(), "scratch 2".to_owned())];
        assert_eq!(share.unpacking(), unpacking);
        assert_eq!(share.unpacked_bytes(), 13);
        share.makes("top", "scratch 3");
        assert_eq!(share.unpacked_bytes(), 10, "it begins again");
    }
}
