//! The agent's own log: written to stderr, to the systemd journal behind it, or to a file.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use self::lines::PlainLines;
use crate::config::{LogFormat, LoggingSection};

mod lines;

/// Environment variable by which systemd says that stderr is the journal: `<device>:<inode>`.
pub const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// Crates that a bare level applies to.
const OWN_CRATES: [&str; 2] = [env!("CARGO_CRATE_NAME"), "state"];

/// A log that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log file cannot be opened for appending.
    #[error("cannot open the log file {path}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The directives are invalid, though [`crate::config`] has checked them.
    #[error("log level {level:?} is invalid")]
    Level {
        /// Directives, as configured.
        level: String,
        /// Error of the filter.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has started a log before.
    #[error("cannot start the log: this process has one")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// The process's log, as far as it changes while the process runs.
pub struct Log {
    level: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
    file: Option<Arc<LogFile>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the file again, which may have been moved away. Where that fails, it is logged, and the file
    /// before stays.
    pub fn reopen(&self) {
        if let Some(error) = self.file.as_ref().and_then(|file| file.reopen().err()) {
            tracing::warn!(%error, "log file not opened again");
        }
    }

    /// Takes another level. False if it is none; then the level before stays.
    #[must_use]
    pub fn set_level(&self, level: &str) -> bool {
        let filter = directives(level).parse::<EnvFilter>();
        filter.is_ok_and(|filter| (self.level)(filter))
    }
}

/// A log file that can be opened again, as after it was moved away.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: RwLock<Arc<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, TelemetryError> {
        Ok(Self {
            path: path.to_owned(),
            file: RwLock::new(Arc::new(open(path)?)),
        })
    }

    fn reopen(&self) -> Result<(), TelemetryError> {
        let opened = Arc::new(open(&self.path)?);
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }
}

/// Write access to a log file, for one line.
#[derive(Debug)]
struct LogWrite(Arc<File>);

impl io::Write for LogWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

/// Starts the process's log. `journal` is the value of [`JOURNAL_VARIABLE`].
///
/// # Errors
/// The file cannot be opened, the level is invalid, or the log was started before.
pub fn start(logging: &LoggingSection, journal: Option<&OsStr>) -> Result<Log, TelemetryError> {
    let wrong = |source| TelemetryError::Level {
        level: logging.level.clone(),
        source,
    };
    let filter: EnvFilter = directives(&logging.level).parse().map_err(wrong)?;
    if let Some(path) = &logging.file {
        let file = Arc::new(LogFile::open(path)?);
        let writer = Arc::clone(&file);
        let write = move || {
            let file = writer.file.read().unwrap_or_else(PoisonError::into_inner);
            LogWrite(Arc::clone(&file))
        };
        let level = subscribe(logging.format, filter, write, Medium::File)?;
        let file = Some(file);
        return Ok(Log { level, file });
    }
    let medium = if is_journal(journal) {
        Medium::Journal
    } else if io::stderr().is_terminal() {
        Medium::Terminal
    } else {
        Medium::File
    };
    let level = subscribe(logging.format, filter, io::stderr, medium)?;
    Ok(Log { level, file: None })
}

/// The filter's directives for a configured level. A level without a crate applies to the agent's
/// own crates; of others, only warnings and errors are logged, since h2 for one logs every frame.
/// `info,h2=trace` asks for more of it.
fn directives(level: &str) -> String {
    let mut directives = Vec::from(["warn".to_owned()]);
    for directive in level.split(',').map(str::trim) {
        match directive.parse::<LevelFilter>() {
            Ok(level) if !directive.is_empty() => {
                // A level below WARN applies to the other crates too.
                directives[0] = level.min(LevelFilter::WARN).to_string();
                directives.extend(OWN_CRATES.map(|own| format!("{own}={level}")));
            }
            _ => directives.push(directive.to_owned()),
        }
    }
    directives.join(",")
}

/// The destination of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Terminal,
    File,
    Journal,
}

