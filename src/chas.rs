//! The agent's other half: it belongs to a fleet. It registers the node with the CHaS API, pulls what should run there, and
//! reports how it is.
//!
//! CHaS is on no way of the reconciler: this room changes what is desired through [`Node`], and shows what is known. Whatever
//! CHaS answers or does not answer, what runs goes on.
//!
//! - [`wire`] is what goes over the line, and what of it is believed.
//! - [`client`] does one call; its faults are cut by what is to be done next.
//! - [`Link`] is when calls are made: it registers, then reports and polls side by side until CHaS does not know the node any
//!   more, or another one by its name. After a loss of contact, a report comes first and then a poll.

use std::sync::Arc;
use std::time::Duration;

use state::desired::marks;
use state::ownership::{PullOutcome, PulledSet};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::metrics::Metrics;
use client::{Client, Fault, FaultKind, Polled};

pub mod client;
pub mod credentials;
mod link_state;
mod poll;
mod poll_wait;
mod report;
pub mod wire;

#[cfg(test)]
mod tests;

pub use link_state::{Contact, Standing};

/// How far apart nodes that boot together make contact, for each node of the cluster; and at most.
const SPREAD_PER_NODE: Duration = Duration::from_millis(10);
const SPREAD_MAX: Duration = Duration::from_secs(30);
/// Between tries where CHaS does not answer, or fails: doubling up to the second.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Where it answered that it does not want us so: a person has to do something.
const REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// What the server does not offer is asked for again, after half of it at least.
const NOT_OFFERED: Duration = Duration::from_secs(600);
/// How often it is looked whether the token or the certificates in files are others by now.
const FILES_LOOK: Duration = Duration::from_secs(2);

/// What is asked with.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// The tag of the set that was taken last.
    pub etag: Option<String>,
    /// Its generation.
    pub generation: Option<u64>,
    /// Its epoch.
    pub epoch: Option<String>,
    /// Everything of it could be had.
    pub whole: bool,
    /// The store's counter.
    pub seq: u64,
}

/// What the link needs of the agent.
pub trait Node: Send + Sync + 'static {
    /// What the node is.
    fn registration(&self) -> wire::Registration;

    /// How it is.
    fn report(&self) -> wire::Report;

    /// A number that grows whenever a report may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// What was pulled last.
    fn asking(&self) -> Asking;

    /// Takes in a set: durable, and acted on, when it answers. Otherwise, why it cannot be stored.
    fn pull(&self, set: PulledSet) -> impl Future<Output = Result<PullOutcome, String>> + Send;

    /// CHaS knows of everything up to this change.
    fn acknowledged(&self, up_to_seq: u64) -> impl Future<Output = ()> + Send;

    /// What this node is to CHaS.
    fn link(&self) -> marks::Link;

    /// Keeps that CHaS answered in this boot, and how many nodes it has.
    fn met(&self, cluster_size: Option<u64>) -> impl Future<Output = ()> + Send;
}

/// The calls that a link makes. [`Client`] makes them over HTTP.
pub trait Calls: Send + Sync + 'static {
    /// Registers the node.
    fn register(
        &self,
        registration: &wire::Registration,
    ) -> impl Future<Output = Result<wire::Welcome, Fault>> + Send;

    /// Reports how the node is; all of it, or (unless `whole`) that nothing but its vitals changed.
    fn report(
        &self,
        report: &wire::Report,
        whole: bool,
    ) -> impl Future<Output = Result<wire::Acknowledgement, Fault>> + Send;

    /// Asks what should run, and whether it is still what `etag` stands for; CHaS may hold the answer so long, in whole
    /// seconds, while it is.
    fn poll(
        &self,
        etag: Option<&str>,
        sent_after: u64,
        hold: Duration,
    ) -> impl Future<Output = Result<Polled, Fault>> + Send;

    /// Whether the operator gives another token or other certificates than those ([`Fault::shown`]).
    fn has_other_credentials(&self, than: u64) -> impl Future<Output = bool> + Send;
}

/// What can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The boot.
    pub boot_id: String,
    /// Between two reports where nothing changes, unless CHaS wishes otherwise.
    pub health_interval: Duration,
}

/// The node's link to CHaS.
#[derive(Debug)]
pub struct Link<N, C = Client> {
    node: Arc<N>,
    client: C,
    settings: Settings,
    contact: Arc<Contact>,
    metrics: Metrics,
}

