//! Rules of the chronicle: what of a body changed from one generation to the next, how a generation
//! went, and which one is gone back to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::desired::Record;
use crate::desired::chronicle::{Chapter, ChapterEnd, ChapterResult, HiddenChange, MemberChange};
use crate::history::History;
use crate::spec::{Spec, body};

/// Generations of a container that are kept, the present one among them.
pub const GENERATIONS_MAX: usize = 10;
/// Bytes of a record that is kept to be gone back to, as JSON: most have a twentieth of it.
const RECORD_BYTES_MAX: usize = 64 << 10;
/// Members that a chapter tells of.
const CHANGES_MAX: usize = 40;
/// Characters of a value, of a path, and of a sentence that a chapter tells.
const TEXT_CHARS_MAX: usize = 200;

/// The chapter of a new generation, and how many changes there was no room for.
#[must_use]
pub fn begun(before: Option<&Record>, after: &Record) -> Chapter {
    let mut changes = before.map_or_else(Vec::new, |before| changes(before, after));
    let changes_left_out = changes.len().saturating_sub(CHANGES_MAX);
    changes.truncate(CHANGES_MAX);
    let given_up = after.rolled_back.as_ref();
    let given_up =
        given_up.filter(|given_up| before.is_some_and(|b| b.generation == given_up.generation));
    Chapter {
        generation: after.generation,
        from: before.map(|before| before.generation),
        back_to: given_up.and_then(|given_up| given_up.back_to),
        changes,
        changes_left_out,
        ..Chapter::default()
    }
}

/// Members of the bodies of two generations that differ, by their paths. Values of the environment,
/// of secrets and of files are told of, and not told.
fn changes(before: &Record, after: &Record) -> Vec<MemberChange> {
    let mut found = Vec::new();
    compare("", &shown(before), &shown(after), &mut found);
    for (kind, values) in [
        (
            "environment",
            variables as fn(&Spec) -> BTreeMap<String, String>,
        ),
        ("files", contents),
        ("secrets", secrets),
    ] {
        hidden(
            kind,
            &values(&before.spec),
            &values(&after.spec),
            &mut found,
        );
    }
    found.sort_by(|a, b| a.field.cmp(&b.field));
    found
}

/// The body of a record without its values.
fn shown(record: &Record) -> Value {
    let mut body = body::of(record);
    if let Some(members) = body.as_object_mut() {
        members.remove("environment");
    }
    for file in body["files"].as_array_mut().into_iter().flatten() {
        if let Some(members) = file.as_object_mut() {
            members.retain(|member, _| matches!(member.as_str(), "path" | "mode" | "user"));
        }
    }
    body
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<MemberChange>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            let members: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for member in members {
                let value = |of: &Value| of.get(member).cloned().unwrap_or_default();
                let path = match path {
                    "" => member.clone(),
                    path => format!("{path}.{member}"),
                };
                compare(&path, &value(before), &value(after), found);
            }
        }
        (before, after) => found.push(MemberChange {
            field: short(path),
            before: cut(before),
            after: cut(after),
            hidden: None,
        }),
    }
}

fn hidden(
    kind: &str,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    found: &mut Vec<MemberChange>,
) {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let change = match (before.get(name), after.get(name)) {
            (old, new) if old == new => continue,
            (None, _) => HiddenChange::Added,
            (_, None) => HiddenChange::Removed,
            (Some(_), Some(_)) => HiddenChange::Changed,
        };
        found.push(MemberChange {
            field: short(&format!("{kind}.{name}")),
            before: Value::Null,
            after: Value::Null,
            hidden: Some(change),
        });
    }
}

/// Values of the environment by their names, as they are kept: equal ones are sealed alike.
fn variables(spec: &Spec) -> BTreeMap<String, String> {
    let readable = spec.readable_environment();
    let readable = readable.map(|(name, value)| (name.clone(), value.clone()));
    let sealed = spec.sealed_environment.iter();
    let sealed = sealed.map(|(name, sealed)| (name.clone(), sealed.as_text().to_owned()));
    readable.chain(sealed).collect()
}

/// Fingerprints of the contents of files, by their paths.
fn contents(spec: &Spec) -> BTreeMap<String, String> {
    let files = spec.files.iter();
    let content = |file: &crate::spec::FileSpec| {
        let tag = file.tag.as_ref().map(ToString::to_string);
        tag.unwrap_or_else(|| format!("{:?}", file.content.bytes()))
    };
    files
        .map(|file| (file.path.clone(), content(file)))
        .collect()
}

