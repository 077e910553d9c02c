//! Content store of containerd: blobs by digest, written piece by piece and resumable.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1 as api;
use prost_types::FieldMask;
use sha2::{Digest, Sha256};
use state::digest;
use state::reason::Reason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::client::{CallError, ContainerdClient, quick};
use super::gc;
use crate::oci::descriptor::Descriptor;
use crate::runtime::RuntimeError;

/// Timeout of a write, or of the check of all bytes at a commit or at the resumption of a large
/// blob; beyond it containerd counts as unreachable.
const WRITE_TIMEOUT: Duration = Duration::from_secs(180);

/// Bytes in one message. containerd takes 16 MiB at most; with 1 MiB the wait for each answer costs
/// nothing measurable.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Descriptor as containerd's calls take it.
pub(crate) fn to_wire(blob: &Descriptor) -> containerd_client::types::Descriptor {
    containerd_client::types::Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.clone(),
        size: signed(blob.size),
        annotations: HashMap::new(),
    }
}

/// Failure to store a blob, cut by what the pull does next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    /// Another writer has not let go of the blob yet: try again soon.
    #[error("another writer still has the blob open: {0}")]
    Locked(String),
    /// The bytes differ from those the digest promises: abort, and start over.
    #[error("{0}")]
    Mismatch(String),
    /// Any other blob would fail the same way: give up.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl From<Status> for ContentError {
    fn from(status: Status) -> Self {
        let broken = std::error::Error::source(&status).is_some();
        let (code, text) = (status.code(), status.message());
        if code == Code::Unavailable && !broken && text.contains("locked") {
            Self::Locked(text.to_owned())
        } else if matches!(code, Code::FailedPrecondition | Code::OutOfRange) {
            Self::Mismatch(text.to_owned())
        } else {
            Self::Runtime(refused(status.into(), "store a blob"))
        }
    }
}

