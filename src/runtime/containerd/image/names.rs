//! Names of images in containerd: each keeps an image's blobs and snapshots from the garbage
//! collector.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use prost_types::FieldMask;
use state::image_order::KEEP_MAX;
use state::reason::Reason;
use state::reference::ImageReference;

use crate::oci::descriptor::Descriptor;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::{CallError, ContainerdClient, quick};
use crate::runtime::containerd::rpc::content::to_wire;
use crate::runtime::containerd::rpc::labels::{KEPT_UNTIL, MANAGED, SIGNED_BY};

/// Keys that are noted at one name: a label has 4,096 bytes, and each takes 72.
const SIGNERS_MAX: usize = 48;

/// Name that never moves: registry, repository and digest. A container of an older generation still
/// needs its image when the tag has long moved on.
pub(crate) fn fixed_name(reference: &ImageReference, digest: &str) -> String {
    format!(
        "{}/{}@{digest}",
        reference.registry(),
        reference.repository()
    )
}

/// Manifest or index that a name points to; `None`: there is no such name.
pub(crate) async fn get(
    client: &ContainerdClient,
    name: &str,
) -> Result<Option<Descriptor>, RuntimeError> {
    let target = find(client, name).await?.and_then(|image| image.target);
    Ok(target.map(|target| Descriptor {
        media_type: target.media_type,
        digest: target.digest,
        size: u64::try_from(target.size).unwrap_or_default(),
    }))
}

async fn find(client: &ContainerdClient, name: &str) -> Result<Option<api::Image>, RuntimeError> {
    match quick(client.images().get(api::GetImageRequest {
        name: name.to_owned(),
    }))
    .await
    {
        Ok(reply) => Ok(reply.image),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "look for an image")),
    }
}

/// Makes sure that a name points to `target`. One that the agent did not make stays as it is.
pub(crate) async fn put(
    client: &ContainerdClient,
    name: &str,
    target: &Descriptor,
) -> Result<(), RuntimeError> {
    let image = api::Image {
        name: name.to_owned(),
        labels: HashMap::from([(MANAGED.to_owned(), "1".to_owned())]),
        target: Some(to_wire(target)),
        ..api::Image::default()
    };
    let request = api::CreateImageRequest {
        image: Some(image.clone()),
        ..api::CreateImageRequest::default()
    };
    match quick(client.images().create(request)).await {
        Ok(_) => return Ok(()),
        Err(CallError::AlreadyExists) => {}
        Err(error) => return Err(error.into_error(Reason::CreateFailed, "name an image")),
    }
    let Some(there) = find(client, name).await? else {
        return Ok(());
    };
    let same = there
        .target
        .as_ref()
        .is_some_and(|there| there.digest == target.digest);
    if same || !is_managed(&there.labels) {
        return Ok(());
    }
    let update_mask = Some(FieldMask {
        paths: vec!["target".to_owned()],
    });
    let request = api::UpdateImageRequest {
        image: Some(image),
        update_mask,
        ..api::UpdateImageRequest::default()
    };
    quick(client.images().update(request))
        .await
        .map(|_| ())
        .map_err(|error| error.into_error(Reason::CreateFailed, "move an image's name"))
}

/// Keys noted at a name as those that signed its image, by their fingerprints. At a name that the
/// agent did not make, nobody's note counts.
pub(crate) async fn signed_by(
    client: &ContainerdClient,
    name: &str,
) -> Result<BTreeSet<String>, RuntimeError> {
    let labels = find(client, name).await?.map(|image| image.labels);
    let labels = labels.filter(is_managed);
    let noted = labels.as_ref().and_then(|labels| labels.get(SIGNED_BY));
    let noted = noted.map(|noted| noted.split(' ').map(str::to_owned).collect());
    Ok(noted.unwrap_or_default())
}