/// A wait chosen at random between nothing and `ceiling`.
fn jitter(ceiling: Duration) -> Duration {
    backoff::delay(ceiling, ceiling, 0)
}

/// When what the server does not offer is asked for again.
fn not_offered(fault: &Fault) -> Duration {
    fault.retry_after.unwrap_or_default().max(NOT_OFFERED / 2) + jitter(NOT_OFFERED)
}

impl<N: Node, C: Calls> Link<N, C> {
    /// A link that has not begun.
    #[must_use]
    pub const fn new(
        node: Arc<N>,
        client: C,
        settings: Settings,
        contact: Arc<Contact>,
        metrics: Metrics,
    ) -> Self {
        Self {
            node,
            client,
            settings,
            contact,
            metrics,
        }
    }

    /// Keeps the link until `stop`. A call under way is cut off then.
    pub async fn run(self, stop: CancellationToken) {
        let kept = async {
            self.spread().await;
            let mut attempts = 0;
            loop {
                let again = self.register().await;
                let (began, reports) = (Instant::now(), self.contact.reports.borrow().answered);
                // Each ends only when the node is to register again.
                tokio::select! {
                    () = self.report_for_ever() => {}
                    () = self.poll_for_ever(reports) => {}
                    () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
                }
                // One that takes a registration and forgets it is not to be asked for ever without a pause.
                attempts = if began.elapsed() < REFUSED.1 {
                    attempts + 1
                } else {
                    0
                };
                if attempts > 1 {
                    tokio::time::sleep(backoff::delay(REFUSED.0, REFUSED.1, attempts)).await;
                }
            }
        };
        stop.run_until_cancelled(kept).await;
    }

    /// After a power cut all nodes boot together: they are not to meet at CHaS's door.
    async fn spread(&self) {
        let link = self.node.link();
        if link.boot_id != self.settings.boot_id {
            tokio::time::sleep(jitter(self.spread_over(SPREAD_PER_NODE, SPREAD_MAX))).await;
        }
    }

    /// What all nodes of the cluster do because of the same thing, each does at a time of its own within this one.
    fn spread_over(&self, per_node: Duration, most: Duration) -> Duration {
        let size = u32::try_from(self.node.link().cluster_size).unwrap_or(u32::MAX);
        per_node.saturating_mul(size).min(most)
    }

    /// Registers the node, however long it takes. `Some`: the server has no registration, and is to be asked again then.
    async fn register(&self) -> Option<Duration> {
        let mut attempts = 0;
        loop {
            match self.client.register(&self.node.registration()).await {
                Ok(welcome) => {
                    self.contact.registered(&welcome);
                    self.node.met(welcome.cluster_size).await;
                    return None;
                }
                // A server without registration may still have something for us.
                Err(fault) if fault.kind == FaultKind::NotOffered => {
                    self.contact.failed("register", &fault);
                    return Some(not_offered(&fault));
                }
                Err(fault) => {
                    self.contact.failed("register", &fault);
                    self.pause(&fault, &mut attempts).await;
                }
            }
        }
    }

    /// Waits before another try.
    async fn pause(&self, fault: &Fault, attempts: &mut u32) {
        let (first, most) = match fault.kind {
            // What one node lost, all may have lost at the same moment.
            FaultKind::Away => (
                AWAY.0.max(self.spread_over(SPREAD_PER_NODE, SPREAD_MAX)),
                AWAY.1,
            ),
            FaultKind::Untrusted | FaultKind::Bad | FaultKind::NotOffered => AWAY,
            FaultKind::Unauthorized
            | FaultKind::Conflict
            | FaultKind::Refused
            | FaultKind::Unknown => REFUSED,
        };
        let wait = match fault.retry_after {
            // Whoever was told the same is not to come at the same moment.
            Some(least) => least + jitter(least.clamp(AWAY.0, AWAY.1)),
            None => backoff::delay(first, most, *attempts),
        };
        *attempts = attempts.saturating_add(1);
        let until = Instant::now() + wait;
        let follows_files = matches!(
            fault.kind,
            FaultKind::Unauthorized | FaultKind::Unknown | FaultKind::Untrusted
        );
        while follows_files && Instant::now() + FILES_LOOK < until {
            tokio::time::sleep(FILES_LOOK).await;
            if self.client.has_other_credentials(fault.shown).await {
                return;
            }
        }
        tokio::time::sleep_until(until).await;
    }
}
