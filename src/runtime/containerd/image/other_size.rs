//! Failure of a layer that has another size at its registry than its image's manifest says.

use state::failure::Failure;
use state::reason::Reason;

use crate::oci::descriptor::Descriptor;
use crate::registry::BlobBody;

/// Bytes behind the promised end of a layer that are read, to tell how many there are.
const SURPLUS_BYTES_MAX: u64 = 1 << 20;

/// Failure of a layer of which `sent` bytes, more than promised, came, and the rest is in `body`.
pub(super) async fn longer(blob: &Descriptor, sent: u64, body: &mut BlobBody<'_>) -> Failure {
    // The source is not asked first by the next try.
    let host = body.blame();
    match surplus(body).await {
        Some(more) => failure(&host, blob, sent + more, ""),
        None => failure(&host, blob, sent + SURPLUS_BYTES_MAX, "at least "),
    }
}

/// Failure of a layer that has `sent` bytes at `host`.
pub(super) fn failure(host: &str, blob: &Descriptor, sent: u64, at_least: &str) -> Failure {
    Failure::new(
        Reason::DigestMismatch,
        format!(
            "layer {} has {at_least}{sent} bytes at registry {host}, and the image's manifest says {}; push the image again",
            blob.digest, blob.size
        ),
    )
}

/// Bytes that are still to come; `None`: more than are worth counting.
async fn surplus(body: &mut BlobBody<'_>) -> Option<u64> {
    let mut bytes = 0;
    while let Ok(Some(chunk)) = body.next().await {
        bytes += chunk.len() as u64;
        if bytes > SURPLUS_BYTES_MAX {
            return None;
        }
    }
    Some(bytes)
}
