//! Order for another level of the agent's own log, for a while: the body by which it is given.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::spec::fields::{FieldError, Fields, duration, text};

/// Longest time for which another level is in force: nobody remembers it any longer.
pub const TIME_MAX: Duration = Duration::from_hours(24);
/// Time where none is given.
pub const TIME_DEFAULT: Duration = Duration::from_mins(15);
/// Longest text of a level.
const LEVEL_CHARS_MAX: usize = 256;

/// Order for another level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelOrder {
    /// Level, or directives.
    pub level: String,
    /// Time for which it is in force; from 1 s to [`TIME_MAX`].
    pub time: Duration,
}

/// Order for another level, as a witness hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditedLevel {
    /// Level, or directives.
    pub level: String,
    /// Seconds for which it is in force.
    pub for_s: u64,
}

impl LevelOrder {
    /// The order as a witness hears of it.
    #[must_use]
    pub fn audited(&self) -> AuditedLevel {
        AuditedLevel {
            level: self.level.clone(),
            for_s: self.time.as_secs(),
        }
    }
}

/// Reads the members of the body.
pub(crate) fn read_order(
    top: &mut Fields<'_>,
    level: impl Fn(&str) -> Result<String, String>,
) -> Option<LevelOrder> {
    let level = top.required("level", |value| {
        let text = text(value)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "_:=,- ".contains(c);
        if text.is_empty() || text.len() > LEVEL_CHARS_MAX || !text.chars().all(fits) {
            return Err(format!(
                "must have 1 to {LEVEL_CHARS_MAX} letters, digits, and _ : = , -, such as \"debug\" \
                 or \"info,chas_node_agent::reconcile=debug\""
            ));
        }
        level(text)
    });
    let time = top.read("for", |value| {
        let time = duration(value, TIME_MAX)?;
        match time < Duration::from_secs(1) {
            true => Err("must be 1 s at least".to_owned()),
            false => Ok(time),
        }
    });
    Some(LevelOrder {
        level: level?,
        time: time.unwrap_or(TIME_DEFAULT),
    })
}

/// Reads the body; `level` says how a level is written that is one.
///
/// # Errors
/// Every fault in it.
pub fn order(
    body: &Value,
    level: impl Fn(&str) -> Result<String, String>,
) -> Result<LevelOrder, Vec<FieldError>> {
    let mut faults = Vec::new();
    let mut order = None;
    if let Some(mut top) = Fields::of(body, "", &mut faults) {
        order = read_order(&mut top, level);
        top.finish();
    }
    match order {
        Some(order) if faults.is_empty() => Ok(order),
        _ => Err(faults),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level(text: &str) -> Result<String, String> {
        match text {
            "nonsense" => Err("is none".to_owned()),
            text => Ok(text.to_lowercase()),
        }
    }

    #[test]
    fn an_order_has_a_level_and_a_bounded_time() {
        for (body, seconds) in [
            (json!({"level": "DEBUG"}), 900),
            (json!({"level": "debug", "for": 1}), 1),
            (json!({"level": "debug", "for": "24h"}), 86_400),
            (json!({"level": "debug", "for": null}), 900),
        ] {
            let read = order(&body, level).unwrap();
            assert_eq!(
                (read.level.as_str(), read.time.as_secs()),
                ("debug", seconds)
            );
        }
    }

    #[test]
    fn every_fault_of_an_order_is_told_at_once() {
        let long = "x".repeat(LEVEL_CHARS_MAX + 1);
        for (body, expected) in [
            (json!({}), &["level"][..]),
            (json!([]), &[""]),
            (
                json!({"level": "nonsense", "for": 0, "until": 3}),
                &["level", "for", "until"],
            ),
            (json!({"level": 7, "for": "25h"}), &["level", "for"]),
            (json!({"level": "", "for": -1}), &["level", "for"]),
            (json!({"level": long}), &["level"]),
            (json!({"level": "info\n<3>forged"}), &["level"]),
            (json!({"level": "[{x=(a+)+}]=trace"}), &["level"]),
            (json!({"level": "d\u{e9}bug"}), &["level"]),
            (json!({"level": "debug", "for": 0.5}), &["for"]),
            (json!({"level": "debug", "for": "100ms"}), &["for"]),
        ] {
            let faults = order(&body, level).unwrap_err();
            let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!(fields, expected, "{body}");
        }
    }
}
