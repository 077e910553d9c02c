//! Cuts a stream of bytes into lines of bounded length, without copying those that arrive whole.

use super::line::LINE_BYTES_MAX;

/// Splitter of one stream; holds the line that has begun and not ended.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    begun: Vec<u8>,
    /// Whether a part of the line has been emitted already.
    goes_on: bool,
}

impl LineSplitter {
    /// Hands each line that ends in `bytes` to `emit`, and each part of a line that grows too long:
    /// the bytes without a newline, and whether the line goes on. At most [`LINE_BYTES_MAX`] bytes
    /// are kept for the next call.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.begun.len();
            // A newline right behind a full line still ends it: no empty line follows.
            let window = &bytes[..bytes.len().min(room + 1)];
            let (taken, partial, rest) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end, false, end + 1),
                None if window.len() > room => (room, true, room),
                None => {
                    self.begun.extend_from_slice(window);
                    return;
                }
            };
            self.goes_on = partial;
            if self.begun.is_empty() {
                emit(&bytes[..taken], partial);
            } else {
                self.begun.extend_from_slice(&bytes[..taken]);
                emit(&self.begun, partial);
                self.begun.clear();
            }
            bytes = &bytes[rest..];
        }
    }

    /// Emits the bytes that no newline has ended yet, as a part of a line: the rest may follow.
    pub(crate) fn give_up_begun(&mut self, mut emit: impl FnMut(&[u8], bool)) {
        if !self.begun.is_empty() {
            emit(&self.begun, true);
            self.begun.clear();
            self.goes_on = true;
        }
    }

    /// Ends the line that no newline has ended. For the end of the stream: the first line of the
    /// next run does not continue the last of this one.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(&[u8], bool)) {
        if self.goes_on || !self.begun.is_empty() {
            emit(&self.begun, false);
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::default();
        let mut emit = |line: &[u8], partial| lines.push((line.to_vec(), partial));
        for chunk in chunks {
            splitter.push(chunk, &mut emit);
        }
        splitter.finish(&mut emit);
        lines
    }

    #[test]
    fn lines_end_at_newlines_wherever_the_chunks_end() {
        let line = |text: &str| (text.as_bytes().to_vec(), false);
        assert_eq!(split(&[b"a\nb\n"]), [line("a"), line("b")]);
        assert_eq!(split(&[b"a", b"b\n", b"\n"]), [line("ab"), line("")]);
        assert_eq!(split(&[b"\r\n", b"x"]), [line("\r"), line("x")]);
        assert_eq!(split(&[b""]), []);
    }

    #[test]
    fn a_long_line_comes_in_parts_and_a_full_one_whole() {
        let full = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(split(&[&full, b"\n"]), [(full.clone(), false)]);
        assert_eq!(
            split(&[&full, b"y\n"]),
            [(full.clone(), true), (b"y".to_vec(), false)]
        );
        assert_eq!(
            split(&[&full, &full, b"\n"]),
            [(full.clone(), true), (full, false)]
        );
    }

    #[test]
    fn the_end_of_the_stream_ends_its_line_however_much_of_it_was_emitted() {
        let full = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(split(&[&full]), [(full.clone(), false)]);
        assert_eq!(
            split(&[&full, b"y"]),
            [(full, true), (b"y".to_vec(), false)]
        );
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        let mut emit = |line: &[u8], partial| lines.push((line.to_vec(), partial));
        splitter.push(b"begun", &mut emit);
        splitter.give_up_begun(&mut emit);
        splitter.give_up_begun(&mut emit);
        splitter.finish(&mut emit);
        splitter.finish(&mut emit);
        assert_eq!(lines, [(b"begun".to_vec(), true), (Vec::new(), false)]);
    }

    proptest! {
        #[test]
        fn the_bytes_come_back_and_no_line_is_too_long(
            chunks in proptest::collection::vec(
                (proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40), 0..900usize), 0..8)
        ) {
            let chunks: Vec<Vec<u8>> = chunks.into_iter().map(|(bytes, times)| bytes.repeat(times)).collect();
            let mut whole = chunks.concat();
            let lines = split(&chunks.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let mut joined = Vec::new();
            for (line, partial) in lines {
                prop_assert!(line.len() <= LINE_BYTES_MAX && !line.contains(&b'\n') && !(line.is_empty() && partial));
                joined.extend(line);
                if !partial {
                    joined.push(b'\n');
                }
            }
            if whole.last().is_some_and(|byte| *byte != b'\n') {
                whole.push(b'\n');
            }
            prop_assert_eq!(joined, whole);
        }
    }
}
