//! Archives as bodies: those that are answered break off where they fail, and those that come in are
//! taken at their own pace.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Version, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::time::Instant;

use super::access::{Access, AccessEnd};
use super::answer::Json;
use super::containers::find_managed;
use super::error::Problem;
use super::listener::Pace;
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, Refusal, operations};
use crate::archive::{
    ArchiveDownload, ArchiveFault, ArchiveRefusal, ArchiveSender, ArchiveUpload, ArchivedAmount,
};
use crate::view::Naming;

/// Type of an archive.
const TAR: &str = "application/x-tar";
/// Types under which an archive may come; a form is what curl says when nobody tells it better.
const TYPES: [&str; 4] = [
    TAR,
    "application/tar",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
];
/// Bytes of a refused archive that are still read, so that its sender hears of the refusal.
const DRAIN_BYTES_MAX: usize = 256 << 20;
/// Time in which they are read.
const DRAIN_MAX: Duration = Duration::from_secs(10);

impl From<ArchiveRefusal> for Problem {
    fn from(refusal: ArchiveRefusal) -> Self {
        match refusal {
            ArchiveRefusal::Absent(text) => Self::Refused(Refusal::NotFound(text)),
            ArchiveRefusal::Busy(text) => Self::Busy(text),
            ArchiveRefusal::Wrong(text) => Self::Request(text),
            ArchiveRefusal::Denied(denial) => Self::Refused(Refusal::Denied(vec![denial])),
            ArchiveRefusal::Conflict(text) => Self::Refused(Refusal::Conflict(text)),
            ArchiveRefusal::Unavailable(text) => Self::Refused(Refusal::Unavailable(text)),
            ArchiveRefusal::Broken(fault) => {
                let text = fault.to_string();
                match fault {
                    ArchiveFault::Cut { source, .. }
                        if source.kind() == io::ErrorKind::ConnectionAborted =>
                    {
                        Self::Refused(Refusal::Unavailable(text))
                    }
                    ArchiveFault::Malformed { .. } | ArchiveFault::Cut { .. } => {
                        Self::Request(text)
                    }
                    ArchiveFault::Misplaced { .. } => Self::Refused(Refusal::Conflict(text)),
                    ArchiveFault::Full { .. } => Self::Refused(Refusal::Full(text)),
                    ArchiveFault::Failed { .. } => Self::Refused(Refusal::Unavailable(text)),
                }
            }
        }
    }
}

/// Refuses a request whose answer could be taken for all of an archive that breaks off, as HTTP/1.0
/// has no chunks; and one that asks for its head alone, which tells nothing.
pub(super) fn may_read(method: &Method, version: Version) -> Result<(), Problem> {
    if method == Method::HEAD {
        return Err(Problem::Request(
            "an archive is read by GET alone".to_owned(),
        ));
    }
    if version < Version::HTTP_11 {
        let fault = "an archive is read by HTTP/1.1, whose end shows that all of it came";
        return Err(Problem::Request(fault.to_owned()));
    }
    Ok(())
}

/// An archive of what a container has at a path.
pub(super) async fn read<N: NodeApi>(
    State(node): State<Arc<N>>,
    (method, version): (Method, Version),
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    may_read(&method, version)?;
    let path = path(query)?;
    let id = find_managed(&*node, &access, &name, Naming::Exact)?;
    let is_zstd = takes_zstd(&headers);
    let pieces = node.read_container(id, path, is_zstd).await?;
    Ok(answer(pieces, is_zstd, access.end))
}

/// Takes an archive into a directory of a container.
pub(super) async fn write<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    request: Request,
) -> Response {
    let begin = async |is_zstd| {
        let path = path(query)?;
        let id = find_managed(&*node, &access, &name, Naming::Exact)?;
        Ok(node.write_container(id, path, is_zstd).await?)
    };
    take(request, begin).await
}

fn path(query: RawQuery) -> Result<String, Problem> {
    let parameters = Parameters::of(query, &operations::READ_FILES)?;
    let none =
        || Problem::Request("path= is missing: an absolute path in the container".to_owned());
    parameters.text("path").map(str::to_owned).ok_or_else(none)
}

/// Whether the caller takes a compressed answer.
pub(super) fn takes_zstd(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_zstd = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("zstd"));
        let is_refused = parts.any(|weight| {
            let number = weight
                .strip_prefix("q=")
                .and_then(|number| number.parse::<f32>().ok());
            number == Some(0.0)
        });
        is_zstd && !is_refused
    })
}

