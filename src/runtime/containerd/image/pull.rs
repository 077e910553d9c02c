//! A pull from first to last: documents, layers (downloading the next while unpacking the last),
//! then the names that make it an image.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{StreamExt, TryStreamExt, stream};
use state::reason::Reason;
use tokio::sync::mpsc;

use super::budget::ImageBudget;
use super::fetch::{Fetch, FetchedDocument};
use super::local::{self, LocalImage};
use super::manifest::{self, Document, Manifest};
use super::names;
use super::platform::Platform;
use super::shares::PullSize;
use super::signature::SignatureCheck;
use super::unpack::{self, StackedLayer, UnpackError};
use crate::oci::image::ImageConfig;
use crate::otlp::{Span, SpanFact, SpanOf};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::content;
use crate::runtime::containerd::rpc::snapshots::{self, SNAPSHOTTER};

/// Makes the image under `version` (a tag or digest) complete on the node, and names it by the
/// reference and by its digest. What an image brought for which there is no room is removed, also by
/// an earlier try: else it would stand in the way of every other.
pub(crate) async fn run(
    fetch: &Fetch<'_>,
    host: &Platform,
    version: &str,
) -> Result<LocalImage, RuntimeError> {
    let mut span = Span::begin(SpanOf::Pull);
    span.text(SpanFact::Image, || fetch.image.to_string());
    // Who cancels a pull drops it, wherever it is.
    span.fail(word(&RuntimeError::Cancelled));
    let before = fetch.progress.received_bytes();
    let brought = bring(fetch, host, version).await;
    let received = fetch.progress.received_bytes().saturating_sub(before);
    span.number(SpanFact::Received, received);
    match &brought {
        Ok(_) => span.succeed(),
        Err(error) => span.fail(word(error)),
    }
    if let Some(reason) = want_of_room(&brought) {
        fetch.lease.abandon(reason == Reason::ImageTooLarge).await;
    }
    brought
}

/// Word for an error, for the span of the pull.
const fn word(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::Failed(failure) => failure.reason.as_str(),
        RuntimeError::Unavailable(_) => "RuntimeUnavailable",
        RuntimeError::ImageLost(_) => Reason::ImageLost.as_str(),
        RuntimeError::Cancelled => "Interrupted",
    }
}

fn want_of_room<T>(brought: &Result<T, RuntimeError>) -> Option<Reason> {
    let Err(RuntimeError::Failed(failure)) = brought else {
        return None;
    };
    let reasons = [Reason::ImageTooLarge, Reason::DiskFull];
    reasons.into_iter().find(|reason| failure.reason == *reason)
}

async fn bring(
    fetch: &Fetch<'_>,
    host: &Platform,
    version: &str,
) -> Result<LocalImage, RuntimeError> {
    let root = fetch.document(version, "").await?;
    // Before anything of it is stored.
    let (signed_by, known_way) = match fetch.signatures {
        [] => (BTreeSet::new(), None),
        [..] => {
            let way = way(fetch, &root, host).await?;
            (signers(fetch, &root, &way).await?, Some(way))
        }
    };
    if let Some(image) = local::look(&fetch.lease.client, &root.blob.digest, host).await? {
        name(fetch, &root, &signed_by).await?;
        return Ok(image);
    }
    let way = match known_way {
        Some(way) => way,
        None => way(fetch, &root, host).await?,
    };
    let last = way.last().unwrap_or(&root);
    let Document::Manifest(manifest) = &last.document else {
        return Err(manifest::too_deep().into());
    };
    if let Some(error) = fetch.room.refused(&last.blob.digest) {
        return Err(error);
    }
    let nothing = PullSize::default();
    fetch.room.check(&fetch.lease.client, nothing).await?;
    let config_bytes = fetch.configuration(&manifest.config).await?;
    if config_bytes.len() as u64 != manifest.config.size {
        let message = format!(
            "the image's configuration has {} bytes, and its manifest says {}; push the image again",
            config_bytes.len(),
            manifest.config.size
        );
        return Err(RuntimeError::failed(Reason::ImageInvalid, message));
    }
    let config = local::configuration(&config_bytes, manifest, host, !way.is_empty())?;

    // Children before parents; the next try, perhaps without a network, then needs the layers only.
    fetch
        .store(&manifest.config, &config_bytes, &HashMap::new())
        .await?;
    fetch
        .store(&last.blob, &last.bytes, &manifest_labels(manifest))
        .await?;
    let parents = way.iter().rev().skip(1).chain([&root]);
    for (parent, child) in parents.zip(way.iter().rev()) {
        let labels = HashMap::from([(
            "containerd.io/gc.ref.content.m.0".to_owned(),
            child.blob.digest.clone(),
        )]);
        fetch.store(&parent.blob, &parent.bytes, &labels).await?;
    }

    let top = within_room(fetch, &last.blob.digest, manifest, &config).await?;
    let labels = HashMap::from([(
        format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"),
        top.clone(),
    )]);
    fetch
        .store(&manifest.config, &config_bytes, &labels)
        .await?;
    name(fetch, &root, &signed_by).await?;
    Ok(LocalImage {
        digest: root.blob.digest,
        top_chain_id: top,
        config,
    })
}

