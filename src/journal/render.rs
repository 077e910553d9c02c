//! Events as their readers are shown them: JSON, on one line.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use state::event::{Event, EventKind};
use state::id::ContainerName;
use state::plan::Step;
use state::reason::Reason;

use crate::feed::FeedEvent;

/// Names and leftovers that an event lists.
const LISTED_MAX: usize = 50;

/// The event with this number.
pub(super) fn render(number: u64, at: SystemTime, event: &Event) -> FeedEvent {
    let mut data = Map::new();
    let mut put = |key: &str, value: Value| data.insert(key.to_owned(), value);
    put("id", json!(number));
    let at = humantime::format_rfc3339_millis(at).to_string();
    put("time", json!(at));
    put("kind", json!(event.kind.as_str()));
    let subject = event.subject.as_ref();
    let of = subject.map(|of| json!({"id": of.id, "name": of.name, "generation": of.generation}));
    put("container", json!(of));
    let alarm = if let EventKind::AlarmCleared { alarm } = &event.kind {
        Some(alarm.as_str())
    } else {
        event.error_code()
    };
    let reason = event.reason.map(Reason::as_str);
    put("code", json!(reason.or(alarm)));
    put("is_error", json!(event.error_code().is_some()));
    put("message", json!(event.message));
    if let Some(name) = subject.and_then(|of| of.name.as_ref()) {
        put("explain", json!(format!("/containers/{name}/explain")));
    }
    if let Value::Object(facts) = facts(&event.kind) {
        data.extend(facts);
    }
    FeedEvent {
        number,
        kind: event.kind.as_str().into(),
        id: subject.map(|of| of.id),
        name: subject
            .and_then(|of| of.name.clone())
            .or_else(|| asked_of(&event.kind)),
        data: Value::Object(data).to_string().into(),
    }
}

/// Members that only events of this kind have.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a kind without members tells nothing more than its word"
)]
fn facts(kind: &EventKind) -> Value {
    match kind {
        EventKind::StepFinished { step, took } => json!({
            "step": step.as_str(), "does": does(step), "took_ms": ms(*took)
        }),
        EventKind::StepFailed { step, retry_in } => json!({
            "step": step.as_str(), "does": does(step), "retry_in_ms": ms(*retry_in)
        }),
        EventKind::StepDeferred { step } => json!({"step": step.as_str(), "does": does(step)}),
        EventKind::RolledBack { by_hand } => json!({"by_hand": by_hand}),
        EventKind::ContainerExited { code, signal } => {
            json!({"exit_code": code, "signal": signal})
        }
        EventKind::MemoryKilled { kills } => json!({"kills": kills}),
        EventKind::WaitGivenUp { names } => json!({"names": few(names)}),
        EventKind::JobRun { result }
        | EventKind::TagChecked { result }
        | EventKind::PollEnded { result }
        | EventKind::ReportEnded { result } => json!({"result": result}),
        EventKind::ExecEnded { result, took } => json!({"result": result, "took_ms": ms(*took)}),
        EventKind::ArchiveEnded {
            direction,
            complete,
            bytes,
            took,
        } => json!({
            "direction": direction, "complete": complete, "bytes": bytes, "took_ms": ms(*took)
        }),
        EventKind::ImagePulled {
            received_bytes,
            complete,
        } => json!({"received_bytes": received_bytes, "complete": complete}),
        EventKind::ChangeAsked {
            change,
            name,
            by,
            request,
            verdict,
        } => json!({
            "change": change, "name": name, "by": by, "request": request, "verdict": verdict
        }),
        EventKind::LeftoversSwept { removed } => {
            json!({"removed": few(removed), "count": removed.len()})
        }
        EventKind::NodeRegistered { cluster_size } => json!({"cluster_size": cluster_size}),
        EventKind::SetApplied {
            generation,
            changed,
            conflicts,
            rejected,
        } => json!({
            "generation": generation, "changed": changed, "conflicts": conflicts,
            "rejected": rejected
        }),
        EventKind::SetUnconfirmed { generation, names } => {
            json!({"generation": generation, "names": few(names), "count": names.len()})
        }
        EventKind::SetRejected { code } => json!({"fault": code}),
        EventKind::StoreWritten { took } => json!({"took_ms": ms(*took)}),
        EventKind::AgentStarted { version } => json!({"version": version}),
        _ => Value::Null,
    }
}

/// Container that a change is asked of, which may not be there.
fn asked_of(kind: &EventKind) -> Option<ContainerName> {
    if let EventKind::ChangeAsked { name, .. } = kind {
        return name.clone();
    }
    None
}

/// The first of many.
fn few(all: &[String]) -> &[String] {
    all.get(..LISTED_MAX).unwrap_or(all)
}

fn does(step: &Step) -> String {
    step.to_string()
}

fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use state::event::EventSubject;
    use state::id::ContainerId;

    use super::*;

    #[test]
    fn an_event_is_one_line_that_names_container_code_and_where_to_read_on() {
        let failed = EventKind::StepFailed {
            step: Step::Pull,
            retry_in: Duration::from_secs(2),
        };
        let subject = EventSubject {
            id: ContainerId::from_bits(0xabc),
            name: Some("web".parse().unwrap()),
            generation: Some(3),
        };
        let event = Event::from(failed)
            .about(subject)
            .because(Reason::ImageNotFound);
        let event = event.saying("no such\ntag");
        let shown = render(7, SystemTime::UNIX_EPOCH, &event);
        let data: Value = serde_json::from_slice(&shown.data).unwrap();
        let expected = json!({
            "id": 7, "time": "1970-01-01T00:00:00.000Z", "kind": "step_failed",
            "container": {"id": "000000000abc", "name": "web", "generation": 3},
            "code": "ImageNotFound", "is_error": true, "message": "no such\ntag",
            "explain": "/containers/web/explain", "step": "pull", "does": "pull",
            "retry_in_ms": 2000
        });
        assert_eq!(data, expected);
        assert!(!shown.data.contains(&b'\n'));
        assert_eq!((&*shown.kind, shown.number), ("step_failed", 7));
    }
}
