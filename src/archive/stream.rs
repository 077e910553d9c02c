//! Ends of the bounded channels between a thread that packs or unpacks and the async side.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::PART_BYTES;

/// Pieces that wait to be taken.
const PIECES_MAX: usize = 4;
/// Time in which whoever takes an archive takes a piece of it.
const PIECE_MAX: Duration = Duration::from_mins(1);

/// Piece of an archive, or the cause for which it breaks off.
pub(crate) type ArchivePiece = io::Result<Bytes>;

/// Writing end, on a thread that packs.
#[derive(Debug)]
pub(super) struct ArchiveWriter {
    pieces: mpsc::Sender<Option<ArchivePiece>>,
    stop: CancellationToken,
    runtime: Handle,
    piece: Vec<u8>,
}

/// A writing end, which `stop` cuts off, and the pieces that come of it.
pub(super) fn channel(
    stop: CancellationToken,
) -> (ArchiveWriter, mpsc::Receiver<Option<ArchivePiece>>) {
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    let writer = ArchiveWriter {
        pieces,
        stop,
        runtime: Handle::current(),
        piece: Vec::with_capacity(PART_BYTES),
    };
    (writer, receiver)
}

impl ArchiveWriter {
    /// Tells the end, or the cause for which the archive breaks off, if anybody still listens.
    pub(super) fn end(mut self, error: Option<io::Error>) {
        let end = match error {
            Some(error) => Some(Err(error)),
            None => match self.flush() {
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            },
        };
        self.send(end).ok();
    }

    fn send(&self, piece: Option<ArchivePiece>) -> io::Result<()> {
        let sending = async {
            tokio::select! {
                sent = tokio::time::timeout(PIECE_MAX, self.pieces.send(piece)) => match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "its reader went")),
                    Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader takes nothing")),
                },
                () = self.stop.cancelled() => Err(stopping()),
            }
        };
        self.runtime.block_on(sending)
    }
}

impl Write for ArchiveWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PART_BYTES - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PART_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PART_BYTES));
        self.send(Some(Ok(piece.into())))
    }
}

/// Sending end of an archive that comes in. An archive that is not [`ended`](Self::end) broke off.
#[derive(Debug)]
pub(crate) struct ArchiveSender(mpsc::Sender<Option<ArchivePiece>>);

impl ArchiveSender {
    /// Sends a piece; false: nobody reads any more.
    pub(crate) async fn send(&self, piece: ArchivePiece) -> bool {
        self.0.send(Some(piece)).await.is_ok()
    }

    /// Tells that all came.
    pub(crate) async fn end(self) {
        self.0.send(None).await.ok();
    }
}

/// Reading end, on a thread that unpacks.
#[derive(Debug)]
pub(super) struct ArchiveReader {
    pieces: mpsc::Receiver<Option<ArchivePiece>>,
    stop: CancellationToken,
    runtime: Handle,
    piece: Bytes,
    is_ended: bool,
}

/// Both ends of an archive that comes in, which `stop` cuts off.
pub(super) fn receive(stop: CancellationToken) -> (ArchiveSender, ArchiveReader) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let reader = ArchiveReader {
        pieces,
        stop,
        runtime: Handle::current(),
        piece: Bytes::new(),
        is_ended: false,
    };
    (ArchiveSender(sender), reader)
}

impl Read for ArchiveReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.is_ended {
            let pieces = &mut self.pieces;
            let receiving = async {
                tokio::select! {
                    piece = pieces.recv() => Ok(piece),
                    () = self.stop.cancelled() => Err(stopping()),
                }
            };
            match self.runtime.block_on(receiving)? {
                Some(Some(piece)) => self.piece = piece?,
                Some(None) => self.is_ended = true,
                None => {
                    let message = "its sender went";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
            }
        }
        let taken = to.len().min(self.piece.len());
        to[..taken].copy_from_slice(&self.piece.split_to(taken));
        Ok(taken)
    }
}

fn stopping() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the agent stops")
}
