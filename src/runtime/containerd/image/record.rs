//! containerd's image records: names that keep an image's blobs and snapshots from the garbage collector.

use std::collections::HashMap;

use containerd_client::services::v1 as api;
use prost_types::FieldMask;
use state::reference::ImageReference;

use crate::oci::descriptor::Descriptor;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::client::{CallError, Client, quick};
use crate::runtime::containerd::content::{refused, to_wire};

/// The label of everything that the agent may take away again.
const MANAGED: &str = "chas.io/managed";

/// The name that never moves: registry, repository and digest. A container of an older generation still needs its image
/// when the tag has long moved on.
pub(crate) fn fixed_name(reference: &ImageReference, digest: &str) -> String {
    format!(
        "{}/{}@{digest}",
        reference.registry(),
        reference.repository()
    )
}

/// What a record of this name points to.
pub(crate) async fn get(client: &Client, name: &str) -> Result<Option<Descriptor>, RuntimeError> {
    let target = find(client, name).await?.and_then(|image| image.target);
    Ok(target.map(|target| Descriptor {
        media_type: target.media_type,
        digest: target.digest,
        size: u64::try_from(target.size).unwrap_or_default(),
    }))
}

async fn find(client: &Client, name: &str) -> Result<Option<api::Image>, RuntimeError> {
    match quick(client.images().get(api::GetImageRequest {
        name: name.to_owned(),
    }))
    .await
    {
        Ok(reply) => Ok(reply.image),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(refused(error, "look for an image")),
    }
}

/// Makes sure that a record of this name points to `target`. One that somebody else made stays as it is.
pub(crate) async fn put(
    client: &Client,
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
        Err(error) => return Err(refused(error, "record an image")),
    }
    let Some(there) = find(client, name).await? else {
        return Ok(());
    };
    let same = there
        .target
        .as_ref()
        .is_some_and(|there| there.digest == target.digest);
    if same || there.labels.get(MANAGED).is_none_or(|value| value != "1") {
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
        .map_err(|error| refused(error, "move an image's name"))
}

/// The names of the agent's records, with what they point to.
pub(crate) async fn ours(client: &Client) -> Result<Vec<(String, String)>, RuntimeError> {
    let request = api::ListImagesRequest {
        filters: vec![format!("labels.\"{MANAGED}\"==1")],
    };
    let reply = quick(client.images().list(request))
        .await
        .map_err(|error| refused(error, "list images"))?;
    let pairs = reply
        .images
        .into_iter()
        .map(|image| (image.name, image.target.unwrap_or_default().digest));
    Ok(pairs.collect())
}

/// Deletes a record. That there is none is no error.
pub(crate) async fn delete(client: &Client, name: &str) -> Result<(), RuntimeError> {
    match quick(client.images().delete(api::DeleteImageRequest {
        name: name.to_owned(),
        ..api::DeleteImageRequest::default()
    }))
    .await
    {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(refused(error, "delete an image")),
    }
}
