//! What single fields of a deploy body may hold.

use std::collections::BTreeMap;

use crate::spec::fields::Fields;

pub(super) fn absolute(path: &str) -> Result<String, String> {
    let fits = path.starts_with('/') && path.len() <= 4096 && !path.contains('\0');
    if fits {
        Ok(path.to_owned())
    } else {
        Err("must be an absolute path".to_owned())
    }
}

pub(super) fn user(user: &str) -> Result<String, String> {
    let part = |p: &str| {
        (1..=64).contains(&p.len())
            && p.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let fits = user
        .split_once(':')
        .map_or_else(|| part(user), |(user, group)| part(user) && part(group));
    if fits {
        Ok(user.to_owned())
    } else {
        Err("must be USER or USER:GROUP, each a name or a number".to_owned())
    }
}

/// The kernel takes 128 KiB a string and a quarter of the stack for all; a record this large is still one page of the store.
const ENVIRONMENT_BYTES_MAX: usize = 128 << 10;

pub(super) fn check_environment(
    top: &mut Fields<'_>,
    environment: Option<&BTreeMap<String, String>>,
) {
    let Some(environment) = environment else {
        return;
    };
    for (key, value) in environment {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            top.fault(
                &format!("environment.{key}"),
                "a name must not be empty or hold '=', and neither name nor value may hold NUL",
            );
        }
    }
    if environment
        .iter()
        .map(|(key, value)| key.len() + value.len() + 2)
        .sum::<usize>()
        > ENVIRONMENT_BYTES_MAX
    {
        top.fault("environment", "must not exceed 128 KiB in all");
    }
}

/// The labels are also kept with the container in containerd, whose labels are 4,096 bytes long at most.
pub(super) fn check_labels(top: &mut Fields<'_>, labels: Option<&BTreeMap<String, String>>) {
    let Some(labels) = labels else { return };
    for (key, value) in labels {
        let plain = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
        if !plain || !(1..=128).contains(&key.len()) || key.starts_with("chas.io/") {
            top.fault(
                &format!("labels.{key}"),
                "a label's name is 1 to 128 letters, digits, '.', '_', '-' and '/', and does not begin with \"chas.io/\"",
            );
        }
        if value.len() > 1024 || value.contains('\0') {
            top.fault(
                &format!("labels.{key}"),
                "a label's value is 1,024 bytes at most, without NUL",
            );
        }
    }
    if labels.len() > 64 {
        top.fault("labels", "must not be more than 64");
    }
}