/// Fingerprints of the values of secrets, by their names.
fn secrets(spec: &Spec) -> BTreeMap<String, String> {
    let tag = |using: &crate::spec::SecretUse| using.tag.as_ref().map(ToString::to_string);
    let uses = spec.secrets.iter();
    uses.map(|using| (using.name.to_string(), tag(using).unwrap_or_default()))
        .collect()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn cut(value: &Value) -> Value {
    let text = value.to_string();
    match text.chars().nth(TEXT_CHARS_MAX) {
        Some(_) => Value::String(short(&text)),
        None => value.clone(),
    }
}

/// The end of a generation that `after` takes the place of. `history`: that of its instance, as far as
/// it was saved.
#[must_use]
pub fn ended(
    before: &Record,
    after: &Record,
    history: Option<&History>,
    at_ms: Option<u64>,
) -> ChapterEnd {
    let (result, told) = result(before, after, history);
    let (reason, message) = told.unzip();
    let kept = Record {
        update: None,
        rolled_back: None,
        tag_check: None,
        job: None,
        ..before.clone()
    };
    ChapterEnd {
        result,
        reason,
        message: message.map(|message| short(&message)),
        at_ms,
        owner: before.owner,
        image: before.spec.image.clone(),
        image_digest: before.image_digest.clone(),
        revision: before.revision,
        spec_hash: before.spec_hash.clone(),
        record: is_small(&kept).then(|| Box::new(kept)),
    }
}

/// Whether a record is kept: it is not too large, and no value in it is readable.
fn is_small(record: &Record) -> bool {
    let bytes = serde_json::to_vec(record).map_or(usize::MAX, |json| json.len());
    bytes <= RECORD_BYTES_MAX && record.spec.readable_environment().next().is_none()
}

fn result(
    before: &Record,
    after: &Record,
    history: Option<&History>,
) -> (ChapterResult, Option<(crate::reason::Reason, String)>) {
    let history = history.filter(|history| history.is_of(before));
    let given_up = after.rolled_back.as_ref();
    if let Some(given_up) = given_up.filter(|given_up| given_up.generation == before.generation) {
        let told = (given_up.reason, given_up.message.clone());
        return (ChapterResult::RolledBack, Some(told));
    }
    if let Some(finished) = &before.finished {
        if finished.code == 0 {
            return (ChapterResult::Completed, None);
        }
        let message = format!("its process ended with exit code {}", finished.code);
        return (ChapterResult::Failed, Some((finished.reason, message)));
    }
    if let Some(backoff) = history.and_then(|history| history.backoff.as_ref()) {
        let told = (backoff.reason, backoff.message.clone());
        return (ChapterResult::Failed, Some(told));
    }
    let result = match history {
        _ if before.is_proven => ChapterResult::RanWell,
        Some(history) if history.was_started() => ChapterResult::Ran,
        Some(_) | None => ChapterResult::NotStarted,
    };
    (result, None)
}

/// The generation that is gone back to where none is named: the newest that ran for a minute, and
/// where none did, the newest that ran at all. One that was given up, or that is just what is there,
/// is none. `None`: there is none to go back to.
#[must_use]
pub fn last_good<'a>(chapters: &'a [Chapter], present: &Record) -> Option<&'a Chapter> {
    let fits = |chapter: &&Chapter, is_good: fn(&Record, ChapterResult) -> bool| {
        let Some((end, record)) = past(chapter) else {
            return false;
        };
        chapter.generation < present.generation
            && end.result != ChapterResult::RolledBack
            && !is_given_up(present, record)
            && !is_same(record, present)
            && record.image_digest.is_some()
            && is_good(record, end.result)
    };
    let newest = |is_good| {
        let fitting = chapters.iter().filter(|chapter| fits(chapter, is_good));
        fitting.max_by_key(|chapter| chapter.generation)
    };
    newest(|record, result| record.is_proven && has_worked(result))
        .or_else(|| newest(|_, result| has_worked(result)))
        .or_else(|| newest(|record, _| record.is_proven))
}

/// A generation after `good` that worked and is not kept, so that nobody can go back to it. `None`: there
/// is none. One with the body that is there now is none to go back to.
#[must_use]
pub fn unkept_good(chapters: &[Chapter], present: &Record, good: u64) -> Option<u64> {
    let later = chapters
        .iter()
        .filter(|chapter| (good + 1..present.generation).contains(&chapter.generation));
    let unkept = later.filter(|chapter| {
        let end = chapter.end.as_deref();
        end.is_some_and(|end| {
            end.record.is_none()
                && matches!(
                    end.result,
                    ChapterResult::RanWell | ChapterResult::Completed
                )
                && end.spec_hash != present.spec_hash
        })
    });
    unkept.map(|chapter| chapter.generation).max()
}

const fn has_worked(result: ChapterResult) -> bool {
    matches!(
        result,
        ChapterResult::RanWell | ChapterResult::Ran | ChapterResult::Completed
    )
}

/// End and record of a generation that can be gone back to.
#[must_use]
pub fn past(chapter: &Chapter) -> Option<(&ChapterEnd, &Record)> {
    let end = chapter.end.as_deref()?;
    Some((end, end.record.as_deref()?))
}

/// Whether two records ask for the same, but for values of secrets, of the same image.
#[must_use]
pub fn is_same(one: &Record, other: &Record) -> bool {
    one.spec.is_but_for_values(&other.spec) && one.image_digest == other.image_digest
}

fn is_given_up(present: &Record, past: &Record) -> bool {
    let given_up = present.rolled_back.as_ref();
    given_up.is_some_and(|given_up| given_up.is_of(&past.spec, past.revision))
}

#[cfg(test)]
mod tests;
