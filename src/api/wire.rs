//! Containers and plans as JSON.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use state::desired::Record;
use state::desired::job::{Job, PastRun};
use state::desired::tag_check::{TagAnswer, TagOutcome};
use state::status::Status;

use crate::view::{
    ContainerPlanView, ContainerView, DeployedView, ManagedView, ProbeView, StepView, UnmanagedView,
};

/// A time as RFC 3339 in UTC, to the millisecond.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// The steps for one container.
pub(super) fn container_plan(plan: &ContainerPlanView) -> Value {
    let steps: Vec<_> = plan.steps.iter().map(step).collect();
    json!({"id": plan.id, "name": plan.name, "steps": steps})
}

/// A step that would be done.
pub(super) fn step(step: &StepView) -> Value {
    let instance = step.instance.map(|instance| instance.to_string());
    let mut shown = json!({"action": step.word, "instance": instance, "why": step.why});
    if let Some(until) = step.until {
        shown["until"] = json!(time(until));
    }
    shown
}

/// The answer to a dry run of a deploy.
pub(super) fn dry_run(deployed: &DeployedView) -> Value {
    let plan: Vec<_> = deployed.plan.iter().map(step).collect();
    let container = full(&deployed.container);
    json!({"dry_run": true, "changed": deployed.changed, "container": container, "plan": plan})
}

/// A container as the list shows it.
pub(super) fn short(view: &ContainerView) -> Value {
    match view {
        ContainerView::Managed(view) => managed(view),
        ContainerView::Unmanaged(view) => unmanaged(view),
    }
}

/// A managed container with its specification, but for the values of its environment.
pub(super) fn full(view: &ManagedView) -> Value {
    with_spec(view, spec(&view.record))
}

/// A managed container with its specification and all values in it, as `opened` has them.
pub(super) fn revealed(view: &ManagedView, opened: &Record) -> Value {
    with_spec(view, revealed_spec(opened))
}

fn with_spec(view: &ManagedView, spec: Value) -> Value {
    let mut shown = managed(view);
    shown["spec"] = spec;
    shown["spec_hash"] = json!(view.record.spec_hash);
    shown["applied_generation"] = json!(view.applied_generation);
    shown["tag_check"] = tag_check(&view.record);
    if let Some(job) = &view.record.job {
        shown["runs"] = runs(job);
    }
    shown
}

/// Runs of a container with a schedule, the newest first.
fn runs(job: &Job) -> Value {
    let at = |ms: u64| time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    let run = |run: &PastRun| {
        let took = run.took_ms.map(Duration::from_millis);
        json!({
            "scheduled": run.scheduled_ms.map(at), "result": run.result, "exit_code": run.code,
            "ended": run.ended_ms.map(at), "took_s": took.map(|took| took.as_secs_f64()),
        })
    };
    let current = job
        .run
        .map(|run| json!({"scheduled": run.scheduled_ms.map(at)}));
    json!({
        "current": current, "last": job.past.iter().rev().map(run).collect::<Vec<_>>(),
        "last_success": job.last_success_ms.map(at), "skipped": job.skipped, "missed": job.missed,
    })
}

/// The last question to the registry what the tag of the image stands for: `null` if there was none.
pub(super) fn tag_check(record: &Record) -> Value {
    let Some(check) = &record.tag_check else {
        return Value::Null;
    };
    let answer = check.answer.as_ref();
    let (after, reason, message) = match answer.map(|answer| &answer.outcome) {
        None => (None, None, None),
        Some(TagOutcome::Digest(digest)) => (Some(digest), None, None),
        Some(TagOutcome::Failed { reason, message }) => (None, Some(reason), Some(message)),
    };
    let before = answer.map_or(&record.image_digest, |answer| &answer.before);
    let at = |answer: &TagAnswer| SystemTime::UNIX_EPOCH + Duration::from_millis(answer.at_ms);
    json!({
        "state": check.as_str(), "at": answer.map(at).map(time), "before": before, "after": after,
        "reason": reason, "message": message,
    })
}

