//! The streams of one program: what it prints is handed on piece by piece, and what comes for it is
//! written.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ExecEngine, ExecInput, ExecName, ExecOutput};

/// Bytes of a piece.
const PIECE_BYTES: usize = 16 << 10;
/// Time in all that more is waited for once the program has ended: a process that left its session
/// may hold the stream for ever, and print.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes that are taken once the program has ended: more than pipes hold.
const LAST_BYTES_MAX: usize = 512 << 10;
/// Input that ends what a terminal's reader reads: of a line that is begun the first gives the
/// line, and the second the end.
const TERMINAL_END: &[u8] = b"\x04\x04";

/// Hands on what a program prints, until the stream's end; once it has `ended`, until nothing comes
/// any more. Where the pieces are not taken, the program waits.
pub(super) async fn hand_on(
    mut stream: impl AsyncRead + Unpin,
    piece: fn(Bytes) -> ExecOutput,
    to: &mpsc::Sender<ExecOutput>,
    ended: &CancellationToken,
) {
    let mut buffer = BytesMut::new();
    let (mut patience, mut left) = (LAST_WORDS, LAST_BYTES_MAX);
    loop {
        buffer.reserve(PIECE_BYTES);
        let (had_ended, began) = (ended.is_cancelled(), Instant::now());
        let silence = async {
            ended.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut buffer) => read,
            () = silence => return,
        };
        let bytes = read.unwrap_or(0);
        if bytes == 0 || left == 0 {
            return;
        }
        if had_ended {
            patience = patience.saturating_sub(began.elapsed());
            left = left.saturating_sub(bytes);
        }
        // Without a taker it is read all the same: whoever does not want to hear it does not stop it.
        let _taken = to.send(piece(buffer.split().freeze())).await;
    }
}

/// Writes what comes for a program, until its input ends or nobody sends any more.
pub(super) async fn feed(
    engine: &dyn ExecEngine,
    (name, terminal): (&ExecName, bool),
    mut stream: Option<impl AsyncWrite + Unpin>,
    mut from: mpsc::Receiver<ExecInput>,
) {
    while let Some(input) = from.recv().await {
        match (input, &mut stream) {
            (ExecInput::Bytes(bytes), Some(open)) => {
                if open.write_all(&bytes).await.is_err() {
                    stream = None;
                }
            }
            // Its end would not be seen: the shim holds the other side.
            (ExecInput::End, Some(open)) if terminal => {
                let _it_may_have_ended = open.write_all(TERMINAL_END).await;
            }
            (ExecInput::End, Some(_)) => {
                stream = None;
                engine.end_input(name).await;
            }
            (ExecInput::Size { width, height }, _) => engine.resize(name, (width, height)).await,
            (ExecInput::Bytes(_) | ExecInput::End, None) => {}
        }
    }
}
