//! Labels section: the operator's own labels of a container.

use std::collections::BTreeMap;

use super::fields::Fields;

/// Reads the labels. They are also kept with the container in containerd, whose labels are 4,096
/// bytes long at most.
pub(super) fn read(top: &mut Fields<'_>) -> Option<BTreeMap<String, String>> {
    let labels = top.text_map("labels")?;
    for (key, value) in &labels {
        if !is_name(key) {
            top.fault(
                &format!("labels.{key}"),
                "a label's name is 1 to 128 letters, digits, '.', '_', '-' and '/', \
                 and does not begin with \"chas.io/\"",
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
    Some(labels)
}

fn is_name(key: &str) -> bool {
    (1..=128).contains(&key.len())
        && !key.starts_with("chas.io/")
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/'))
}
