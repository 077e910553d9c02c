//! Text of others on its way into a log, an answer or a terminal: the one place that says what of
//! it is shown.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters of a message about a fault. The longest of the agent's own are lists of what would be
/// right.
pub const MESSAGE_CHARS_MAX: usize = 4000;

/// Text of others as it may be shown: one line of at most `chars_max` characters, in which nothing
/// begins a line, moves a cursor, hides, or turns the direction of reading. Such characters are
/// written as JSON escapes them (`\n`, `\u001b`); what is cut ends in `…`.
///
/// What was shown once is shown the same again.
#[must_use]
pub fn shown(text: &str, chars_max: usize) -> Cow<'_, str> {
    let is_short = text.len() <= chars_max || text.chars().nth(chars_max).is_none();
    if is_short && !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut line = String::new();
    let mut count = 0;
    for c in text.chars() {
        let before = line.len();
        push(&mut line, c);
        count += line[before..].chars().count();
        if count > chars_max {
            let kept = line.char_indices().nth(chars_max.saturating_sub(1));
            line.truncate(kept.map_or(line.len(), |(at, _)| at));
            line.extend((chars_max > 0).then_some('…'));
            break;
        }
    }
    Cow::Owned(line)
}

/// Whether a character would do something else than stand in its line: control characters, those
/// of direction, line and paragraph separators, and those that Unicode has ignored where they are
/// shown. Not the selectors of an emoji's form, which only follow one.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Appends a character as it is shown. In a string of JSON the text stays valid, and its meaning
/// the same.
pub fn push(line: &mut String, c: char) {
    match c {
        '\n' => line.push_str("\\n"),
        '\r' => line.push_str("\\r"),
        '\t' => line.push_str("\\t"),
        _ if is_hidden(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(line, "\\u{unit:04x}").expect("writing to a string cannot fail");
            }
        }
        _ => line.push(c),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_begins_a_line_or_hides_is_written_out_and_all_else_stays() {
        for (text, expected) in [
            ("plain, ü, 漢字, 🦀 and \\n", "plain, ü, 漢字, 🦀 and \\n"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31m\u{7}\u{7f}", "\\u001b[31m\\u0007\\u007f"),
            ("\u{9b}31m\u{85}", "\\u009b31m\\u0085"),
            ("a\u{202e}b\u{2066}c\u{200b}", "a\\u202eb\\u2066c\\u200b"),
            ("\u{2028}\u{feff}\u{e0041}", "\\u2028\\ufeff\\udb40\\udc41"),
            ("a\u{34f}b\u{3164}\u{1160}", "a\\u034fb\\u3164\\u1160"),
            ("\u{2764}\u{fe0f}", "\u{2764}\u{fe0f}"),
        ] {
            assert_eq!(shown(text, 100), expected);
        }
        assert!(matches!(shown("plain", 5), Cow::Borrowed("plain")));
    }

    #[test]
    fn a_long_text_ends_where_it_may() {
        assert_eq!(shown("üüüü", 4), "üüüü");
        assert_eq!(shown("üüüüü", 4), "üüü…");
        assert_eq!(shown("\n\n\n", 4), "\\n\\…");
        assert_eq!(shown("ab", 1), "…");
        assert_eq!(shown("ab", 0), "");
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_line_nor_changes_when_shown_twice(
            text in ".{0,60}|[\\x00-\\x20\\u{80}-\\u{a0}\\u{2000}-\\u{2070}\\u{e0000}-\\u{e0080}]{0,30}",
            chars_max in 0_usize..80,
        ) {
            let once = shown(&text, chars_max).into_owned();
            prop_assert!(!once.chars().any(is_hidden), "{once:?}");
            prop_assert!(once.chars().count() <= chars_max);
            prop_assert_eq!(shown(&once, chars_max), once.as_str());
        }

        #[test]
        fn a_string_of_json_means_the_same(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let line = shown(&json, usize::MAX);
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