/// The answer with an archive. Its connection is cut where it breaks off, so that nobody takes a part
/// for all of it.
pub(super) fn answer(pieces: ArchiveDownload, is_zstd: bool, end: AccessEnd) -> Response {
    let pieces = stream::unfold(Some((pieces, Box::pin(end.reached()))), async |state| {
        let (mut pieces, mut end) = state?;
        let piece = tokio::select! {
            piece = pieces.recv() => piece,
            () = &mut end => Some(Some(Err(io::Error::other("the right to read it ended")))),
        };
        match piece {
            Some(Some(Ok(piece))) => Some((Ok(piece), Some((pieces, end)))),
            Some(Some(Err(error))) => Some((Err(error), None)),
            Some(None) => None,
            None => Some((Err(io::Error::other("the archive broke off")), None)),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TAR));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if is_zstd {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    response
}

/// Takes the archive of a request, once `begin` has found a place for it. A refusal is answered
/// before the rest of the archive is read, and that is read then: else the connection would be
/// reset, and the refusal be lost with it.
pub(super) async fn take<F>(request: Request, begin: F) -> Response
where
    F: AsyncFnOnce(bool) -> Result<ArchiveUpload, Problem>,
{
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    let taken = async {
        let is_zstd = is_zstd(&parts.headers)?;
        is_tar(&parts.headers)?;
        let upload = begin(is_zstd).await?;
        if let Some(pace) = parts.extensions.get::<Arc<Pace>>() {
            pace.is_stream();
        }
        receive(&mut body, upload).await
    };
    match taken.await {
        Ok(amount) => {
            let ArchivedAmount {
                files,
                bytes,
                left_out,
                ..
            } = amount;
            let mut shown = json!({"files": files, "bytes": bytes});
            if left_out > 0 {
                shown["left_out"] = json!(left_out);
            }
            Json(shown).into_response()
        }
        Err(problem) => refused(problem, body),
    }
}

/// Hands the body on, until all of it came or its reader has enough.
async fn receive(
    body: &mut BodyDataStream,
    upload: ArchiveUpload,
) -> Result<ArchivedAmount, Problem> {
    let ArchiveUpload { sender, mut done } = upload;
    tokio::select! {
        ended = &mut done => return Ok(ended?),
        () = hand_on(body, sender) => {}
    }
    Ok(done.await?)
}

async fn hand_on(body: &mut BodyDataStream, sender: ArchiveSender) {
    while let Some(piece) = body.next().await {
        let is_over = piece.is_err();
        if !sender.send(piece.map_err(io::Error::other)).await || is_over {
            return;
        }
    }
    sender.end().await;
}

fn is_zstd(headers: &HeaderMap) -> Result<bool, Problem> {
    let given = headers.get(header::CONTENT_ENCODING);
    let coding = given.map_or("identity", |value| value.to_str().unwrap_or("not text"));
    match coding.to_ascii_lowercase().as_str() {
        "identity" => Ok(false),
        "zstd" => Ok(true),
        _ => Err(Problem::ArchiveType(format!("Content-Encoding {coding:?}"))),
    }
}

fn is_tar(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE);
    let Some(given) = given.map(|value| value.to_str().unwrap_or("not text")) else {
        return Ok(());
    };
    let kind = given.split(';').next().unwrap_or_default().trim();
    if TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        Ok(())
    } else {
        Err(Problem::ArchiveType(format!("Content-Type {given:?}")))
    }
}

/// The answer that refuses an archive, and ends when its sender has ended or had its time.
fn refused(problem: Problem, body: BodyDataStream) -> Response {
    let (mut parts, refusal) = problem.into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    let deadline = Instant::now() + DRAIN_MAX;
    let rest = stream::unfold((body, 0), move |(mut body, drained)| async move {
        let next = tokio::time::timeout_at(deadline, body.next()).await;
        match next {
            Ok(Some(Ok(piece))) if drained < DRAIN_BYTES_MAX => {
                let drained = drained + piece.len();
                Some((Ok::<_, axum::Error>(Bytes::new()), (body, drained)))
            }
            _ => None,
        }
    });
    let rest: Pin<Box<dyn futures_util::Stream<Item = _> + Send>> = Box::pin(rest);
    let all = refusal.into_data_stream().chain(rest);
    Response::from_parts(parts, Body::from_stream(all))
}
