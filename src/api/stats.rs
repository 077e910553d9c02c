//! Use by containers now: once, or each second as lines of JSON.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use state::id::ContainerId;
use tokio::time::MissedTickBehavior;

use super::access::Access;
use super::answer::Json;
use super::containers::find_managed;
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::watchers::Watchers;
use super::{NodeApi, Refusal, operations, wire};
use crate::cgroup::usage::{CpuUsage, DiskUsage, MemoryUsage, PidUsage, UsageDetail};
use crate::logs::counts::LogCounts;
use crate::monitor::links::{LinkUsage, Traffic};
use crate::view::{Naming, UsageView};

/// Time between the two looks of an answer, of which CPU use is the difference: many ticks of the
/// kernel, and short for who waits.
const APART: Duration = Duration::from_millis(250);
/// Time between two lines of a stream.
const STREAM_EVERY: Duration = Duration::from_secs(1);
/// Streams at once. Each looks at the files of all that it shows once a second.
pub(super) const OF_NETWORK: usize = 32;
/// Streams at once by the socket.
pub(super) const OF_SOCKET: usize = 8;

/// Places of those who watch.
pub(super) fn watchers() -> Watchers {
    Watchers::new("watch what containers use", OF_NETWORK, OF_SOCKET)
}

pub(super) async fn of_container<N: NodeApi>(
    State(node): State<Arc<N>>,
    Extension(watchers): Extension<Watchers>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    let streams = Parameters::of(query, &operations::STATS)?.flag("stream")?;
    let id = find_managed(&*node, &access, &name, Naming::Loose)?;
    answer(node, watchers, access, Some(id), streams).await
}

pub(super) async fn of_node<N: NodeApi>(
    State(node): State<Arc<N>>,
    Extension(watchers): Extension<Watchers>,
    access: Access,
    query: RawQuery,
) -> Result<Response, Problem> {
    let streams = Parameters::of(query, &operations::NODE_STATS)?.flag("stream")?;
    answer(node, watchers, access, None, streams).await
}

async fn answer<N: NodeApi>(
    node: Arc<N>,
    watchers: Watchers,
    access: Access,
    only: Option<ContainerId>,
    streams: bool,
) -> Result<Response, Problem> {
    if streams {
        let permit = watchers.take(access.peer)?;
        let end = access.end.clone();
        let lines = lines(node, access, only);
        // Whoever may not come in any more hears nothing more, either.
        let lines = lines.take_until(end.reached()).map(move |line| {
            let _until_the_stream_ends = &permit;
            Ok::<_, std::convert::Infallible>(line)
        });
        let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
        return Ok((kind, Body::from_stream(lines)).into_response());
    }
    let before = node.usage(only, UsageDetail::All).await;
    tokio::time::sleep(APART).await;
    let now = node.usage(only, UsageDetail::All).await;
    let shown = shown(&access, only, &now, &before);
    let gone = || {
        Problem::from(Refusal::NotFound(
            "the container was removed meanwhile".to_owned(),
        ))
    };
    Ok(Json(shown.ok_or_else(gone)?).into_response())
}

/// A line each second, until the one container is removed.
fn lines<N: NodeApi>(
    node: Arc<N>,
    access: Access,
    only: Option<ContainerId>,
) -> impl futures_util::Stream<Item = Bytes> {
    let mut ticks = tokio::time::interval(STREAM_EVERY);
    // Who reads slowly gets fewer lines, and no late ones.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begin = (node, access, ticks, Vec::new());
    futures_util::stream::unfold(begin, move |(node, access, mut ticks, before)| async move {
        ticks.tick().await;
        let now = node.usage(only, UsageDetail::All).await;
        let line = shown(&access, only, &now, &before)?;
        Some((Bytes::from(format!("{line}\n")), (node, access, ticks, now)))
    })
}

/// Use now, and since the look before. `None`: the one container is gone.
fn shown(
    access: &Access,
    only: Option<ContainerId>,
    now: &[UsageView],
    before: &[UsageView],
) -> Option<Value> {
    let before: HashMap<_, _> = before.iter().map(|view| (view.record.id, view)).collect();
    let show = |view: &UsageView| usage(view, before.get(&view.record.id).copied());
    if only.is_some() {
        return now.first().map(show);
    }
    let seen = now
        .iter()
        .filter(|view| access.names.has(&view.record.name));
    Some(json!({"containers": seen.map(show).collect::<Vec<_>>()}))
}

fn usage(view: &UsageView, before: Option<&UsageView>) -> Value {
    let cores = before.and_then(|before| view.cores_since(before));
    let group = &view.group;
    json!({
        "id": view.record.id,
        "name": view.record.name,
        "generation": view.generation,
        "time": wire::time(view.taken),
        "cpu": group.cpu.as_ref().map(|used| cpu(used, cores)),
        "memory": group.memory.as_ref().map(memory),
        "pids": group.pids.as_ref().map(pids),
        "network": view.network.map(network),
        "block_io": group.disk.as_ref().map(disk),
        "log": view.log.map(log),
    })
}

fn log(counts: LogCounts) -> Value {
    json!({
        "written_bytes": counts.written,
        "left_out_bytes": counts.left_out,
        "lost_bytes": counts.lost,
    })
}

fn cpu(used: &CpuUsage, cores: Option<f64>) -> Value {
    json!({
        "used_cores": cores.map(|cores| (cores * 10_000.0).round() / 10_000.0),
        "usage_seconds": used.total.as_secs_f64(),
        "user_seconds": used.user.as_secs_f64(),
        "system_seconds": used.system.as_secs_f64(),
        "periods": used.periods,
        "throttled_periods": used.throttled_periods,
        "throttled_seconds": used.throttled.as_secs_f64(),
    })
}

fn memory(used: &MemoryUsage) -> Value {
    json!({
        "used_bytes": used.used,
        "working_set_bytes": used.working_set,
        "limit_bytes": used.limit,
        "swap_bytes": used.swap,
        "kills": used.kills,
    })
}

fn pids(used: &PidUsage) -> Value {
    json!({"current": used.count, "limit": used.limit})
}

fn network(used: LinkUsage) -> Value {
    let directions = [("received", used.received), ("sent", used.sent)];
    let counts = directions.into_iter().flat_map(|(word, traffic)| {
        let Traffic {
            bytes,
            packets,
            errors,
            dropped,
        } = traffic;
        [
            (format!("{word}_bytes"), json!(bytes)),
            (format!("{word}_packets"), json!(packets)),
            (format!("{word}_errors"), json!(errors)),
            (format!("{word}_dropped"), json!(dropped)),
        ]
    });
    Value::Object(counts.collect::<Map<_, _>>())
}

fn disk(used: &DiskUsage) -> Value {
    json!({
        "read_bytes": used.read,
        "written_bytes": used.written,
        "reads": used.reads,
        "writes": used.writes,
    })
}
