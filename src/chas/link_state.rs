//! The state of the link to CHaS: shown in `/health`, and shared between the loops that report and
//! poll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use state::event::{Event, EventKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{ChasError, ChasErrorKind};
use super::wire::{RegisterReply, SetError, SetFreshness};
use crate::journal::Journal;
use crate::lock::lock;

/// Shown as the error before the first call.
const NO_CALL: &str = "no call made yet";

/// The link to CHaS as it is shown.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// Whether CHaS answered the last call.
    pub reachable: bool,
    /// Wall time at which `reachable` last changed.
    pub since: SystemTime,
    /// The last error. `None`: the last call succeeded.
    pub error: Option<String>,
    /// Wall time of the first failed call since one succeeded. `None`: the last one succeeded, or
    /// none was made yet.
    pub failing_since: Option<SystemTime>,
    /// Whether CHaS refuses the node, which takes a person to change.
    pub refuses: bool,
    /// Wall time since which its answers to polls are no sets for this node. `None`: they are.
    pub fault_since: Option<SystemTime>,
    /// Whether CHaS accepted the node's registration.
    pub registered: bool,
    /// Whether another node uses this node's id; no set from CHaS is applied then.
    pub identity_conflict: bool,
    /// Age of the applied set.
    pub freshness: SetFreshness,
}

#[derive(Debug)]
struct LinkFacts {
    status: LinkStatus,
    fresh_at: Option<Instant>,
    poll_after: Option<Duration>,
    health_after: Option<Duration>,
    keeps_reports: bool,
    takes_reports: bool,
}

/// The state of one link. Its loops write it, `/health` and reports read it.
#[derive(Debug)]
pub struct LinkState {
    facts: Mutex<LinkFacts>,
    /// Signals that CHaS should be polled at once.
    pub(super) poll_wanted: watch::Sender<()>,
    /// Whether the set is to be applied again at once, if it was not fully applied.
    again_wanted: AtomicBool,
    /// Signals that a report should be sent at once.
    pub(super) report_wanted: watch::Sender<()>,
    /// Reports so far; the poll loop waits on it.
    pub(super) reports: watch::Sender<ReportCounts>,
}

/// Reports since the link began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReportCounts {
    /// Reports that CHaS answered, with success or an error.
    pub(super) answered: u64,
    /// Reports that ended in any way.
    pub(super) finished: u64,
}

impl Default for LinkState {
    fn default() -> Self {
        let freshness = SetFreshness {
            source: "disk",
            age_s: None,
            stale: true,
            fault: None,
        };
        let status = LinkStatus {
            reachable: false,
            since: SystemTime::now(),
            error: Some(NO_CALL.to_owned()),
            failing_since: None,
            refuses: false,
            fault_since: None,
            registered: false,
            identity_conflict: false,
            freshness,
        };
        let facts = LinkFacts {
            status,
            fresh_at: None,
            poll_after: None,
            health_after: None,
            keeps_reports: false,
            takes_reports: false,
        };
        Self {
            facts: Mutex::new(facts),
            poll_wanted: watch::Sender::default(),
            again_wanted: AtomicBool::default(),
            report_wanted: watch::Sender::default(),
            reports: watch::Sender::default(),
        }
    }
}

