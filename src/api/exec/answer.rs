//! The answer to a program that is run to its end: its exit code, and the first of what it printed.

use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::api::answer::line;
use crate::api::error::{Problem, Unfinished};
use crate::exec::{ExecEnd, ExecInput, ExecOutput, ExecSession};

/// Bytes of a stream that are answered.
const STREAM_BYTES_MAX: usize = 1 << 20;
/// Bytes of both streams that are kept as they come. With more, an answer waits for a place, and
/// its program with it.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Large answers in memory at once: JSON may take six times the bytes. Those of the network keep
/// none from root on the socket.
static LARGE: Semaphore = Semaphore::const_new(8);
static LARGE_LOCAL: Semaphore = Semaphore::const_new(2);
/// Bytes of a piece of an answer.
const PIECE_BYTES: usize = 64 << 10;
/// Time in which a program that was ended is gone, with the last of what it printed.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// First of what a program printed.
#[derive(Debug)]
pub(super) struct Printed {
    places: &'static Semaphore,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
    place: Option<SemaphorePermit<'static>>,
}

impl Printed {
    /// Nothing yet; `is_local`: for root on the socket.
    pub(super) const fn within(is_local: bool) -> Self {
        Self {
            places: if is_local { &LARGE_LOCAL } else { &LARGE },
            stdout: Vec::new(),
            stderr: Vec::new(),
            truncated: false,
            place: None,
        }
    }

    /// Takes what is printed, until it ends. What is too much is heard, and not kept.
    async fn take(&mut self, output: &mut mpsc::Receiver<ExecOutput>) {
        while let Some(piece) = output.recv().await {
            let (stream, bytes) = match piece {
                ExecOutput::Stdout(bytes) => (&mut self.stdout, bytes),
                ExecOutput::Stderr(bytes) => (&mut self.stderr, bytes),
            };
            let room = STREAM_BYTES_MAX - stream.len();
            self.truncated |= bytes.len() > room;
            stream.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if self.place.is_none() && self.stdout.len() + self.stderr.len() > SMALL_BYTES_MAX {
                self.place = self.places.acquire().await.ok();
            }
        }
    }

    fn shown(&self, base64: bool) -> Value {
        let stream = |bytes: &[u8]| {
            if base64 {
                BASE64_STANDARD.encode(bytes)
            } else {
                text(bytes)
            }
        };
        json!({"stdout": stream(&self.stdout), "stderr": stream(&self.stderr), "truncated": self.truncated})
    }
}

/// Bytes as text; others than UTF-8 become U+FFFD. A character that was cut in two at the end is
/// left out.
fn text(bytes: &[u8]) -> String {
    let cut = std::str::from_utf8(bytes).err();
    let whole = cut.filter(|error| error.error_len().is_none() && bytes.len() == STREAM_BYTES_MAX);
    let end = whole.map_or(bytes.len(), |error| error.valid_up_to());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Sees a program to its end or its `timeout`, and answers what it printed.
pub(super) async fn of(
    mut session: ExecSession,
    stdin: Option<Bytes>,
    timeout: Duration,
    (mut printed, base64): (Printed, bool),
) -> Result<Response, Problem> {
    let input = session.input.clone();
    let fed = async {
        if let Some(bytes) = stdin {
            for piece in bytes.chunks(PIECE_BYTES) {
                let piece = ExecInput::Bytes(bytes.slice_ref(piece));
                if input.send(piece).await.is_err() {
                    // It has ended, and what it printed is still to come.
                    break;
                }
            }
            let _ended_meanwhile = input.send(ExecInput::End).await;
        }
        std::future::pending::<()>().await;
    };
    let taken = async {
        tokio::select! {
            () = printed.take(&mut session.output) => {}
            () = fed => {}
        }
    };
    if tokio::time::timeout(timeout, taken).await.is_err() {
        let mut cut = session.cut();
        let gone = async {
            printed.take(&mut cut.output).await;
            cut.end().await
        };
        let _gone = tokio::time::timeout(GONE_WITHIN, gone).await;
        let timeout = humantime::format_duration(timeout);
        let detail = format!(
            "the program did not end within {timeout} and was killed; give it a longer \"timeout\", or watch it over a WebSocket"
        );
        let printed = printed.shown(base64);
        return Err(Problem::Unfinished(Unfinished::TimedOut, detail, printed));
    }
    let end = session.end().await;
    let cause = match end {
        ExecEnd::Exited(code) => {
            let mut shown = printed.shown(base64);
            shown["exit_code"] = code.into();
            return Ok(finished(&shown, printed.place));
        }
        ExecEnd::ContainerEnded => Unfinished::ContainerEnded,
        ExecEnd::AgentStopped | ExecEnd::Lost(_) | ExecEnd::Cut => Unfinished::Lost,
    };
    let printed = printed.shown(base64);
    Err(Problem::Unfinished(cause, end.to_string(), printed))
}

/// The answer, which keeps its place until its last piece is taken.
fn finished(shown: &Value, place: Option<SemaphorePermit<'static>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    let text = line(shown);
    if place.is_none() {
        return (kind, text).into_response();
    }
    let pieces: Vec<_> = text
        .chunks(PIECE_BYTES)
        .map(|piece| text.slice_ref(piece))
        .collect();
    let pieces = pieces.into_iter().map(move |piece| {
        let _until_the_last = &place;
        Ok::<_, std::convert::Infallible>(piece)
    });
    (kind, Body::from_stream(stream::iter(pieces))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_each_stream_the_first_megabyte_is_kept_and_the_rest_is_heard() {
        let (to, mut from) = mpsc::channel(8);
        let mut printed = Printed::within(false);
        let printing = async {
            for _ in 0..40 {
                let piece = Bytes::from(vec![b'x'; 32 << 10]);
                to.send(ExecOutput::Stdout(piece)).await.unwrap();
            }
            let piece = Bytes::from_static(b"end");
            to.send(ExecOutput::Stderr(piece)).await.unwrap();
            drop(to);
        };
        tokio::join!(printing, printed.take(&mut from));
        let shown = printed.shown(false);
        let length = shown["stdout"].as_str().unwrap().len();
        assert_eq!((length, &shown["stderr"]), (1 << 20, &json!("end")));
        assert_eq!(shown["truncated"], true);
        assert!(printed.place.is_some());
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_their_place_and_none_is_made_up_by_the_cut() {
        assert_eq!(text(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(text("a\u{fc}".as_bytes()), "a\u{fc}");
        assert_eq!(text(b"a\xc3"), "a\u{fffd}");
        let mut cut = vec![b'x'; STREAM_BYTES_MAX - 1];
        cut.push(0xc3);
        assert_eq!(text(&cut).len(), STREAM_BYTES_MAX - 1);
        let printed = Printed {
            stdout: vec![0, 255],
            ..Printed::within(true)
        };
        let expected = json!({"stdout": "AP8=", "stderr": "", "truncated": false});
        assert_eq!(printed.shown(true), expected);
    }
}