/// Documents from below `root`, which is no part of it, down to the manifest for `host`. Empty: the
/// root is that manifest.
async fn way(
    fetch: &Fetch<'_>,
    root: &FetchedDocument,
    host: &Platform,
) -> Result<Vec<FetchedDocument>, RuntimeError> {
    let mut way: Vec<FetchedDocument> = Vec::new();
    while let Document::Index(index) = &way.last().unwrap_or(root).document {
        let chosen = index.choose_at(way.len(), host)?;
        let next = fetch.document(&chosen.digest, &chosen.media_type).await?;
        way.push(next);
    }
    Ok(way)
}

/// Keys that signed the image, of those that are demanded, and are to be noted.
async fn signers(
    fetch: &Fetch<'_>,
    root: &FetchedDocument,
    way: &[FetchedDocument],
) -> Result<BTreeSet<String>, RuntimeError> {
    let documents = [root].into_iter().chain(way);
    let digests = documents.map(|document| document.blob.digest.clone());
    check(fetch).run(&digests.collect::<Vec<_>>()).await
}

fn check<'a>(fetch: &'a Fetch<'_>) -> SignatureCheck<'a> {
    SignatureCheck {
        client: &fetch.lease.client,
        registry: fetch.registry,
        config: fetch.config,
        image: fetch.image,
        demands: fetch.signatures,
        progress: fetch.progress,
    }
}

async fn name(
    fetch: &Fetch<'_>,
    root: &FetchedDocument,
    signed_by: &BTreeSet<String>,
) -> Result<(), RuntimeError> {
    // The fixed name first: should the agent die between the two, nothing is lost.
    names::put(
        &fetch.lease.client,
        &names::fixed_name(fetch.image, &root.blob.digest),
        &root.blob,
    )
    .await?;
    check(fetch).note(&root.blob.digest, signed_by).await?;
    names::put(&fetch.lease.client, &fetch.image.to_string(), &root.blob).await
}

fn manifest_labels(manifest: &Manifest) -> HashMap<String, String> {
    let config = (
        "containerd.io/gc.ref.content.config".to_owned(),
        manifest.config.digest.clone(),
    );
    let layers = manifest.layers.iter().enumerate();
    let layers = layers.map(|(n, layer)| {
        (
            format!("containerd.io/gc.ref.content.l.{n}"),
            layer.digest.clone(),
        )
    });
    layers.chain([config]).collect()
}

/// Brings the layers of the manifest with this digest in, if there is room for all of them, and as
/// long as there is.
async fn within_room(
    fetch: &Fetch<'_>,
    digest: &str,
    manifest: &Manifest,
    config: &ImageConfig,
) -> Result<String, RuntimeError> {
    let (room, client) = (fetch.room, &fetch.lease.client);
    check_room(fetch, digest, manifest).await?;
    fetch.share.begin();
    let brought = tokio::select! {
        brought = Box::pin(layers(fetch, manifest, config)) => brought,
        error = room.ended(client, fetch.share) => Err(error),
    };
    match (&brought, want_of_room(&brought)) {
        (Ok(_), _) => room.forget(digest),
        (Err(error), Some(Reason::ImageTooLarge)) => room.refuse(digest, &error.to_string()),
        (Err(_), Some(_)) => {
            room.count_ended(client, fetch.share).await;
            room.remember(digest, fetch.share.layer_sizes());
            fetch.lease.abandon(true).await;
        }
        (Err(_), None) => {}
    }
    brought
}

