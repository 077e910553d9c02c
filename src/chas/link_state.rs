//! How the link to CHaS stands, for those who show it; and what passes between its report and its poll.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Fault, FaultKind};
use super::wire::{Freshness, SetFault, Welcome};

/// What is known of the link.
#[derive(Clone, Debug)]
pub struct Standing {
    /// CHaS answers.
    pub reachable: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// What went wrong last, if it does not answer or refuses the node.
    pub error: Option<String>,
    /// It took the node's registration.
    pub registered: bool,
    /// Another node has this node's id: nothing central is applied.
    pub identity_conflict: bool,
    /// How old what was pulled is.
    pub freshness: Freshness,
}

#[derive(Debug)]
struct State {
    standing: Standing,
    fresh_at: Option<Instant>,
    poll_after: Option<Duration>,
    health_after: Option<Duration>,
    report_changes: bool,
}

/// Where the link's standing is kept.
#[derive(Debug)]
pub struct Contact {
    state: Mutex<State>,
    /// CHaS is to be asked at once.
    pub(super) asked: watch::Sender<()>,
    /// A report is to be made at once.
    pub(super) wanted: watch::Sender<()>,
    /// Counts reports.
    pub(super) reports: watch::Sender<Reports>,
}

/// Reports so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reports {
    /// Those that were answered, however.
    pub(super) answered: u64,
    /// Those that came to an end.
    pub(super) tried: u64,
}

impl Default for Contact {
    fn default() -> Self {
        let freshness = Freshness {
            source: "disk",
            age_s: None,
            stale: true,
            fault: None,
        };
        let standing = Standing {
            reachable: false,
            since: SystemTime::now(),
            error: Some("not asked yet".to_owned()),
            registered: false,
            identity_conflict: false,
            freshness,
        };
        let state = State {
            standing,
            fresh_at: None,
            poll_after: None,
            health_after: None,
            report_changes: false,
        };
        Self {
            state: Mutex::new(state),
            asked: watch::Sender::default(),
            wanted: watch::Sender::default(),
            reports: watch::Sender::default(),
        }
    }
}

impl Contact {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let state = self.lock();
        let mut standing = state.standing.clone();
        standing.freshness.age_s = state.fresh_at.map(|at| at.elapsed().as_secs());
        standing
    }

    /// Something that CHaS lists waits to be asked for again.
    pub fn ask_now(&self) {
        self.asked.send_modify(|()| ());
    }

    /// A report came to an end.
    pub(super) fn reported(&self, is_answer: bool) {
        self.reports.send_modify(|reports| {
            reports.tried += 1;
            reports.answered += u64::from(is_answer);
        });
    }

    pub(super) fn report_now(&self) {
        self.wanted.send_modify(|()| ());
    }

    pub(super) fn health_after(&self) -> Option<Duration> {
        self.lock().health_after
    }

    pub(super) fn report_changes(&self) -> bool {
        self.lock().report_changes
    }

    pub(super) fn poll_after(&self) -> Option<Duration> {
        self.lock().poll_after
    }

    pub(super) fn set_poll_after(&self, poll_after: Option<Duration>) {
        if poll_after.is_some() {
            self.lock().poll_after = poll_after;
        }
    }

    pub(super) fn registered(&self, welcome: &Welcome) {
        {
            let mut state = self.lock();
            state.poll_after = welcome.poll_after();
            state.health_after = welcome.health_after();
            state.report_changes = welcome.report_changes;
            (state.standing.registered, state.standing.identity_conflict) = (true, false);
        }
        tracing::info!(
            cluster_size = welcome.cluster_size,
            "CHaS took the node's registration"
        );
        self.answered();
    }

    pub(super) fn answered(&self) {
        self.reach(None);
    }

    /// What was pulled is what CHaS lists.
    pub(super) fn fresh(&self) {
        let mut state = self.lock();
        state.fresh_at = Some(Instant::now());
        state.standing.freshness = Freshness {
            source: "chas",
            age_s: None,
            stale: false,
            fault: None,
        };
    }

    /// CHaS said elsewhere that what is stored is its newest. What was wrong with its last answer stays so.
    pub(super) fn up_to_date(&self) {
        let mut state = self.lock();
        if state.standing.freshness.fault.is_none() {
            state.fresh_at = Some(Instant::now());
            (
                state.standing.freshness.source,
                state.standing.freshness.stale,
            ) = ("chas", false);
        }
    }

    /// What CHaS answered is no set for this node. `false`: it did so before, too.
    pub(super) fn bad_set(&self, code: &'static str, message: &str) -> bool {
        let freshness = &mut self.lock().standing.freshness;
        freshness.stale = true;
        let before = freshness.fault.take().filter(|before| before.code == code);
        let count = before.as_ref().map_or(0, |before| before.count) + 1;
        freshness.fault = Some(SetFault {
            code,
            message: message.to_owned(),
            count,
        });
        before.is_none()
    }

    /// A call failed.
    pub(super) fn failed(&self, call: &'static str, fault: &Fault) {
        if fault.kind == FaultKind::Conflict {
            let is_news = !std::mem::replace(&mut self.lock().standing.identity_conflict, true);
            if is_news {
                tracing::error!(
                    error = %fault.message,
                    "another node has this node's id: nothing from CHaS is applied, what runs goes on; give this one another node.id"
                );
            }
        }
        if call == "poll" {
            self.lock().standing.freshness.stale = true;
        }
        self.reach(Some((call, fault)));
    }

    fn reach(&self, failed: Option<(&'static str, &Fault)>) {
        let mut state = self.lock();
        let standing = &mut state.standing;
        let reachable = failed.is_none_or(|(_, fault)| !fault.kind.is_silence());
        let error = failed.map(|(call, fault)| format!("{call}: {}", fault.message));
        let changes =
            standing.reachable != reachable || standing.error.is_some() != error.is_some();
        if standing.reachable != reachable {
            standing.since = SystemTime::now();
        }
        (standing.reachable, standing.error) = (reachable, error.clone());
        drop(state);
        match error {
            Some(error) if changes => {
                tracing::warn!(%error, "CHaS cannot be spoken to; what runs goes on, and it is tried again");
            }
            Some(error) => tracing::debug!(%error, "CHaS cannot be spoken to"),
            None if changes => tracing::info!("CHaS answers"),
            None => {}
        }
    }
}
