//! Output that is lost because its disk does not take it, and the line that says so.

use std::io;

use super::line::{self, HEADER_BYTES, LineStamp, Stream};

/// Output that could not be written since writing last worked.
#[derive(Debug, Default)]
pub(super) struct LostOutput {
    lines: u64,
    bytes: u64,
    /// The first error.
    because: Option<io::Error>,
}

impl LostOutput {
    /// Adds lines of a log that could not be written, and answers their bytes of output.
    pub(super) fn add(&mut self, unwritten: &[u8], because: io::Error) -> u64 {
        let lines = unwritten
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            .count() as u64;
        self.lines += lines;
        let bytes = (unwritten.len() as u64).saturating_sub(lines * (HEADER_BYTES as u64 + 1));
        self.bytes += bytes;
        self.because.get_or_insert(because);
        bytes
    }

    /// Log line that tells of the loss; empty if nothing was lost.
    pub(super) fn notice(&self, stamp: &LineStamp) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(because) = &self.because {
            let text = format!(
                "[chas-node-agent: {} lines ({} bytes) of this container's output were lost: \
                 {because}]",
                self.lines, self.bytes
            );
            line::encode(&mut out, stamp, Stream::Stderr, false, text.as_bytes());
        }
        out
    }

    /// Whether anything was lost.
    pub(super) fn is_any(&self) -> bool {
        self.because.is_some()
    }
}
