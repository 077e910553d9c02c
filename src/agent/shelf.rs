//! Images of the node, for whoever asks whether one is there to be gone back to.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::reference::ImageReference;

use crate::node::rollback::ImageShelf;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::image::Images;

/// Images as containerd has them.
#[derive(Clone, Debug)]
pub(super) struct LocalShelf(pub(super) Images);

impl ImageShelf for LocalShelf {
    fn has<'a>(
        &'a self,
        reference: &'a ImageReference,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        async move {
            // What is known may have been removed since.
            self.0.invalidate(digest);
            match self.0.local(reference, digest).await {
                Ok(_) => Ok(true),
                Err(RuntimeError::ImageLost(_)) => Ok(false),
                Err(error) => Err(error.to_string()),
            }
        }
        .boxed()
    }
}
