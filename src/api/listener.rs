//! The API's doors, the network's (`tcp`) and this host's (`socket`): HTTP/1.1 with a limit on the
//! time that each part of a request may take, and on the connections open at once, of which one
//! caller cannot take the probes' share.
//!
//! A connection that waits for its client (`pace`) is closed when its time is over, and sooner if
//! another one needs its place (`slots`). One whose request is being answered is left alone, for a
//! deploy may be waited for, and a log be followed; only a client that takes nothing of the answer
//! is closed (`stream`).

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::caller::{Caller, CallerPeer, ShownCertificate};
use super::error::Problem;
use super::request_id::{mark, request_id};
use bodies::{PacedAnswer, PacedBody};
pub(super) use pace::BODY_MAX;
pub(super) use pace::Pace;
pub(super) use slots::connections;
use slots::{Admission, Slot, SlotLimits, Slots};
pub(crate) use socket::SocketDoor;
pub(crate) use tcp::TcpDoor;

pub(crate) use tls::{TlsInForce, TlsMaterial, file_validity, validity_of};

mod bodies;
mod pace;
pub(super) mod shut;
mod slots;
mod socket;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

/// Bytes of a request's head, and of an answer kept for a slow client. Nobody's head is longer.
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// Wait after an accept that failed, for want of files most likely: some are closed by then.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Door of the API: where connections come from.
pub(crate) trait Door: Send + Sync + 'static {
    /// Connection as it comes in.
    type Arrived: Send + 'static;
    /// Bytes of a connection, of whose wire the pace is told: what a layer in between takes is not
    /// taken by the client.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. `None`: its caller may not come in here.
    fn accept(
        &self,
    ) -> impl Future<Output = io::Result<Option<(Self::Arrived, CallerPeer)>>> + Send;

    /// Makes a connection that came in ready for requests, and tells what its client has shown.
    fn welcome(
        arrived: Self::Arrived,
        pace: Arc<Pace>,
    ) -> impl Future<Output = io::Result<(Self::Stream, ShownCertificate)>> + Send;

    /// Places of its connections, which those of another door never take.
    fn places(&self) -> SlotLimits;

    /// Waits until nobody finds the door any more, and another one is needed in its place.
    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }
}

/// Serves `router` at `door` until `stop`, and then the requests under way to their end.
pub(crate) async fn serve<D: Door>(door: D, router: Router, stop: CancellationToken) {
    let slots = Slots::new(door.places());
    let mut connections = JoinSet::new();
    let mut failed = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok(None) => failed = false,
            Ok(Some((arrived, peer))) => {
                failed = false;
                if let Some(slot) = slots.admit(peer) {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(connection::<D>(arrived, peer, slot, router, stop));
                }
            }
            // The client has gone before it was taken in.
            Err(error) if is_of_one(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::error!(%error, "connection not accepted, retrying");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    // Nobody waits in front of a door that stays shut.
    drop(door);
    while connections.join_next().await.is_some() {}
}

fn is_of_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection to its end: the client's, its time's, or the agent's.
async fn connection<D: Door>(
    arrived: D::Arrived,
    peer: CallerPeer,
    slot: Slot,
    router: Router,
    stop: CancellationToken,
) {
    let pace = Arc::clone(slot.pace());
    let welcomed = tokio::select! {
        biased;
        welcomed = D::welcome(arrived, Arc::clone(&pace)) => welcomed,
        () = slot.evicted() => return,
        () = pace.overdue() => return,
        () = stop.cancelled() => return,
    };
    let (stream, shown) = match welcomed {
        Ok(welcomed) => welcomed,
        // It speaks no TLS, or does not believe the agent's certificate.
        Err(error) => return tracing::debug!(%peer, %error, "connection not welcomed"),
    };
    pace.welcomed();
    let caller = Caller {
        peer,
        shown: Arc::new(shown),
    };
    let io = TokioIo::new(stream);
    let (admission, answering) = (slot.admission(), Arc::clone(&pace));
    let service = service_fn(move |request| {
        answer(
            request,
            caller.clone(),
            admission,
            router.clone(),
            Arc::clone(&answering),
        )
    });
    let connection = http1::Builder::new()
        // The pace has its own limits: hyper's timer knows one for the head and for a rest.
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(io, service)
        // A program that is watched; its session has limits of its own.
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            biased;
            // A client that broke off, or spoke no HTTP: its own affair.
            _ended = connection.as_mut() => return,
            () = slot.evicted() => return,
            () = pace.overdue() => return,
            () = stop.cancelled(), if !is_stopping => {
                if pace.is_at_rest() {
                    return;
                }
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Answers one request, and notes in `pace` where it is.
async fn answer(
    request: hyper::Request<Incoming>,
    caller: Caller,
    admission: Admission,
    router: Router,
    pace: Arc<Pace>,
) -> Result<Response<PacedAnswer>, Infallible> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(caller);
    let is_probe = matches!(parts.uri.path(), "/livez" | "/readyz");
    parts.extensions.insert(Arc::clone(&pace));
    let body = PacedBody::new(body, Arc::clone(&pace));
    let response = if admission == Admission::Probe && !is_probe {
        let busy = "as many requests as the agent takes at once are under way";
        let mut response = Problem::Busy(busy.to_owned()).into_response();
        // It comes from no route, where every other answer has it from.
        mark(&mut response, &request_id(&parts.headers));
        let close = axum::http::HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(axum::http::header::CONNECTION, close);
        response
    } else {
        let request = Request::from_parts(parts, axum::body::Body::new(body));
        let Ok(response) = router.oneshot(request).await;
        response
    };
    Ok(response.map(|body| PacedAnswer::new(body, pace)))
}
