//! Bodies that tell the pace of their connection when they end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::pace::Pace;

/// The body of a request.
#[derive(Debug)]
pub(super) struct PacedBody {
    body: Incoming,
    pace: Arc<Pace>,
}

impl PacedBody {
    /// The body of a request whose head came now.
    pub(super) fn new(body: Incoming, pace: Arc<Pace>) -> Self {
        pace.request_began(!body.is_end_stream());
        Self { body, pace }
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.pace.body_awaited(),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.pace.body_came(bytes);
            }
            Poll::Ready(_) => {}
        }
        if self.body.is_end_stream() || matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.pace.body_ended();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for PacedBody {
    fn drop(&mut self) {
        self.pace.body_ended();
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct PacedAnswer {
    body: Body,
    pace: Arc<Pace>,
}

impl PacedAnswer {
    pub(super) const fn new(body: Body, pace: Arc<Pace>) -> Self {
        Self { body, pace }
    }
}

impl HttpBody for PacedAnswer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for PacedAnswer {
    fn drop(&mut self) {
        self.pace.answer_ended();
    }
}
