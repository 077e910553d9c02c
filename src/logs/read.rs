//! Reads a container's output over all its files in order, and follows it.
//!
//! A [`Reading`] is lazy: it holds a few blocks of one file and reads on when it is asked for more,
//! so a slow client costs nothing, and one that goes away leaves nothing behind. Files are read on
//! the blocking pool.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Semaphore;

pub(crate) use super::cursor::ReadOptions;
use super::cursor::{Cursor, ReadStep};
use super::line::LogLine;

/// Pause between two looks of a follower. Not inotify: an instance for each follower would use up
/// the 128 that a user has on the whole node, and a look costs two system calls.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Looks at files at once. A disk that hangs holds up readers of logs, and leaves the rest of the
/// blocking pool to the store.
static LOOKS: Semaphore = Semaphore::const_new(8);

/// Failure to read a container's output.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the logs in {dir}")]
pub(crate) struct ReadError {
    /// Log directory of the container.
    pub dir: PathBuf,
    /// Error of the system.
    pub source: io::Error,
}

/// Log lines in the order in which they were printed; ends with the output, or after an error.
pub(crate) struct Reading(
    Pin<Box<dyn futures_util::Stream<Item = Result<LogLine, ReadError>> + Send>>,
);

impl futures_util::Stream for Reading {
    type Item = Result<LogLine, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Reads the output in `dir`. No line is given twice, and none is left out but those whose file is
/// rotated away before a slow client has come to it: a line of the agent says so.
///
/// Needs a tokio runtime. A directory without files, or none at all, is an empty output.
#[cfg(test)]
pub(crate) fn read(dir: PathBuf, options: ReadOptions) -> Reading {
    read_until(dir, options, std::future::pending())
}

/// Reads the output in `dir`, as [`ReadOptions`] say. A reader that follows ends once `ended` has
/// come and everything that was written is delivered, however slow its client is.
///
/// No line is given twice, and none is left out but those whose file is rotated away before a slow
/// client has come to it: a line of the agent says so. Needs a tokio runtime. A directory without
/// files, or none at all, is an empty output.
#[must_use]
pub(crate) fn read_until(
    dir: PathBuf,
    options: ReadOptions,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Reading {
    let reader = Reader {
        cursor: Cursor::new(dir, options),
        ended: Box::pin(ended),
        is_last_look: false,
    };
    let batches = stream::unfold(Some(reader), |reader| async { reader?.next_batch().await });
    Reading(Box::pin(
        batches.flat_map(|batch: VecDeque<_>| stream::iter(batch)),
    ))
}

/// Lines of one block, or the error that ends the reading.
type LineBatch = VecDeque<Result<LogLine, ReadError>>;

/// Place of a reader, and the end that it may wait for.
struct Reader {
    cursor: Cursor,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whether the output had ended before the look that comes next.
    is_last_look: bool,
}

impl Reader {
    async fn next_batch(mut self) -> Option<(LineBatch, Option<Self>)> {
        loop {
            let (cursor, step) = look(self.cursor).await?;
            self.cursor = cursor;
            match step {
                Ok(ReadStep::Lines(lines)) => {
                    return Some((lines.into_iter().map(Ok).collect(), Some(self)));
                }
                Ok(ReadStep::Idle) if self.is_last_look => return None,
                Ok(ReadStep::Idle) => tokio::select! {
                    () = &mut self.ended => self.is_last_look = true,
                    () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                },
                Ok(ReadStep::End) => return None,
                Err(source) => {
                    let dir = self.cursor.into_dir();
                    return Some((VecDeque::from([Err(ReadError { dir, source })]), None));
                }
            }
        }
    }
}

/// Look at the files, on the blocking pool. `None`: the runtime shuts down, and nobody reads.
async fn look(mut cursor: Cursor) -> Option<(Cursor, io::Result<ReadStep>)> {
    let _place = LOOKS.acquire().await.ok()?;
    let looked = tokio::task::spawn_blocking(move || {
        let step = cursor.step();
        (cursor, step)
    });
    looked.await.ok()
}
