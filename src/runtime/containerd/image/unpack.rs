//! Unpacking of layers into snapshots: one on the other, each checked against the digest its
//! image's configuration promises, and on the disk before containerd is told that it is complete.

use std::collections::HashMap;
use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::types::Mount;
use state::digest::sha256;
use state::failure::Failure;
use state::reason::Reason;

use super::budget::{ImageBudget, ScratchFiles};
use super::room::Room;
use super::share::PullShare;
use crate::oci::descriptor::Descriptor;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::{CallError, ContainerdClient};
use crate::runtime::containerd::rpc::lease::Lease;
use crate::runtime::containerd::rpc::{content, snapshots};

/// Time that unpacking one layer may take, on a slow disk and with a layer of many gigabytes.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1800);

/// Failure to unpack a layer, cut by what the pull does next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The layer's blob in the content store was damaged. It was deleted: fetch it again.
    #[error("the stored blob is damaged")]
    Damaged,
    /// Fetching it again would not help.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Names of the snapshots of a stack of layers, bottom up (OCI image specification, "Layer
/// ChainID").
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = chain.last().map_or_else(
            || diff_id.clone(),
            |below| sha256(format!("{below} {diff_id}").as_bytes()),
        );
        chain.push(id);
    }
    chain
}

/// Whether the layers up to `chain_id` are unpacked.
pub(crate) async fn is_unpacked(
    client: &ContainerdClient,
    chain_id: &str,
) -> Result<bool, RuntimeError> {
    let complete = snapshots::is_complete(client, chain_id).await;
    complete.map_err(|error| error.into_error(Reason::SnapshotFailed, "look for a snapshot"))
}

/// Layer of an image, and its place in the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackedLayer<'a> {
    /// Blob that holds it.
    pub(crate) blob: &'a Descriptor,
    /// Digest of it unpacked.
    pub(crate) diff_id: &'a str,
    /// Snapshot of the layers below; empty: there are none.
    pub(crate) parent: &'a str,
    /// Snapshot that it becomes.
    pub(crate) chain_id: &'a str,
}

/// Unpacks one layer as its snapshot, unless that is there.
///
/// One at a time for each `chain_id`.
pub(crate) async fn layer(
    lease: &Lease,
    (room, share): (&Room, &PullShare),
    layer: StackedLayer<'_>,
    budget: ImageBudget,
) -> Result<(), UnpackError> {
    let client = &lease.client;
    // Kept first, looked for second: between the two nothing can collect it.
    lease.keep_snapshot(layer.chain_id).await?;
    if is_unpacked(client, layer.chain_id).await? {
        return Ok(());
    }
    let scratch = snapshots::scratch_key(layer.chain_id);
    share.makes(layer.chain_id, &scratch);
    let result = into_scratch(client, room, layer, budget, &scratch).await;
    let result = match result {
        Ok(()) => commit(client, &scratch, layer.chain_id)
            .await
            .map_err(UnpackError::from),
        Err(error) => Err(error),
    };
    if result.is_err() {
        snapshots::discard(client, &scratch).await;
    }
    result
}

/// Discards the layers that a pull which has ended unpacked in part.
pub(crate) async fn discard(client: &ContainerdClient, share: &PullShare) {
    for (_, scratch) in share.unpacking() {
        snapshots::discard(client, &scratch).await;
    }
}

async fn into_scratch(
    client: &ContainerdClient,
    room: &Room,
    layer: StackedLayer<'_>,
    budget: ImageBudget,
    scratch: &str,
) -> Result<(), UnpackError> {
    let (blob, diff_id) = (layer.blob, layer.diff_id);
    let mounts = snapshots::prepare(client, scratch, layer.parent, HashMap::new())
        .await
        .map_err(|error| error.into_error(Reason::SnapshotFailed, "prepare a snapshot"))?;
    let files = ScratchFiles {
        room,
        client,
        key: scratch,
    };
    // containerd stops to write when it is no longer waited for.
    let applied = tokio::select! {
        applied = apply(client, blob, mounts) => applied?,
        error = budget.exceeded(files) => return Err(error.into()),
    };
    if applied != diff_id {
        drop_damaged(client, blob).await?;
        let message = format!(
            "layer {} unpacks to {applied}, but the image's configuration promises {diff_id}",
            blob.digest
        );
        return Err(RuntimeError::failed(Reason::DigestMismatch, message).into());
    }
    room.syncs.sync(room.snapshots_dir(client).await).await;
    Ok(())
}

/// Unpacks a blob into `mounts`, and answers the digest of what came out.
async fn apply(
    client: &ContainerdClient,
    blob: &Descriptor,
    mounts: Vec<Mount>,
) -> Result<String, UnpackError> {
    let mut wire = content::to_wire(blob);
    if wire.media_type.ends_with(".tar.zstd") {
        // containerd knows this packing by its OCI name only.
        wire.media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
    }
    let request = api::ApplyRequest {
        diff: Some(wire),
        mounts,
        ..api::ApplyRequest::default()
    };
    let mut diff = client.diff();
    match tokio::time::timeout(APPLY_TIMEOUT, diff.apply(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner().applied.unwrap_or_default().digest),
        Ok(Err(status)) => Err(explain(client, blob, status.into()).await),
        Err(_) => {
            let message = format!(
                "unpacking a layer timed out after {} s",
                APPLY_TIMEOUT.as_secs()
            );
            Err(RuntimeError::Unavailable(message).into())
        }
    }
}

/// Error for a layer that cannot be unpacked: it is damaged on this disk, or was made so.
async fn explain(client: &ContainerdClient, blob: &Descriptor, error: CallError) -> UnpackError {
    let error = error.into_error(Reason::ImageLayerInvalid, "unpack a layer");
    let RuntimeError::Failed(Failure {
        reason: Reason::ImageLayerInvalid,
        message,
        ..
    }) = error
    else {
        return error.into();
    };
    match drop_damaged(client, blob).await {
        Err(error) => error,
        Ok(()) => RuntimeError::failed(
            Reason::ImageLayerInvalid,
            format!("layer {} cannot be unpacked: {message}", blob.digest),
        )
        .into(),
    }
}

async fn drop_damaged(client: &ContainerdClient, blob: &Descriptor) -> Result<(), UnpackError> {
    if content::is_intact(client, &blob.digest).await? {
        return Ok(());
    }
    tracing::warn!(
        digest = blob.digest,
        "layer in containerd's content store is damaged; fetching it again"
    );
    content::discard(client, &blob.digest).await?;
    Err(UnpackError::Damaged)
}

async fn commit(
    client: &ContainerdClient,
    scratch: &str,
    chain_id: &str,
) -> Result<(), RuntimeError> {
    match snapshots::commit(client, scratch, chain_id).await {
        Ok(()) => Ok(()),
        // Another unpacking was quicker; its snapshot is as good.
        Err(CallError::AlreadyExists) => {
            snapshots::discard(client, scratch).await;
            Ok(())
        }
        Err(error) => Err(error.into_error(Reason::SnapshotFailed, "complete a snapshot")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_depends_on_every_layer_below() {
        let diff = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let chain = chain_ids(&[diff("a"), diff("b"), diff("c")]);
        let second = sha256(format!("{} {}", diff("a"), diff("b")).as_bytes());
        assert_eq!(
            chain,
            [
                diff("a"),
                second.clone(),
                sha256(format!("{second} {}", diff("c")).as_bytes())
            ]
        );
        assert!(chain_ids(&[]).is_empty());
    }
}
