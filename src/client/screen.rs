//! Where the client writes: what fits a terminal on a terminal, and what programs read elsewhere.

use std::io::{self, BufRead as _, ErrorKind, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde_json::Value;
use state::text;

/// Time between two looks of what is shown anew.
pub(super) const LOOK_EACH: Duration = Duration::from_secs(2);
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// Reader of the output that has gone.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(super) struct Unread;

/// Output of an order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// Whether the agent's answers are asked for, as JSON.
    pub(crate) json: bool,
    /// Whether a person looks at the output.
    pub(crate) is_terminal: bool,
    /// Whether colours are wanted.
    colours: bool,
}

/// Colour by what a text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// All is well.
    Good,
    /// On its way.
    Waiting,
    /// At fault.
    Bad,
    /// Of no weight.
    Plain,
}

impl Screen {
    /// The process's own output. `plain`: without colours (`NO_COLOR`).
    pub(crate) fn new(json: bool, plain: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self {
            json,
            is_terminal,
            colours: is_terminal && !plain,
        }
    }

    /// Columns to keep within. `None`: no terminal, and all is shown.
    pub(crate) fn columns(self) -> Option<usize> {
        let size = rustix::termios::tcgetwinsize(io::stdout());
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        self.is_terminal
            .then_some(if columns == 0 { COLUMNS } else { columns })
    }

    /// Clears a terminal, and goes to its begin.
    pub(crate) fn clear(self) -> io::Result<()> {
        self.write("\u{1b}[H\u{1b}[2J")
    }

    /// Writes text as it is.
    pub(crate) fn write(self, text: &str) -> io::Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                return io::Error::new(ErrorKind::BrokenPipe, Unread);
            }
            error
        })
    }

    /// Writes bytes as they are where errors go.
    pub(crate) fn error_bytes(self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(bytes)
    }

    /// Writes a line.
    pub(crate) fn line(self, text: &str) -> io::Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// Writes an answer as JSON for programs, and people who read it.
    pub(crate) fn value(self, value: &Value) -> io::Result<()> {
        let text = format!("{value:#}");
        let lines = text.lines().map(|line| text::shown(line, usize::MAX));
        self.line(&lines.collect::<Vec<_>>().join("\n"))
    }

    /// Tells how a long order goes, where a person looks.
    pub(crate) fn tell(self, text: &str) {
        let _whoever_reads = writeln!(io::stderr(), "{text}");
    }

    /// Tells how a long order goes, in the place of what it told last.
    pub(crate) fn tell_over(self, text: &str) {
        let columns = self.columns().unwrap_or(COLUMNS).saturating_sub(1);
        let _whoever_reads = write!(io::stderr(), "\r\u{1b}[2K{}", text::shown(text, columns));
    }

    /// The text in a colour, where colours are wanted.
    pub(crate) fn coloured(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Waiting => "33",
            Colour::Bad => "31",
            Colour::Plain => return text.to_owned(),
        };
        match self.colours {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

/// The process's own input, whatever it is, byte by byte.
pub(crate) fn input() -> io::Result<tokio::fs::File> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(stdin.into()))
}

/// Whether a person may be asked.
pub(crate) fn has_person() -> bool {
    io::stdin().is_terminal()
}

/// Asks a person, whose answer is no but for `y` and `yes`. Without a person the answer is no.
pub(crate) fn asks(question: &str) -> io::Result<bool> {
    if !has_person() {
        return Ok(false);
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        writeln!(io::stderr())?;
    }
    let answer = line.trim().to_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes"))
}