/// Checks that there is room for all that the image lacks. What is there already is looked for only
/// where there may be too little.
async fn check_room(
    fetch: &Fetch<'_>,
    digest: &str,
    manifest: &Manifest,
) -> Result<(), RuntimeError> {
    let (room, client) = (fetch.room, &fetch.lease.client);
    let (blobs, files) = (manifest.layers_bytes(), 0);
    let most = PullSize { blobs, files };
    let remembered = room.remembered(digest);
    if remembered.is_none() && room.check(client, most).await.is_ok() {
        return Ok(());
    }
    let blobs = missing(fetch, manifest).await?;
    let mut files = 0_u64;
    for (chain_id, bytes) in remembered.unwrap_or_default() {
        // Another pull may have unpacked it since.
        if !unpack::is_unpacked(client, &chain_id).await? {
            files = files.saturating_add(bytes);
        }
    }
    room.check(client, PullSize { blobs, files }).await
}

/// Bytes of layers that are not on the node.
async fn missing(fetch: &Fetch<'_>, manifest: &Manifest) -> Result<u64, RuntimeError> {
    let layers = manifest.layers.iter();
    let layers: BTreeMap<_, _> = layers.map(|layer| (&layer.digest, layer.size)).collect();
    let mut missing = 0_u64;
    for (digest, size) in layers {
        let stored = content::stored_bytes(&fetch.lease.client, digest, size).await?;
        missing = missing.saturating_add(size.saturating_sub(stored));
    }
    Ok(missing)
}

/// Downloads several layers at once and unpacks each as soon as it and all below it are there.
/// Answers the topmost snapshot's name.
async fn layers(
    fetch: &Fetch<'_>,
    manifest: &Manifest,
    config: &ImageConfig,
) -> Result<String, RuntimeError> {
    let total = manifest.layers_bytes();
    fetch.progress.add_total(total);
    let mut budget = ImageBudget::new(fetch.room.config.image_bytes_max);
    // What is packed is not smaller once it is unpacked.
    ImageBudget::take(&mut budget.clone(), total)?;
    // As many as there are layers: a download never waits for the unpacking.
    let (done, mut next) = mpsc::channel(manifest.layers.len());
    let download = async move {
        let downloads = stream::iter((0..manifest.layers.len()).map(|n| async move {
            fetch.layer(&manifest.layers[n]).await?;
            Ok::<_, RuntimeError>(n)
        }));
        let mut downloads = downloads.buffered(fetch.config.layers_max.max(1));
        while let Some(n) = downloads.try_next().await? {
            done.send(n).await.ok();
        }
        Ok(())
    };
    let unpack = async {
        let chain = unpack::chain_ids(&config.diff_ids);
        let mut parent = String::new();
        while let Some(n) = next.recv().await {
            let key = format!("chain {}", chain[n]);
            let note = || "waits for another pull, which unpacks the same layer".to_owned();
            let _alone = fetch.flights.turn(&key, fetch.progress, note).await;
            fetch.progress.add_sign();
            let layer = StackedLayer {
                blob: &manifest.layers[n],
                diff_id: &config.diff_ids[n],
                parent: &parent,
                chain_id: &chain[n],
            };
            let room = (fetch.room, fetch.share);
            let unpacked = Box::pin(unpack::layer(fetch.lease, room, layer, budget));
            match fetch.progress.while_working(unpacked).await {
                Ok(()) => {}
                Err(UnpackError::Runtime(error)) => return Err(error),
                Err(UnpackError::Damaged) => {
                    fetch.progress.add_total(layer.blob.size);
                    fetch.layer(layer.blob).await?;
                    let again = Box::pin(unpack::layer(fetch.lease, room, layer, budget)).await;
                    again.map_err(|error| match error {
                        UnpackError::Runtime(error) => error,
                        UnpackError::Damaged => damaged(&layer.blob.digest),
                    })?;
                }
            }
            let taken = snapshots::usage(&fetch.lease.client, layer.chain_id).await;
            let taken = taken.map_err(uncounted)?;
            fetch.share.made(layer.chain_id, taken);
            budget.take(taken)?;
            parent.clone_from(&chain[n]);
        }
        Ok(parent)
    };
    let ((), top) = tokio::try_join!(download, unpack)?;
    Ok(top)
}

fn uncounted(error: CallError) -> RuntimeError {
    error.into_error(Reason::SnapshotFailed, "count a layer's files")
}

fn damaged(digest: &str) -> RuntimeError {
    let message = format!(
        "layer {digest} is damaged on containerd's disk and cannot be replaced; check the disk, and whether another \
         containerd namespace holds the same blob"
    );
    RuntimeError::failed(Reason::DigestMismatch, message)
}
