//! Block of the agent's lines in a file that others write to as well: replaced as a whole, while
//! every other line stays as it is. Pure.

/// First line of the block.
const BEGIN: &[u8] =
    b"# Kept current by chas-node-agent up to the next mark; lines outside stay.\n";
/// Last line of the block.
const END: &[u8] = b"# End of chas-node-agent's lines.\n";

/// Treatment of a file out of which somebody has taken the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutBlock {
    /// The block is put at the end: its lines are needed, and the others come first.
    Append,
    /// The file is somebody else's, and left alone.
    Leave,
}

/// Content of a file with the block `lines`. `old` is the content so far. `None`: the file is to be
/// left alone.
pub(super) fn put(old: Option<&[u8]>, lines: &str, without: WithoutBlock) -> Option<Vec<u8>> {
    let block = [BEGIN, lines.as_bytes(), END].concat();
    let Some(old) = old else {
        return Some(block);
    };
    let (before, after) = match (find(old), without) {
        (Some((from, to)), _) => (old.get(..from)?, old.get(to..)?),
        (None, WithoutBlock::Append) => (old, [].as_slice()),
        (None, WithoutBlock::Leave) => return None,
    };
    let mut new = before.to_vec();
    if new.last().is_some_and(|last| *last != b'\n') {
        new.push(b'\n');
    }
    new.extend(block);
    new.extend(after);
    Some(new)
}

/// Beginning and end of the block.
fn find(text: &[u8]) -> Option<(usize, usize)> {
    let from = position(text, BEGIN)?;
    let end = position(text.get(from..)?, END)?;
    Some((from, from + end + END.len()))
}

/// Place of a line in a text.
fn position(text: &[u8], line: &[u8]) -> Option<usize> {
    let is_start = |at: &usize| *at == 0 || text.get(at - 1) == Some(&b'\n');
    let mut found = text
        .windows(line.len())
        .enumerate()
        .filter(|(_, window)| *window == line)
        .map(|(at, _)| at);
    found.find(is_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[track_caller]
    fn check(old: &[&[u8]], without: WithoutBlock, expected: Option<&[&[u8]]>) {
        let new = put(Some(&text(old)), "b\n", without);
        assert_eq!(
            new,
            expected.map(text),
            "{:?}",
            String::from_utf8_lossy(&text(old))
        );
        if let Some(new) = new {
            assert_eq!(put(Some(&new), "b\n", without), Some(new), "it is settled");
        }
    }

    #[test]
    fn lines_around_the_block_survive_its_replacement() {
        use WithoutBlock::{Append, Leave};
        assert_eq!(put(None, "b\n", Leave), Some(text(&[BEGIN, b"b\n", END])));
        for without in [Append, Leave] {
            check(
                &[b"one\n", BEGIN, b"a\nold\n", END, b"two\nthree"],
                without,
                Some(&[b"one\n", BEGIN, b"b\n", END, b"two\nthree"]),
            );
        }
        check(
            &[BEGIN, b"a\n", END, b"\xff\n"],
            Leave,
            Some(&[BEGIN, b"b\n", END, b"\xff\n"]),
        );
    }

    #[test]
    fn a_file_without_the_block_gets_it_at_the_end_or_is_left_alone() {
        use WithoutBlock::{Append, Leave};
        check(
            &[b"theirs"],
            Append,
            Some(&[b"theirs\n", BEGIN, b"b\n", END]),
        );
        check(&[], Append, Some(&[BEGIN, b"b\n", END]));
        check(&[b"nameserver 192.0.2.1\n"], Leave, None);
        check(&[], Leave, None);
        // A mark alone, or in the middle of a line, is none.
        check(&[BEGIN, b"cut"], Leave, None);
        check(&[b"x", BEGIN, b"a\n", END], Leave, None);
    }
}
