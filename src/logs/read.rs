//! Reads what a container printed, over all its files in order, and follows it.
//!
//! A [`Reading`] is lazy: it holds a few blocks of one file and reads on when it is asked for more, so a slow taker costs
//! nothing, and one that goes away leaves nothing behind. Files are read on the blocking pool.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt as _};

use super::line::{HEADER_BYTES, Header, LINE_BYTES_MAX, Record, Stream};
use super::rotate::{file_numbers, file_path};
use super::scan::{self, BLOCK_BYTES, Place, Wanted};

/// How often a follower looks for more. Not inotify: an instance for each follower would use up the 128 that a user has on
/// the whole node, and a look costs two system calls.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Blocks read in one go on the blocking pool while none of their records is wanted.
const BLOCKS_AT_ONCE_MAX: usize = 16;

/// Which part of a container's output is wanted.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Only so many of the last lines (of those that the other options leave). `None`: all. A line counts once, however
    /// many records it takes.
    pub tail: Option<usize>,
    /// Nothing printed before this.
    pub since: Option<SystemTime>,
    /// Nothing printed after this. A follower ends when this time has come.
    pub until: Option<SystemTime>,
    /// Only what was printed there. `None`: both.
    pub stream: Option<Stream>,
    /// Waits for more, until the container's directory is removed. It survives rotation and restarts of the task, and
    /// waits for a directory that does not exist yet.
    pub follow: bool,
}

