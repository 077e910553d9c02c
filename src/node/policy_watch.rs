//! The policy's file, looked at again and again: what it says is in force soon after it changes, and
//! what of it is wrong, or is not kept by what runs, is told.

use std::sync::Arc;
use std::time::Duration;

use state::alarm::Alarm;
use state::policy::{self, Policy};
use state::reason::Reason;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::journal::Journal;
use crate::reconcile::Handle;
use crate::writer::Writer;

/// Interval between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Violations that are told; the others are counted.
const TOLD_MAX: usize = 8;

/// The policy's file as it is now. `None`: there is none.
pub(crate) type PolicyRead = Result<Option<Policy>, String>;

/// The policy that a node starts with. Where its file cannot be used, nothing new is taken in.
pub(crate) fn first(read: PolicyRead, completed: impl FnOnce(Policy) -> Policy) -> Policy {
    match read {
        Ok(Some(policy)) => policy,
        Ok(None) => completed(Policy::default()),
        Err(fault) => {
            tracing::error!(%fault, "policy not read; no change is taken in until it can be");
            completed(Policy {
                unusable: Some(fault),
                ..Policy::default()
            })
        }
    }
}

/// Keeps the policy in force as its file says.
#[derive(Debug)]
pub(crate) struct PolicyWatch {
    pub(crate) writer: Writer,
    pub(crate) handle: Handle,
    pub(crate) journal: Journal,
    /// Asks for a look at once.
    pub(crate) due: Arc<Notify>,
}

impl PolicyWatch {
    /// Looks with an interval, and when it is asked to. It never ends.
    pub(crate) async fn run(self, read: impl Fn() -> PolicyRead + Clone + Send + 'static) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told_at = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.due.notified() => {}
            }
            match tokio::task::spawn_blocking(read.clone()).await {
                Ok(read) => self.take(read, &mut told_at),
                Err(error) => tracing::debug!(%error, "policy not looked at"),
            }
        }
    }

    fn take(&self, read: PolicyRead, told_at: &mut Option<u64>) {
        let store = self.writer.store();
        let before = store.policy();
        let fault = match read {
            Ok(Some(policy)) => {
                if policy != *before {
                    tracing::info!(rules = policy.rules.len(), "policy taken over");
                    store.set_policy(policy);
                    *told_at = None;
                    self.start_denied();
                }
                None
            }
            // Who takes rules back says so, by a file without any.
            Ok(None) if !before.rules.is_empty() || before.unusable.is_some() => Some(
                "the file is gone; what was in force stays so until the agent starts again, or an \
                 empty file says that there are no rules"
                    .to_owned(),
            ),
            Ok(None) => None,
            Err(fault) => Some(fault),
        };
        self.journal.set_alarm(Alarm::PolicyUnusable, "", fault);
        let desired = store.desired();
        // Nothing else changes what is violated.
        if told_at.replace(desired.seq()) != Some(desired.seq()) {
            let violations = store.policy().violations(&desired);
            let mut texts: Vec<_> = violations
                .iter()
                .take(TOLD_MAX)
                .map(|(name, denials)| format!("{name}: {}", policy::told(denials)))
                .collect();
            if violations.len() > TOLD_MAX {
                texts.push(format!("and {} more", violations.len() - TOLD_MAX));
            }
            let told = (!texts.is_empty()).then(|| texts.join("; "));
            self.journal.set_alarm(Alarm::PolicyViolated, "", told);
        }
    }

    /// Starts at once what the policy before kept from starting; the rest of its wait would have
    /// no cause.
    fn start_denied(&self) {
        let (store, board) = (self.writer.store(), self.handle.board());
        for record in store.desired().records() {
            let backoff = board.known(record.id).history.of(record).backoff;
            let was_denied = backoff.is_some_and(|wait| wait.reason == Reason::PolicyDenied);
            if was_denied && store.judge_start(record).is_ok() {
                self.handle.start_now(record.id);
            }
        }
    }
}
