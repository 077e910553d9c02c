//! The words of the house, held against the sources: one word for one thing, and lines that are
//! understood alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::house_rules::sources;

/// Openings of a doc comment that make a line without a subject: in a list of search results it
/// says nothing.
const OPENINGS: [&str; 21] = [
    "What", "Who", "Whose", "It", "Its", "They", "Their", "That", "As", "So", "One", "Those",
    "These", "This", "Whatever", "Whoever", "How", "Why", "Here", "There", "Somebody",
];

/// Words that were used for several things, and where each may stand in the name of something.
const WORDS: [(&str, &[&str]); 14] = [
    // Fetching an image, and nothing else: a set of CHaS is polled and applied.
    (
        "pull",
        &[
            "src/runtime",
            "src/runtime.rs",
            "src/reconcile",
            "state/src/history/failure.rs",
            "state/src/spec/image.rs",
        ],
    ),
    ("settle", &[]),
    ("setback", &[]),
    ("opaque", &[]),
    ("aside", &[]),
    ("held", &[]),
    ("salvage", &[]),
    ("stranger", &[]),
    ("trouble", &[]),
    ("foreign", &[]),
    ("ours", &[]),
    ("said", &[]),
    ("whole", &[]),
    ("cable", &[]),
];

/// The sources below these directories, without their tests.
fn shipped(directories: &[&str]) -> Vec<(PathBuf, String)> {
    let all = directories.iter().flat_map(|directory| sources(directory));
    all.filter(|(path, _)| {
        let is_test = |part: &str| part == "tests" || part == "tests.rs";
        !path
            .components()
            .any(|part| part.as_os_str().to_str().is_some_and(is_test))
    })
    .map(|(path, text)| {
        let text = text
            .split("\n#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default()
            .to_owned();
        (path, text)
    })
    .collect()
}

/// What a line says in a doc comment, of an item or of a file.
fn doc(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("///")
        .or_else(|| line.strip_prefix("//!"))
}

#[test]
fn the_first_line_of_a_doc_comment_has_a_subject() {
    let mut found = Vec::new();
    for (path, text) in shipped(&["src", "state/src", "examples"]) {
        let mut is_inside = false;
        for (number, line) in (1..).zip(text.lines()) {
            let doc = doc(line).map(str::trim_start);
            let first = doc.and_then(|doc| doc.split(|c: char| !c.is_alphabetic()).next());
            if !is_inside && first.is_some_and(|word| OPENINGS.contains(&word)) {
                found.push(format!("{}:{number}:{line}", path.display()));
            }
            is_inside = doc.is_some();
        }
    }
    assert!(
        found.is_empty(),
        "{} lines:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// The name that a line defines: of a type, or of anything.
fn defined<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let mut words = line
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty());
    let modifiers = [
        "pub", "crate", "super", "in", "self", "const", "async", "unsafe",
    ];
    let keyword = words.find(|word| !modifiers.contains(word))?;
    if keywords.contains(&keyword) {
        words.next()
    } else {
        None
    }
}

#[test]
fn no_two_types_have_one_name() {
    let mut types: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (path, text) in shipped(&["src", "state/src"]) {
        for line in text.lines().filter(|line| !line.starts_with(' ')) {
            if let Some(name) = defined(line, &["struct", "enum", "trait", "type"]) {
                types.entry(name.to_owned()).or_default().push(path.clone());
            }
        }
    }
    types.retain(|_, paths| paths.len() > 1);
    assert!(types.is_empty(), "{types:#?}");
}

#[test]
fn a_word_stands_for_one_thing() {
    let mut found = Vec::new();
    for (path, text) in shipped(&["src", "state/src", "examples"]) {
        for (number, line) in (1..).zip(text.lines()) {
            let named = defined(
                line,
                &["fn", "struct", "enum", "trait", "type", "mod", "static"],
            );
            let Some(name) = named else { continue };
            let parts: Vec<String> = snake(name).split('_').map(str::to_owned).collect();
            for (word, homes) in WORDS {
                let is_home = homes.iter().any(|home| path.starts_with(home));
                if !is_home && parts.iter().any(|part| part == word) {
                    found.push(format!("{}:{number}: {name}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[test]
fn a_log_message_is_a_fixed_phrase_and_its_facts_are_fields() {
    let mut found = Vec::new();
    for (path, text) in shipped(&["src", "state/src", "examples"]) {
        for level in ["error", "warn", "info", "debug", "trace"] {
            let start = format!("{level}!(");
            for (at, start) in text.match_indices(&start) {
                // Another macro's name may end so.
                if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                let call = call(&text[at + start.len()..]);
                // The message is the one argument that is a literal itself: fields have names.
                let message = arguments(call)
                    .into_iter()
                    .find(|part| part.starts_with('"'));
                if message.is_none_or(|message| message.contains('{')) {
                    let number = text[..at].lines().count();
                    found.push(format!("{}:{number}: {call}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The inside of a macro call, up to the parenthesis that ends it.
fn call(text: &str) -> &str {
    let mut end = text.len();
    walk(text, |at, letter, depth| {
        if letter == ')' && depth == 0 {
            end = end.min(at);
        }
    });
    text[..end].trim().trim_end_matches(',')
}

/// The arguments of a macro call.
fn arguments(call: &str) -> Vec<&str> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    walk(call, |at, letter, depth| {
        if letter == ',' && depth == 0 {
            parts.push(call[begin..at].trim());
            begin = at + 1;
        }
    });
    parts.push(call[begin..].trim());
    parts
}

/// Shows every letter outside string literals to `see`, with the number of brackets around it.
fn walk(text: &str, mut see: impl FnMut(usize, char, usize)) {
    let (mut depth, mut is_quoted, mut is_escaped) = (0_usize, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                see(at, letter, depth);
                if depth == 0 {
                    return;
                }
                depth -= 1;
            }
            _ => see(at, letter, depth),
        }
    }
}