fn unmanaged(view: &UnmanagedView) -> Value {
    json!({
        "id": view.id, "name": view.id, "image": view.image, "status": view.status, "ports": [],
        "owner": "unmanaged", "reason": null, "message": null, "next_attempt": null,
        "restart_count": 0, "exit_code": null, "started": null, "finished": null, "ready": null, "health": null,
    })
}

fn managed(view: &ManagedView) -> Value {
    let condition = &view.condition;
    let mut shown = asked(&view.record, condition.status, view.applied_generation);
    shown["reason"] = json!(condition.reason);
    shown["message"] = json!(condition.message);
    shown["next_attempt"] = json!(view.next_attempt().map(time));
    shown["restart_count"] = json!(view.restart_count);
    shown["exit_code"] = json!(view.exit_code);
    shown["started"] = json!(view.started.map(time));
    shown["finished"] = json!(view.finished.map(time));
    shown["ready"] = json!(view.is_ready());
    shown["health"] = json!(view.health.as_ref().map(|probe| health(view, probe)));
    if view.record.spec.schedule.is_some() {
        shown["next_run"] = json!(view.next_run.map(time));
    }
    if let Some((fetched, total)) = view.pull {
        shown["pull"] = json!({"fetched_bytes": fetched, "total_bytes": total});
    }
    if let Some(bad) = &view.record.rolled_back {
        shown["rolled_back"] = json!({"generation": bad.generation, "spec_hash": bad.spec_hash, "revision": bad.revision,
            "image_digest": bad.image_digest, "reason": bad.reason, "message": bad.message, "back_to": bad.back_to,
            "at": time(SystemTime::UNIX_EPOCH + Duration::from_millis(bad.at_ms))});
    }
    if let Some(update) = &view.record.update {
        let former = &update.former;
        shown["update"] = json!({"stage": update.stage, "from_generation": former.generation, "from_image_digest": former.image_digest,
            "serves_generation": view.applied_generation.unwrap_or(view.record.serving().generation)});
    }
    shown
}

/// Verdict and last answer of a container's probe.
pub(super) fn health(view: &ManagedView, probe: &ProbeView) -> Value {
    let (check, state) = (&probe.check, &probe.state);
    let at = |point| time(view.taken.wall_at(point));
    json!({
        "status": state.verdict, "since": state.since.map(at), "streak": state.streak,
        "succeeded": state.is_success, "answer": state.answer, "answered": state.last.map(at),
        "stale": probe.is_stale, "probe": check.probe.as_str(),
        "from": if probe.is_of_image { "image" } else { "spec" },
    })
}

fn asked(record: &Record, status: Status, runs: Option<u64>) -> Value {
    let place = record.served_place(runs);
    let ports: Vec<_> = record
        .assignment
        .ports
        .iter()
        .map(|port| json!({"host": port.host, "container": port.container, "protocol": port.protocol, "host_ip": port.host_ip}))
        .collect();
    let mut shown = json!({
        "id": record.id, "name": record.name, "image": record.spec.image.to_string(), "status": status, "ports": ports,
        "owner": record.owner, "generation": record.generation, "revision": record.revision, "image_digest": record.image_digest,
        "created": time(SystemTime::UNIX_EPOCH + Duration::from_millis(record.created_ms)),
        "ip": place.address, "labels": record.spec.labels,
    });
    if let Some(address6) = place.address6 {
        shown["ip6"] = json!(address6);
    }
    shown
}

/// The specification in the words of the deploy body, with `null` for each value of the environment:
/// what is sent back with one is refused, and overwrites no secret.
pub(super) fn spec(record: &Record) -> Value {
    let mut spec = revealed_spec(record);
    let values = spec["environment"].as_object_mut();
    for (_, value) in values.into_iter().flatten() {
        *value = Value::Null;
    }
    spec
}

/// The specification in the words of the deploy body.
pub(super) fn revealed_spec(record: &Record) -> Value {
    state::spec::body::of(record)
}
