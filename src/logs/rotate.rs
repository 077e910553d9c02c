//! Writes log lines into a container's directory and keeps it within its limits. Writing never
//! fails and never gives up: lines that cannot be written are counted, and a line says so once
//! writing works again.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use state::quantity::ByteCount;
use state::spec::LogLimits;
use tokio::time::Instant;

use super::counts::{KeptCounts, LogCounts};
use super::current::{AppendError, CurrentFile};
use super::files::{file_numbers, file_path, open_from};
use super::limits::{NumberedLimits, ToldLimits};
use super::line::{self, HEADER_BYTES, LINE_BYTES_MAX, LineHeader, LineStamp, Stream};
use super::lost::LostOutput;
use super::rate::{LeftOut, RateLimit, RateVerdict};
use super::sync::LogSyncer;

/// Bytes that are collected before they are written, unless nothing more is to be read. Below the
/// smallest `max_size` (64 KiB) even with one more line, so that a file never exceeds its limit.
const BATCH_BYTES_MAX: usize = 32 * 1024;

/// Bytes at the end of a file that hold its last line.
const LAST_LINE_BYTES_MAX: usize = HEADER_BYTES + LINE_BYTES_MAX + 1;

/// Bytes at the end of a file in which lines are looked for that an earlier logger left begun.
const TAIL_BYTES: u64 = 4 * LAST_LINE_BYTES_MAX as u64;

/// Writing end of a container's log directory. Two of them on one directory (the old generation's
/// and the new one's) share its files: each batch is appended whole.
#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: PathBuf,
    limits: LogLimits,
    /// `None`: the limits stay.
    told: Option<ToldLimits>,
    current: Option<CurrentFile>,
    /// The highest number used so far: a reader's place must never lie ahead of the file being
    /// written.
    newest: u64,
    batch: Vec<u8>,
    lost: LostOutput,
    stamp: LineStamp,
    /// `None`: the kernel brings the files to the disk, in its own time.
    syncer: Option<LogSyncer>,
    /// `None`: a container prints as much as it likes.
    rate: Option<RateLimit>,
    /// `None`: nobody asks what was written.
    counts: Option<KeptCounts>,
}

impl LogWriter {
    /// Opens the newest file of `dir`, or creates both. If that fails, each batch tries again.
    #[must_use]
    pub(crate) fn open(dir: PathBuf, limits: LogLimits) -> Self {
        let batch = Vec::with_capacity(BATCH_BYTES_MAX + LAST_LINE_BYTES_MAX);
        let mut writer = Self {
            dir,
            limits,
            told: None,
            current: None,
            newest: 1,
            batch,
            lost: LostOutput::default(),
            stamp: LineStamp::after(None),
            syncer: None,
            rate: None,
            counts: None,
        };
        // The first batch meets the same error again and counts what is lost by it.
        if let Ok(tail) = writer.reopen() {
            writer.end_begun_lines(&tail);
        }
        writer
    }

    /// The same, which brings its lines to the disk every other second.
    #[must_use]
    pub(crate) fn synced(self) -> Self {
        let syncer = Some(LogSyncer::new(&self.dir));
        Self { syncer, ..self }
    }

    /// The same, which leaves out what is beyond a rate.
    #[must_use]
    pub(crate) fn limited(self, rate: Option<ByteCount>) -> Self {
        let rate = rate.map(|rate| RateLimit::new(rate, Instant::now()));
        Self { rate, ..self }
    }

    /// The same, which counts what a generation prints.
    #[must_use]
    pub(crate) fn counted(self, generation: u64) -> Self {
        let counts = Some(KeptCounts::go_on(&self.dir, generation));
        Self { counts, ..self }
    }

    /// Counts bytes of output that did not come to the log, or did.
    pub(crate) fn count(&mut self, more: LogCounts) {
        if let Some(counts) = &mut self.counts {
            counts.add(more);
        }
    }

    /// The same, which takes on the limits that it is told after these.
    pub(crate) fn told_after(self, own: NumberedLimits, made_at: u64) -> Self {
        Self {
            told: Some(ToldLimits::after(own, made_at)),
            ..self
        }
    }

    fn take_on_limits(&mut self) {
        let Some(told) = &mut self.told else { return };
        let Some(limits) = told.news(&self.dir) else {
            return;
        };
        self.limits = limits;
        // What is left is removed with the next rotation.
        let _ = self.prune(limits.max_files.max(1));
    }

