//! The pages for people, held against the sources: links lead somewhere, lists are whole, commands are
//! ones that the program takes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use chas_node_agent::cli;
use state::reason::Reason;

/// Text of `README.md` and of each page below `contrib`, by its path from the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::from("README.md"), PathBuf::from("contrib")];
    while let Some(path) = left.pop() {
        let full = root().join(&path);
        if full.is_dir() {
            // Advisories are others' texts.
            let entries = std::fs::read_dir(full).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name());
            left.extend(
                names
                    .filter(|name| name != "advisories")
                    .map(|name| path.join(name)),
            );
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = std::fs::read_to_string(full).unwrap();
            found.insert(path, text);
        }
    }
    assert!(found.len() > 25, "{found:?}");
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Lines of a page that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Targets of the links of a page.
fn links(text: &str) -> Vec<&str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .map(|rest| rest.split(')').next().unwrap())
        .collect()
}

/// Anchors of a page's headings, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
        text.chars()
            .filter(|&c| kept(c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(anchor).collect()
}

/// A link's path from the root, and its anchor.
fn target(page: &Path, link: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    if path.is_empty() {
        return (page.to_owned(), anchor);
    }
    let mut whole = page.parent().unwrap().to_owned();
    for part in Path::new(path).components() {
        if part == Component::ParentDir {
            assert!(whole.pop(), "{} leads out: {link}", page.display());
        } else {
            whole.push(part);
        }
    }
    (whole, anchor)
}

#[test]
fn every_link_leads_somewhere_and_every_page_is_found_from_the_first() {
    let pages = pages();
    let mut known = BTreeSet::new();
    let mut left = vec![PathBuf::from("README.md")];
    while let Some(page) = left.pop() {
        if !known.insert(page.clone()) {
            continue;
        }
        for link in links(&pages[&page]) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = target(&page, link);
            let place = page.display();
            assert!(root().join(&path).exists(), "{place}: no file {link}");
            let Some(text) = pages.get(&path) else {
                assert_eq!(anchor, None, "{place}: {link}");
                continue;
            };
            if let Some(anchor) = anchor {
                assert!(anchors(text).contains(&anchor), "{place}: no place {link}");
            }
            left.push(path);
        }
    }
    let docs = pages.keys().filter(|path| path.starts_with("contrib/docs"));
    let lost: Vec<_> = docs.filter(|path| !known.contains(*path)).collect();
    assert!(lost.is_empty(), "no link from README.md to {lost:?}");
}

#[test]
fn the_troubleshooting_page_has_a_row_for_each_reason() {
    let page = &pages()[Path::new("contrib/docs/troubleshooting.md")];
    let rows: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for reason in Reason::ALL {
        let (meaning, remedy) = (reason.meaning(), reason.remedy());
        let row = format!("| `{reason}` | {meaning} | {remedy} |");
        assert!(rows.contains(&row.as_str()), "the page lacks: {row}");
    }
    assert_eq!(rows.len(), Reason::ALL.len());
}

#[test]
fn the_page_of_the_deploy_body_names_every_member_and_its_example_is_one() {
    let page = &pages()[Path::new("contrib/docs/body.md")];
    let example = page.split("```json\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let body = serde_json::from_str(example).unwrap();
    state::spec::parse::deploy(&body).unwrap();
    let schemas = state::spec::schema::bodies();
    for member in schemas["DeployBody"]["properties"]
        .as_object()
        .unwrap()
        .keys()
    {
        let name = format!("`{member}`");
        let is_shown = page.contains(&name) || body.get(member).is_some();
        assert!(is_shown, "the page lacks: {member}");
    }
}

/// Words of a line of shell up to its first operator or comment; `None` if it is not about the program.
fn words(line: &str) -> Option<Vec<OsString>> {
    let line = line.trim_start_matches("sudo ");
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => words.last_mut().unwrap().push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '|' | '>' | '<' | ';' | '&' | '#') => break,
            (None, ' ') => words.push(String::new()),
            (None, _) => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    let is_ours = ["chas-node-agent", "chas"].contains(&words.first()?.as_str());
    is_ours.then(|| words.into_iter().map(OsString::from).collect())
}

/// Lines of a page's shell: those of its blocks, and those behind a prompt where answers are shown.
fn shell_lines(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let mut lines = Vec::new();
    let mut block = None;
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            block = Some(kind.to_owned());
        } else {
            match (block.as_deref(), line.strip_prefix("$ ")) {
                (Some("console"), Some(command)) => lines.push(command.to_owned()),
                (Some("sh"), _) => lines.push(line.to_owned()),
                (Some(_) | None, _) => {}
            }
        }
    }
    lines
}

#[test]
fn every_command_of_the_pages_is_one_that_the_program_takes() {
    let mut count = 0;
    for (page, text) in pages() {
        // Of several commands in a line the last may be the program's.
        let lines = shell_lines(&text);
        let commands = lines.iter().flat_map(|line| line.split("| "));
        for words in commands.filter_map(words) {
            count += 1;
            let invocation = cli::parse(words.clone(), false);
            let is_taken = match &invocation {
                Ok(_) => true,
                Err(usage) => usage.asked_for,
            };
            let page = page.display();
            assert!(is_taken, "{page}: {words:?}: {invocation:?}");
        }
    }
    assert!(count > 40, "only {count} commands were found");
}
