//! Descriptor of a blob (OCI image specification, "Content Descriptors").

/// Blob by its digest, size and media type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Kind of the bytes.
    pub(crate) media_type: String,
    /// Digest: `sha256:` and 64 hex digits.
    pub(crate) digest: String,
    /// Size in bytes.
    pub(crate) size: u64,
}