    /// Ends the run. `true`: all of it is written, and on the disk.
    pub(crate) fn finish(mut self) -> bool {
        self.tell_left_out(true);
        self.flush();
        self.counts.iter_mut().for_each(KeptCounts::tell);
        !self.is_losing() && self.syncer.is_none_or(LogSyncer::finish)
    }

    /// Whether output is lost now because it cannot be written.
    pub(crate) fn is_losing(&self) -> bool {
        self.lost.is_any()
    }

    /// Whether output is beyond the rate, and was not told of yet.
    pub(crate) fn is_leaving_out(&self) -> bool {
        self.rate.as_ref().is_some_and(RateLimit::is_leaving_out)
    }

    /// Whether there is something to tell with the next [`LogWriter::flush`], also of no line.
    pub(crate) fn has_more_to_tell(&self) -> bool {
        self.is_leaving_out() || self.counts.as_ref().is_some_and(KeptCounts::is_untold)
    }

    /// Tells what was left out, once lines pass again, or at the `end` of all.
    pub(crate) fn tell_left_out(&mut self, end: bool) {
        // What cannot be written now would be counted as one line.
        let is_losing = self.is_losing() && !end;
        let Some(rate) = self.rate.as_mut().filter(|_| !is_losing) else {
            return;
        };
        let per_second = rate.per_second();
        if let Some(LeftOut { lines, bytes }) = rate.tell(Instant::now(), end) {
            let text = format!(
                "{lines} lines ({bytes} bytes) of this container's output were left out: it prints \
                 more than the {per_second} bytes a second that logs.rate allows"
            );
            self.remark(SystemTime::now(), &text);
        }
    }

