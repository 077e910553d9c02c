//! Words of containers in sentences of probes: bodies of their answers, and what their programs print.

/// Begins of what a probe says before it repeats words of the container; a number or a time may follow.
const SAID: [&str; 5] = [
    "HTTP ",
    "exit code ",
    "no answer within ",
    "does not speak HTTP/1",
    "the program prints without end",
];

/// Place in a text where words of a container begin, which go on to its end. `None`: there are none.
pub(super) fn printed_at(text: &str) -> Option<usize> {
    let places = SAID.iter().filter_map(|said| place_after(text, said));
    places.min().filter(|place| *place < text.len())
}

fn place_after(text: &str, said: &str) -> Option<usize> {
    text.match_indices(said).find_map(|(at, _)| {
        let after = at + said.len();
        let length = text[after..].find(": ")?;
        let is_number =
            |word: &str| word.is_empty() || word.starts_with(|c: char| c.is_ascii_digit());
        let mut words = text[after..after + length].split(' ');
        words.all(is_number).then_some(after + length + 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_container_are_found_behind_what_the_probe_says() {
        for (text, expected) in [
            ("not ready: HTTP 500: oh: no", Some("oh: no")),
            ("exit code 1: a\nb", Some("a\nb")),
            ("no answer within 1s 500ms: abc", Some("abc")),
            ("port 80 does not speak HTTP/1: \"SSH\"", Some("\"SSH\"")),
            ("the program prints without end: y y", Some("y y")),
            ("exit code 1: HTTP 500: x", Some("HTTP 500: x")),
            ("HTTP 500", None),
            ("HTTP proxy of the host: http://h", None),
            ("the process ended with exit code 3; next: at once", None),
            ("", None),
        ] {
            let found = printed_at(text).map(|place| &text[place..]);
            assert_eq!(found, expected, "{text}");
        }
    }
}
