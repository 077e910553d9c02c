//! The agent's own log: written to stderr, to the systemd journal behind it, or to a file.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFormat, LoggingSection};

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

/// Starts the process's log. `journal` is the value of [`JOURNAL_VARIABLE`].
///
/// # Errors
/// The file cannot be opened, the level is invalid, or the log was started before.
pub fn start(logging: &LoggingSection, journal: Option<&OsStr>) -> Result<(), TelemetryError> {
    let wrong = |source| TelemetryError::Level {
        level: logging.level.clone(),
        source,
    };
    let filter: EnvFilter = directives(&logging.level).parse().map_err(wrong)?;
    match &logging.file {
        Some(path) => subscribe(logging.format, filter, Arc::new(open(path)?), Medium::File),
        None => {
            let medium = if is_journal(journal) {
                Medium::Journal
            } else if io::stderr().is_terminal() {
                Medium::Terminal
            } else {
                Medium::File
            };
            subscribe(logging.format, filter, io::stderr, medium)
        }
    }
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

fn subscribe<W>(
    format: LogFormat,
    filter: EnvFilter,
    to: W,
    medium: Medium,
) -> Result<(), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(to)
        .with_ansi(medium == Medium::Terminal);
    let started = match (format, medium) {
        (LogFormat::Json, _) => {
            tracing::subscriber::set_global_default(subscriber.json().flatten_event(true).finish())
        }
        (LogFormat::Text, Medium::Journal) => {
            let format = JournalFormat(
                Format::default()
                    .without_time()
                    .with_level(false)
                    .with_ansi(false),
            );
            tracing::subscriber::set_global_default(subscriber.event_format(format).finish())
        }
        (LogFormat::Text, Medium::Terminal | Medium::File) => {
            tracing::subscriber::set_global_default(subscriber.finish())
        }
    };
    started.map_err(TelemetryError::Twice)
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
    let opened = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path);
    opened.map_err(|source| TelemetryError::File {
        path: path.to_owned(),
        source,
    })
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
    fn a_file_that_cannot_be_opened_is_named() {
        let error = open(Path::new("/nonexistent/x.log")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open the log file /nonexistent/x.log"
        );
    }
}
