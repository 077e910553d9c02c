//! Files of the audit: appended to, rotated by size, and continued where the last one ended.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use state::store::AuditedChange;

use super::AuditCall;
use super::line::{self, BEGINNING, ChainEnd};

/// Size at which another file is begun.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files kept; the oldest goes first.
const FILES_MAX: usize = 8;
/// Bytes from the end of a file in which its last whole line is looked for.
const TAIL_BYTES: u64 = 256 << 10;

/// The chain of lines, in its files.
#[derive(Debug)]
pub(super) struct ChainFile {
    directory: PathBuf,
    /// Whether lines are on the disk before their changes are stored.
    is_synced: bool,
    open: Option<OpenChain>,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

#[derive(Debug)]
struct OpenChain {
    file: File,
    bytes: u64,
    end: ChainEnd,
    /// Whether the file ends within a line.
    is_torn: bool,
}

impl ChainFile {
    pub(super) fn new(directory: &Path, is_synced: bool) -> Self {
        Self {
            directory: directory.to_owned(),
            is_synced,
            open: None,
            lost: 0,
        }
    }

    /// Appends a line for each change.
    ///
    /// # Errors
    /// The disk's. The lines count as lost then, and the next one tells so.
    pub(super) fn append(
        &mut self,
        at: SystemTime,
        call: &AuditCall,
        changes: &[AuditedChange],
    ) -> io::Result<()> {
        let written = self.try_append(at, call, changes);
        match &written {
            Ok(()) => self.lost = 0,
            Err(_) => {
                self.lost += changes.len() as u64;
                // What came to the disk is looked at before anything else is written.
                self.open = None;
            }
        }
        written
    }

    fn try_append(
        &mut self,
        at: SystemTime,
        call: &AuditCall,
        changes: &[AuditedChange],
    ) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) if open.bytes < FILE_BYTES_MAX => open,
            Some(full) => self.begin(full.end)?,
            None => self.resume()?,
        };
        let mut text = if open.is_torn {
            "\n".to_owned()
        } else {
            String::new()
        };
        let (mut end, mut lost) = (open.end.clone(), self.lost);
        for change in changes {
            let (line, next) = line::next(&end, at, call, change, lost);
            (end, lost) = (next, 0);
            text.push_str(&line);
            text.push('\n');
        }
        open.file.write_all(text.as_bytes())?;
        if self.is_synced {
            open.file.sync_data()?;
        }
        open.bytes += text.len() as u64;
        (open.end, open.is_torn) = (end, false);
        self.open = Some(open);
        Ok(())
    }

    /// Goes on where the newest file ends.
    fn resume(&self) -> io::Result<OpenChain> {
        let mut dir = DirBuilder::new();
        dir.recursive(true).mode(0o700).create(&self.directory)?;
        let files = files(&self.directory)?;
        let mut end = ChainEnd {
            number: 0,
            hash: BEGINNING.to_owned(),
        };
        for path in files.iter().rev() {
            if let Some(found) = last_line(path)? {
                end = found;
                break;
            }
        }
        let Some(newest) = files.last() else {
            return self.begin(end);
        };
        let file = opened(newest)?;
        let bytes = file.metadata()?.len();
        let is_torn = bytes > 0 && tail(newest, 1)? != b"\n";
        Ok(OpenChain {
            file,
            bytes,
            end,
            is_torn,
        })
    }

    /// Begins another file, and drops the oldest ones.
    fn begin(&self, end: ChainEnd) -> io::Result<OpenChain> {
        let path = self
            .directory
            .join(format!("audit-{:020}.jsonl", end.number + 1));
        let file = opened(&path)?;
        let files = files(&self.directory)?;
        for old in files.iter().take(files.len().saturating_sub(FILES_MAX)) {
            fs::remove_file(old)?;
        }
        // Another place that tells where the chain was.
        tracing::info!(last = end.number, hash = %end.hash, "audit file begun");
        Ok(OpenChain {
            file,
            bytes: 0,
            end,
            is_torn: false,
        })
    }
}

fn opened(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The files of the chain, oldest first.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("audit-") && name.ends_with(".jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn tail(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The place of the last whole line of a file.
fn last_line(path: &Path) -> io::Result<Option<ChainEnd>> {
    let bytes = tail(path, TAIL_BYTES)?;
    let mut lines = bytes.split(|byte| *byte == b'\n').rev();
    Ok(lines.find_map(|line| line::read(std::str::from_utf8(line).ok()?).map(|read| read.end)))
}
