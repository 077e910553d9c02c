//! Orders to run a program in a container that runs already: bodies of their own, with the fields
//! of a deploy body's process section.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::fields::{FieldError, Fields, boolean, duration, text};
use super::process;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest time: whoever needs longer watches the program, over a `WebSocket`.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// Program to be run in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and its arguments.
    pub command: Vec<String>,
    /// User, and group after a colon. `None`: the container's own.
    pub user: Option<String>,
    /// Directory to start in. `None`: the container's own.
    pub working_dir: Option<String>,
    /// Variables beside the container's own, and over them.
    pub environment: BTreeMap<String, String>,
    /// Input. `None`: it is empty.
    pub stdin: Option<String>,
    /// Time that it may take.
    pub timeout: Duration,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its streams are written in base64; else they are text.
    pub base64: bool,
}

impl ExecSpec {
    /// Reads an order.
    ///
    /// # Errors
    /// Every fault in it. Never empty.
    pub fn parse(body: &Value) -> Result<Self, Vec<FieldError>> {
        let mut faults = Vec::new();
        let order = Fields::of(body, "", &mut faults).and_then(|mut fields| {
            let order = Self::read(&mut fields);
            fields.finish();
            order
        });
        match order {
            Some(order) if faults.is_empty() => Ok(order),
            _ => Err(faults),
        }
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let command = process::read_command(fields);
        match &command {
            None if !fields.has("command") => fields.fault("command", "is required"),
            Some(words) if words.first().is_some_and(String::is_empty) => {
                fields.fault("command", "must begin with the name of a program");
            }
            None | Some(_) => {}
        }
        let user = process::read_user(fields);
        let working_dir = process::read_working_dir(fields);
        let environment = process::read_environment(fields);
        let stdin = fields.read("stdin", |value| text(value).map(str::to_owned));
        let timeout = fields.read("timeout", |value| {
            let timeout = duration(value, TIMEOUT_MAX)?;
            if timeout.is_zero() {
                return Err("must not be 0".to_owned());
            }
            Ok(timeout)
        });
        let tty = fields.read("tty", boolean);
        let base64 = fields.choice("encoding", &[("text", false), ("base64", true)]);
        Some(Self {
            command: command?,
            user,
            working_dir,
            environment: environment.unwrap_or_default(),
            stdin,
            timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
            tty: tty.unwrap_or_default(),
            base64: base64.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_is_read_with_its_defaults() {
        let order = ExecSpec::parse(&json!({"command": ["true"]})).unwrap();
        let expected = ExecSpec {
            command: vec!["true".to_owned()],
            user: None,
            working_dir: None,
            environment: BTreeMap::new(),
            stdin: None,
            timeout: Duration::from_secs(30),
            tty: false,
            base64: false,
        };
        assert_eq!(order, expected);
        let all = json!({"command": ["a", "b"], "user": "web:web", "working_dir": "/srv",
            "environment": {"A": "1"}, "stdin": "x", "timeout": "2m", "tty": true,
            "encoding": "base64"});
        let order = ExecSpec::parse(&all).unwrap();
        let expected = ExecSpec {
            command: vec!["a".to_owned(), "b".to_owned()],
            user: Some("web:web".to_owned()),
            working_dir: Some("/srv".to_owned()),
            environment: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            stdin: Some("x".to_owned()),
            timeout: Duration::from_mins(2),
            tty: true,
            base64: true,
        };
        assert_eq!(order, expected);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let fields = |body: Value| -> Vec<String> {
            let faults = ExecSpec::parse(&body).unwrap_err();
            faults.into_iter().map(|fault| fault.field).collect()
        };
        assert_eq!(fields(json!({})), ["command"]);
        assert_eq!(fields(json!({"command": []})), ["command"]);
        assert_eq!(fields(json!({"command": ["", "a"]})), ["command"]);
        assert_eq!(fields(json!([])), [""]);
        let all = json!({"command": "sh", "user": "a b", "working_dir": "srv",
            "environment": {"": "x"}, "stdin": 1, "timeout": "1h", "tty": "yes",
            "encoding": "hex", "comand": []});
        let expected = [
            "command",
            "user",
            "working_dir",
            "environment.",
            "stdin",
            "timeout",
            "tty",
            "encoding",
            "comand",
        ];
        assert_eq!(fields(all), expected);
        assert_eq!(fields(json!({"command": ["a"], "timeout": 0})), ["timeout"]);
    }
}
