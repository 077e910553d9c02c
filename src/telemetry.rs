//! The agent's own log: written to stderr, to the systemd journal behind it, or to a file.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use self::file::{FileBounds, LogFile};
use self::journal::{JournalFields, JournalSocket, JournalWriter};
use self::lines::PlainLines;
use crate::config::{LogFormat, LoggingSection};

mod file;
mod journal;
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

/// Call that puts another filter in force.
type SetLevel = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// The process's log, as far as it changes while the process runs.
pub struct Log {
    level: SetLevel,
    file: Option<LogFile>,
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
        let bounds = FileBounds {
            bytes_max: logging.size_max.0,
            files_max: logging.files_max,
            is_json: logging.format == LogFormat::Json,
        };
        let file = LogFile::open(path, bounds)?;
        let level = subscribe(logging.format, filter, file.clone(), Medium::File)?;
        let file = Some(file);
        return Ok(Log { level, file });
    }
    let level: SetLevel = if !is_journal(journal) {
        let medium = match io::stderr().is_terminal() {
            true => Medium::Terminal,
            false => Medium::File,
        };
        subscribe(logging.format, filter, io::stderr, medium)?
    } else if let (LogFormat::Text, Ok(socket)) = (
        logging.format,
        JournalSocket::open(Path::new(journal::SOCKET)),
    ) {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(JournalWriter(socket))
            .with_ansi(false)
            .log_internal_errors(false)
            .event_format(JournalFields(journal_format()))
            .with_filter_reloading();
        let handle = subscriber.reload_handle();
        begun(subscriber.finish())?;
        Box::new(move |filter| handle.reload(filter).is_ok())
    } else {
        subscribe(logging.format, filter, io::stderr, Medium::Journal)?
    };
    Ok(Log { level, file: None })
}

fn begun(subscriber: impl Subscriber + Send + Sync) -> Result<(), TelemetryError> {
    tracing::subscriber::set_global_default(subscriber).map_err(TelemetryError::Twice)
}

/// Format of a line in the journal, which has its own time and level.
fn journal_format() -> Format<Full, ()> {
    Format::default()
        .without_time()
        .with_level(false)
        .with_ansi(false)
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
) -> Result<SetLevel, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(PlainLines {
            to,
            colours: medium == Medium::Terminal,
        })
        // It would tell of a line that stderr did not take on stderr, and panic.
        .log_internal_errors(false)
        .with_ansi(medium == Medium::Terminal);
    let (level, started): (SetLevel, _) = match (format, medium) {
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
            let format = JournalFormat(journal_format());
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

/// Format for stderr where that is the journal and journald's socket is not there. The journal adds
/// the time itself and takes the level as a prefix (sd-daemon(3)), so that `journalctl -p err` works.
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
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// Priority of a level, as syslog counts (syslog(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Arc;

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
        let format = JournalFormat(journal_format());
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
}
