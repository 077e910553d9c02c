//! Bodies that callers and CHaS ask for, by a number that says all of one.

use std::time::Duration;

use serde_json::{Value, json};
use state::desired::RunState;
use state::spec::parse::Deploy;

/// Containers that callers push. Each may wait for the one before it, so that nobody waits for itself.
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Containers with a schedule, which callers push.
pub(crate) const JOBS: [&str; 2] = ["j", "k"];
/// Containers that CHaS lists.
pub(crate) const LISTED: [&str; 3] = ["x", "y", "z"];

/// Containers that rest while CHaS does not answer, and the silence after which they do.
const RESTING: [&str; 3] = ["b", "d", "y"];
pub(crate) const STOP_AFTER: Duration = Duration::from_mins(3);

/// Bodies that differ in more than what a container takes on as it is.
const KINDS: u64 = 3;
/// Bodies of one family.
const PLAIN: u64 = 2 * KINDS;
/// Manners of being probed and updated.
const FAMILIES: u64 = 8;

/// Failures in a row that make a container unhealthy.
pub(crate) const RETRIES: u32 = 3;

/// Number of bodies for this name.
pub(crate) fn count(name: &str) -> u64 {
    if JOBS.contains(&name) {
        4
    } else {
        PLAIN * FAMILIES
    }
}

/// Silence of CHaS after which a container with this name rests. `None`: never.
pub(crate) fn stop_after(name: &str) -> Option<Duration> {
    RESTING.contains(&name).then_some(STOP_AFTER)
}

/// Family of a body: whether it is probed, and how it takes the place of the one before.
const fn family(body: u64) -> u64 {
    body / PLAIN
}

/// Whether a container of this body is never ready.
pub(crate) const fn is_bad(body: u64) -> bool {
    matches!(family(body), 5 | 7)
}

/// Whether what is unhealthy is to be started anew.
pub(crate) const fn restarts(body: u64) -> bool {
    family(body) == 1
}

/// Time for which a next generation has to be ready.
pub(crate) const MIN_READY_SECS: u64 = 3;

fn update(body: u64) -> Value {
    let family = family(body);
    if family < 2 {
        return json!({});
    }
    let strategy = if family < 6 {
        "start-first"
    } else {
        "stop-first"
    };
    let min_ready = format!("{MIN_READY_SECS}s");
    json!({"strategy": strategy, "min_ready": min_ready, "deadline": "60s", "rollback": family != 2})
}

fn health(body: u64) -> Value {
    let on_failure = if restarts(body) { "restart" } else { "none" };
    match family(body) {
        0 | 3 => json!("none"),
        _ => {
            json!({"tcp": {"port": 80}, "interval": "5s", "retries": RETRIES, "on_failure": on_failure})
        }
    }
}

/// Whom the container waits for: the one before it.
fn after(name: &str, body: u64) -> Value {
    let all = if LISTED.contains(&name) {
        &LISTED[..]
    } else {
        &NAMES[..]
    };
    let before = all.iter().rev().find(|other| **other < name);
    let (condition, timeout) = match body % PLAIN {
        1 | 2 => ("started", None),
        3 => ("ready", None),
        4 => ("completed", Some("40s")),
        5 => ("completed", None),
        _ => return json!([]),
    };
    let entry = |before| json!([{"name": before, "condition": condition, "timeout": timeout}]);
    before.map_or(json!([]), entry)
}

fn job(name: &str, body: u64, run: RunState) -> Value {
    let concurrency = ["skip", "replace"][usize::try_from(body % 2).unwrap()];
    let missed = ["skip", "run-once"][usize::try_from(body / 2).unwrap()];
    json!({"name": name, "image": "job", "state": run, "labels": {"body": body.to_string()}, "stop": {"timeout": "2s"},
        "restart": {"policy": "never"}, "schedule": {"cron": "*/2 * * * *", "concurrency": concurrency, "missed": missed}})
}

/// The body with this number, as it is sent.
pub(crate) fn json(name: &str, body: u64, run: RunState) -> Value {
    if JOBS.contains(&name) {
        return job(name, body, run);
    }
    let plain = body % PLAIN;
    let policies = ["always", "always", "always", "on-failure", "never"];
    let policy = match family(body) {
        0 => policies[usize::try_from(plain).unwrap() % 5],
        _ => "always",
    };
    let stop_after = stop_after(name).map(|after| format!("{}s", after.as_secs()));
    let (kind, memory) = (plain % KINDS, format!("{}m", 64 + plain / KINDS));
    let variant = if is_bad(body) { "bad" } else { "" };
    json!({"name": name, "after": after(name, body), "image": format!("image{kind}"), "state": run,
        "environment": {"KIND": format!("{kind}{variant}")}, "labels": {"body": body.to_string()},
        "resources": {"memory": memory}, "restart": {"policy": policy}, "stop": {"timeout": "2s"},
        "exposed_ports": [{"container": 80}], "health": health(body), "update": update(body),
        "on_disconnect": {"stop_after": stop_after}})
}

/// The body with this number, as the agent reads it.
pub(crate) fn deploy(name: &str, body: u64, run: RunState) -> Deploy {
    state::spec::parse::deploy(&json(name, body, run)).unwrap()
}
