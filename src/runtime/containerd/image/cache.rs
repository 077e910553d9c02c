//! Facts about images that spare calls to containerd, and that keep a sweep from what is in use;
//! lost with the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::local::LocalImage;
use crate::lock::lock;

/// Images cached: more than a node runs. One that is not costs three small reads.
const IMAGES_MAX: usize = 128;

/// Digests asked for within [`GRACE`]; beyond that a sweep may take one that has to be pulled
/// again.
const ASKED_MAX: usize = 4096;

/// An image asked for less long ago is kept by a sweep: its container may not have been listed yet.
const GRACE: Duration = Duration::from_secs(600);

/// Cache of the images of one containerd namespace.
#[derive(Debug, Default)]
pub(crate) struct ImageCache(Mutex<CachedImages>);

#[derive(Debug, Default)]
struct CachedImages {
    /// By root digest.
    images: HashMap<String, Arc<LocalImage>>,
    /// Time when each digest was last asked for.
    asked: HashMap<String, Instant>,
    /// Tags of leases whose pulls are under way.
    pulling: Vec<String>,
}

/// Mark of a pull under way, which ends with this value.
#[derive(Debug)]
pub(crate) struct PullMark<'a>(&'a ImageCache, String);

impl Drop for PullMark<'_> {
    fn drop(&mut self) {
        self.0.lock().pulling.retain(|tag| *tag != self.1);
    }
}

impl ImageCache {
    fn lock(&self) -> MutexGuard<'_, CachedImages> {
        lock(&self.0)
    }

    /// Image under a root digest; `None`: it is not cached.
    pub(crate) fn get(&self, digest: &str) -> Option<Arc<LocalImage>> {
        self.lock().images.get(digest).cloned()
    }

    /// Adds an image.
    pub(crate) fn insert(&self, image: LocalImage) -> Arc<LocalImage> {
        let image = Arc::new(image);
        let mut cached = self.lock();
        if cached.images.len() >= IMAGES_MAX {
            cached.images.clear();
        }
        cached
            .images
            .insert(image.digest.clone(), Arc::clone(&image));
        image
    }

    /// Drops an image, so that the next look for it asks containerd.
    pub(crate) fn invalidate(&self, digest: &str) {
        self.lock().images.remove(digest);
    }

    /// Notes that an image was asked for now.
    pub(crate) fn note_asked(&self, digest: &str) {
        let mut cached = self.lock();
        if cached.asked.len() >= IMAGES_MAX {
            cached.asked.retain(|_, at| at.elapsed() < GRACE);
        }
        if cached.asked.len() >= ASKED_MAX {
            cached.asked.clear();
        }
        cached.asked.insert(digest.to_owned(), Instant::now());
    }

    /// Whether an image was asked for less than [`GRACE`] ago.
    pub(crate) fn is_recent(&self, digest: &str) -> bool {
        self.lock()
            .asked
            .get(digest)
            .is_some_and(|at| at.elapsed() < GRACE)
    }

    /// Marks the pull with the lease tag `tag` as under way.
    pub(crate) fn mark_pull(&self, tag: String) -> PullMark<'_> {
        self.lock().pulling.push(tag.clone());
        PullMark(self, tag)
    }

    /// Whether a pull with the lease tag `tag` is under way.
    pub(crate) fn is_pulling(&self, tag: &str) -> bool {
        self.lock().pulling.iter().any(|other| other == tag)
    }
}
