//! Counts requests, and shows the metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use state::access::NameScope;
use state::alarm::Alarm;
use state::reason::Reason;
use state::spec::VolumeName;
use state::status::Status;
use tokio::time::Instant;

use super::accept::metrics_format;
use super::access::Access;
use super::error::{Problem, ProblemCode};
use super::listener::connections;
use super::query::{Parameters, RawQuery};
use super::{NodeApi, operations};
use crate::cgroup::usage::UsageDetail;
use crate::metrics::{ContainerNumbers, Metrics, MetricsFormat, NodeNumbers, VolumeNumbers};
use crate::monitor::kernel::KernelFacts;
use crate::monitor::links::Traffic;
use crate::view::{ContainerView, HealthView, ManagedView, UsageView};

/// The metrics, from memory: a scrape never waits for containerd.
pub(super) async fn metrics<N: NodeApi>(
    State(node): State<Arc<N>>,
    Extension(metrics): Extension<Metrics>,
    access: Access,
    headers: HeaderMap,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::METRICS)?;
    let format = metrics_format(&headers);
    let text = text(&*node, &metrics, &access.names, format).await;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}

/// The text of all metrics at this moment, with the containers that have these names.
pub(crate) async fn text<N: NodeApi>(
    node: &N,
    metrics: &Metrics,
    names: &NameScope,
    format: MetricsFormat,
) -> String {
    let usage = node.usage(None, UsageDetail::Metrics).await;
    let views = node.containers();
    let managed = || views.iter().filter_map(ContainerView::managed);
    for status in Status::ALL {
        let of_status = managed().filter(|view| view.condition.status == status);
        metrics.containers(status.as_str(), of_status.count());
    }
    let ready = managed().filter(|view| view.is_ready()).count();
    let stale = managed().filter(|view| view.is_stale()).count();
    metrics.show_ready(ready, stale);
    let capacity = node.capacity();
    metrics.show_capacity(capacity.capacity, capacity.reserved);
    let health = node.health();
    metrics.containerd(health.containerd);
    metrics.store(health.writable, health.losses.len());
    for alarm in Alarm::ALL {
        let stands = health.alarms.iter().any(|view| view.alarm == *alarm);
        metrics.alarm(alarm.as_str(), stands);
    }
    let link = health.link.as_ref();
    metrics.link(
        link.is_some_and(|link| link.reachable),
        link.map_or(0, |link| link.pending_prune.len()),
        health.cordon.by.any(),
    );
    let is_suspended = |view: &&ManagedView| view.condition.reason == Some(Reason::Disconnected);
    let silent_for = link.and_then(|link| link.silent_for).unwrap_or_default();
    metrics.show_contact(silent_for, managed().filter(is_suspended).count());
    for (door, open, most) in connections() {
        metrics.show_connections(door, open, most);
    }
    let usage: HashMap<_, _> = usage.iter().map(|view| (view.record.id, view)).collect();
    let seen = managed().filter(|view| names.has(&view.record.name));
    let numbers = seen.map(|view| numbers(view, usage.get(&view.record.id).copied()));
    let numbers: Vec<_> = numbers.collect();
    let kernel = tokio::task::spawn_blocking(KernelFacts::now).await;
    let volumes = metrics.volume_sizes();
    let is_seen = |of: &&VolumeNumbers| {
        let name = of.volume.parse::<VolumeName>();
        name.is_ok_and(|name| names.has_volume(&name))
    };
    let volumes = volumes.iter().filter(is_seen).cloned().collect();
    let node = of_node(&health, kernel.unwrap_or_default(), volumes);
    metrics.text_with(&node, &numbers, format)
}

fn of_node(health: &HealthView, kernel: KernelFacts, volumes: Vec<VolumeNumbers>) -> NodeNumbers {
    let answered = health.containerd_answered;
    let answered = answered.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    NodeNumbers {
        facts: health.facts.clone(),
        kernel,
        volumes,
        queued: health.backlog.queued,
        overdue: health.backlog.overdue,
        silent: health.backlog.silent,
        unsettled: (health.unsettled, health.unsettled_for),
        containerd_answered: answered.unwrap_or_default().as_secs_f64(),
    }
}

/// Numbers of a container, and of what it uses.
fn numbers(view: &ManagedView, usage: Option<&UsageView>) -> ContainerNumbers {
    let job = view.record.job.as_ref();
    let last_success = job.map(|job| job.last_success_ms.unwrap_or_default());
    let group = usage.map(|usage| &usage.group);
    let cpu = group.and_then(|group| group.cpu.as_ref());
    let memory = group.and_then(|group| group.memory.as_ref());
    // Of an instance that serves in the place of the record's own.
    let kills = memory.and_then(|memory| memory.kills);
    let pids = group.and_then(|group| group.pids.as_ref());
    let disk = group.and_then(|group| group.disk.as_ref());
    let network = usage.and_then(|usage| usage.network);
    let counts = |of: Traffic| [of.bytes, of.packets, of.errors, of.dropped];
    let since_1970 = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
    ContainerNumbers {
        container: view.record.name.to_string(),
        status: view.condition.status.as_str(),
        ready: view.is_ready(),
        restarts: view.restart_count,
        last_success: last_success.map(|at_ms| Duration::from_millis(at_ms).as_secs_f64().floor()),
        exit_code: view.exit_code,
        started: view
            .started
            .and_then(since_1970)
            .map(|time| time.as_secs_f64()),
        cpu: cpu.map(|cpu| cpu.total.as_secs_f64()),
        throttled: cpu.map(|cpu| cpu.throttled.as_secs_f64()),
        periods: cpu.map(|cpu| cpu.periods),
        throttled_periods: cpu.map(|cpu| cpu.throttled_periods),
        memory: memory.map(|memory| memory.used),
        working_set: memory.map(|memory| memory.working_set),
        memory_limit: memory.and_then(|memory| memory.limit),
        swap: memory.and_then(|memory| memory.swap),
        memory_kills: kills.unwrap_or(view.memory_kills),
        pids: pids.map(|pids| pids.count),
        pids_limit: pids.and_then(|pids| pids.limit),
        received: network.map(|network| counts(network.received)),
        sent: network.map(|network| counts(network.sent)),
        disk_read: disk.map(|disk| disk.read),
        disk_written: disk.map(|disk| disk.written),
        disk_reads: disk.map(|disk| disk.reads),
        disk_writes: disk.map(|disk| disk.writes),
        log: usage
            .and_then(|usage| usage.log)
            .map(|log| [log.written, log.left_out, log.lost]),
    }
}

pub(super) async fn count(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let (method, began) = (method(request.method()), Instant::now());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    metrics.request(
        method,
        route.as_ref().map_or("none", MatchedPath::as_str),
        response.status().as_u16(),
        began.elapsed(),
    );
    if let Some(ProblemCode(code)) = response.extensions().get() {
        metrics.problem(code);
    }
    response
}

/// The method as a label: callers may invent methods, and each would be a series of its own.
pub(super) fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}