/// Error of a call of which nothing but success was expected.
fn refused(error: CallError, doing: &str) -> RuntimeError {
    error.into_error(Reason::CreateFailed, doing)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Small blob, checked against its digest; `None`: it is absent. A damaged one is deleted, and
/// counts as absent.
pub(crate) async fn read(
    client: &ContainerdClient,
    digest: &str,
    bytes_max: usize,
) -> Result<Option<Bytes>, RuntimeError> {
    let mut bytes = Vec::new();
    let mut hash = Sha256::new();
    let there = each_piece(client, digest, |piece| {
        hash.update(piece);
        if bytes.len() + piece.len() <= bytes_max {
            bytes.extend_from_slice(piece);
        }
    })
    .await?;
    if !there {
        // An entry without its file would be taken for the blob when it is written again.
        discard(client, digest).await?;
        return Ok(None);
    }
    if digest::written(&hash.finalize()) != digest {
        tracing::warn!(
            digest,
            "blob in containerd's content store is damaged; deleting it, to be fetched again"
        );
        discard(client, digest).await?;
        return Ok(None);
    }
    Ok(Some(bytes.into()))
}

/// Bytes of a blob of `size` that are on the node: all of them, those of an unfinished one, or none.
///
/// # Errors
/// When containerd does not answer.
pub(crate) async fn stored_bytes(
    client: &ContainerdClient,
    digest: &str,
    size: u64,
) -> Result<u64, RuntimeError> {
    let request = api::InfoRequest {
        digest: digest.to_owned(),
    };
    match quick(client.content().info(request)).await {
        Ok(_) => return Ok(size),
        Err(CallError::NotFound(_)) => {}
        Err(error) => return Err(refused(error, "look for a blob")),
    }
    let request = api::StatusRequest { r#ref: key(digest) };
    match quick(client.content().status(request)).await {
        Ok(reply) => {
            let offset = reply.status.map_or(0, |status| status.offset);
            Ok(u64::try_from(offset).unwrap_or_default())
        }
        Err(CallError::NotFound(_)) => Ok(0),
        Err(error) => Err(refused(error, "look for a part of a blob")),
    }
}

/// Whether a blob of any size is there and intact. Reads all of it.
pub(crate) async fn is_intact(
    client: &ContainerdClient,
    digest: &str,
) -> Result<bool, RuntimeError> {
    let mut hash = Sha256::new();
    let there = each_piece(client, digest, |piece| hash.update(piece)).await?;
    Ok(there && digest::written(&hash.finalize()) == digest)
}

async fn each_piece(
    client: &ContainerdClient,
    digest: &str,
    mut seen: impl FnMut(&[u8]),
) -> Result<bool, RuntimeError> {
    let request = api::ReadContentRequest {
        digest: digest.to_owned(),
        offset: 0,
        size: 0,
    };
    let mut pieces = match timely(client.content().read(request)).await? {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.code() == Code::NotFound => return Ok(false),
        Err(status) => return Err(refused(status.into(), "read a blob")),
    };
    loop {
        match timely(pieces.message()).await? {
            Ok(Some(piece)) => seen(&piece.data),
            Ok(None) => return Ok(true),
            Err(status) if status.code() == Code::NotFound => return Ok(false),
            Err(status) => return Err(refused(status.into(), "read a blob")),
        }
    }
}

/// Deletes a blob, or the entry of one whose file is gone, so that the next writer starts from
/// nothing.
pub(crate) async fn discard(client: &ContainerdClient, digest: &str) -> Result<(), RuntimeError> {
    match quick(client.content().delete(api::DeleteContentRequest {
        digest: digest.to_owned(),
    }))
    .await
    {
        // Until its file is collected, containerd takes a write of the same digest for done.
        Ok(()) => gc::collect(client).await,
        Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(refused(error, "delete a blob")),
    }
}

/// Sets labels of a stored blob, and leaves its others alone.
pub(crate) async fn label(
    client: &ContainerdClient,
    digest: &str,
    labels: HashMap<String, String>,
) -> Result<(), RuntimeError> {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let info = api::Info {
        digest: digest.to_owned(),
        labels,
        ..api::Info::default()
    };
    let request = api::UpdateRequest {
        info: Some(info),
        update_mask: Some(FieldMask { paths }),
    };
    quick(client.content().update(request))
        .await
        .map(|_| ())
        .map_err(|error| refused(error, "label a blob"))
}

/// Stores a small blob with its labels; one that is stored already only gets the labels.
pub(crate) async fn put(
    client: &ContainerdClient,
    blob: &Descriptor,
    bytes: &Bytes,
    labels: &HashMap<String, String>,
) -> Result<(), ContentError> {
    if let OpenedBlob::Writer(mut writer) = open(client, blob).await? {
        // The part that an earlier try stored is skipped.
        let rest = bytes
            .get(usize::try_from(writer.offset()).unwrap_or(usize::MAX)..)
            .unwrap_or_default();
        for piece in rest.chunks(PIECE_BYTES) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        writer.commit(labels.clone()).await?;
    }
    Ok(label(client, &blob.digest, labels.clone()).await?)
}

/// Deletes the stored part of an unfinished blob.
pub(crate) async fn abort(client: &ContainerdClient, digest: &str) -> Result<(), RuntimeError> {
    match quick(
        client
            .content()
            .abort(api::AbortRequest { r#ref: key(digest) }),
    )
    .await
    {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(refused(error, "abort a blob")),
    }
}

/// Name under which a blob is written: the same for every pull, so that a later one resumes an
/// earlier one.
pub(crate) fn key(digest: &str) -> String {
    format!("chas-{digest}")
}

/// Answer to the request to write a blob.
#[derive(Debug)]
pub(crate) enum OpenedBlob {
    /// The blob is stored, and the client's lease keeps it.
    Complete,
    /// The blob may be written.
    Writer(Box<BlobWriter>),
}

/// Blob being written. Dropped before its commit, it stays as far as it is, to be resumed.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    requests: mpsc::Sender<api::WriteContentRequest>,
    replies: Streaming<api::WriteContentResponse>,
    blob: Descriptor,
    offset: u64,
}

/// Opens a blob for writing.
pub(crate) async fn open(
    client: &ContainerdClient,
    blob: &Descriptor,
) -> Result<OpenedBlob, ContentError> {
    let (requests, messages) = mpsc::channel(2);
    let first = api::WriteContentRequest {
        action: api::WriteAction::Stat.into(),
        r#ref: key(&blob.digest),
        total: signed(blob.size),
        expected: blob.digest.clone(),
        ..api::WriteContentRequest::default()
    };
    // Before the call: containerd answers it only with its reply to the first message.
    requests
        .try_send(first)
        .expect("the channel is new and holds two");
    let mut content = client.content();
    let replies = match timely(content.write(ReceiverStream::new(messages))).await? {
        Ok(replies) => replies.into_inner(),
        Err(status) if status.code() == Code::AlreadyExists => return Ok(OpenedBlob::Complete),
        Err(status) => return Err(status.into()),
    };
    let mut writer = BlobWriter {
        requests,
        replies,
        blob: blob.clone(),
        offset: 0,
    };
    match writer.reply().await {
        Ok(reply) => {
            writer.offset =
                u64::try_from(reply.map_or(0, |reply| reply.offset)).unwrap_or_default();
        }
        Err(status) if status.code() == Code::AlreadyExists => return Ok(OpenedBlob::Complete),
        Err(status) => return Err(status.into()),
    }
    Ok(OpenedBlob::Writer(Box::new(writer)))
}

impl BlobWriter {
    /// Bytes stored so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends at most [`PIECE_BYTES`], and waits until they are stored.
    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<(), ContentError> {
        let bytes = piece.len() as u64;
        let request = self.request(api::WriteAction::Write, piece);
        // A closed channel shows as the reply's error, which knows why.
        self.requests.send(request).await.ok();
        self.reply().await?;
        self.offset += bytes;
        Ok(())
    }

    /// Has containerd check size and digest, and makes the blob one of the store's.
    pub(crate) async fn commit(
        mut self,
        labels: HashMap<String, String>,
    ) -> Result<(), ContentError> {
        let mut request = self.request(api::WriteAction::Commit, Bytes::new());
        request.labels = labels;
        self.requests.send(request).await.ok();
        match self.reply().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(RuntimeError::Unavailable(
                "the stream of a write ended before its commit".to_owned(),
            )
            .into()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    /// Ends the writing, and returns when containerd has let go of the blob: before that, it can
    /// neither be deleted nor written anew.
    pub(crate) async fn close(self) {
        let Self {
            requests,
            mut replies,
            ..
        } = self;
        drop(requests);
        while let Ok(Ok(Some(_))) = timely(replies.message()).await {}
    }

    fn request(&self, action: api::WriteAction, data: Bytes) -> api::WriteContentRequest {
        api::WriteContentRequest {
            action: action.into(),
            r#ref: key(&self.blob.digest),
            total: signed(self.blob.size),
            expected: self.blob.digest.clone(),
            offset: signed(self.offset),
            data: data.into(),
            ..api::WriteContentRequest::default()
        }
    }

    async fn reply(&mut self) -> Result<Option<api::WriteContentResponse>, Status> {
        timely(self.replies.message())
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?
    }
}

async fn timely<T>(call: impl Future<Output = T>) -> Result<T, RuntimeError> {
    tokio::time::timeout(WRITE_TIMEOUT, call)
        .await
        .map_err(|_| {
            RuntimeError::Unavailable(format!("no answer within {} s", WRITE_TIMEOUT.as_secs()))
        })
}
