//! journald's own protocol: each event is a datagram of fields, so that a journal is searched by
//! container, reason or request. <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>
//!
//! Of values nothing is left that ends a line ([`text::push`]), so every field has the plain form
//! `NAME=value`, and none of others' making begins one.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto,
};
use state::text;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Socket on which journald takes datagrams.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// Name of the program in the journal.
const IDENTIFIER: &str = env!("CARGO_PKG_NAME");
/// Longest value of a field; what is beyond is cut off.
const VALUE_BYTES_MAX: usize = 512 << 10;
/// Longest name of a field that journald takes.
const NAME_BYTES_MAX: usize = 64;
/// Fields of one event beside the agent's own, at most.
const FIELDS_MAX: usize = 32;
/// Time that an event waits for a journal that takes nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// Seconds after such a wait in which no other event waits.
const IMPATIENT_S: u64 = 30;
/// Names that mean something of their own in a journal.
const RESERVED: [&str; 12] = [
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "ERRNO",
    "TARGET",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "UNIT",
    "DOCUMENTATION",
];

/// Format of an event as the fields of an entry.
pub(super) struct JournalFields(pub(super) Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for JournalFields
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        let mut entry = FieldedEntry::default();
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        entry.put("MESSAGE", line.trim_end_matches('\n'));
        entry.put("PRIORITY", &super::priority(*about.level()).to_string());
        entry.put("SYSLOG_IDENTIFIER", IDENTIFIER);
        entry.put("TARGET", about.target());
        if let Some(file) = about.file() {
            entry.put("CODE_FILE", file);
        }
        if let Some(line) = about.line() {
            entry.put("CODE_LINE", &line.to_string());
        }
        event.record(&mut FactVisitor {
            entry: &mut entry,
            left: FIELDS_MAX,
        });
        writer.write_str(&entry.0)
    }
}

/// Entry of a journal: its fields, each with the end of its line.
#[derive(Debug, Default)]
struct FieldedEntry(String);

impl FieldedEntry {
    fn put(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push('=');
        let most = self.0.len() + VALUE_BYTES_MAX;
        for c in value.chars() {
            if self.0.len() >= most {
                self.0.push('…');
                break;
            }
            text::push(&mut self.0, c);
        }
        self.0.push('\n');
    }
}

/// Visitor of an event's fields, which become an entry's.
struct FactVisitor<'a> {
    entry: &'a mut FieldedEntry,
    left: usize,
}

impl FactVisitor<'_> {
    fn put(&mut self, field: &Field, value: &str) {
        // The phrase is in MESSAGE.
        if field.name() == "message" || self.left == 0 {
            return;
        }
        self.left -= 1;
        self.entry.put(&name(field.name()), value);
    }
}

impl Visit for FactVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

/// Name of a field, as journald takes it: `request_id` is `REQUEST_ID`.
fn name(field: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    };
    let name: String = field.chars().map(plain).collect();
    let mut name = name.trim_start_matches('_').to_owned();
    if RESERVED.contains(&name.as_str()) || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        name.insert_str(0, "F_");
    }
    name.truncate(NAME_BYTES_MAX);
    name
}

/// Socket of this process to journald. It is not connected: a journald that is restarted makes its
/// socket anew.
#[derive(Debug)]
pub(super) struct JournalSocket {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    /// Events that journald did not take, and that it was not told of yet.
    lost: AtomicU64,
    opened: Instant,
    /// Seconds after that until which nothing is waited for.
    impatient_until: AtomicU64,
}

impl JournalSocket {
    /// A socket to the journald at this path.
    ///
    /// # Errors
    /// None listens there.
    pub(super) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let opened = Self {
            socket: UnixDatagram::unbound()?,
            address: SocketAddrUnix::new(path)?,
            lost: AtomicU64::new(0),
            opened: Instant::now(),
            impatient_until: AtomicU64::new(0),
        };
        opened.socket.set_write_timeout(Some(PATIENCE))?;
        // An empty datagram is no entry, and tells whether anybody is there.
        match opened.send(b"", SendFlags::NOSIGNAL) {
            // One that is busy, as at boot, is there.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) => Ok(Arc::new(opened)),
        }
    }

    fn send(&self, entry: &[u8], flags: SendFlags) -> io::Result<()> {
        match sendto(&self.socket, entry, flags, &self.address) {
            Err(Errno::MSGSIZE | Errno::NOBUFS) => self.send_file(entry, flags),
            sent => sent.map(drop).map_err(io::Error::from),
        }
    }

    /// Sends an entry that no datagram holds: as a file in memory that nobody can change any more.
    fn send_file(&self, entry: &[u8], flags: SendFlags) -> io::Result<()> {
        let flags_of_file = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("journal-entry", flags_of_file)?);
        file.write_all(entry)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg_addr(&self.socket, &self.address, &[], &mut control, flags)?;
        Ok(())
    }

    /// Sends an entry. One that journald does not take is counted, and told of once it takes one again.
    fn write(&self, entry: &[u8]) {
        let mut flags = SendFlags::NOSIGNAL;
        let now = self.opened.elapsed().as_secs();
        flags.set(
            SendFlags::DONTWAIT,
            now < self.impatient_until.load(Ordering::Relaxed),
        );
        if self.send(entry, flags).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            // A journald that is slow is waited for once, and not by each thread at each entry.
            let until = now.saturating_add(IMPATIENT_S);
            self.impatient_until.store(until, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let mut told = FieldedEntry::default();
            told.put(
                "MESSAGE",
                &format!("{lost} entries lost: the journal did not take them"),
            );
            told.put("PRIORITY", &super::priority(Level::WARN).to_string());
            told.put("SYSLOG_IDENTIFIER", IDENTIFIER);
            if self.send(told.0.as_bytes(), flags).is_err() {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
    }
}

/// Maker of writers to journald.
#[derive(Clone, Debug)]
pub(super) struct JournalWriter(pub(super) Arc<JournalSocket>);

impl<'w> MakeWriter<'w> for JournalWriter {
    type Writer = EntryWrite<'w>;

    fn make_writer(&'w self) -> EntryWrite<'w> {
        EntryWrite(&self.0)
    }
}

/// Write access for one entry, which the formatter gives in one piece.
#[derive(Debug)]
pub(super) struct EntryWrite<'w>(&'w JournalSocket);

impl io::Write for EntryWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
