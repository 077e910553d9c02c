//! Contents of a spec: readable as they come in, and kept beside the record from the store's door on.

use std::fmt;

use crate::blobs::BlobTag;

/// Content that is readable. It is never stored, and shown nowhere.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content(Option<Vec<u8>>);

impl Content {
    /// A readable content.
    #[must_use]
    pub const fn readable(bytes: Vec<u8>) -> Self {
        Self(Some(bytes))
    }

    /// The bytes. `None`: they are not here.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_ref().map(Vec::len);
        write!(f, "Content({bytes:?} bytes)")
    }
}

/// A reference to a content, which the store's door gives.
pub type ContentTag = Option<BlobTag>;
