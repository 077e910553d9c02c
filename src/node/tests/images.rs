//! Images that nobody used when they were listed, and that somebody uses when they are removed.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::reference::ImageReference;
use tokio::sync::{Notify, oneshot};

use super::super::images::{FetchOrder, ImageStore};
use super::*;
use crate::api::NodeImages;
use crate::runtime::{RuntimeError, StoredImage};

/// Images of which the first is removed once it is let go on.
#[derive(Debug, Default)]
struct SlowImages {
    images: Vec<StoredImage>,
    is_asked: Notify,
    goes_on: Notify,
    collections: AtomicUsize,
}

impl ImageStore for Arc<SlowImages> {
    fn stored(&self) -> BoxFuture<'_, Result<Vec<StoredImage>, RuntimeError>> {
        async { Ok(self.images.clone()) }.boxed()
    }

    fn discard<'a>(
        &'a self,
        digest: &'a str,
        _: &'a [String],
        obstacle: &'a (dyn Fn(StoredImage) -> Option<String> + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<String>, RuntimeError>> {
        async move {
            if self.images[0].digest == digest {
                self.is_asked.notify_one();
                self.goes_on.notified().await;
            }
            let mut found = self.images.iter();
            let now = found.find(|image| image.digest == digest).unwrap();
            Ok(obstacle(now.clone()))
        }
        .boxed()
    }

    fn collect(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.collections.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }.boxed()
    }

    fn collect_later(&self) {
        self.collections.fetch_add(1, Ordering::Relaxed);
    }

    fn begin(&self, _: FetchOrder) -> oneshot::Receiver<Result<String, RuntimeError>> {
        oneshot::channel().1
    }
}

fn image(name: &str) -> StoredImage {
    let name = name.parse::<ImageReference>().unwrap().to_string();
    StoredImage {
        digest: format!("digest of {name}"),
        names: vec![name],
        managed: true,
        ..StoredImage::default()
    }
}

#[tokio::test]
async fn an_image_that_came_into_use_after_the_list_is_left_and_the_rest_goes_in_one_collection() {
    let mut agent = agent().await;
    while agent.node.writer.store().desired().may_lack_records() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let made = StoredImage {
        made: ["old".parse().unwrap()].into(),
        ..image("zz-made")
    };
    let images = Arc::new(SlowImages {
        images: vec![image("nginx"), image("other"), image("third"), made],
        ..SlowImages::default()
    });
    let node = Arc::get_mut(&mut agent.node).unwrap();
    node.image_store = Some(Arc::new(Arc::clone(&images)));
    let node = &agent.node;
    let listed = NodeImages::images(node.as_ref()).await.unwrap();
    let used = |view: &&crate::view::ImageView| view.obstacle().is_some();
    assert_eq!(listed.iter().filter(used).count(), 1, "{listed:?}");
    let meanwhile = async {
        images.is_asked.notified().await;
        let deployed = node.deploy(ExpectedTag::Any, deploy("web", "nginx"), false);
        deployed.await.unwrap();
        images.goes_on.notify_one();
    };
    let (pruned, ()) = tokio::join!(node.prune_images(false, false), meanwhile);
    let pruned: Vec<_> = pruned.unwrap().into_iter().map(|one| one.digest).collect();
    assert_eq!(pruned, [image("other").digest, image("third").digest]);
    assert_eq!(images.collections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_was_removed_for_a_caller_that_went_away_is_collected_all_the_same() {
    let mut agent = agent().await;
    while agent.node.writer.store().desired().may_lack_records() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let images = Arc::new(SlowImages {
        images: vec![image("slow"), image("first")],
        ..SlowImages::default()
    });
    let node = Arc::get_mut(&mut agent.node).unwrap();
    node.image_store = Some(Arc::new(Arc::clone(&images)));
    let count = || images.collections.load(Ordering::Relaxed);
    tokio::select! {
        _ = agent.node.prune_images(false, false) => panic!("it waits for the slow one"),
        () = images.is_asked.notified() => {}
    }
    assert_eq!(count(), 1);
}