/// A container's output cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the logs in {dir}")]
pub struct ReadError {
    /// The container's directory.
    pub dir: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Records in the order in which they were printed; ends with the output, or after an error.
pub struct Reading(Pin<Box<dyn futures_util::Stream<Item = Result<Record, ReadError>> + Send>>);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl futures_util::Stream for Reading {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Reads the output in `dir`. No line is given twice, and none is left out but those whose file is removed by rotation
/// before a slow taker has come to it: a record of the agent's says so.
///
/// Needs a tokio runtime. A directory without files, or none at all, is an empty output.
#[must_use]
pub fn read(dir: PathBuf, options: ReadOptions) -> Reading {
    let batches = stream::unfold(Some(Cursor::new(dir, options)), |cursor| async {
        let mut cursor = cursor?;
        loop {
            let stepped = tokio::task::spawn_blocking(move || {
                let step = cursor.step();
                (cursor, step)
            });
            // It fails only when the runtime shuts down: then nobody reads any more.
            let (returned, step) = stepped.await.ok()?;
            cursor = returned;
            match step {
                Ok(Step::Records(records)) => {
                    return Some((records.into_iter().map(Ok).collect(), Some(cursor)));
                }
                Ok(Step::Idle) => tokio::time::sleep(FOLLOW_INTERVAL).await,
                Ok(Step::End) => return None,
                Err(source) => {
                    return Some((
                        VecDeque::from([Err(ReadError {
                            dir: cursor.dir,
                            source,
                        })]),
                        None,
                    ));
                }
            }
        }
    });
    Reading(Box::pin(
        batches.flat_map(|batch: VecDeque<_>| stream::iter(batch)),
    ))
}

/// What one look at the files gave.
#[derive(Debug)]
enum Step {
    /// More; perhaps none that is wanted.
    Records(Vec<Record>),
    /// Nothing yet.
    Idle,
    /// Nothing any more.
    End,
}

/// A reader's place, and how it goes on. Blocks.
#[derive(Debug)]
struct Cursor {
    dir: PathBuf,
    options: ReadOptions,
    wanted: Wanted,
    open: Option<Open>,
    /// Whoever does not follow ends where the output ended when the reading began.
    end: Option<Place>,
}

#[derive(Debug)]
struct Open {
    file: File,
    number: u64,
    /// Where the next block begins.
    offset: u64,
    /// A line that has begun and not ended.
    begun: BytesMut,
    /// In a line too long to be a record.
    overlong: bool,
}

impl Cursor {
    fn new(dir: PathBuf, options: ReadOptions) -> Self {
        let wanted = Wanted {
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

    fn step(&mut self) -> io::Result<Step> {
        for _ in 0..BLOCKS_AT_ONCE_MAX {
            let Some(open) = &mut self.open else {
                return self.begin();
            };
            let end = self
                .end
                .filter(|end| end.number == open.number)
                .map_or(u64::MAX, |end| end.offset);
            let (records, over) = match open.next_block(end)? {
                Some(block) => select(&block, &self.wanted),
                None => return self.go_on(end),
            };
            if over {
                open.offset = u64::MAX;
            }
            if !records.is_empty() {
                return Ok(Step::Records(records));
            }
        }
        Ok(Step::Records(Vec::new()))
    }

    /// Finds the place to begin at.
    fn begin(&mut self) -> io::Result<Step> {
        let Some(first) = self.numbers()?.first().copied() else {
            return Ok(self.nothing_more());
        };
        let place = match self.options.tail {
            Some(lines) => scan::last_lines(&self.dir, lines, &self.wanted)?,
            None => None,
        };
        // Taken after the place to begin at, so that it never lies before it.
        if let Some(number) = self
            .numbers()?
            .last()
            .copied()
            .filter(|_| !self.options.follow)
        {
            let offset = match std::fs::metadata(file_path(&self.dir, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Step::Records(Vec::new()));
                }
                found => found?.len(),
            };
            self.end = Some(Place { number, offset });
        }
        self.enter(
            place.map_or(first, |place| place.number),
            place.map(|place| place.offset),
        )?;
        Ok(Step::Records(Vec::new()))
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        match file_numbers(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            numbers => numbers,
        }
    }

    /// At the end of a file: the next one, or the end of the output.
    fn go_on(&mut self, end: u64) -> io::Result<Step> {
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
        // Only now may the file be finished: what was written to it since it was last read comes first.
        if !matches!(next, Ok(None))
            && let Some(block) = open.next_block(end)?
        {
            return Ok(Step::Records(select(&block, &self.wanted).0));
        }
        match next {
            Ok(None) => Ok(self.nothing_more()),
            Ok(Some(next)) => {
                let missed = next - open.number - 1;
                let entered = self.enter(next, None)?;
                Ok(Step::Records(
                    self.gap(missed).filter(|_| entered).into_iter().collect(),
                ))
            }
            // The directory was removed.
            Err(_) => Ok(Step::End),
        }
    }

    /// Opens a file. False: it was rotated away meanwhile; the place stays, and the next step looks again.
    fn enter(&mut self, number: u64, offset: Option<u64>) -> io::Result<bool> {
        let file = match File::open(file_path(&self.dir, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let offset = match offset {
            Some(offset) => offset,
            None => scan::first_wanted(&file, &self.wanted)?,
        };
        self.open = Some(Open {
            file,
            number,
            offset,
            begun: BytesMut::new(),
            overlong: false,
        });
        Ok(true)
    }

    fn nothing_more(&self) -> Step {
        let waits = self.options.follow
            && self
                .wanted
                .until
                .is_none_or(|until| SystemTime::now() <= until);
        if waits { Step::Idle } else { Step::End }
    }

    /// Says that so many files were removed before they were read.
    fn gap(&self, files: u64) -> Option<Record> {
        let time = SystemTime::now();
        let header = Header {
            time,
            stream: Stream::Stderr,
            partial: false,
        };
        (files > 0 && self.wanted.takes(&header)).then(|| Record {
            time,
            stream: Stream::Stderr,
            partial: false,
            line: format!(
                "[chas-node-agent: {files} log files were rotated away before they were read]"
            )
            .into(),
        })
    }
}

impl Open {
    /// The next whole lines, up to the offset `end`. `None`: nothing more is there now.
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
                self.begun.clear();
                return Ok(Some(Bytes::new()));
            };
            drop(self.begun.split_to(newline + 1));
            self.overlong = false;
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

/// The wanted records of a block of lines. True: none that follows in this file is wanted.
fn select(block: &Bytes, wanted: &Wanted) -> (Vec<Record>, bool) {
    let mut records = Vec::new();
    let mut start = 0;
    for (end, _) in block.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if let Some(header) = Header::decode(&block[start..end]) {
            if wanted.is_over(header.time) {
                return (records, true);
            }
            if wanted.takes(&header) {
                records.extend(Record::decode(&block.slice(start..end)));
            }
        }
        start = end + 1;
    }
    (records, false)
}
