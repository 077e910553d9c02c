//! containerd's content store: blobs by digest, written piece by piece and resumable. What they mean is left to `image`.

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

use super::client::{CallError, Client, quick};
use super::lease;
use crate::oci::descriptor::Descriptor;
use crate::runtime::RuntimeError;

/// One write, or the check of all bytes at a commit or at the resumption of a large blob, may take this long; beyond it
/// containerd counts as away.
const WRITE_TIMEOUT: Duration = Duration::from_secs(180);

/// Bytes in one message. containerd takes 16 MiB at most; with 1 MiB the wait for each answer costs nothing measurable.
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

/// Why the content store did not take what it was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Another writer has not quite let go of it: try again soon.
    #[error("another writer still holds the blob: {0}")]
    Locked(String),
    /// The bytes are not those the digest promises: abort, and start over.
    #[error("{0}")]
    Mismatch(String),
    /// It is the same with any blob: give up.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl From<Status> for StoreError {
    fn from(status: Status) -> Self {
        let broken = std::error::Error::source(&status).is_some();
        let (code, text) = (status.code(), status.message());
        if code == Code::Unavailable && !broken && text.contains("locked") {
            Self::Locked(text.to_owned())
        } else if matches!(code, Code::FailedPrecondition | Code::OutOfRange) {
            Self::Mismatch(text.to_owned())
        } else {
            Self::Runtime(refused(CallError::from(status), "store a blob"))
        }
    }
}

/// What a refusal means when nothing but success was to be expected of `doing`.
pub(crate) fn refused(error: CallError, doing: &str) -> RuntimeError {
    match error {
        CallError::Unavailable(message) => RuntimeError::Unavailable(message),
        CallError::NotFound(text) | CallError::Refused(text)
            if text.contains("no space left on device") || text.contains("disk quota exceeded") =>
        {
            let message =
                format!("the disk that holds containerd's data is full: {text}; free some space");
            RuntimeError::failed(Reason::DiskFull, message)
        }
        CallError::NotFound(text) | CallError::Refused(text) => RuntimeError::failed(
            Reason::CreateFailed,
            format!("containerd could not {doing}: {text}"),
        ),
        CallError::AlreadyExists => RuntimeError::failed(
            Reason::CreateFailed,
            format!("containerd could not {doing}: it exists already"),
        ),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A small blob, checked against its digest; `None`: it is not there. One that is damaged is deleted, and is not there.
pub(crate) async fn read(
    client: &Client,
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
        // A record without its file would be taken for the blob when it is written again.
        discard(client, digest).await?;
        return Ok(None);
    }
    if digest::written(&hash.finalize()) != digest {
        tracing::warn!(
            digest,
            "a blob in containerd's content store is damaged; it is deleted, to be fetched again"
        );
        discard(client, digest).await?;
        return Ok(None);
    }
    Ok(Some(bytes.into()))
}

/// Whether a blob of any size is there and whole. Reads all of it.
pub(crate) async fn is_whole(client: &Client, digest: &str) -> Result<bool, RuntimeError> {
    let mut hash = Sha256::new();
    let there = each_piece(client, digest, |piece| hash.update(piece)).await?;
    Ok(there && digest::written(&hash.finalize()) == digest)
}

async fn each_piece(
    client: &Client,
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

/// Throws away a blob, or the record of one whose file is gone, so that the next to write it starts from nothing.
pub(crate) async fn discard(client: &Client, digest: &str) -> Result<(), RuntimeError> {
    match quick(client.content().delete(api::DeleteContentRequest {
        digest: digest.to_owned(),
    }))
    .await
    {
        // Until its file is collected, containerd takes a write of the same digest for done.
        Ok(()) => lease::collect(client).await,
        Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(refused(error, "delete a blob")),
    }
}

/// Sets labels of a blob that is there, and leaves its others alone.
pub(crate) async fn label(
    client: &Client,
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

/// Stores a small blob with its labels; one that is there only gets the labels.
pub(crate) async fn put(
    client: &Client,
    blob: &Descriptor,
    bytes: &Bytes,
    labels: &HashMap<String, String>,
) -> Result<(), StoreError> {
    if let Opened::Writer(mut writer) = open(client, blob).await? {
        // What an earlier try left of it is shorter than asking.
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

/// Throws away what is there of an unfinished blob.
pub(crate) async fn abort(client: &Client, digest: &str) -> Result<(), RuntimeError> {
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

/// The name under which a blob is written: the same for every pull, so that a later one finds what an earlier one left.
pub(crate) fn key(digest: &str) -> String {
    format!("chas-{digest}")
}

/// What came of asking to write.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The blob is there, and held by the client's lease.
    There,
    /// It may be written.
    Writer(Box<Writer>),
}

/// A blob being written. Dropped before its commit, it stays as far as it is, to be resumed.
#[derive(Debug)]
pub(crate) struct Writer {
    requests: mpsc::Sender<api::WriteContentRequest>,
    replies: Streaming<api::WriteContentResponse>,
    blob: Descriptor,
    offset: u64,
}

/// Asks to write a blob.
pub(crate) async fn open(client: &Client, blob: &Descriptor) -> Result<Opened, StoreError> {
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
        Err(status) if status.code() == Code::AlreadyExists => return Ok(Opened::There),
        Err(status) => return Err(status.into()),
    };
    let mut writer = Writer {
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
        Err(status) if status.code() == Code::AlreadyExists => return Ok(Opened::There),
        Err(status) => return Err(status.into()),
    }
    Ok(Opened::Writer(Box::new(writer)))
}

impl Writer {
    /// Bytes stored so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends at most [`PIECE_BYTES`], and waits until they are stored.
    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
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
    ) -> Result<(), StoreError> {
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
    let late =
        |_| RuntimeError::Unavailable(format!("no answer within {} s", WRITE_TIMEOUT.as_secs()));
    tokio::time::timeout(WRITE_TIMEOUT, call)
        .await
        .map_err(late)
}
