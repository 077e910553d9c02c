//! Parser of the configuration file: reads YAML into texts by key, each with its line. It knows
//! which keys exist, not their types.
//!
//! `serde_yaml` is no longer maintained (0.9.34 is its last release; no advisory). It is
//! prescribed, reads a file that only root writes, and is used in this file alone, so that it can
//! be replaced here.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize as _;
use serde_yaml::Value;
use state::spec::parse::FieldError;

use super::keys::{self, KEYS};
use super::origin::{ConfigError, Origin};

/// Longest file: a configuration has a few dozen lines, so a longer one is another file.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most edits between an unknown key and the key that is suggested for it.
const TYPO_EDITS_MAX: usize = 3;

/// The values in `text`, the content of the file at `path`, by key; and the errors in it.
pub(crate) fn read(
    path: &Path,
    text: &str,
) -> (BTreeMap<&'static str, (String, Origin)>, Vec<ConfigError>) {
    let mut reader = FileReader {
        path,
        text,
        values: BTreeMap::new(),
        errors: Vec::new(),
    };
    if text.len() > FILE_BYTES_MAX {
        reader.error(
            None,
            "",
            format!("the file is larger than {FILE_BYTES_MAX} bytes: check the path"),
        );
        return (reader.values, reader.errors);
    }
    match serde_yaml::from_str(text) {
        Ok(Value::Null) => {}
        Ok(Value::Mapping(sections)) => sections
            .iter()
            .for_each(|(name, section)| reader.section(name, section)),
        Ok(_) => reader.error(
            Some(1),
            "",
            "the file has no sections: write for example \"api:\", with keys indented below it"
                .to_owned(),
        ),
        Err(error) => {
            let line = error.location().map(|location| location.line());
            reader.error(line, "", format!("the file is not YAML: {error}"));
        }
    }
    (reader.values, reader.errors)
}

