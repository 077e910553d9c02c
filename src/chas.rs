//! The node's link to CHaS, its control plane: registers the node, polls for the set of containers
//! it should run, and reports its state.
//!
//! The reconciler never waits for CHaS: this room changes the desired state through [`LinkNode`]
//! and reports observed state. Whatever CHaS answers, or fails to answer, running containers are
//! unaffected.
//!
//! - [`wire`] holds the bodies of requests and answers, and checks what CHaS sends.
//! - [`client`] makes one call; its errors are cut by what the link does next.
//! - [`signature`] tells whether a set is signed, where the operator asks for that.
//! - [`ChasLink`] decides when calls are made: it registers, then reports and polls side by side
//!   until CHaS no longer knows the node, or knows another one by its id. After CHaS was
//!   unreachable, a report comes first and then a poll.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use state::desired::marks;
use state::ownership::{ChasSet, SetOutcome};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::journal::Journal;
use client::{ChasClient, ChasError, ChasErrorKind, PollReply};

pub mod client;
pub mod credentials;
mod link_state;
mod poll;
mod poll_wait;
mod report;
pub mod signature;
pub mod wire;

#[cfg(test)]
mod tests;

pub use link_state::{LinkState, LinkStatus};

/// Nodes that boot together spread their first call over this much time for each node of the
/// cluster, up to the maximum.
const SPREAD_PER_NODE: Duration = Duration::from_millis(10);
const SPREAD_MAX: Duration = Duration::from_secs(30);
/// Backoff while CHaS is unreachable or fails: the first wait and the longest.
const UNREACHABLE_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Backoff while CHaS refuses the node, which takes a person to change: the first wait and the
/// longest.
const REFUSED_BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// A call that the server does not offer is tried again after half of this, up to one and a half
/// times as long.
const NOT_OFFERED_RETRY: Duration = Duration::from_secs(600);
/// Longest time between two answers where CHaS takes no reports, and keeps polls open.
const POLLED_EVERY: Duration = Duration::from_secs(60);
/// Interval at which the files of the token and the certificates are compared with what was sent,
/// during a backoff.
const CREDENTIALS_CHECK: Duration = Duration::from_secs(2);

/// The set the node applied last; its tag is sent as `If-None-Match` with the next poll.
#[derive(Clone, Debug, Default)]
pub struct LastApplied {
    /// Entity tag of the set. `None`: CHaS gave none, or no set was applied yet.
    pub etag: Option<String>,
    /// Generation of the set.
    pub generation: Option<u64>,
    /// Epoch of the set.
    pub epoch: Option<String>,
    /// Whether everything in the set could be applied.
    pub fully_applied: bool,
    /// Fingerprints of the keys that signed the set.
    pub signed_by: BTreeSet<String>,
    /// Change counter of the store.
    pub seq: u64,
}

/// The node as its link to CHaS needs it: facts to send, and the desired state to change.
pub trait LinkNode: Send + Sync + 'static {
    /// The node's facts for its registration.
    fn registration(&self) -> wire::Registration;

    /// The node's state for a report.
    fn report(&self) -> wire::Report;

    /// A counter that grows whenever the report may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The set that was applied last.
    fn last_applied(&self) -> LastApplied;

    /// Applies a set. When it answers, the set is on disk and the reconciler is woken; an error
    /// says why it cannot be stored.
    fn apply_set(&self, set: ChasSet) -> impl Future<Output = Result<SetOutcome, String>> + Send;

    /// Notes that CHaS has acknowledged a report of every change up to `up_to_seq`.
    fn report_acknowledged(&self, up_to_seq: u64) -> impl Future<Output = ()> + Send;

    /// Notes a call that has ended: with an answer of CHaS, which is asked at this interval at least; or
    /// (`None`) without one that this node can use.
    fn called(&self, answered: Option<Duration>) {
        let _nobody = answered;
    }
    /// The stored identity of this node towards CHaS.
    fn identity(&self) -> marks::NodeIdentity;

    /// Stores that CHaS registered the node in this boot, and the number of nodes in its cluster
    /// where CHaS gave it.
    fn registered(&self, cluster_size: Option<u64>) -> impl Future<Output = ()> + Send;
}

