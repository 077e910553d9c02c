//! The body of a request: judged by its head before a byte of it is read, then read within a limit
//! of time and memory, and parsed where it keeps nobody waiting.

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use places::{BodyPlace, Places};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::access::Access;
use super::caller::CallerPeer;
use super::error::Problem;
use super::json;
use super::listener::BODY_MAX;

mod places;
#[cfg(test)]
mod tests;

/// A deploy body is a few kilobytes; its largest part, the environment, is bounded to 128 KiB.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a body that is read and parsed like any other. A larger one waits for its turn.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Large bodies in memory at once that come over the network.
static OF_NETWORK: Places = Places::new(16);
/// Those that come by the socket, which wait for no other.
static OF_SOCKET: Places = Places::new(4);
/// Large bodies that are parsed at once, each on a thread of its own: JSON takes many times its
/// own size as values.
static PARSERS: Semaphore = Semaphore::const_new(4);

/// Reads a JSON body, and makes of it what the caller asked for.
///
/// # Errors
/// The body is of another type, too large, too slow, no JSON, or not what it should be.
pub(super) async fn read<T: Send + 'static>(
    access: &Access,
    headers: &HeaderMap,
    body: Body,
    make: impl FnOnce(Value) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Problem::TooLarge);
    }
    if !body.is_end_stream() {
        is_json(headers)?;
    }
    let (body, place) = bytes(body, places(access.peer)).await?;
    if body.len() <= SMALL_BYTES_MAX {
        return make(json::parse(&body)?);
    }
    let turn = PARSERS
        .acquire()
        .await
        .expect("nobody closes the semaphore");
    let parsing = tokio::task::spawn_blocking(move || {
        // A caller that goes leaves the parsing behind, which takes its memory all the same.
        let _held = (place, turn);
        make(json::parse(&body)?)
    });
    match parsing.await {
        Ok(made) => made,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Whether the head announces plain bytes, which no page of another origin can have a browser send.
pub(super) fn is_raw(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE);
    given.is_some_and(|kind| {
        kind.as_bytes()
            .eq_ignore_ascii_case(b"application/octet-stream")
    })
}

/// Reads a body of plain bytes.
///
/// # Errors
/// The body is too large, or too slow.
pub(super) async fn read_raw(access: &Access, body: Body) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Problem::TooLarge);
    }
    let (body, _place) = bytes(body, places(access.peer)).await?;
    Ok(body)
}

/// The places for a body of this caller.
fn places(caller: CallerPeer) -> &'static Places {
    if caller.is_local() {
        &OF_SOCKET
    } else {
        &OF_NETWORK
    }
}

/// Whether the head announces JSON. Without that, a page of another origin could have a browser
/// send a form to an agent without a token.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE);
    let text = given.map(|value| value.to_str().unwrap_or("not text"));
    let Some(text) = text else {
        return Err(Problem::MediaType("no Content-Type".to_owned()));
    };
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    // RFC 8259, 8.1: JSON is UTF-8.
    let is_utf8 = parts.all(|parameter| {
        let charset = parameter.split_once('=').map(|(key, value)| {
            let value = value.trim_matches('"');
            !key.eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
        });
        charset.unwrap_or(true)
    });
    if is_json && is_utf8 {
        Ok(())
    } else {
        Err(Problem::MediaType(format!("Content-Type {text:?}")))
    }
}

/// Reads a body; with a large one comes its place, which is held as long as the body is.
async fn bytes(
    body: Body,
    places: &'static Places,
) -> Result<(Bytes, Option<SemaphorePermit<'static>>), Problem> {
    let mut deadline = Instant::now() + BODY_MAX;
    let mut read = BytesMut::new();
    let mut place: Option<BodyPlace> = None;
    let mut frames = body.into_data_stream();
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout_at(deadline, frames.next()) => next,
            () = BodyPlace::is_lost(place.as_ref()) => return Err(places::lost()),
        };
        let Some(frame) = next.map_err(|_| Problem::Slow)? else {
            break;
        };
        let frame = frame.map_err(|error| {
            Problem::Request(format!(
                "the request body broke off: {error}; send it again"
            ))
        })?;
        if read.len() + frame.len() > BODY_BYTES_MAX {
            return Err(Problem::TooLarge);
        }
        if place.is_none() && read.len() + frame.len() > SMALL_BYTES_MAX {
            let asked = Instant::now();
            place = Some(places.take().await?);
            // The agent kept the client waiting here.
            deadline += asked.elapsed();
        }
        read.extend_from_slice(&frame);
    }
    Ok((read.freeze(), place.map(BodyPlace::of_read)))
}
