//! The policy's file, looked at again and again: what it says is in force soon after it changes, and
//! what of it is wrong, or is not kept by what runs, is told.

use std::sync::Arc;
use std::time::Duration;

use state::alarm::Alarm;
use state::desired::set::Desired;
use state::policy::{self, Policy};
use state::reason::Reason;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::chas::LinkState;
use crate::config::PolicyFile;
use crate::journal::Journal;
use crate::reconcile::Handle;
use crate::writer::Writer;

/// Interval between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Violations that are told; the others are counted.
const TOLD_MAX: usize = 8;

/// The policy's file as it is now. `None`: there is none.
pub(crate) type PolicyRead = Result<Option<PolicyFile>, String>;

/// Fault of a file that is gone, where it said something.
const GONE: &str = "the file is gone; what was in force stays so, until an empty file says that \
                    there are no rules";

/// The policy that a node starts with. Where its file cannot be used, it is the one that was in
/// force `last`; where there was none, nothing new is taken in.
pub(crate) fn first(
    read: PolicyRead,
    last: impl FnOnce() -> PolicyRead,
    completed: impl FnOnce(Policy) -> Policy,
) -> Policy {
    let fault = match read {
        Ok(Some(file)) => return file.policy,
        Ok(None) => None,
        Err(fault) => Some(fault),
    };
    let fault = match (last(), fault) {
        (Ok(Some(file)), fault) => {
            if !file.policy.is_own_rules_alone() {
                let fault = fault.as_deref().unwrap_or(GONE);
                tracing::error!(%fault, "policy not read; the one before stays in force");
            }
            return file.policy;
        }
        (Ok(None), None) => return completed(Policy::default()),
        (Ok(None), Some(fault)) => fault,
        (Err(last), fault) => format!("{}; {last}", fault.as_deref().unwrap_or(GONE)),
    };
    tracing::error!(%fault, "policy not read; no change is taken in until it can be");
    completed(Policy {
        unusable: Some(fault),
        ..Policy::default()
    })
}

/// Keeps the policy in force as its file says.
#[derive(Clone, Debug)]
pub(crate) struct PolicyWatch {
    pub(crate) writer: Writer,
    pub(crate) handle: Handle,
    pub(crate) journal: Journal,
    /// Asks for a look at once.
    pub(crate) due: Arc<Notify>,
    /// Asks CHaS for its set: another policy may take in what this one denied.
    pub(crate) poll: Option<Arc<LinkState>>,
}

/// State of the watch between two looks.
#[derive(Debug, Default)]
struct PolicyLooks {
    /// Change of the desired state at which violations were told.
    told_at: Option<u64>,
    /// Text of the policy that is kept for the next start.
    kept: Option<String>,
}

impl PolicyWatch {
    /// Looks with an interval, and when it is asked to. `keep` keeps the text of what is in force.
    /// It never ends.
    pub(crate) async fn run(
        self,
        read: impl Fn() -> PolicyRead + Clone + Send + 'static,
        keep: impl Fn(&str) -> Result<(), String> + Clone + Send + 'static,
    ) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = PolicyLooks::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.due.notified() => {}
            }
            let (watch, read, keep) = (self.clone(), read.clone(), keep.clone());
            let mut now = std::mem::take(&mut looks);
            let look = move || {
                watch.take(read(), keep, &mut now);
                now
            };
            match tokio::task::spawn_blocking(look).await {
                Ok(now) => looks = now,
                Err(error) => tracing::debug!(%error, "policy not looked at"),
            }
        }
    }

    fn take(
        &self,
        read: PolicyRead,
        keep: impl Fn(&str) -> Result<(), String>,
        looks: &mut PolicyLooks,
    ) {
        let store = self.writer.store();
        let fault = match read {
            Ok(Some(file)) => self.take_over(file, keep, looks),
            // Who takes rules back says so, by a file without any.
            Ok(None) if !store.policy().is_own_rules_alone() => Some(GONE.to_owned()),
            Ok(None) => None,
            Err(fault) => Some(fault),
        };
        self.journal.set_alarm(Alarm::PolicyUnusable, "", fault);
        if looks.told_at.is_none() {
            self.start_denied();
        }
        let desired = store.desired();
        // Nothing else changes what is violated.
        if looks.told_at.replace(desired.seq()) != Some(desired.seq()) {
            let told = violations(&store.policy(), &desired);
            self.journal.set_alarm(Alarm::PolicyViolated, "", told);
        }
    }

    /// Puts what the file says in force. Answers why it will not last.
    fn take_over(
        &self,
        file: PolicyFile,
        keep: impl Fn(&str) -> Result<(), String>,
        looks: &mut PolicyLooks,
    ) -> Option<String> {
        let store = self.writer.store();
        let PolicyFile { policy, text } = file;
        if policy != *store.policy() {
            tracing::info!(rules = policy.rules.len(), "policy taken over");
            store.set_policy(policy);
            looks.told_at = None;
            self.poll.iter().for_each(|link| link.apply_again());
        }
        if looks.kept.as_ref() == Some(&text) {
            return None;
        }
        match keep(&text) {
            Ok(()) => looks.kept = Some(text),
            Err(fault) => return Some(fault),
        }
        None
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

/// Containers that run, and would not be let start, told in a bounded line.
fn violations(policy: &Policy, desired: &Desired) -> Option<String> {
    let violations = policy.violations(desired);
    let mut texts: Vec<_> = violations
        .iter()
        .take(TOLD_MAX)
        .map(|(name, denials)| format!("{name}: {}", policy::told(denials)))
        .collect();
    if violations.len() > TOLD_MAX {
        texts.push(format!("and {} more", violations.len() - TOLD_MAX));
    }
    (!texts.is_empty()).then(|| texts.join("; "))
}