/// The calls that a link makes; [`ChasClient`] makes them over HTTP.
pub trait ChasCalls: Send + Sync + 'static {
    /// Registers the node.
    fn register(
        &self,
        registration: &wire::Registration,
    ) -> impl Future<Output = Result<wire::RegisterReply, ChasError>> + Send;

    /// Reports the node's state: all of it, or only its vitals where `is_full` is false.
    fn report(
        &self,
        report: &wire::Report,
        is_full: bool,
    ) -> impl Future<Output = Result<wire::ReportReply, ChasError>> + Send;

    /// Polls for a set other than the one tagged `etag`. CHaS may keep the poll open for `wait`, in
    /// whole seconds, while there is none. `requested_at_seq` is the store's change counter, kept
    /// with the set.
    fn poll(
        &self,
        etag: Option<&str>,
        requested_at_seq: u64,
        wait: Duration,
    ) -> impl Future<Output = Result<PollReply, ChasError>> + Send;

    /// Whether a set counts that these keys signed, by their fingerprints. None need have where the
    /// operator names no keys.
    fn believes(&self, signed_by: &BTreeSet<String>) -> impl Future<Output = bool> + Send {
        let _any = signed_by;
        std::future::ready(true)
    }

    /// Whether the operator's token or certificates differ from those of
    /// [`ChasError::credentials_fingerprint`].
    fn has_other_credentials(&self, than: u64) -> impl Future<Output = bool> + Send;
}

/// Settings of a link that do not change while it runs.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// Id of the current boot.
    pub boot_id: String,
    /// Interval between two reports while nothing changes, unless CHaS asks for another.
    pub health_interval: Duration,
}

/// The node's link to CHaS.
#[derive(Debug)]
pub struct ChasLink<N, C = ChasClient> {
    node: Arc<N>,
    client: C,
    settings: LinkSettings,
    state: Arc<LinkState>,
    journal: Journal,
}

/// A wait chosen at random between nothing and `ceiling`.
fn jitter(ceiling: Duration) -> Duration {
    backoff::delay(ceiling, ceiling, 0)
}

/// The wait before a call that the server does not offer is tried again.
fn not_offered_wait(error: &ChasError) -> Duration {
    error
        .retry_after
        .unwrap_or_default()
        .max(NOT_OFFERED_RETRY / 2)
        + jitter(NOT_OFFERED_RETRY)
}

impl<N: LinkNode, C: ChasCalls> ChasLink<N, C> {
    /// A link that has made no call yet.
    #[must_use]
    pub const fn new(
        node: Arc<N>,
        client: C,
        settings: LinkSettings,
        state: Arc<LinkState>,
        journal: Journal,
    ) -> Self {
        Self {
            node,
            client,
            settings,
            state,
            journal,
        }
    }

