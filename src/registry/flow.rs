//! Body of an answer as it comes: given up when nothing comes, or so little that it would never
//! end.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::{Instant, timeout};

/// Least speed of a body. A line that is slower by nature makes every image time out, and each try
/// goes on where the last one ended.
const BYTES_PER_S_MIN: f64 = 1024.0;

/// End of a body that is no end of its content.
#[derive(Debug)]
pub(super) enum FlowError {
    /// Nothing came, or hardly anything, for as long as the body may stall.
    Stalled,
    /// Connection that broke.
    Broken(reqwest::Error),
}

/// Body of an answer.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) response: Response,
    stall: Duration,
    /// Time spent waiting for the network, and bytes received in it, since the last look at the
    /// speed. The time in which the receiver is busy with what came does not count.
    waited: Duration,
    bytes: u64,
}

impl Flow {
    /// Body of `response`, which may stall for so long.
    pub(super) fn new(response: Response, stall: Duration) -> Self {
        Self {
            response,
            stall,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FlowError> {
        let began = Instant::now();
        let chunk = timeout(self.stall, self.response.chunk()).await;
        let chunk = chunk.map_err(|_| FlowError::Stalled)?;
        let Some(chunk) = chunk.map_err(FlowError::Broken)? else {
            return Ok(None);
        };
        self.waited += began.elapsed();
        self.bytes += chunk.len() as u64;
        if self.waited >= self.stall {
            if is_slow(self.bytes, self.waited) {
                return Err(FlowError::Stalled);
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(Some(chunk))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a speed need not be exact")]
fn is_slow(bytes: u64, waited: Duration) -> bool {
    (bytes as f64) < waited.as_secs_f64() * BYTES_PER_S_MIN
}
