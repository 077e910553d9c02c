//! Place of a reader in a container's log files, and the way on from it over rotation. Blocks.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::files::{file_numbers, file_path, open_to_read};
use super::line::{HEADER_BYTES, LINE_BYTES_MAX, LineHeader, LogLine, Stream};
use super::scan::{self, BLOCK_BYTES, LineFilter, LogPlace, UNENDED_BYTES_MAX};

/// Most blocks read in one go on the blocking pool while none of their lines is wanted.
const BLOCKS_AT_ONCE_MAX: usize = 16;

/// Most files that are counted as missing between two.
const MISSING_MAX: usize = 1000;

/// Part of a container's output that a reader asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadOptions {
    /// Number of last lines, of those that the other options leave. `None`: all. A printed line
    /// counts once, however many log lines it takes.
    pub tail: Option<usize>,
    /// Earliest time.
    pub since: Option<SystemTime>,
    /// Latest time. A follower ends when this time has come.
    pub until: Option<SystemTime>,
    /// Only this stream. `None`: both.
    pub stream: Option<Stream>,
    /// Waits for more, until the container's output has ended or its directory is removed: over
    /// rotation and restarts of the task, and for a directory that does not exist yet.
    pub follow: bool,
}

/// Result of one look at the files.
#[derive(Debug)]
pub(super) enum ReadStep {
    /// Output was found; perhaps none that is wanted.
    Lines(Vec<LogLine>),
    /// No output is there yet.
    Idle,
    /// The output has ended.
    End,
}

/// Place of a reader, and the way on from it. Blocks.
#[derive(Debug)]
pub(super) struct Cursor {
    dir: PathBuf,
    options: ReadOptions,
    wanted: LineFilter,
    open: Option<OpenFile>,
    /// End of the output when the reading began; a reader that does not follow ends there.
    end: Option<LogPlace>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    number: u64,
    /// Offset of the next block.
    offset: u64,
    /// Beginning of a line whose end has not been read.
    begun: BytesMut,
    /// Whether the place is inside a line that is too long to be a log line.
    overlong: bool,
    /// Bytes of that line so far.
    unended: u64,
}

impl Cursor {
    pub(super) fn new(dir: PathBuf, options: ReadOptions) -> Self {
        let wanted = LineFilter {
            since: options.since,
            until: options.until,
            stream: options.stream,
        };
        Self {
            dir,
            options,
            wanted,
            open: None,
            end: None,
        }
    }

    /// Directory that is read.
    pub(super) fn into_dir(self) -> PathBuf {
        self.dir
    }

    /// Reads on, by a few blocks at most.
    pub(super) fn step(&mut self) -> io::Result<ReadStep> {
        for _ in 0..BLOCKS_AT_ONCE_MAX {
            let Some(open) = &mut self.open else {
                return self.begin();
            };
            let end = self
                .end
                .filter(|end| end.number == open.number)
                .map_or(u64::MAX, |end| end.offset);
            let (lines, over) = match open.next_block(end)? {
                Some(block) => select(&block, &self.wanted),
                None => return self.go_on(end),
            };
            if over {
                open.offset = u64::MAX;
            }
            if !lines.is_empty() {
                return Ok(ReadStep::Lines(lines));
            }
        }
        Ok(ReadStep::Lines(Vec::new()))
    }

    /// Opens the file to begin in, at the place to begin at.
    fn begin(&mut self) -> io::Result<ReadStep> {
        let Some(first) = self.numbers()?.first().copied() else {
            return Ok(self.nothing_more());
        };
        let place = match self.options.tail {
            Some(lines) => scan::last_lines(&self.dir, lines, &self.wanted)?,
            None => None,
        };
        // Looked for after the place to begin at, so that the end never lies before it.
        if let Some(number) = self
            .numbers()?
            .last()
            .copied()
            .filter(|_| !self.options.follow)
        {
            let offset = match std::fs::metadata(file_path(&self.dir, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(ReadStep::Lines(Vec::new()));
                }
                found => found?.len(),
            };
            self.end = Some(LogPlace { number, offset });
        }
        self.enter(
            place.map_or(first, |place| place.number),
            place.map(|place| place.offset),
        )?;
        Ok(ReadStep::Lines(Vec::new()))
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        match file_numbers(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            numbers => numbers,
        }
    }