    /// Keeps the link until `stop`, which also cuts off a call under way.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        self.spread_after_boot().await;
        let mut attempts = 0;
        loop {
            let retry_at = self.register().await;
            let (started, reports) = (Instant::now(), self.state.reports.borrow().answered);
            // Each ends only when the node has to register again.
            tokio::select! {
                () = self.report_for_ever() => {}
                () = self.poll_for_ever(reports) => {}
                () = tokio::time::sleep(retry_at.unwrap_or_default()), if retry_at.is_some() => {}
            }
            // A server that accepts registrations and loses them is not called in a tight loop.
            let (first, most) = REFUSED_BACKOFF;
            attempts = if started.elapsed() < most {
                attempts + 1
            } else {
                0
            };
            if attempts > 1 {
                tokio::time::sleep(backoff::delay(first, most, attempts)).await;
            }
        }
    }

    /// Waits at random in a new boot: after a power cut, all nodes boot together and would call
    /// CHaS at one moment.
    async fn spread_after_boot(&self) {
        if self.node.identity().boot_id != self.settings.boot_id {
            tokio::time::sleep(jitter(self.spread(SPREAD_PER_NODE, SPREAD_MAX))).await;
        }
    }

    /// The time over which the nodes of the cluster spread a call that they all make for the same
    /// cause.
    fn spread(&self, per_node: Duration, most: Duration) -> Duration {
        let nodes = u32::try_from(self.node.identity().cluster_size).unwrap_or(u32::MAX);
        per_node.saturating_mul(nodes).min(most)
    }

    /// Registers the node, however long it takes. `Some`: the server offers no registration; try
    /// again after this wait.
    async fn register(&self) -> Option<Duration> {
        let mut attempts = 0;
        loop {
            match self.client.register(&self.node.registration()).await {
                Ok(reply) => {
                    self.state.record_registration(&reply, &self.journal);
                    self.answered();
                    self.node.registered(reply.cluster_size).await;
                    return None;
                }
                // A server without registration may still offer polls and reports.
                Err(error) if error.kind == ChasErrorKind::NotOffered => {
                    self.failed("register", &error);
                    return Some(not_offered_wait(&error));
                }
                Err(error) => {
                    self.failed("register", &error);
                    self.back_off(&error, &mut attempts).await;
                }
            }
        }
    }

    /// Notes that CHaS has answered.
    fn answered(&self) {
        let interval = self.state.health_after();
        let interval = interval.unwrap_or(self.settings.health_interval);
        self.node.called(Some(match self.state.takes_reports() {
            true => interval,
            false => interval.max(POLLED_EVERY),
        }));
    }

    /// Notes that a call failed.
    fn failed(&self, call: &'static str, error: &ChasError) {
        self.state.record_error(call, error, &self.journal);
        self.node.called(None);
    }

    /// Waits before the next attempt; shorter where new credentials in files may help.
    async fn back_off(&self, error: &ChasError, attempts: &mut u32) {
        let wait = self.backoff(error, *attempts);
        *attempts = attempts.saturating_add(1);
        let retry_at = Instant::now() + wait;
        let follows_files = matches!(
            error.kind,
            ChasErrorKind::Unauthorized | ChasErrorKind::NodeUnknown | ChasErrorKind::TlsRejected
        );
        while follows_files && Instant::now() + CREDENTIALS_CHECK < retry_at {
            tokio::time::sleep(CREDENTIALS_CHECK).await;
            if self
                .client
                .has_other_credentials(error.credentials_fingerprint)
                .await
            {
                return;
            }
        }
        tokio::time::sleep_until(retry_at).await;
    }

    fn backoff(&self, error: &ChasError, attempts: u32) -> Duration {
        let (first, most) = match error.kind {
            // A loss of contact may have hit all nodes at the same moment.
            ChasErrorKind::Unreachable => {
                let spread = self.spread(SPREAD_PER_NODE, SPREAD_MAX);
                (UNREACHABLE_BACKOFF.0.max(spread), UNREACHABLE_BACKOFF.1)
            }
            ChasErrorKind::TlsRejected
            | ChasErrorKind::InvalidResponse
            | ChasErrorKind::BadSignature
            | ChasErrorKind::SetKeysUnusable
            | ChasErrorKind::NotOffered => UNREACHABLE_BACKOFF,
            ChasErrorKind::Unauthorized
            | ChasErrorKind::IdentityConflict
            | ChasErrorKind::Refused
            | ChasErrorKind::NodeUnknown => REFUSED_BACKOFF,
        };
        match error.retry_after {
            // Jitter keeps nodes that were told the same time from coming back together.
            Some(least) => {
                least + jitter(least.clamp(UNREACHABLE_BACKOFF.0, UNREACHABLE_BACKOFF.1))
            }
            None => backoff::delay(first, most, attempts),
        }
    }
}
