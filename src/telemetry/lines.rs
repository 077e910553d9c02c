//! Lines of the agent's own log, made fit for whoever reads it: the last place that foreign text passes.

use std::borrow::Cow;
use std::io;

use state::text;
use tracing_subscriber::fmt::MakeWriter;

/// Writer of lines in which nothing of others begins a line, moves a cursor or hides, whatever the
/// event's fields hold; in JSON their meaning stays. Of escape sequences a terminal gets the
/// formatter's own colours alone.
#[derive(Debug)]
pub(super) struct PlainLines<M> {
    pub(super) to: M,
    pub(super) colours: bool,
}

impl<'w, M: MakeWriter<'w>> MakeWriter<'w> for PlainLines<M> {
    type Writer = PlainLine<M::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        PlainLine {
            to: self.to.make_writer(),
            colours: self.colours,
        }
    }
}

/// Write access for one line, which the formatter gives in one piece.
#[derive(Debug)]
pub(super) struct PlainLine<W> {
    to: W,
    colours: bool,
}

impl<W: io::Write> io::Write for PlainLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let plain = plain_line(&text, self.colours);
        // A line that a full disk or a reader that has gone does not take ends no task of the agent.
        let _lost = self.to.write_all(plain.as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The line with its own end alone.
fn plain_line(text: &str, colours: bool) -> Cow<'_, str> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    if !line.chars().any(text::is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let colour = colour(rest).filter(|_| colours);
        match colour {
            Some(sequence) => plain.push_str(sequence),
            None => text::push(&mut plain, c),
        }
        rest = &rest[colour.map_or(c.len_utf8(), str::len)..];
    }
    plain.push_str(&text[line.len()..]);
    Cow::Owned(plain)
}

/// The formatter's own sequence at the beginning of a text: a colour or a weight of letters, or
/// their end.
fn colour(text: &str) -> Option<&str> {
    let (code, _) = text.strip_prefix("\u{1b}[")?.split_once('m')?;
    let is_own = matches!(
        code,
        "0" | "1" | "2" | "3" | "31" | "32" | "33" | "34" | "35"
    );
    is_own.then(|| &text[.."\u{1b}[m".len() + code.len()])
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Arc;

    use super::*;

    /// Writer that a full disk is behind, or a pipe that nobody reads.
    struct Full;

    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_is_not_taken_is_no_error_of_whoever_logs() {
        let mut line = PlainLine {
            to: Full,
            colours: false,
        };
        assert_eq!(io::Write::write(&mut line, b"line\n").unwrap(), 5);
    }

    /// Lines that a log has after events with what an image may say.
    fn written(json: bool, colours: bool) -> String {
        const FORGED: &str = "x\u{1b}[31m\u{1b}[8m\u{9b}2J\u{7}\u{202e}\u{2028}\r\n<3>2026-01-01T00:00:00Z ERROR FORGED";
        let mut file = tempfile::tempfile().unwrap();
        let to = PlainLines {
            to: Arc::new(file.try_clone().unwrap()),
            colours,
        };
        let subscriber = tracing_subscriber::fmt().with_writer(to).with_ansi(colours);
        let say = || {
            tracing::info!(command = FORGED, error = %FORGED, more = ?FORGED, "step failed");
            tracing::info!("{FORGED}");
        };
        if json {
            let subscriber = subscriber.json().flatten_event(true).finish();
            tracing::subscriber::with_default(subscriber, say);
        } else {
            tracing::subscriber::with_default(subscriber.finish(), say);
        }
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn no_field_ends_a_line_moves_a_cursor_or_hides_in_any_format() {
        for (json, colours) in [(false, false), (false, true), (true, false)] {
            let log = written(json, colours);
            let lines: Vec<_> = log.split_terminator('\n').collect();
            assert_eq!(lines.len(), 2, "{log}");
            for line in lines {
                let mut rest = line.to_owned();
                if colours {
                    for own in ["0", "1", "2", "3", "31", "32"] {
                        rest = rest.replace(&format!("\u{1b}[{own}m"), "");
                    }
                }
                assert!(!rest.chars().any(text::is_hidden), "{rest:?}");
                assert!(line.contains("FORGED"), "{line:?}");
            }
        }
        let json = written(true, false);
        let first = serde_json::from_str::<serde_json::Value>(json.lines().next().unwrap());
        let said = first.unwrap()["command"].as_str().unwrap().to_owned();
        assert!(
            said.contains("\u{9b}2J") && said.contains("\n<3>"),
            "{said:?}"
        );
    }
}
