//! Files of the feed: a line of JSON for each event, in two files of which the older one goes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use state::id::{ContainerId, ContainerName};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{EventFeed, FeedEvent, NUMBER_MAX};

/// Directory of the files in the state directory.
pub const DIRECTORY: &str = "events";
/// Size at which another file is begun: as much as is kept in memory.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// The newer file.
const NEWER: &str = "events.jsonl";
/// The older file.
const OLDER: &str = "events.1.jsonl";
/// Lines that are handed to the kernel at once.
const LINES_AT_ONCE: usize = 64;
/// Time until a disk that took nothing is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Files in which the feed outlives its agent.
///
/// Lines are handed to the kernel at once, and not synced: a kill of the agent loses none, a power
/// cut those of the last half minute. What must not be lost stands in the audit.
#[derive(Debug)]
pub struct FeedFiles {
    directory: PathBuf,
    /// The newer file, and its size. `None`: to be opened.
    open: Option<(File, u64)>,
}

/// Members of a line that are looked at.
#[derive(Deserialize)]
struct EventHead {
    id: u64,
    kind: Box<str>,
    container: Option<EventHeadContainer>,
    name: Option<ContainerName>,
}

#[derive(Deserialize)]
struct EventHeadContainer {
    id: ContainerId,
    name: Option<ContainerName>,
}

impl FeedFiles {
    /// Opens the files in a directory, and answers the events in them, oldest first. What cannot be
    /// read is left out: the feed is no state.
    #[must_use]
    pub fn open(directory: &Path) -> (Self, Vec<FeedEvent>) {
        let mut events = Vec::new();
        for name in [OLDER, NEWER] {
            let read = read(&directory.join(name));
            match read {
                Ok(lines) => events.extend(lines.lines().filter_map(parsed)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(name, %error, "events before not read"),
            }
        }
        // A line that is out of order was not written by this agent, and would hide others.
        let mut last = 0;
        events.retain(|event| {
            let is_next = event.number > last;
            last = last.max(event.number);
            is_next
        });
        let files = Self {
            directory: directory.to_owned(),
            open: None,
        };
        (files, events)
    }

    /// Appends each event of the feed after `position`, until the end of the agent.
    pub async fn follow(mut self, feed: EventFeed, mut position: u64, stop: CancellationToken) {
        let mut newest = feed.watch();
        let mut is_failing = false;
        loop {
            let page = feed.read(position, LINES_AT_ONCE);
            if page.has_lost {
                // A gap within the files would hide that something is missing.
                self.clear();
            }
            let last = page.events.last().map(|event| event.number);
            let (files, written) = self.append_away(page.events).await;
            self = files;
            match written {
                Ok(()) => {
                    position = last.unwrap_or(position);
                    is_failing = false;
                }
                Err(error) if !is_failing => {
                    is_failing = true;
                    tracing::warn!(%error, "events not written to the disk, retrying");
                }
                Err(_) => {}
            }
            let is_behind = position < feed.newest();
            if is_behind && !is_failing {
                continue;
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(AGAIN_AFTER), if is_failing => {}
                changed = newest.changed(), if !is_failing => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Removes the files.
    fn clear(&mut self) {
        self.open = None;
        for name in [OLDER, NEWER] {
            let _it_may_be_absent = fs::remove_file(self.directory.join(name));
        }
    }

    async fn append_away(mut self, events: Vec<Arc<FeedEvent>>) -> (Self, io::Result<()>) {
        let directory = self.directory.clone();
        let appending = tokio::task::spawn_blocking(move || {
            let written = self.append(&events);
            (self, written)
        });
        appending.await.unwrap_or_else(|panic| {
            let files = Self {
                directory,
                open: None,
            };
            (files, Err(io::Error::other(panic.to_string())))
        })
    }

    fn append(&mut self, events: &[Arc<FeedEvent>]) -> io::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        for event in events {
            text.extend_from_slice(&event.data);
            text.push(b'\n');
        }
        let (mut file, bytes) = match self.open.take() {
            Some((_, bytes)) if bytes >= FILE_BYTES_MAX => self.begin()?,
            Some(open) => open,
            None => self.resume()?,
        };
        file.write_all(&text)?;
        self.open = Some((file, bytes + text.len() as u64));
        Ok(())
    }

    fn begin(&self) -> io::Result<(File, u64)> {
        fs::rename(self.directory.join(NEWER), self.directory.join(OLDER))?;
        Ok((opened(&self.directory.join(NEWER))?, 0))
    }

    /// Goes on where the newer file ends, on a line of its own.
    fn resume(&self) -> io::Result<(File, u64)> {
        let mut directory = DirBuilder::new();
        directory
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let mut file = opened(&self.directory.join(NEWER))?;
        let bytes = file.metadata()?.len();
        if bytes >= FILE_BYTES_MAX {
            return self.begin();
        }
        if bytes > 0 {
            // The line before may have been cut off; an empty one harms nobody.
            file.write_all(b"\n")?;
        }
        Ok((file, bytes + 1))
    }
}

fn opened(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

/// Text of a file, of which only so much is read as the agent writes at most.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(FILE_BYTES_MAX * 2).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Event of a line. `None`: it is none that an agent wrote.
fn parsed(line: &str) -> Option<FeedEvent> {
    let head: EventHead = serde_json::from_str(line).ok()?;
    let is_word = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    if head.id >= NUMBER_MAX || !head.kind.chars().all(is_word) || line.contains('\r') {
        return None;
    }
    let (id, name) = match head.container {
        Some(container) => (Some(container.id), container.name),
        None => (None, head.name),
    };
    Some(FeedEvent {
        number: head.id,
        kind: head.kind,
        id,
        name,
        data: Bytes::copy_from_slice(line.as_bytes()),
    })
}