/// Notes at a name of the agent's own which keys signed its image, beside those noted before.
pub(crate) async fn note_signed(
    client: &ContainerdClient,
    name: &str,
    keys: &BTreeSet<String>,
) -> Result<(), RuntimeError> {
    let before = signed_by(client, name).await?;
    let before = before.iter().filter(|key| !keys.contains(*key));
    let noted: Vec<_> = keys
        .iter()
        .chain(before)
        .take(SIGNERS_MAX)
        .cloned()
        .collect();
    let found = find(client, name).await?;
    let Some(mut image) = found.filter(|image| is_managed(&image.labels)) else {
        return Ok(());
    };
    // The whole image, though the mask names a label: one without its target ends containerd 1.7.
    image.labels.insert(SIGNED_BY.to_owned(), noted.join(" "));
    let request = api::UpdateImageRequest {
        image: Some(image),
        update_mask: Some(FieldMask {
            paths: vec![format!("labels.{SIGNED_BY}")],
        }),
        ..api::UpdateImageRequest::default()
    };
    quick(client.images().update(request))
        .await
        .map(|_| ())
        .map_err(|error| error.into_error(Reason::CreateFailed, "note who signed an image"))
}

fn is_managed(labels: &HashMap<String, String>) -> bool {
    labels.get(MANAGED).is_some_and(|value| value == "1")
}

/// Name of an image, and what containerd has of it.
#[derive(Clone, Debug)]
pub(crate) struct ImageName {
    pub(crate) name: String,
    pub(crate) digest: String,
    /// Whether the agent made it.
    pub(crate) managed: bool,
    pub(crate) created: Option<SystemTime>,
    /// Time until which it is kept although nothing uses it.
    pub(crate) kept_until: Option<SystemTime>,
}

/// Every name.
pub(crate) async fn all(client: &ContainerdClient) -> Result<Vec<ImageName>, RuntimeError> {
    let request = api::ListImagesRequest::default();
    let reply = quick(client.images().list(request))
        .await
        .map_err(|error| error.into_error(Reason::CreateFailed, "list images"))?;
    let names = reply.images.into_iter().map(|image| {
        let kept_until = image.labels.get(KEPT_UNTIL);
        let kept_until = kept_until.and_then(|seconds| seconds.parse().ok());
        ImageName {
            managed: is_managed(&image.labels),
            kept_until: kept_until.and_then(|seconds| {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
            }),
            name: image.name,
            digest: image.target.unwrap_or_default().digest,
            created: image
                .created_at
                .and_then(|at| SystemTime::try_from(at).ok()),
        }
    });
    Ok(names.collect())
}

/// Notes at a name of the agent's own until when its image is kept, if it still leads to that one. A
/// later time that is noted there stays.
pub(crate) async fn keep(
    client: &ContainerdClient,
    name: &str,
    digest: &str,
    until: SystemTime,
) -> Result<(), RuntimeError> {
    let found = find(client, name).await?;
    let is_its = |image: &api::Image| {
        let target = image.target.as_ref();
        is_managed(&image.labels) && target.is_some_and(|target| target.digest == digest)
    };
    let Some(mut image) = found.filter(is_its) else {
        return Ok(());
    };
    let until = until.duration_since(SystemTime::UNIX_EPOCH);
    let noted = image.labels.get(KEPT_UNTIL);
    let noted = noted.and_then(|seconds| seconds.parse::<u64>().ok());
    let seconds = until.unwrap_or_default().as_secs();
    // No order asks for more: the clock was wrong when that was noted.
    let noted = noted.filter(|noted| *noted <= seconds.saturating_add(KEEP_MAX.as_secs()));
    let seconds = noted.map_or(seconds, |noted| noted.max(seconds));
    // The whole image, as in `note_signed`.
    image
        .labels
        .insert(KEPT_UNTIL.to_owned(), seconds.to_string());
    let request = api::UpdateImageRequest {
        image: Some(image),
        update_mask: Some(FieldMask {
            paths: vec![format!("labels.{KEPT_UNTIL}")],
        }),
        ..api::UpdateImageRequest::default()
    };
    quick(client.images().update(request))
        .await
        .map(|_| ())
        .map_err(|error| error.into_error(Reason::CreateFailed, "keep an image"))
}

/// Deletes a name. One that is absent is no error.
pub(crate) async fn delete(client: &ContainerdClient, name: &str) -> Result<(), RuntimeError> {
    match quick(client.images().delete(api::DeleteImageRequest {
        name: name.to_owned(),
        ..api::DeleteImageRequest::default()
    }))
    .await
    {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "delete an image")),
    }
}