    /// Continues from the end of a file: in the next one, or with the end of the output.
    fn go_on(&mut self, end: u64) -> io::Result<ReadStep> {
        let Some(open) = &mut self.open else {
            return self.begin();
        };
        let last = self.end.map_or(u64::MAX, |end| end.number);
        let next = match file_numbers(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            numbers => Ok(numbers?
                .into_iter()
                .find(|number| *number > open.number && *number <= last)),
        };
        // Only now may the file be finished: bytes written to it since the last read come first.
        if !matches!(next, Ok(None))
            && let Some(block) = open.next_block(end)?
        {
            return Ok(ReadStep::Lines(select(&block, &self.wanted).0));
        }
        match next {
            Ok(None) => Ok(self.nothing_more()),
            Ok(Some(next)) => {
                let missed = missing(&self.dir, open.number + 1..next);
                let entered = self.enter(next, None)?;
                Ok(ReadStep::Lines(
                    self.gap(missed).filter(|_| entered).into_iter().collect(),
                ))
            }
            // The directory was removed.
            Err(_) => Ok(ReadStep::End),
        }
    }

    /// Opens a file. `false`: the file was rotated away meanwhile; the place stays, and the next
    /// step looks again.
    fn enter(&mut self, number: u64, offset: Option<u64>) -> io::Result<bool> {
        let file = match open_to_read(&file_path(&self.dir, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let offset = match offset {
            Some(offset) => offset,
            None => scan::first_wanted(&file, &self.wanted)?,
        };
        self.open = Some(OpenFile {
            file,
            number,
            offset,
            begun: BytesMut::new(),
            overlong: false,
            unended: 0,
        });
        Ok(true)
    }

    fn nothing_more(&self) -> ReadStep {
        let waits = self.options.follow
            && self
                .wanted
                .until
                .is_none_or(|until| SystemTime::now() <= until);
        if waits { ReadStep::Idle } else { ReadStep::End }
    }

    /// Log line that says how many files were removed before they were read.
    fn gap(&self, files: usize) -> Option<LogLine> {
        let time = SystemTime::now();
        let header = LineHeader {
            time,
            stream: Stream::Stderr,
            partial: false,
        };
        (files > 0 && self.wanted.takes(&header)).then(|| LogLine {
            time,
            stream: Stream::Stderr,
            partial: false,
            bytes: format!(
                "[chas-node-agent: {files} log files were rotated away before they were read]"
            )
            .into(),
        })
    }
}

/// Count of the files with these numbers that are gone.
fn missing(dir: &Path, numbers: std::ops::Range<u64>) -> usize {
    let is_gone = |number: &u64| std::fs::symlink_metadata(file_path(dir, *number)).is_err();
    numbers.take(MISSING_MAX).filter(is_gone).count()
}

impl OpenFile {
    /// The next whole lines, up to the offset `end`. `None`: there are no more yet.
    fn next_block(&mut self, end: u64) -> io::Result<Option<Bytes>> {
        let room = usize::try_from(end.saturating_sub(self.offset))
            .unwrap_or(BLOCK_BYTES)
            .min(BLOCK_BYTES);
        if room == 0 || self.offset == u64::MAX {
            return Ok(None);
        }
        let begun = self.begun.len();
        self.begun.resize(begun + room, 0);
        let bytes = scan::read_block(&self.file, &mut self.begun[begun..], self.offset)?;
        self.begun.truncate(begun + bytes);
        self.offset += bytes as u64;
        if bytes == 0 {
            return Ok(None);
        }
        if self.overlong {
            let Some(newline) = self.begun.iter().position(|byte| *byte == b'\n') else {
                self.unended += bytes as u64;
                if self.unended > UNENDED_BYTES_MAX {
                    self.offset = u64::MAX;
                }
                self.begun.clear();
                return Ok(Some(Bytes::new()));
            };
            drop(self.begun.split_to(newline + 1));
            (self.overlong, self.unended) = (false, 0);
        }
        let whole = self
            .begun
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let block = self.begun.split_to(whole).freeze();
        if self.begun.len() > HEADER_BYTES + LINE_BYTES_MAX {
            self.begun.clear();
            self.overlong = true;
        }
        Ok(Some(block))
    }
}

/// The wanted lines of a block. `true`: none that follows in this file is wanted.
fn select(block: &Bytes, wanted: &LineFilter) -> (Vec<LogLine>, bool) {
    let mut lines = Vec::new();
    let mut start = 0;
    for (end, _) in block.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if let Some(header) = LineHeader::decode(&block[start..end]) {
            if wanted.is_over(header.time) {
                return (lines, true);
            }
            if wanted.takes(&header) {
                lines.extend(LogLine::decode(&block.slice(start..end)));
            }
        }
        start = end + 1;
    }
    (lines, false)
}
