//! Turns layers into snapshots: one on the other, each checked against the digest its image's configuration promises,
//! and on the disk before containerd is told that it is complete.

use std::collections::HashMap;
use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshots_api;
use state::digest::sha256;
use state::failure::Failure;
use state::reason::Reason;
use uuid::Uuid;

use super::client::{CallError, Client, quick};
use super::content;
use super::durable::Durable;
use super::lease::Lease;
use crate::oci::descriptor::Descriptor;
use crate::runtime::RuntimeError;

/// The snapshotter that everything of ours lies in.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

/// Unpacking one layer may take this long, on a slow disk and with a layer of many gigabytes.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1800);

const SCRATCH: &str = "chas-unpack-";

/// Whether a snapshot of this name is one of ours that was being unpacked.
pub(crate) fn is_scratch(name: &str) -> bool {
    name.starts_with(SCRATCH)
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The layer's blob in the content store was damaged. It is deleted: fetch it again.
    #[error("the stored blob is damaged")]
    Damaged,
    /// It is as it is.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The names of the snapshots of a stack of layers, bottom up (OCI image specification, "Layer ChainID").
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

/// Whether there is a complete snapshot of this name.
pub(crate) async fn exists(client: &Client, name: &str) -> Result<bool, RuntimeError> {
    let request = snapshots_api::StatSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: name.to_owned(),
    };
    match quick(client.snapshots().stat(request)).await {
        Ok(reply) => Ok(reply
            .info
            .is_some_and(|info| info.kind == i32::from(snapshots_api::Kind::Committed))),
        Err(CallError::NotFound(_)) => Ok(false),
        Err(error) => Err(refused(error, "look for a snapshot")),
    }
}

/// What it means that the snapshotter refused.
pub(crate) fn refused(error: CallError, doing: &str) -> RuntimeError {
    let mut refused = content::refused(error, doing);
    if let RuntimeError::Failed(failure) = &mut refused
        && failure.reason == Reason::CreateFailed
    {
        failure.reason = Reason::SnapshotFailed;
    }
    refused
}

/// Removes a snapshot if it is there; what cannot be removed is left to the lease's end.
pub(crate) async fn remove(client: &Client, name: &str) {
    let request = snapshots_api::RemoveSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: name.to_owned(),
    };
    match quick(client.snapshots().remove(request)).await {
        Ok(()) | Err(CallError::NotFound(_)) => {}
        Err(error) => tracing::debug!(name, ?error, "a half-unpacked layer could not be removed"),
    }
}

/// Unpacks one layer onto `parent` (empty: onto nothing) as the snapshot `chain_id`, unless that is there.
///
/// One at a time for each `chain_id`.
pub(crate) async fn layer(
    lease: &Lease,
    durable: &Durable,
    blob: &Descriptor,
    diff_id: &str,
    parent: &str,
    chain_id: &str,
) -> Result<(), UnpackError> {
    let client = &lease.client;
    // Held first, looked for second: between the two nothing can collect it.
    lease.hold_snapshot(chain_id).await?;
    if exists(client, chain_id).await? {
        return Ok(());
    }
    let scratch = format!("{SCRATCH}{} {chain_id}", Uuid::new_v4().simple());
    let result = into_scratch(client, durable, blob, diff_id, parent, &scratch).await;
    let result = match result {
        Ok(()) => commit(client, &scratch, chain_id)
            .await
            .map_err(UnpackError::from),
        Err(error) => Err(error),
    };
    if result.is_err() {
        remove(client, &scratch).await;
    }
    result
}

async fn into_scratch(
    client: &Client,
    durable: &Durable,
    blob: &Descriptor,
    diff_id: &str,
    parent: &str,
    scratch: &str,
) -> Result<(), UnpackError> {
    let request = snapshots_api::PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: scratch.to_owned(),
        parent: parent.to_owned(),
        labels: HashMap::new(),
    };
    let reply = quick(client.snapshots().prepare(request))
        .await
        .map_err(|error| refused(error, "prepare a snapshot"))?;
    let mut wire = content::to_wire(blob);
    if wire.media_type.ends_with(".tar.zstd") {
        // containerd knows this packing by its OCI name only.
        wire.media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
    }
    let request = api::ApplyRequest {
        diff: Some(wire),
        mounts: reply.mounts,
        ..api::ApplyRequest::default()
    };
    let mut diff = client.diff();
    let applied = match tokio::time::timeout(APPLY_TIMEOUT, diff.apply(request)).await {
        Ok(Ok(reply)) => reply.into_inner().applied.unwrap_or_default().digest,
        Ok(Err(status)) => return Err(explain(client, blob, status.into()).await),
        Err(_) => {
            let message = format!(
                "a layer was not unpacked within {} s",
                APPLY_TIMEOUT.as_secs()
            );
            return Err(RuntimeError::Unavailable(message).into());
        }
    };
    if applied != diff_id {
        drop_damaged(client, blob).await?;
        let message = format!(
            "layer {} unpacks to {applied}, but the image's configuration promises {diff_id}",
            blob.digest
        );
        return Err(RuntimeError::failed(Reason::DigestMismatch, message).into());
    }
    Ok(durable.settle(client).await?)
}

/// A layer that cannot be unpacked is either damaged on this disk, or was made so.
async fn explain(client: &Client, blob: &Descriptor, error: CallError) -> UnpackError {
    let error = content::refused(error, "unpack a layer");
    let RuntimeError::Failed(Failure {
        reason: Reason::CreateFailed,
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
            format!("layer {} is no good: {message}", blob.digest),
        )
        .into(),
    }
}

async fn drop_damaged(client: &Client, blob: &Descriptor) -> Result<(), UnpackError> {
    if content::is_whole(client, &blob.digest).await? {
        return Ok(());
    }
    tracing::warn!(
        digest = blob.digest,
        "a layer in containerd's content store is damaged; it is fetched again"
    );
    content::discard(client, &blob.digest).await?;
    Err(UnpackError::Damaged)
}

async fn commit(client: &Client, scratch: &str, chain_id: &str) -> Result<(), RuntimeError> {
    let request = snapshots_api::CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: chain_id.to_owned(),
        key: scratch.to_owned(),
        labels: HashMap::from([("containerd.io/snapshot.ref".to_owned(), chain_id.to_owned())]),
    };
    match quick(client.snapshots().commit(request)).await {
        Ok(()) => Ok(()),
        // Somebody else was quicker; theirs is as good.
        Err(CallError::AlreadyExists) => {
            remove(client, scratch).await;
            Ok(())
        }
        Err(error) => Err(refused(error, "complete a snapshot")),
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
