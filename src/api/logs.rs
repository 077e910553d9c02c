//! A container's output: as text, or as an object a line.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use serde_json::json;
use state::id::ContainerId;

use super::accept::wants_objects;
use super::access::Access;
use super::containers::find_managed;
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::watchers::Watchers;
use super::{NodeApi, operations, wire};
use crate::logs::line::{LogLine, Stream as OutputStream};
use crate::logs::read::{ReadOptions, read_until};
use crate::view::Naming;

const TAIL_DEFAULT: usize = 100;
/// Time that a container has to be at rest before its output counts as complete: its logger needs
/// milliseconds for the last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Time without a line after which whoever follows objects gets an empty one, as of events: a dead
/// connection has none.
const SIGN_AFTER: Duration = Duration::from_secs(15);

/// Followers at once over the network. Each looks five times a second, on a thread that may wait for
/// the disk: that is still little.
pub(super) const OF_NETWORK: usize = 64;
/// Followers at once by the socket, which none on the network keeps out.
pub(super) const OF_SOCKET: usize = 16;

/// Places of those who follow logs.
pub(super) fn followers() -> Watchers {
    Watchers::new("follow logs", OF_NETWORK, OF_SOCKET)
}

pub(super) async fn logs<N: NodeApi>(
    State(node): State<Arc<N>>,
    Extension(followers): Extension<Watchers>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::LOGS)?;
    let options = read_options(&parameters)?;
    let timestamps = parameters.flag("timestamps")?;
    let id = find_managed(&*node, &access, &name, Naming::Loose)?;
    let follows = options.follow;
    let permit = if follows {
        Some(followers.take(access.peer)?)
    } else {
        None
    };
    let json = wants_objects(&headers);
    let ended = output_ends(Arc::clone(&node), id);
    let read = read_until(node.logs_dir(id), options, ended);
    // Whoever may not come in any more hears nothing more, either.
    let read = read.take_until(access.end.reached());
    let lines = read.map(move |line| {
        let _until_the_stream_ends = &permit;
        line.map(|line| render(&line, json, timestamps))
    });
    let wait = (json && follows).then_some(SIGN_AFTER);
    let lines = with_signs(lines, wait.unwrap_or(Duration::MAX));
    let kind = if json {
        "application/x-ndjson"
    } else {
        "text/plain; charset=utf-8"
    };
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}

/// The same lines, and an empty one each time that none came for so long.
fn with_signs<E: Send>(
    lines: impl Stream<Item = Result<Bytes, E>> + Send,
    wait: Duration,
) -> impl Stream<Item = Result<Bytes, E>> + Send {
    futures_util::stream::unfold(Box::pin(lines), move |mut lines| async move {
        match tokio::time::timeout(wait, lines.next()).await {
            Ok(line) => Some((line?, lines)),
            Err(_) => Some((Ok(Bytes::from_static(b"\n")), lines)),
        }
    })
}

/// Waits until the container prints nothing more: it is removed, or has been at rest for a while.
/// One that waits for its restart or its next attempt is not at rest.
async fn output_ends<N: NodeApi>(node: Arc<N>, id: ContainerId) {
    let mut changes = node.changes();
    let prints = || node.container(id).is_some_and(|view| !view.is_at_rest());
    loop {
        while prints() {
            if changes.changed().await.is_err() {
                return;
            }
        }
        let started_again = async { while !prints() && changes.changed().await.is_ok() {} };
        if tokio::time::timeout(LAST_WORDS, started_again)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// The lines that a request asks for.
fn read_options(parameters: &Parameters) -> Result<ReadOptions, Problem> {
    let now = SystemTime::now();
    let tail = match parameters.text("tail") {
        Some("all") => None,
        _ => Some(
            parameters
                .parsed("tail", "a number of lines, or \"all\"")?
                .unwrap_or(TAIL_DEFAULT),
        ),
    };
    Ok(ReadOptions {
        tail,
        since: parameters.time("since", now)?,
        until: parameters.time("until", now)?,
        stream: stream(parameters)?,
        follow: parameters.flag("follow")?,
    })
}

fn stream(parameters: &Parameters) -> Result<Option<OutputStream>, Problem> {
    match parameters.text("stream") {
        None => Ok(None),
        Some("stdout") => Ok(Some(OutputStream::Stdout)),
        Some("stderr") => Ok(Some(OutputStream::Stderr)),
        Some(other) => Err(Problem::Request(format!(
            "stream={other} is neither stdout nor stderr"
        ))),
    }
}

fn render(line: &LogLine, json: bool, timestamps: bool) -> Bytes {
    if json {
        let stream = if line.stream == OutputStream::Stdout {
            "stdout"
        } else {
            "stderr"
        };
        let text = String::from_utf8_lossy(&line.bytes);
        return format!(
            "{}\n",
            json!({"time": wire::time(line.time), "stream": stream, "partial": line.partial, "line": text})
        )
        .into();
    }
    let mut text = if timestamps {
        format!("{} ", wire::time(line.time)).into_bytes()
    } else {
        Vec::new()
    };
    text.extend_from_slice(&line.bytes);
    if !line.partial {
        text.push(b'\n');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_follower_is_told_that_its_answer_lasts_where_nothing_is_printed() {
        let line = Ok::<_, Infallible>(Bytes::from_static(b"{}\n"));
        let began = tokio::time::Instant::now();
        let lines = stream::iter([line]).chain(stream::pending());
        let heard: Vec<_> = with_signs(lines, SIGN_AFTER).take(3).collect().await;
        let heard: Vec<_> = heard.into_iter().map(Result::unwrap).collect();
        assert_eq!(heard, [&b"{}\n"[..], b"\n", b"\n"]);
        assert_eq!(began.elapsed(), 2 * SIGN_AFTER);
        let none = with_signs(stream::empty::<Result<Bytes, Infallible>>(), SIGN_AFTER);
        assert_eq!(none.count().await, 0);
    }
}
