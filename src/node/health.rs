//! The node's health, from memory: the alarms that the journal keeps and those that follow from the
//! board, the store and the link, and the containers that are not as they should be.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use state::alarm::{Alarm, Weight};
use state::id::ContainerId;
use state::status::Status;
use tokio::time::Instant;

use super::AgentNode;
use crate::lock::lock;
use crate::view::{AlarmView, BacklogView, ErrorView, HealthView, LinkView, UnsettledView};

/// The last errors that go into a report.
const ERRORS_MAX: usize = 5;
/// A time before this agent was written, 2026-01-01, by seconds since 1970: no clock that is set
/// shows it.
const BEFORE_THIS_AGENT: Duration = Duration::from_secs(1_767_225_600);

/// Whether a clock that shows this time is not set.
#[must_use]
pub(crate) fn is_before_this_agent(now: SystemTime) -> bool {
    now < SystemTime::UNIX_EPOCH + BEFORE_THIS_AGENT
}

/// Moments since which containers are not settled, as those who ask for the health see it; somebody
/// does whenever the board changes.
#[derive(Debug, Default)]
pub(super) struct UnsettledSince(Mutex<BTreeMap<ContainerId, Since>>);

/// Moment, as it is measured and as it is shown.
#[derive(Clone, Copy, Debug)]
struct Since {
    at: Instant,
    wall: SystemTime,
}

impl UnsettledSince {
    /// The moments since which these have not been settled. All others are.
    fn note(&self, unsettled: impl Iterator<Item = ContainerId>) -> BTreeMap<ContainerId, Since> {
        let mut since = lock(&self.0);
        let now = Since {
            at: Instant::now(),
            wall: SystemTime::now(),
        };
        *since = unsettled
            .map(|id| (id, since.get(&id).copied().unwrap_or(now)))
            .collect();
        since.clone()
    }
}

impl AgentNode {
    /// The node's health.
    pub(super) fn health(&self) -> HealthView {
        let reachability = self.board().reachability();
        let views: Vec<_> = self.managed_containers().collect();
        let running = views
            .iter()
            .filter(|view| matches!(view.condition.status, Status::Running | Status::Unhealthy));
        let running = running.count();
        let unsettled = views
            .into_iter()
            .filter(|view| !view.condition.is_settled());
        let unsettled: Vec<_> = unsettled.collect();
        let since = self
            .unsettled
            .note(unsettled.iter().map(|view| view.record.id));
        let unsettled_for = since.values().map(|since| since.at.elapsed()).max();
        let (queued, overdue, silent) = self.handle.backlog();
        let mut worst: Vec<_> = unsettled
            .into_iter()
            .map(|view| UnsettledView {
                name: view.record.name.clone(),
                condition: view.condition,
                since: since
                    .get(&view.record.id)
                    .map_or_else(SystemTime::now, |since| since.wall),
            })
            .collect();
        let unsettled = worst.len();
        worst.sort_by(|a, b| (a.rank(), &a.name).cmp(&(b.rank(), &b.name)));
        let store = self.writer.store();
        let adoption = store.desired().adoption();
        let mut health = HealthView {
            facts: self.monitor.snapshot(),
            running,
            unsettled,
            worst,
            unsettled_for: unsettled_for.unwrap_or_default(),
            backlog: BacklogView {
                queued,
                overdue,
                silent,
            },
            containerd: reachability.reachable,
            containerd_asked: reachability.is_known(),
            containerd_since: reachability.since,
            containerd_answered: reachability.answered,
            containerd_error: reachability.error,
            writable: store.is_writable(),
            known: !store.desired().is_unknown(),
            rebuilding: adoption.is_some_and(|adoption| !adoption.is_new),
            losses: store.losses(),
            alarms: Vec::new(),
            silent: self.loggers.silent(),
            errors: self.errors(),
            confinement: self.confinement.borrow().clone(),
            cordon: self.cordon_view(),
            link: self.link_view(),
        };
        health.alarms = self.alarms(&health);
        health
    }

    /// The alarms that stand, the heaviest first.
    fn alarms(&self, health: &HealthView) -> Vec<AlarmView> {
        let kept = self.journal.alarms().into_iter().map(|kept| AlarmView {
            alarm: kept.alarm,
            since: kept.since,
            message: kept.message,
        });
        let mut alarms: Vec<_> = kept.chain(self.own_alarms(health)).collect();
        alarms.extend(health.link.iter().flat_map(of_link));
        alarms.sort_by_key(|alarm| std::cmp::Reverse(alarm.alarm.weight()));
        alarms
    }

    fn own_alarms(&self, health: &HealthView) -> Vec<AlarmView> {
        let mut alarms = Vec::new();
        let mut raise = |alarm, since, message: String| {
            alarms.push(AlarmView {
                alarm,
                since,
                message,
            });
        };
        if !health.containerd && health.containerd_asked {
            let error = health.containerd_error.clone().unwrap_or_default();
            raise(Alarm::ContainerdUnreachable, health.containerd_since, error);
        }
        if health.rebuilding {
            let message = "the records in the containers' labels are not read yet".to_owned();
            raise(Alarm::StateRebuilding, self.started, message);
        }
        let now = SystemTime::now();
        if is_before_this_agent(now) {
            let message = format!("it shows {}", humantime::format_rfc3339_seconds(now));
            raise(Alarm::ClockUnset, self.started, message);
        }
        alarms
    }

    fn errors(&self) -> Vec<ErrorView> {
        let entries = self.journal.errors().into_iter();
        let shown = entries.map(|error| ErrorView {
            at: error.last.at,
            code: error.code,
            message: error.last.event.text(),
            first_at: error.first_at,
            count: error.count,
        });
        shown.collect()
    }
}

/// The alarms about the link to CHaS.
fn of_link(link: &LinkView) -> Vec<AlarmView> {
    let mut alarms = Vec::new();
    let mut raise = |alarm, since: Option<SystemTime>, message: String| {
        alarms.push(AlarmView {
            alarm,
            since: since.unwrap_or(link.since),
            message,
        });
    };
    let error = || link.error.clone().unwrap_or_default();
    if link.identity_conflict {
        raise(Alarm::IdentityConflict, link.failing_since, error());
    } else if link.refuses {
        raise(Alarm::ChasRefuses, link.failing_since, error());
    } else if !link.reachable && link.failing_since.is_some() {
        raise(Alarm::ChasUnreachable, link.failing_since, error());
    }
    if let Some(fault) = &link.fault {
        let alarm = match link.fault_code {
            Some("bad_signature" | "left_epoch") => Alarm::SetUnsigned,
            Some("set_keys_unusable") => Alarm::SetKeysUnusable,
            Some(_) | None => Alarm::SetRejected,
        };
        raise(alarm, link.fault_since, fault.clone());
    }
    if !link.pending_prune.is_empty() {
        let names = link.pending_prune.join(" ");
        raise(Alarm::SetUnconfirmed, None, names);
    }
    alarms
}

/// The alarms that stand and the newest errors, each once. CHaS knows how its own link is.
pub(super) fn report_errors(health: &HealthView) -> Vec<String> {
    let alarms = health.alarms.iter();
    let alarms = alarms.filter(|alarm| alarm.alarm.weight() > Weight::Notice);
    let mut errors: Vec<_> = alarms
        .map(|alarm| format!("{}: {}", alarm.alarm, alarm.message))
        .collect();
    let skipped = health.errors.len().saturating_sub(ERRORS_MAX);
    for error in health.errors.iter().skip(skipped) {
        let line = format!("{}: {}", error.code, error.message);
        if !errors.contains(&line) {
            errors.push(line);
        }
    }
    errors
}
