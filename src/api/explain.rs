//! Plans and explanations as JSON: the steps that would be done now, and the cause of a
//! container's status.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use serde_json::{Value, json};
use state::desired::Record;
use state::history::{Backoff, Cause, History};
use state::observed::{Exit, Instance, Task};
use state::reason::Reason;
use state::spec::network::AllowedPeer;
use state::status::{Activity, remedy};
use state::time::BootTime;

use super::access::Access;
use super::answer::Json;
use super::containers::{find_managed, gone};
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, operations, wire};
use crate::view::{
    AcquaintancesView, ContainerPlanView, DisconnectView, ExplanationView, ManagedView, Naming,
};

pub(super) async fn plan<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::PLAN)?;
    let mut plan = node.plan();
    let sees = |plan: &ContainerPlanView| match &plan.name {
        Some(name) => access.names.has(name),
        None => access.has_all(),
    };
    plan.containers.retain(sees);
    plan.leftovers.retain(sees);
    if !access.has_all() {
        let told = "the node takes no steps now";
        plan.blocked = plan.blocked.map(|_| told.to_owned());
    }
    let settled = plan
        .containers
        .iter()
        .chain(&plan.leftovers)
        .all(|container| container.steps.is_empty());
    let containers: Vec<_> = plan.containers.iter().map(wire::container_plan).collect();
    let leftovers: Vec<_> = plan.leftovers.iter().map(wire::container_plan).collect();
    let shown = json!({"settled": settled, "blocked": plan.blocked, "containers": containers, "leftovers": leftovers});
    Ok(Json(shown))
}

pub(super) async fn explain<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::EXPLAIN)?;
    let id = find_managed(&*node, &access, &name, Naming::Loose)?;
    let mut explanation = node.explain(id).ok_or_else(|| gone(id))?;
    let AcquaintancesView {
        reaches,
        reached_by,
    } = &mut explanation.acquaintances;
    for names in [reaches, reached_by] {
        names.retain(|name| access.names.has(name));
    }
    Ok(Json(shown(&explanation)))
}

fn shown(explanation: &ExplanationView) -> Value {
    let ExplanationView {
        container,
        seen,
        history,
        activity,
        next,
        blocked,
        unblock,
        acquaintances,
        suppressed,
        disconnect,
    } = explanation;
    let (record, condition) = (&container.record, &container.condition);
    let wall = |point: BootTime| wire::time(container.taken.wall_at(point));
    let instances: Vec<_> = seen
        .instances
        .iter()
        .map(|(generation, found)| instance(*generation, found, history, &wall))
        .collect();
    let backoff = history.backoff.as_ref().map(
        |Backoff {
             cause,
             reason,
             message,
             retry_at,
         }| {
            json!({"cause": cause, "reason": reason, "message": message, "until": wall(*retry_at)})
        },
    );
    let failure = history.last_failure.as_ref().map(
        |failure| json!({"reason": failure.reason, "message": failure.message, "at": failure.at.map(wall)}),
    );
    let kills = &history.memory_kills;
    let waits = |cause, pending| {
        history
            .waits(cause, pending, container.taken.boot)
            .map(wall)
    };
    json!({
        "id": record.id.to_string(), "name": record.name, "status": condition.status,
        "reason": condition.reason, "message": condition.message, "meaning": condition.reason.map(Reason::meaning),
        "attempts": history.attempts.max(history.exits), "next_attempt": container.next_attempt().map(wire::time), "next_run": container.next_run.map(wire::time),
        "unblock": unblock.map(ToOwned::to_owned).or_else(|| condition.reason.map(|reason| remedy(reason, history))), "blocked": blocked,
        "desired": {
            "state": record.run, "generation": record.generation, "owner": record.owner, "revision": record.revision,
            "seq": record.seq, "image": record.spec.image.to_string(), "image_digest": record.image_digest,
            "removing": record.removing, "restart_pending": record.restart_pending, "finished": record.finished,
            "tag_check": wire::tag_check(record),
            "kept_by_operator": suppressed,
        },
        "network": network(record, acquaintances), "on_disconnect": disconnect.as_ref().map(on_disconnect),
        "observed": {"instances": instances, "activity": activity.map(word), "health": health(container)},
        "decision": {
            "step": next.as_ref().map_or_else(
                || json!({"action": "nothing", "why": "the container is settled"}),
                wire::step,
            ),
            "inputs": {
                "exits": history.exits, "attempts": history.attempts, "restarts": history.restart_count, "setback": backoff,
                "ended": history.ended.as_ref().map(exit), "last_exit": history.last_exit.as_ref().map(exit),
                "last_failure": failure, "memory_kills": {"total": kills.total, "last": kills.last.map(wall)},
                "running_since": history.started.map(wall),
                "start_waits_until": waits(Cause::Start, record.restart_pending || record.is_tag_unchecked()), "end_waits_until": waits(Cause::End, false),
            },
        },
    })
}

/// Silence of CHaS, and when it ends the container.
fn on_disconnect(view: &DisconnectView) -> Value {
    let text = |length: Duration| humantime::format_duration(length).to_string();
    json!({
        "stop_after": text(view.stop_after), "in_force": view.in_force.map(text),
        "silent_s": view.silent_for.map(|silent| silent.as_secs()), "stops_at": view.stops_at.map(wire::time),
    })
}

/// Verdict and last answer of the container's probe, and the check.
fn health(container: &ManagedView) -> Value {
    container.health.as_ref().map_or(Value::Null, |probe| {
        let mut shown = wire::health(container, probe);
        shown["check"] = probe.check.to_json();
        shown
    })
}

const fn word(activity: Activity) -> &'static str {
    match activity {
        Activity::Pulling => "pulling",
        Activity::Creating => "creating",
        Activity::Stopping => "stopping",
    }
}

fn exit(exit: &Exit) -> Value {
    // The end of a task that was lost has no known time.
    let at = (exit.at > SystemTime::UNIX_EPOCH).then(|| wire::time(exit.at));
    json!({"exit_code": exit.code, "at": at, "out_of_memory": exit.out_of_memory, "reason": exit.reason()})
}

fn instance(
    generation: u64,
    found: &Instance,
    history: &History,
    wall: &impl Fn(BootTime) -> String,
) -> Value {
    let (task, pid, since, ended) = match &found.task {
        Task::Absent => ("none", None, None, None),
        Task::Unresponsive => ("unknown", None, None, None),
        Task::Created { pid } => ("created", Some(*pid), None, None),
        Task::Running { pid, since } => ("running", Some(*pid), since.map(wall), None),
        Task::Stopped(ended) => ("stopped", None, None, Some(exit(history.known_exit(ended)))),
    };
    let carries = found.carried(generation);
    json!({"generation": generation, "carries": carries, "container": true, "task": task, "pid": pid, "since": since, "ended": ended})
}

/// Others that a container talks with, and what of its `allow` does not hold for all of its addresses.
fn network(record: &Record, acquaintances: &AcquaintancesView) -> Value {
    let section = &record.spec.network;
    let mut shown = json!({
        "groups": section.groups, "reaches": acquaintances.reaches, "reached_by": acquaintances.reached_by,
    });
    let mut entries = section.ingress.iter().chain(&section.egress).flatten();
    let has_range = entries.any(|entry| matches!(entry.peer, AllowedPeer::Cidr(_)));
    if has_range && record.assignment.address6.is_some() {
        shown["ipv6"] = json!("ranges (cidr) are of IPv4: over IPv6 it talks with groups alone");
    }
    shown
}
