//! A connection's bytes: the pace is told what comes, and a client that takes nothing of an answer
//! is given up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::pace::Pace;

/// Time in which a client takes at least something of what is sent to it.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// A connection that paces what goes through it.
#[derive(Debug)]
pub(crate) struct PacedStream<S> {
    stream: S,
    pace: Arc<Pace>,
    /// Whether the last write is still to be taken, and when that is given up.
    is_blocked: bool,
    given_up: Pin<Box<Sleep>>,
}

impl<S> PacedStream<S> {
    pub(super) fn new(stream: S, pace: Arc<Pace>) -> Self {
        Self {
            stream,
            pace,
            is_blocked: false,
            given_up: Box::pin(tokio::time::sleep(WRITE_MAX)),
        }
    }

    /// Notes how a write went; one that nothing is taken of for too long becomes an error.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if std::mem::take(&mut self.is_blocked) {
                self.pace.blocked(false);
            }
            return written;
        }
        if !std::mem::replace(&mut self.is_blocked, true) {
            self.pace.blocked(true);
            self.given_up.as_mut().reset(Instant::now() + WRITE_MAX);
        }
        ready!(self.given_up.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pace.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.pace.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_layer_above_has_taken_is_not_taken_by_the_client() {
        let (_client, server) = tokio::io::duplex(1);
        let pace = Arc::new(Pace::new());
        pace.request_began(false);
        // As TLS does, which answers at once and writes as the wire allows.
        let paced = PacedStream::new(server, Arc::clone(&pace));
        let mut server = tokio::io::BufWriter::new(paced);
        server.write_all(b"12345").await.unwrap();
        pace.answer_ended();
        let began = Instant::now();
        let flushing = tokio::time::timeout(WRITE_MAX / 2, server.flush()).await;
        assert!(flushing.is_err() && pace.waiting_since().is_some());
        let error = server.flush().await.unwrap_err();
        assert_eq!(
            (error.kind(), began.elapsed()),
            (io::ErrorKind::TimedOut, WRITE_MAX)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (mut client, server) = tokio::io::duplex(1);
        let pace = Arc::new(Pace::new());
        pace.request_began(false);
        let mut server = PacedStream::new(server, Arc::clone(&pace));
        let slow = async {
            for _ in 0..4 {
                tokio::time::sleep(WRITE_MAX / 2).await;
                client.read_u8().await.unwrap();
            }
            client
        };
        let (_client, written) = tokio::join!(slow, server.write_all(b"12345"));
        written.unwrap();
        let began = Instant::now();
        let error = server.write_all(b"6").await.unwrap_err();
        assert_eq!(
            (error.kind(), began.elapsed()),
            (io::ErrorKind::TimedOut, WRITE_MAX)
        );
        assert!(pace.waiting_since().is_some());
    }
}