impl LinkState {
    fn lock(&self) -> MutexGuard<'_, LinkFacts> {
        lock(&self.facts)
    }

    /// The link's status now.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let facts = self.lock();
        let mut status = facts.status.clone();
        status.freshness.age_s = facts.fresh_at.map(|at| at.elapsed().as_secs());
        status
    }

    /// Makes the poll loop poll CHaS at once.
    pub fn poll_now(&self) {
        self.poll_wanted.send_modify(|()| ());
    }

    /// Makes the poll loop ask for the set again at once, if it was not fully applied: what kept it
    /// from that may be gone.
    pub fn apply_again(&self) {
        self.again_wanted.store(true, Ordering::Relaxed);
        self.poll_now();
    }

    pub(super) fn take_again(&self) -> bool {
        self.again_wanted.swap(false, Ordering::Relaxed)
    }

    pub(super) fn report_now(&self) {
        self.report_wanted.send_modify(|()| ());
    }

    /// Counts a report that ended.
    pub(super) fn record_report(&self, is_answered: bool) {
        self.reports.send_modify(|reports| {
            reports.finished += 1;
            reports.answered += u64::from(is_answered);
        });
    }

    pub(super) fn health_after(&self) -> Option<Duration> {
        self.lock().health_after
    }

    pub(super) fn keeps_reports(&self) -> bool {
        self.lock().keeps_reports
    }

    /// Whether CHaS has ever taken a report.
    pub(super) fn takes_reports(&self) -> bool {
        self.lock().takes_reports
    }

    pub(super) fn set_takes_reports(&self) {
        self.lock().takes_reports = true;
    }

    pub(super) fn poll_after(&self) -> Option<Duration> {
        self.lock().poll_after
    }

    pub(super) fn set_poll_after(&self, poll_after: Option<Duration>) {
        if poll_after.is_some() {
            self.lock().poll_after = poll_after;
        }
    }

    pub(super) fn record_registration(&self, reply: &RegisterReply, journal: &Journal) {
        {
            let mut facts = self.lock();
            facts.poll_after = reply.poll_after();
            facts.health_after = reply.health_after();
            facts.keeps_reports = reply.report_changes;
            (facts.status.registered, facts.status.identity_conflict) = (true, false);
        }
        let cluster_size = reply.cluster_size;
        journal.record(EventKind::NodeRegistered { cluster_size });
        self.record_success(journal);
    }

    /// Records that a call succeeded.
    pub(super) fn record_success(&self, journal: &Journal) {
        self.record_call(None, journal);
    }

    /// Records that a poll confirmed the applied set as the one CHaS lists.
    pub(super) fn record_fresh(&self) {
        let mut facts = self.lock();
        facts.fresh_at = Some(Instant::now());
        facts.status.fault_since = None;
        facts.status.freshness = SetFreshness {
            source: "chas",
            age_s: None,
            stale: false,
            fault: None,
        };
    }

    /// Records that the answer to a report named the applied set as the newest. An error of the
    /// last poll stays shown.
    pub(super) fn record_up_to_date(&self) {
        let mut facts = self.lock();
        if facts.status.freshness.fault.is_none() {
            facts.fresh_at = Some(Instant::now());
            facts.status.freshness.source = "chas";
            facts.status.freshness.stale = false;
        }
    }

    /// Records that a set could not be applied. `true`: for another reason than the last time.
    pub(super) fn record_set_error(&self, code: &'static str, message: &str) -> bool {
        let mut facts = self.lock();
        facts.status.fault_since.get_or_insert_with(SystemTime::now);
        let freshness = &mut facts.status.freshness;
        freshness.stale = true;
        let before = freshness.fault.take().filter(|before| before.code == code);
        let count = before.as_ref().map_or(0, |before| before.count) + 1;
        freshness.fault = Some(SetError {
            code,
            message: message.to_owned(),
            count,
        });
        before.is_none()
    }

    /// Records that a call failed.
    pub(super) fn record_error(&self, call: &'static str, error: &ChasError, journal: &Journal) {
        if error.kind == ChasErrorKind::IdentityConflict {
            let is_news = !std::mem::replace(&mut self.lock().status.identity_conflict, true);
            if is_news {
                let conflict = Event::from(EventKind::IdentityConflict);
                journal.record(conflict.saying(&error.message));
            }
        }
        if call == "poll" {
            self.lock().status.freshness.stale = true;
        }
        self.record_call(Some((call, error)), journal);
    }

    fn record_call(&self, failed: Option<(&'static str, &ChasError)>, journal: &Journal) {
        let reachable = failed.is_none_or(|(_, error)| !error.kind.is_unreachable());
        let error = failed.map(|(call, error)| format!("{call}: {}", error.message));
        let mut facts = self.lock();
        let status = &mut facts.status;
        let changes = status.reachable != reachable
            || status.error.is_some() != error.is_some()
            || status.error.as_deref() == Some(NO_CALL);
        if status.reachable != reachable {
            status.since = SystemTime::now();
        }
        (status.reachable, status.error) = (reachable, error.clone());
        status.refuses = failed.is_some_and(|(_, error)| error.kind.is_refusal());
        status.failing_since = failed.map(|_| status.failing_since.unwrap_or_else(SystemTime::now));
        drop(facts);
        match error {
            Some(error) if changes => {
                journal.record(Event::from(EventKind::LinkLost).saying(error));
            }
            Some(error) => tracing::debug!(%error, "CHaS call failed"),
            None if changes => journal.record(EventKind::LinkReached),
            None => {}
        }
    }
}
