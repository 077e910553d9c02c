//! File of a log directory that is being written.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

/// File that takes the next lines.
#[derive(Debug)]
pub(super) struct CurrentFile {
    pub(super) file: Arc<File>,
    pub(super) number: u64,
    /// Whether the last batch was cut short: the next begins with a newline.
    pub(super) torn: bool,
}

impl CurrentFile {
    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), AppendError> {
        if self.torn {
            self.file
                .write_all(b"\n")
                .map_err(|error| AppendError { error, written: 0 })?;
            self.torn = false;
        }
        let mut written = 0;
        while written < lines.len() {
            match self.file.write(&lines[written..]) {
                Ok(0) => {
                    return Err(AppendError {
                        error: io::ErrorKind::WriteZero.into(),
                        written,
                    });
                }
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AppendError { error, written }),
            }
        }
        Ok(())
    }
}

/// Append that ended early: the error, and how many bytes were written before it.
pub(super) struct AppendError {
    pub(super) error: io::Error,
    pub(super) written: usize,
}