/// Starts the log; answers what changes its filter.
fn subscribe<W>(
    format: LogFormat,
    filter: EnvFilter,
    to: W,
    medium: Medium,
) -> Result<Box<dyn Fn(EnvFilter) -> bool + Send + Sync>, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(PlainLines {
            to,
            colours: medium == Medium::Terminal,
        })
        .with_ansi(medium == Medium::Terminal);
    let (level, started): (Box<dyn Fn(EnvFilter) -> bool + Send + Sync>, _) = match (format, medium)
    {
        (LogFormat::Json, _) => {
            let subscriber = subscriber.json().flatten_event(true);
            let subscriber = subscriber.with_filter_reloading();
            let handle = subscriber.reload_handle();
            (
                Box::new(move |filter| handle.reload(filter).is_ok()),
                tracing::subscriber::set_global_default(subscriber.finish()),
            )
        }
        (LogFormat::Text, Medium::Journal) => {
            let format = JournalFormat(
                Format::default()
                    .without_time()
                    .with_level(false)
                    .with_ansi(false),
            );
            let subscriber = subscriber.event_format(format).with_filter_reloading();
            let handle = subscriber.reload_handle();
            (
                Box::new(move |filter| handle.reload(filter).is_ok()),
                tracing::subscriber::set_global_default(subscriber.finish()),
            )
        }
        (LogFormat::Text, Medium::Terminal | Medium::File) => {
            let subscriber = subscriber.with_filter_reloading();
            let handle = subscriber.reload_handle();
            (
                Box::new(move |filter| handle.reload(filter).is_ok()),
                tracing::subscriber::set_global_default(subscriber.finish()),
            )
        }
    };
    started.map_err(TelemetryError::Twice)?;
    Ok(level)
}

/// Format for the journal, which adds the time itself and takes the level as a prefix
/// (sd-daemon(3)), so that `journalctl -p err` works.
struct JournalFormat(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for JournalFormat
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
        let level = *event.metadata().level();
        writer.write_str(match level {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        })?;
        self.0.format_event(context, writer, event)
    }
}

/// Whether stderr is the journal, as the variable says; it may be inherited with another stderr
/// (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_journal(journal: Option<&OsStr>) -> bool {
    let named = journal
        .and_then(OsStr::to_str)
        .and_then(|text| text.split_once(':'));
    let named = named.and_then(|(device, inode)| {
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stderr| named == Some((stderr.st_dev, stderr.st_ino)))
}

fn open(path: &Path) -> Result<File, TelemetryError> {
    append_or_create(path).map_err(|source| TelemetryError::File {
        path: path.to_owned(),
        source,
    })
}

/// Opens a log file at its end. A new one is also for its group, whatever the agent's umask: log
/// collectors are in it. The mode of one that is there is its owner's choice.
fn append_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match options.create_new(true).mode(0o640).open(path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o640))?;
            Ok(file)
        }
        // Another has created it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn the_journal_is_what_its_variable_names_and_nothing_else() {
        let stderr = rustix::fs::fstat(io::stderr()).unwrap();
        let named = format!("{}:{}", stderr.st_dev, stderr.st_ino);
        assert!(is_journal(Some(OsStr::new(&named))));
        for other in ["", "8:1", "x", &format!("{named}0")] {
            assert!(!is_journal(Some(OsStr::new(other))), "{other}");
        }
        assert!(!is_journal(None));
    }

    #[test]
    fn a_line_for_the_journal_begins_with_its_priority_and_bears_no_time() {
        let mut file = tempfile::tempfile().unwrap();
        let format = JournalFormat(
            Format::default()
                .without_time()
                .with_level(false)
                .with_ansi(false),
        );
        let to = Arc::new(file.try_clone().unwrap());
        let subscriber = tracing_subscriber::fmt()
            .with_writer(to)
            .event_format(format)
            .finish();
        tracing::subscriber::with_default(
            subscriber,
            || tracing::warn!(target: "t", container = "web", "slow"),
        );
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "<4>t: slow container=\"web\"\n");
    }

    #[test]
    fn a_bare_level_is_for_the_agent_and_the_others_stay_quiet() {
        for (level, expected) in [
            ("INFO", "warn,chas_node_agent=info,state=info"),
            ("debug", "warn,chas_node_agent=debug,state=debug"),
            ("OFF", "off,chas_node_agent=off,state=off"),
            ("ERROR", "error,chas_node_agent=error,state=error"),
            (
                "info, h2=trace",
                "warn,chas_node_agent=info,state=info,h2=trace",
            ),
            (
                "chas_node_agent::reconcile=debug",
                "warn,chas_node_agent::reconcile=debug",
            ),
        ] {
            assert_eq!(directives(level), expected);
            assert!(expected.parse::<EnvFilter>().is_ok());
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again() {
        use std::io::Write as _;
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (
            directory.path().join("a.log"),
            directory.path().join("b.log"),
        );
        let file = LogFile::open(&path).unwrap();
        let write = |text: &str| {
            let now = Arc::clone(&file.file.read().unwrap());
            LogWrite(now).write_all(text.as_bytes()).unwrap();
        };
        write("one");
        std::fs::rename(&path, &moved).unwrap();
        write("two");
        file.reopen().unwrap();
        write("three");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "onetwo");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = open(Path::new("/nonexistent/x.log")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open the log file /nonexistent/x.log"
        );
    }
}
