//! Secrets taken out of answers, by the names of their members: what a person typed, and what a container
//! printed, may be anything.

use serde_json::Value;

use super::mask::{MASK, is_secret};
use super::printed::printed_at;

/// Members of an answer whose words may be anything that a person typed.
const TYPED: [&str; 6] = [
    "args",
    "argv",
    "cmd",
    "command",
    "entrypoint",
    "environment",
];
/// Fields of a container whose values in its history are told, and the begins of such.
const TOLD_FIELDS: [&str; 4] = ["image", "priority", "revision", "state"];
const TOLD_BEGINS: [&str; 5] = ["exposed_ports", "resources.", "restart", "stop.", "update."];

/// Masks what is secret in an answer; how much was taken out. `keeps_printed`: what containers print
/// stays.
pub(super) fn mask_answer(value: &mut Value, keeps_printed: bool) -> usize {
    match value {
        Value::Object(members) => {
            let field = members.get("field").and_then(Value::as_str);
            let is_told = field.is_none_or(is_told_field);
            let mut count = 0;
            for (name, member) in members {
                let is_value = matches!(name.as_str(), "before" | "after");
                count += if TYPED.contains(&name.as_str()) || (is_value && !is_told) {
                    leaves(member)
                } else if is_secret(name) {
                    texts(member, keeps_printed)
                } else {
                    mask_answer(member, keeps_printed)
                };
            }
            count
        }
        Value::Array(items) => {
            let counts = items
                .iter_mut()
                .map(|item| mask_answer(item, keeps_printed));
            counts.sum()
        }
        Value::String(text) if !keeps_printed => match printed_at(text) {
            Some(place) => {
                text.truncate(place);
                text.push_str(MASK);
                1
            }
            None => 0,
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Whether the values of this field are none that may be secret.
fn is_told_field(field: &str) -> bool {
    let mut begins = TOLD_BEGINS.iter();
    TOLD_FIELDS.contains(&field) || begins.any(|begin| field.starts_with(begin))
}

/// Masks a text, or the texts of a list.
fn texts(value: &mut Value, keeps_printed: bool) -> usize {
    match value {
        Value::String(_) => leaves(value),
        Value::Array(items) => {
            let counts = items.iter_mut().map(|item| match item {
                Value::String(_) => leaves(item),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => mask_answer(item, keeps_printed),
            });
            counts.sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            mask_answer(value, keeps_printed)
        }
    }
}

/// Masks every text in a value.
fn leaves(value: &mut Value) -> usize {
    match value {
        Value::String(text) => {
            MASK.clone_into(text);
            1
        }
        Value::Array(items) => items.iter_mut().map(leaves).sum(),
        Value::Object(members) => members.values_mut().map(leaves).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_of_an_answer_are_taken_out_by_their_names() {
        let mut answer = json!({
            "token": "a", "token_file": "/t", "tokens": ["a", {"n": "x"}, 3], "args": ["--x", "y"],
            "name": "web",
        });
        assert_eq!(mask_answer(&mut answer, true), 4);
        let expected = json!({
            "token": MASK, "token_file": "/t", "tokens": [MASK, {"n": "x"}, 3],
            "args": [MASK, MASK], "name": "web",
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn changes_of_the_history_are_taken_out_but_for_those_that_hold_no_secret() {
        let change =
            |field: &str, value: Value| json!({"field": field, "before": value, "after": null});
        for (field, value, expected) in [
            ("args", json!(["a", "b"]), json!([MASK, MASK])),
            ("command", json!("a"), json!(MASK)),
            ("health.exec.command", json!(["a"]), json!([MASK])),
            ("health.http.headers.X-A", json!("a"), json!(MASK)),
            ("labels", json!({"a": "b"}), json!({"a": MASK})),
            ("image", json!("box:1"), json!("box:1")),
            ("image_pull", json!("a"), json!(MASK)),
            ("resources.memory", json!("64Mi"), json!("64Mi")),
            ("stop.timeout", json!("2s"), json!("2s")),
            ("exposed_ports", json!([{"a": "b"}]), json!([{"a": "b"}])),
        ] {
            let mut answer = json!({"changes": [change(field, value)]});
            mask_answer(&mut answer, true);
            assert_eq!(answer["changes"][0], change(field, expected));
        }
        let mut hidden = json!({"field": "environment.A", "hidden": "changed"});
        assert_eq!(mask_answer(&mut hidden, true), 0);
    }

    #[test]
    fn what_a_probe_repeats_of_a_container_stays_only_where_its_logs_are_asked_for() {
        let given = json!({"health": {"answer": "HTTP 500: body"}, "n": ["exit code 1: out"]});
        let mut answer = given.clone();
        assert_eq!(mask_answer(&mut answer, true), 0);
        assert_eq!(answer, given);
        assert_eq!(mask_answer(&mut answer, false), 2);
        let expected = json!({"health": {"answer": "HTTP 500: ***"}, "n": ["exit code 1: ***"]});
        assert_eq!(answer, expected);
    }
}
