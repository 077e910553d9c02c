//! The caller's terminal, whose keys go to a program of a container as they are pressed.

use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Size of a terminal that does not tell it.
const SIZE: (u16, u16) = (80, 24);

/// Terminal that passes keys on; it is set back when this is dropped.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Passes keys on from now on, also those of signals.
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }

    /// Columns and rows.
    pub(super) fn size() -> (u16, u16) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 => (size.ws_col, size.ws_row),
            Ok(_) | Err(_) => SIZE,
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _terminal_that_is_gone = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
