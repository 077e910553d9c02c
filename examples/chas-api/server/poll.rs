//! The set of a node: `GET /nodes/{node_id}/desired-state`, kept open while nothing is new.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::body::NodeId;
use super::etag::EtagCondition;
use super::problem::Problem;
use super::sets::{DesiredSet, fingerprint};
use super::{Server, changes, nodes, signature};

/// Longest wait, whatever a node asks for. Proxies cut longer silence.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Most polls that are kept open, each of which takes a few kilobytes. Others are answered at once,
/// as RFC 7240 permits.
const WAITING_POLLS_MAX: usize = 50_000;

/// A poll that is kept open, counted as long as it is.
struct WaitedPoll<'a>(&'a AtomicUsize);

impl<'a> WaitedPoll<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let kept_open = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < WAITING_POLLS_MAX).then_some(kept_open)
    }
}

impl Drop for WaitedPoll<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn desired_state(
    State(server): State<Arc<Server>>,
    NodeId(id): NodeId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    server.doors.acting(&headers, &server.nodes(), &id)?;
    let (condition, wait) = (EtagCondition::of(&headers), wait(&headers));
    // Before the first look, so that no change after it is missed.
    let mut wake = server.wake.subscribe();
    let mut wish = look(&server, &id)?;
    let mut tag = tag_of(&server, &wish);
    let kept_open = wait
        .filter(|_| condition.is_current(&tag))
        .and_then(|wait| Some((WaitedPoll::begin(&server.waiting_polls)?, wait)));
    let Some((_kept_open, wait)) = kept_open else {
        return Ok(answer(&server, &id, &wish, &tag, &condition, None));
    };
    let until = tokio::time::sleep(wait);
    tokio::pin!(until);
    // `borrow` marks nothing as seen, so that a change since the last look still wakes.
    while condition.is_current(&tag) && !*wake.borrow() {
        tokio::select! {
            () = &mut until => break,
            changed = wake.changed() => changed.expect("the sender lives as long as the server"),
        }
        let now = look(&server, &id)?;
        // Most changes concern other nodes.
        if (now.generation, now.is_confirmed) != (wish.generation, wish.is_confirmed) {
            tag = tag_of(&server, &now);
            wish = now;
        }
    }
    Ok(answer(&server, &id, &wish, &tag, &condition, Some(wait)))
}

/// The set of the node now.
fn look(server: &Server, id: &str) -> Result<DesiredSet, Problem> {
    if server.nodes().get(id).is_none() {
        return Err(nodes::unknown(id));
    }
    server
        .wanted()
        .wish(id)
        .ok_or_else(|| changes::none_for(id))
}

/// The tag of the answer with this set.
fn tag_of(
    server: &Server,
    DesiredSet {
        set,
        generation,
        is_confirmed,
    }: &DesiredSet,
) -> String {
    let rest = format!(
        "{generation} {is_confirmed} {}",
        server.settings.poll_after.as_secs()
    );
    format!(
        "\"{}\"",
        fingerprint(&[server.disk.epoch(), &set.hash, &rest])
    )
}

fn answer(
    server: &Server,
    id: &str,
    wish: &DesiredSet,
    tag: &str,
    condition: &EtagCondition,
    kept_open: Option<Duration>,
) -> Response {
    let mut response = if condition.is_current(tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        complete(server, id, wish, tag)
    };
    let headers = response.headers_mut();
    headers.insert(
        header::ETAG,
        HeaderValue::from_str(tag).expect("a tag is hex digits in quotes"),
    );
    if let Some(kept_open) = kept_open {
        let applied = HeaderValue::from_str(&format!("wait={}", kept_open.as_secs()))
            .expect("a number is visible ASCII");
        headers.insert(HeaderName::from_static("preference-applied"), applied);
    }
    response
}

/// The answer with the complete set. Its containers are shared by all answers, and copied into
/// none.
fn complete(server: &Server, id: &str, wish: &DesiredSet, tag: &str) -> Response {
    let DesiredSet {
        set,
        generation,
        is_confirmed,
    } = wish;
    let head = json!({
        "schema": 1, "node_id": id, "epoch": server.disk.epoch(), "generation": generation, "complete": true,
        "poll_after_s": server.settings.poll_after.as_secs(), "prune_confirm": is_confirmed.then_some(generation),
    });
    let head = format!("{},", head.to_string().trim_end_matches('}'));
    let length = head.len() + set.fields.len() + 1;
    let parts = [
        Bytes::from(head),
        set.fields.clone(),
        Bytes::from_static(b"}"),
    ];
    let sign = |key| signature::header(key, server.disk.epoch(), *generation, id, &parts, tag);
    let signed = server.settings.set_key.as_deref().map(sign);
    let body = Body::from_stream(tokio_stream::iter(parts.map(Ok::<_, Infallible>)));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CONTENT_LENGTH, length.into()),
    ];
    let mut response = (headers, body).into_response();
    if let Some(signed) = signed {
        let name = HeaderName::from_static("chas-signature");
        response.headers_mut().insert(name, signed);
    }
    response
}

/// The wait that the caller asks for (RFC 7240, 4.3). Of several, the first counts.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(','));
    let asked = preferences.filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("wait")
            .then(|| value.trim().trim_matches('"').parse().ok())
    });
    let seconds: u64 = asked.flatten().next()?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(WAIT_MAX))
}
