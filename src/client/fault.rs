//! Faults of a client's order, and the exit codes that scripts tell them apart by.

use std::fmt;

use reqwest::StatusCode;
use serde_json::Value;
use state::text;

use super::screen::{LOOK_EACH, Screen, Unread};

/// Exit code of an order that the agent refused, or that came to nothing.
pub const EXIT_FAILED: u8 = 1;
/// Exit code where no agent answers.
pub const EXIT_UNREACHABLE: u8 = 2;
/// Exit code where an order that only looks has found what it looks for: a difference, or something
/// that awaits a confirmation.
pub const EXIT_FOUND: u8 = 3;
/// Exit code of a fault of `exec`, `run` and `wait`, whose other codes are those of a program.
pub const EXIT_OWN: u8 = 125;

/// Fault of a call to the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentFault {
    /// Nobody answers, or an answer broke off.
    #[error("{0}")]
    Unreachable(String),
    /// The agent answered with a problem.
    #[error("{0}")]
    Refused(AgentRefusal),
}

/// Problem with which the agent answered.
#[derive(Debug)]
pub(crate) struct AgentRefusal {
    pub(super) status: StatusCode,
    pub(super) problem: Value,
}

impl AgentRefusal {
    /// The word by which programs tell problems apart.
    pub(super) fn code(&self) -> &str {
        self.problem["code"].as_str().unwrap_or_default()
    }
}

impl fmt::Display for AgentRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.code() {
            "" => self.status.to_string(),
            code => format!("{} {}", self.status.as_u16(), text::shown(code, 100)),
        };
        let detail = self.problem["detail"].as_str();
        let detail = detail.unwrap_or("without a reason; is this an agent?");
        let shown = text::shown(detail, text::MESSAGE_CHARS_MAX);
        write!(f, "the agent refuses ({code}): {shown}")?;
        if matches!(self.code(), "NoSuchPath" | "NoSuchMethod") {
            let remedy = "the agent is of an older version than this client, and does not know the \
                          order (update it), or the address has a wrong path";
            write!(f, "; {remedy}")?;
        }
        for fault in self.problem["errors"].as_array().into_iter().flatten() {
            let part = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
            let (field, message) = (part("field"), part("message"));
            let place = if field.is_empty() { "the body" } else { &field };
            let line = format!("{place}: {message}");
            // The only fault may be the detail.
            if line == detail {
                continue;
            }
            write!(f, "\n  {}", text::shown(&line, text::MESSAGE_CHARS_MAX))?;
        }
        Ok(())
    }
}

/// The problem of an order that failed because the agent refused it.
pub(crate) fn refusal(error: &anyhow::Error) -> Option<&AgentRefusal> {
    match error.downcast_ref()? {
        AgentFault::Refused(refusal) => Some(refusal),
        AgentFault::Unreachable(_) => None,
    }
}

/// Whether an order failed because nobody answers, or an answer broke off.
pub(crate) fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(AgentFault::Unreachable(_)))
}

/// Whether an agent that will be back has not answered: nobody, or one that starts or stops.
pub(crate) fn is_away(error: &anyhow::Error) -> bool {
    let starts = refusal(error).is_some_and(|refusal| refusal.status == 503);
    starts || is_unreachable(error)
}

/// Answer to a look that is taken again and again. `None`: the agent is away, which is told; the time has
/// come to look again.
///
/// # Errors
/// Every other fault, and every one where it is not watched, or nothing was seen yet.
pub(crate) async fn unless_away<T>(
    looked: anyhow::Result<T>,
    is_watched: bool,
    screen: Screen,
) -> anyhow::Result<Option<T>> {
    match looked {
        Err(error) if is_watched && is_away(&error) => {
            screen.tell(&format!("{error:#}; looking again"));
            tokio::time::sleep(LOOK_EACH).await;
            Ok(None)
        }
        looked => looked.map(Some),
    }
}

/// Exit code of an order that failed so.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match is_unreachable(error) {
        true => EXIT_UNREACHABLE,
        false => EXIT_FAILED,
    }
}

/// Whether whoever read the output has gone (`| head`), which is no failure.
#[must_use]
pub fn is_unread(error: &anyhow::Error) -> bool {
    let root = error.downcast_ref::<std::io::Error>();
    let inner = root.and_then(std::io::Error::get_ref);
    inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<Unread>)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_that_lacks_an_order_is_said_to_be_older() {
        let told = |status: StatusCode, code: &str, detail: &str| {
            let problem = json!({"code": code, "detail": detail});
            AgentRefusal { status, problem }.to_string()
        };
        let path = told(StatusCode::NOT_FOUND, "NoSuchPath", "no such path: /images");
        assert!(
            path.contains("/images; the agent is of an older version"),
            "{path}"
        );
        let method = told(StatusCode::METHOD_NOT_ALLOWED, "NoSuchMethod", "none");
        assert!(method.contains("older version"), "{method}");
        let absent = told(StatusCode::NOT_FOUND, "NotFound", "no container web");
        assert!(!absent.contains("version"), "{absent}");
    }

    #[test]
    fn each_fault_is_told_once() {
        let told = |detail: &str, errors: Value| {
            let problem = json!({"code": "InvalidSpec", "detail": detail, "errors": errors});
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            AgentRefusal { status, problem }.to_string()
        };
        let image = json!({"field": "image", "message": "no image"});
        let name = json!({"field": "name", "message": "no name"});
        let refused = "the agent refuses (422 InvalidSpec): ";
        let one = told("image: no image", json!([image]));
        assert_eq!(one, format!("{refused}image: no image"));
        let both = told("2 faults", json!([image, name]));
        assert_eq!(
            both,
            format!("{refused}2 faults\n  image: no image\n  name: no name")
        );
    }
}