    /// Ends the lines that an earlier run or logger has begun and not ended, so that what comes
    /// does not continue them.
    fn end_begun_lines(&mut self, tail: &[u8]) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let is_last = |header: &LineHeader| header.stream == stream;
            let mut lines = tail.rsplit(|byte| *byte == b'\n');
            let last = lines.find_map(|line| LineHeader::decode(line).filter(is_last));
            if last.is_some_and(|header| header.partial) {
                self.stamp.advance(SystemTime::UNIX_EPOCH);
                line::encode(&mut self.batch, &self.stamp, stream, false, b"");
            }
        }
        self.flush();
    }

    /// Adds a remark of the logger's own.
    pub(crate) fn remark(&mut self, now: SystemTime, text: &str) {
        let text = format!("[chas-node-agent: {text}]");
        self.add(now, Stream::Stderr, false, text.as_bytes());
    }

    /// Time of the last line that was written; 1970 if there is none.
    pub(crate) fn last_time(&self) -> SystemTime {
        self.stamp.time()
    }

    /// Adds bytes that were read at `now` as one log line, if the rate allows it;
    /// [`LogWriter::flush`] writes them.
    pub(crate) fn push(&mut self, now: SystemTime, stream: Stream, partial: bool, bytes: &[u8]) {
        let verdict = self.rate.as_mut().map_or(RateVerdict::Passes, |rate| {
            rate.judge(Instant::now(), stream, partial, bytes.len())
        });
        match verdict {
            RateVerdict::Passes => {
                self.tell_left_out(false);
                self.add(now, stream, partial, bytes);
            }
            RateVerdict::EndsBegun => self.add(now, stream, false, b""),
            RateVerdict::IsLeftOut => {}
        }
        if verdict != RateVerdict::Passes {
            self.count(LogCounts::left_out(bytes.len()));
        }
    }

    fn add(&mut self, now: SystemTime, stream: Stream, partial: bool, bytes: &[u8]) {
        if self.stamp.is_stepped_back(now) {
            self.follow_the_clock(now);
        }
        self.stamp.advance(now);
        line::encode(&mut self.batch, &self.stamp, stream, partial, bytes);
        if self.batch.len() >= BATCH_BYTES_MAX {
            self.flush();
        }
    }

    /// Writes the lines that were pushed, or counts them as lost.
    pub(crate) fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.write_batch();
        }
        let counts = self.counts.iter_mut();
        counts.for_each(KeptCounts::tell_now_and_then);
    }

    fn write_batch(&mut self) {
        self.take_on_limits();
        let notice = self.lost.notice(&self.stamp);
        let batch = std::mem::take(&mut self.batch);
        // Bytes written of a notice say nothing about the batch.
        let written = self
            .append(&notice)
            .map_err(|failed| AppendError {
                written: 0,
                ..failed
            })
            .and_then(|()| {
                self.lost = LostOutput::default();
                self.append(&batch)
            });
        let (lost, written) = match written {
            Ok(()) => (0, batch.len()),
            Err(AppendError { error, written }) => {
                (self.lost.add(&batch[written..], error), written)
            }
        };
        self.count(LogCounts::lost(lost, written));
        self.batch = batch;
        self.batch.clear();
    }

    /// Appends whole lines to the newest file, after a rotation if they would not fit.
    fn append(&mut self, lines: &[u8]) -> Result<(), AppendError> {
        if lines.is_empty() {
            return Ok(());
        }
        let appended = match self.ready_for(lines.len()) {
            Ok(current) => current.append(lines),
            Err(error) => Err(AppendError { error, written: 0 }),
        };
        if let (Some(syncer), Some(current)) = (&mut self.syncer, &self.current) {
            syncer.wrote(current.number, &current.file);
        }
        if appended.is_err() {
            // A disk that works again shows only in a file opened again, which finds a torn end by
            // itself.
            self.current = None;
        }
        appended
    }

    /// File that takes the next `bytes`.
    fn ready_for(&mut self, bytes: usize) -> io::Result<&mut CurrentFile> {
        let usable = match &self.current {
            // Removed by an operator: nobody could read what would be written there.
            Some(current) if current.file.metadata()?.nlink() == 0 => {
                self.newest = current.number + 1;
                false
            }
            Some(_) => true,
            None => false,
        };
        if !usable {
            self.reopen()?;
        }
        let current = self
            .current
            .as_ref()
            .expect("the file was usable, or was opened just now");
        // Another writer may have written to it, so the file's own size counts. One more byte: the
        // end may be torn.
        let size = current.file.metadata()?.len();
        let max = self.limits.max_size.0;
        if size > 0
            && size.saturating_add(bytes as u64 + 1) > max
            && let Err(error) = self.rotate(current.number + 1)
            // The directory was given to the user of a newer generation: the last words of this one
            // go where it still may write.
            && (error.kind() != io::ErrorKind::AlreadyExists || size > max.saturating_mul(2))
        {
            return Err(error);
        }
        Ok(self
            .current
            .as_mut()
            .expect("the file was opened, and a rotation leaves one open"))
    }

    /// Opens the newest file, and answers its end.
    fn reopen(&mut self) -> io::Result<Vec<u8>> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&self.dir)?;
        let newest = file_numbers(&self.dir)?
            .last()
            .copied()
            .unwrap_or(1)
            .max(self.newest);
        let (file, number) = open_from(&self.dir, newest)?;
        let size = file.metadata()?.len();
        let tail_bytes = size.min(TAIL_BYTES);
        let mut tail = vec![0; usize::try_from(tail_bytes).unwrap_or_default()];
        file.read_exact_at(&mut tail, size - tail_bytes)?;
        let last = tail
            .rsplit(|byte| *byte == b'\n')
            .find_map(LineHeader::decode)
            .map(|header| header.time);
        if last.is_some_and(|last| last > self.stamp.time()) {
            self.stamp = LineStamp::after(last);
        }
        self.newest = number;
        self.current = Some(CurrentFile {
            file: Arc::new(file),
            number,
            torn: tail.last().is_some_and(|byte| *byte != b'\n'),
        });
        Ok(tail)
    }

    /// Continues in file `next`, and removes the oldest files beyond the limit.
    fn rotate(&mut self, next: u64) -> io::Result<()> {
        let (file, next) = match open_from(&self.dir, next) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                // Removes one file now rather than afterwards; never the newest, which holds the
                // numbering.
                self.prune((self.limits.max_files.saturating_sub(1)).max(1))?;
                open_from(&self.dir, next)?
            }
            other => other?,
        };
        self.newest = next;
        self.current = Some(CurrentFile {
            file: Arc::new(file),
            number: next,
            torn: false,
        });
        self.prune(self.limits.max_files.max(1))
    }

    fn prune(&self, keep: u32) -> io::Result<()> {
        let numbers = file_numbers(&self.dir)?;
        let surplus = numbers.len().saturating_sub(keep as usize);
        for number in &numbers[..surplus] {
            match fs::remove_file(file_path(&self.dir, *number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if let (Some(syncer), Some(first)) = (&self.syncer, numbers.get(surplus)) {
            syncer.forget_before(*first);
        }
        Ok(())
    }

    /// Begins a new file after a far step of the clock: within a file time never goes back.
    fn follow_the_clock(&mut self, now: SystemTime) {
        self.flush();
        if let Some(current) = &self.current {
            let next = current.number + 1;
            if self.rotate(next).is_err() {
                return;
            }
        }
        self.stamp = LineStamp::after(Some(now));
    }
}
