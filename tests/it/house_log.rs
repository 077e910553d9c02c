//! Names of the fields of the agent's own log: none is one that a line of JSON has already, since a
//! reader of an object with a key twice takes one of them, and nobody knows which.

use crate::house_rules::sources;

/// Keys that the formatter of JSON writes itself.
const RESERVED: [&str; 6] = ["timestamp", "level", "message", "target", "span", "spans"];
const MACROS: [&str; 6] = [
    "info!(", "warn!(", "error!(", "debug!(", "trace!(", "event!(",
];

/// The reserved names that calls of the log's macros have as fields, each with its line.
fn reserved_fields(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for start in MACROS {
        for (at, _) in text.match_indices(start) {
            let line = 1 + text[..at].matches('\n').count();
            let fields = fields(&text[at + start.len()..]);
            let reserved = fields
                .into_iter()
                .filter(|field| RESERVED.contains(&field.as_str()));
            found.extend(reserved.map(|field| (line, field)));
        }
    }
    found
}

/// The names of the fields of a call, which begins after its parenthesis.
fn fields(call: &str) -> Vec<String> {
    let (mut depth, mut parts, mut in_text, mut before) = (0, vec![String::new()], false, ' ');
    for letter in call.chars() {
        if letter == '"' && before != '\\' {
            in_text = !in_text;
        }
        before = letter;
        if in_text {
            continue;
        }
        match letter {
            ')' if depth == 0 => break,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ if depth == 0 => parts.last_mut().unwrap().push(letter),
            _ => {}
        }
    }
    let name = |part: String| {
        let name = part.split('=').next().unwrap_or_default().trim();
        name.trim_start_matches(['%', '?']).to_owned()
    };
    parts.into_iter().map(name).collect()
}

#[test]
fn no_field_of_the_log_has_a_name_that_a_line_has_already() {
    let sample =
        "tracing::info!(a = f(level), %level, \"level, message\");\nwarn!(\n    message,\n);";
    let found = [(1, "level".to_owned()), (2, "message".to_owned())];
    assert_eq!(reserved_fields(sample), found);
    let mut calls = 0;
    for (path, text) in sources("src").into_iter().chain(sources("state/src")) {
        let found = reserved_fields(&text);
        assert!(found.is_empty(), "{}: {found:?}", path.display());
        calls += text.matches("tracing::").count();
    }
    assert!(calls > 100, "{calls}");
}
