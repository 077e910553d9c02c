//! Process section: what runs in the container: its command, environment, directory and user.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::fields::{Fields, each, integer, list_of, text};

/// Largest environment: the kernel takes 128 KiB a string and a quarter of the stack for all; a
/// record this large is still one page of the store.
const ENVIRONMENT_BYTES_MAX: usize = 128 << 10;
const WORDS_MAX: usize = 1000;
const GROUPS_MAX: usize = 32;
/// Largest command line: the kernel takes 128 KiB a word.
const WORDS_BYTES_MAX: usize = 128 << 10;
const WORDS_FAULT: &str = "must be an array of 1 to 1000 strings, such as \
    [\"nginx\", \"-g\", \"daemon off;\"], 128 KiB at most and without NUL";

pub(super) fn read_environment(top: &mut Fields<'_>) -> Option<BTreeMap<String, String>> {
    let environment = top.text_map("environment")?;
    for (key, value) in &environment {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            top.fault(
                &format!("environment.{key}"),
                "a name must not be empty or hold '=', and neither name nor value may hold NUL",
            );
        }
    }
    let sizes = environment
        .iter()
        .map(|(key, value)| key.len() + value.len() + 2);
    if sizes.sum::<usize>() > ENVIRONMENT_BYTES_MAX {
        top.fault("environment", "must not exceed 128 KiB in all");
    }
    Some(environment)
}

/// Reads the command: at least one word.
pub(super) fn read_command(top: &mut Fields<'_>) -> Option<Vec<String>> {
    top.read("command", words)
}

/// Reads the arguments. None at all replace the image's, too.
pub(super) fn read_args(top: &mut Fields<'_>) -> Option<Vec<String>> {
    top.read("args", |value| {
        if value.as_array().is_some_and(Vec::is_empty) {
            Ok(Vec::new())
        } else {
            words(value)
        }
    })
}

pub(super) fn read_working_dir(top: &mut Fields<'_>) -> Option<String> {
    top.read("working_dir", |value| {
        let path = text(value)?;
        if path.starts_with('/') && path.len() <= 4096 && !path.contains('\0') {
            Ok(path.to_owned())
        } else {
            Err("must be an absolute path".to_owned())
        }
    })
}

pub(super) fn read_user(top: &mut Fields<'_>) -> Option<String> {
    top.read("user", |value| {
        let user = text(value)?;
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (user, None),
        };
        if is_account(name) && group.is_none_or(is_account) {
            Ok(user.to_owned())
        } else {
            Err("must be USER or USER:GROUP, each a name or a number".to_owned())
        }
    })
}

/// Reads the groups that the process is in besides those of its user.
pub(super) fn read_groups(top: &mut Fields<'_>) -> Option<BTreeSet<String>> {
    let group = |value: &Value| {
        let name = text(value)?;
        let fault = || "must be names or numbers of groups, such as \"audio\" or \"44\"".to_owned();
        is_account(name).then(|| name.to_owned()).ok_or_else(fault)
    };
    top.read("groups", |value| {
        Ok(each(value, GROUPS_MAX, group)?.into_iter().collect())
    })
}

/// Reads the score of who is killed first where the host lacks memory. Below 0 a container would
/// outlive the node's own programs.
pub(super) fn read_oom_score(top: &mut Fields<'_>) -> Option<u16> {
    top.read("oom_score", |value| integer(value, 0..=1000))
        .and_then(|score| u16::try_from(score).ok())
}

fn is_account(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// A command line: at least one word, none with NUL.
pub(super) fn words(value: &Value) -> Result<Vec<String>, String> {
    let items = list_of(value, WORDS_MAX, |item| text(item).map(drop));
    let items = items.map_err(|fault| match value.is_array() || value.is_string() {
        true => WORDS_FAULT.to_owned(),
        false => fault,
    })?;
    let words: Option<Vec<_>> = items
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect();
    words
        .filter(|words| fits(words))
        .ok_or_else(|| WORDS_FAULT.to_owned())
}

fn fits(words: &[String]) -> bool {
    !words.is_empty()
        && words.iter().all(|word| !word.contains('\0'))
        && words.iter().map(String::len).sum::<usize>() <= WORDS_BYTES_MAX
}
