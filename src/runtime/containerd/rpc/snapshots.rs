//! Snapshot service of containerd: file systems of containers, and of layers while they are
//! unpacked.

use std::collections::HashMap;

use containerd_client::services::v1::snapshots as api;
use containerd_client::types::Mount;
use uuid::Uuid;

use crate::oci::host_ids::HostIds;

use super::client::{CallError, ContainerdClient, quick};

/// Snapshotter of all snapshots that the agent makes.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

const SCRATCH: &str = "chas-unpack-";

/// New name of a snapshot that a layer is unpacked into before it becomes `chain_id`.
pub(crate) fn scratch_key(chain_id: &str) -> String {
    format!("{SCRATCH}{} {chain_id}", Uuid::new_v4().simple())
}

/// Whether a snapshot of this name is a layer that was being unpacked.
pub(crate) fn is_scratch(key: &str) -> bool {
    key.starts_with(SCRATCH)
}

/// Whether there is a complete snapshot of this name.
pub(crate) async fn is_complete(client: &ContainerdClient, name: &str) -> Result<bool, CallError> {
    let request = api::StatSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: name.to_owned(),
    };
    match quick(client.snapshots().stat(request)).await {
        Ok(reply) => Ok(reply
            .info
            .is_some_and(|info| info.kind == i32::from(api::Kind::Committed))),
        Err(CallError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Labels of a snapshot whose files belong to a container with these ids. containerd before 2.0
/// ignores them.
pub(crate) fn mapping_labels(ids: HostIds) -> [(String, String); 2] {
    ["uidmapping", "gidmapping"].map(|kind| (format!("containerd.io/snapshot/{kind}"), ids.label()))
}

/// Whether a mount shows the files of a snapshot to these ids, and to no others.
pub(crate) fn is_mapped(mount: &Mount, ids: HostIds) -> bool {
    let label = ids.label();
    let has = |key: &str| {
        let mut values = mount
            .options
            .iter()
            .filter_map(|option| option.strip_prefix(key));
        values.next() == Some(&label) && values.next().is_none()
    };
    has("uidmap=") && has("gidmap=")
}

/// Bytes that the files of a snapshot take, without those below it; holes take none. Those of a
/// writable one are counted now.
pub(crate) async fn usage(client: &ContainerdClient, key: &str) -> Result<u64, CallError> {
    let request = api::UsageRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
    };
    let reply = quick(client.snapshots().usage(request)).await?;
    Ok(u64::try_from(reply.size).unwrap_or_default())
}

/// Mounts of a new writable snapshot on `parent` (empty: on nothing).
pub(crate) async fn prepare(
    client: &ContainerdClient,
    key: &str,
    parent: &str,
    labels: HashMap<String, String>,
) -> Result<Vec<Mount>, CallError> {
    let request = api::PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels,
    };
    Ok(quick(client.snapshots().prepare(request)).await?.mounts)
}

/// Mounts of a new snapshot on `parent` that can only be read.
pub(crate) async fn view(
    client: &ContainerdClient,
    key: &str,
    parent: &str,
) -> Result<Vec<Mount>, CallError> {
    let request = api::ViewSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..api::ViewSnapshotRequest::default()
    };
    Ok(quick(client.snapshots().view(request)).await?.mounts)
}

/// Mounts of a snapshot that exists.
pub(crate) async fn mounts(client: &ContainerdClient, key: &str) -> Result<Vec<Mount>, CallError> {
    let request = api::MountsRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
    };
    Ok(quick(client.snapshots().mounts(request)).await?.mounts)
}

/// Makes the writable snapshot `key` the complete one `name`.
pub(crate) async fn commit(
    client: &ContainerdClient,
    key: &str,
    name: &str,
) -> Result<(), CallError> {
    let request = api::CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        labels: HashMap::from([("containerd.io/snapshot.ref".to_owned(), name.to_owned())]),
    };
    quick(client.snapshots().commit(request)).await
}

/// Removes a snapshot. One that is absent is no error.
pub(crate) async fn remove(client: &ContainerdClient, key: &str) -> Result<(), CallError> {
    let request = api::RemoveSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
    };
    match quick(client.snapshots().remove(request)).await {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a leftover snapshot; where that fails, the end of its lease does.
pub(crate) async fn discard(client: &ContainerdClient, key: &str) {
    if let Err(error) = remove(client, key).await {
        tracing::debug!(key, ?error, "leftover snapshot not removed");
    }
}

/// All snapshots of the namespace.
pub(crate) async fn list(client: &ContainerdClient) -> Result<Vec<api::Info>, CallError> {
    let request = api::ListSnapshotsRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        filters: Vec::new(),
    };
    let mut stream = quick(client.snapshots().list(request)).await?;
    let mut found = Vec::new();
    while let Some(page) = stream.message().await? {
        found.extend(page.info);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_mapped_to_the_ids_of_its_container_and_to_no_others() {
        let ids = HostIds { first: 70_000 };
        for (options, is) in [
            (&["uidmap=0:70000:65536", "gidmap=0:70000:65536"][..], true),
            (&["uidmap=0:7000:65536", "gidmap=0:70000:65536"], false),
            (&["uidmap=0:70000:65536", "gidmap=0:70001:65536"], false),
            (&["uidmap=0:70000:65536"], false),
            (
                &[
                    "uidmap=0:70000:65536",
                    "gidmap=0:70000:65536",
                    "uidmap=0:0:9",
                ],
                false,
            ),
            (&["ro"], false),
        ] {
            let options = options.iter().map(|&option| option.to_owned()).collect();
            let mount = Mount {
                options,
                ..Mount::default()
            };
            assert_eq!(is_mapped(&mount, ids), is, "{mount:?}");
        }
    }
}
