//! Finds places in a container's log files without reading all of them: the end, the last lines, a
//! point in time. Blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::files::{file_numbers, file_path, open_to_read};
use super::line::{HEADER_BYTES, LINE_BYTES_MAX, LineHeader, STEP_BACK_MAX, Stream};

/// Bytes read at once; more than one log line.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;

/// Bytes of a file that are read: twice what a logger writes into one at most. A user who may write
/// logs can make files of any length, holes that cost nothing but the reader's time.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// Bytes without the end of a line after which a file is given up: no log is so.
pub(super) const UNENDED_BYTES_MAX: u64 = 16 << 20;

/// Largest disorder of times within a file: two writers may overlap, and each reads the clock by
/// itself.
const DISORDER_MAX: Duration = STEP_BACK_MAX;

/// Place in the files of a directory: the beginning of a line, or the end of the last whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPlace {
    /// Number of the file.
    pub(super) number: u64,
    /// Bytes from the beginning of the file.
    pub(super) offset: u64,
}

/// Filter for the log lines that a reader wants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineFilter {
    pub(super) since: Option<SystemTime>,
    pub(super) until: Option<SystemTime>,
    pub(super) stream: Option<Stream>,
}

impl LineFilter {
    /// Whether the line is wanted.
    pub(super) fn takes(&self, header: &LineHeader) -> bool {
        self.stream.is_none_or(|stream| stream == header.stream)
            && self.since.is_none_or(|since| header.time >= since)
            && self.until.is_none_or(|until| header.time <= until)
    }

    /// Whether a line of this time, and every line before it in its file, is unwanted.
    pub(super) fn is_past(&self, time: SystemTime) -> bool {
        self.since.is_some_and(|since| time + DISORDER_MAX < since)
    }

    /// Whether a line of this time, and every line after it in its file, is unwanted.
    pub(super) fn is_over(&self, time: SystemTime) -> bool {
        self.until.is_some_and(|until| until + DISORDER_MAX < time)
    }
}

/// Earliest offset in `file` at which the wanted lines may begin.
pub(super) fn first_wanted(file: &File, wanted: &LineFilter) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len().min(FILE_BYTES_MAX));
    if wanted.since.is_none() {
        return Ok(0);
    }
    while high.saturating_sub(low) > BLOCK_BYTES as u64 {
        let middle = low + (high - low) / 2;
        match first_line_from(file, middle)? {
            Some((start, header)) if wanted.is_past(header.time) => low = start,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// First log line that begins at `offset` or after it. `None`: none is near.
fn first_line_from(file: &File, offset: u64) -> io::Result<Option<(u64, LineHeader)>> {
    let mut block = vec![0; BLOCK_BYTES];
    let bytes = read_block(file, &mut block, offset - 1)?;
    let newlines = block[..bytes]
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n');
    let mut starts = newlines.map(|(at, _)| at + 1);
    Ok(starts.find_map(|at| {
        Some((
            offset - 1 + at as u64,
            LineHeader::decode(&block[at..bytes])?,
        ))
    }))
}

/// Place at which the last `lines` wanted printed lines begin; a partial log line counts with the
/// one that ends it.
///
/// `None`: there are no files. Reads backwards and keeps nothing but places, so `lines` may be any
/// number.
pub(super) fn last_lines(
    dir: &Path,
    lines: usize,
    wanted: &LineFilter,
) -> io::Result<Option<LogPlace>> {
    let mut count = LineCount {
        lines,
        found: 0,
        seen_any: false,
        from: None,
    };
    for number in file_numbers(dir)?.into_iter().rev() {
        let file = match open_to_read(&file_path(dir, number)) {
            Ok(file) => file,
            // The oldest was rotated away just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        if count.back_through(&file, number, wanted)? {
            break;
        }
    }
    Ok(count.from)
}

/// Count of printed lines from the end backwards.
struct LineCount {
    lines: usize,
    found: usize,
    seen_any: bool,
    /// Place from which on every line was counted.
    from: Option<LogPlace>,
}

impl LineCount {
    /// Counts the lines of one file; true: there are enough.
    fn back_through(&mut self, file: &File, number: u64, wanted: &LineFilter) -> io::Result<bool> {
        let size = file.metadata()?.len().min(FILE_BYTES_MAX);
        let mut block = vec![0; BLOCK_BYTES + HEADER_BYTES];
        let (mut end, mut whole, mut last_end) = (size, false, size);
        // Bytes after the last newline are no whole line, and do not count.
        self.from.get_or_insert(LogPlace { number, offset: 0 });
        while end > 0 && last_end - end < UNENDED_BYTES_MAX {
            let start = end.saturating_sub(BLOCK_BYTES as u64);
            // A header that begins in this block may end in the next.
            let bytes = read_block(file, &mut block, start)?;
            let length = usize::try_from(end - start)
                .unwrap_or(BLOCK_BYTES)
                .min(bytes);
            for at in (0..length).rev().filter(|at| block[*at] == b'\n') {
                last_end = start;
                let place = LogPlace {
                    number,
                    offset: start + at as u64 + 1,
                };
                if !whole {
                    whole = true;
                    if !self.seen_any {
                        self.from = Some(place);
                    }
                } else if self.is_enough(&block[at + 1..bytes], place, wanted) {
                    return Ok(true);
                }
            }
            if start == 0
                && whole
                && self.is_enough(&block[..bytes], LogPlace { number, offset: 0 }, wanted)
            {
                return Ok(true);
            }
            end = start;
        }
        Ok(false)
    }

    fn is_enough(&mut self, line: &[u8], place: LogPlace, wanted: &LineFilter) -> bool {
        let Some(header) = LineHeader::decode(line) else {
            return false;
        };
        if wanted.is_past(header.time) {
            return true;
        }
        if wanted.takes(&header) {
            if !header.partial || !self.seen_any {
                if self.found == self.lines {
                    return true;
                }
                self.found += 1;
            }
            self.seen_any = true;
            self.from = Some(place);
        }
        false
    }
}

/// Fills as much of `block` as the file has from `offset` on, up to [`FILE_BYTES_MAX`].
pub(super) fn read_block(file: &File, block: &mut [u8], offset: u64) -> io::Result<usize> {
    let room = usize::try_from(FILE_BYTES_MAX.saturating_sub(offset)).unwrap_or(usize::MAX);
    let length = block.len().min(room);
    let block = &mut block[..length];
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

const _: () = assert!(
    BLOCK_BYTES > 2 * (HEADER_BYTES + LINE_BYTES_MAX),
    "a block holds a whole log line wherever it begins"
);