/// The content of a file that is no configuration file: YAML, or JSON, which is YAML too. No key
/// may stand twice.
///
/// # Errors
/// The first fault, with its line.
pub fn data(text: &str) -> Result<serde_json::Value, String> {
    if text.len() > FILE_BYTES_MAX {
        return Err(format!("the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    let read: Value = serde_yaml::from_str(text).map_err(|error| format!("no YAML: {error}"))?;
    serde_json::to_value(read).map_err(|error| format!("no plain data: {error}"))
}

/// The contents of a file of several documents, with `---` between them.
///
/// # Errors
/// The first fault, with its line.
pub fn documents(text: &str) -> Result<Vec<serde_json::Value>, String> {
    let documents = serde_yaml::Deserializer::from_str(text).map(|document| {
        let read = Value::deserialize(document).map_err(|error| format!("no YAML: {error}"))?;
        serde_json::to_value(read).map_err(|error| format!("no plain data: {error}"))
    });
    documents.collect()
}

/// All faults of such a file, in a line.
pub(super) fn lines(faults: &[FieldError]) -> String {
    let texts = faults.iter().map(|FieldError { field, message }| {
        let place = if field.is_empty() { "the file" } else { field };
        format!("{place}: {message}")
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// The text of such a file.
///
/// # Errors
/// The value cannot be written as YAML.
pub(super) fn written(value: &serde_json::Value) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}

struct FileReader<'a> {
    path: &'a Path,
    text: &'a str,
    values: BTreeMap<&'static str, (String, Origin)>,
    errors: Vec<ConfigError>,
}

impl FileReader<'_> {
    fn section(&mut self, name: &Value, section: &Value) {
        let name = scalar(name).unwrap_or_default();
        let line = line_of(self.text, &name, None);
        if !KEYS.iter().any(|key| key.section() == name) {
            let near = nearest(&name, KEYS.iter().map(|key| key.section()));
            return self.error(line, &name, format!("unknown section{near}"));
        }
        match section {
            Value::Null => {}
            Value::Mapping(entries) => entries
                .iter()
                .for_each(|(key, value)| self.entry(&name, key, value)),
            Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Sequence(_)
            | Value::Tagged(_) => {
                self.error(
                    line,
                    &name,
                    "this is a section: write its keys indented below it".to_owned(),
                );
            }
        }
    }

    fn entry(&mut self, section: &str, key: &Value, value: &Value) {
        let short = scalar(key).unwrap_or_default();
        let name = format!("{section}.{short}");
        let line = line_of(self.text, section, Some(&short));
        let Some(key) = keys::find(&name) else {
            let near = nearest(
                &name,
                KEYS.iter()
                    .filter(|key| !key.is_secret())
                    .map(|key| key.name),
            );
            return self.error(line, &name, format!("unknown key{near}"));
        };
        if key.is_secret() {
            let message = format!(
                "a secret must not stand in this file: put it into a file of its own ({name}_file) \
                 or into {}",
                key.env
            );
            return self.error(line, &name, message);
        }
        let text = match value {
            // A key without a value counts as unset.
            Value::Null => return,
            Value::Sequence(items) if key.value.contains("[,") => items
                .iter()
                .map(scalar)
                .collect::<Option<Vec<_>>>()
                .map(|all| all.join(",")),
            Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Sequence(_)
            | Value::Mapping(_)
            | Value::Tagged(_) => scalar(value),
        };
        match text {
            Some(text) => drop(self.values.insert(key.name, (text, self.origin(line)))),
            None => self.error(
                line,
                &name,
                format!("the value must be a single {}", key.value),
            ),
        }
    }

    fn origin(&self, line: Option<usize>) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line,
        }
    }

    fn error(&mut self, line: Option<usize>, key: &str, message: String) {
        self.errors.push(ConfigError {
            origin: self.origin(line),
            key: key.to_owned(),
            message,
        });
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(value) => Some(value.clone()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

/// The line, from 1, of a section or of a key in it, which `serde_yaml` does not tell. In a file of
/// another style than sections with indented keys, the section's line, or none.
fn line_of(text: &str, section: &str, key: Option<&str>) -> Option<usize> {
    let names = |line: &str, name: &str| {
        let line = line.trim_start().trim_start_matches(['"', '\'']);
        line.strip_prefix(name).is_some_and(|rest| {
            rest.trim_start_matches(['"', '\''])
                .trim_start()
                .starts_with(':')
        })
    };
    let mut lines = text
        .lines()
        .zip(1..)
        .skip_while(|(line, _)| line.starts_with(' ') || !names(line, section));
    let (_, begins) = lines.next()?;
    let Some(key) = key else { return Some(begins) };
    let inside =
        lines.take_while(|(line, _)| line.is_empty() || line.starts_with([' ', '#', '\t']));
    Some(
        inside
            .into_iter()
            .find(|(line, _)| names(line, key))
            .map_or(begins, |(_, number)| number),
    )
}

/// The suggestion `; did you mean …?` with the candidate nearest to `name`, or nothing where none
/// is near.
fn nearest(name: &str, candidates: impl Iterator<Item = &'static str>) -> String {
    // A key in the wrong section is as common as a misspelt one.
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let scored = candidates.map(|candidate| {
        let elsewhere = if last(name) == last(candidate) {
            1
        } else {
            usize::MAX
        };
        (edits(name, candidate).min(elsewhere), candidate)
    });
    match scored.min() {
        Some((edits, candidate)) if edits <= TYPO_EDITS_MAX => {
            format!("; did you mean {candidate}?")
        }
        _ => String::new(),
    }
}

/// The Levenshtein distance: insertions, deletions and substitutions of a character.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (number, left) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], number + 1);
        for (column, right) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (from, to, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("prot", "port", 2),
            ("kitten", "sitting", 3),
            ("abc", "abc", 0),
        ] {
            assert_eq!(edits(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn every_value_knows_its_line_whatever_the_style() {
        let text = "# c\napi:\n  # port: 1\n  port: 7\n\n  \"listen\" : 127.0.0.1\nnode: {id: x}\nregistry:\n  insecure:\n  - a:1\n  - b\n";
        let (values, errors) = read(Path::new("f"), text);
        assert_eq!(errors, []);
        let line = |key: &str| values[key].1.to_string();
        assert_eq!(
            [line("api.port"), line("api.listen"), line("node.id")],
            ["f:4", "f:6", "f:7"]
        );
        assert_eq!(values["registry.insecure"].0, "a:1,b");
    }

    #[test]
    fn an_error_has_its_line_and_a_suggestion() {
        let text = "api:\n  prot: 1\n  token: abc\n  chas_url: [a]\nnodes:\n  id: x\nlogging: 3\nstate:\n  level: INFO\n";
        let errors: Vec<String> = read(Path::new("f"), text)
            .1
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "f:2: api.prot: unknown key; did you mean api.port?",
                "f:3: api.token: a secret must not stand in this file: put it into a file of its \
                 own (api.token_file) or into CHAS_TOKEN",
                "f:4: api.chas_url: the value must be a single URL",
                "f:5: nodes: unknown section; did you mean node?",
                "f:7: logging: this is a section: write its keys indented below it",
                "f:9: state.level: unknown key; did you mean logging.level?",
            ]
        );
        assert_eq!(read(Path::new("f"), "api: [").1.len(), 1);
        assert_eq!(
            read(Path::new("f"), "api:\n  port: 1\n  port: 2\n").1.len(),
            1
        );
        assert_eq!(read(Path::new("f"), "").1, []);
    }
}
