//! When CHaS is asked what should run, and what becomes of its answer.

use std::time::Duration;

use state::ownership::PullOutcome;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{FaultKind, Polled};
use super::wire::Listing;
use super::{Asking, Calls, Link, Node, jitter};

/// Between polls where CHaS neither holds them nor says how often to come.
const AFTER: Duration = Duration::from_secs(15);
/// Two polls are at least so far apart, whatever the server does.
const SPACING: Duration = Duration::from_secs(1);
/// A poll that is held may be about to be answered when it is heard elsewhere that there is something new.
const PATIENCE: Duration = Duration::from_secs(1);
/// What could not be had is asked for again, though it is the same: after this, doubling up to that.
const AGAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// How long CHaS is asked to hold a poll: less than the minute after which proxies give up on what is silent, and a little
/// more or less, so that polls that met once part again.
const HOLD: Duration = Duration::from_secs(55);
const HOLD_SPREAD: Duration = Duration::from_secs(5);
/// After a set that many nodes got at once, the first poll ends at any time from this on.
const HOLD_LEAST: Duration = Duration::from_secs(5);
/// After a set, the next poll is not to meet those of all others that got theirs.
const NEWS_SPREAD: Duration = Duration::from_millis(500);

/// What a poll asks for next.
enum Next {
    /// Another one, soon: whether CHaS holds polls shows when it is asked with the new tag.
    News,
    /// Another one; CHaS holds it as long as nothing is new.
    Held,
    /// Another one after a pause.
    Paced,
}

/// When the same set is taken again, of which not all could be had.
#[derive(Default)]
struct Again {
    attempts: u32,
    at: Option<Instant>,
}

impl Again {
    /// The tag to ask with. Without one, the set is sent again.
    fn tag(&mut self, asking: Asking) -> Option<String> {
        if asking.whole {
            *self = Self::default();
            return asking.etag;
        }
        let at = *self.at.get_or_insert_with(Instant::now);
        if Instant::now() < at {
            return asking.etag;
        }
        let (first, most) = AGAIN;
        self.at = Some(Instant::now() + first.saturating_mul(1 << self.attempts.min(5)).min(most));
        self.attempts += 1;
        None
    }
}

impl<N: Node, C: Calls> Link<N, C> {
    /// Polls until CHaS does not know the node any more; first when more than so many reports were answered.
    pub(super) async fn poll_for_ever(&self, reports: u64) {
        let (mut again, mut attempts, mut hold_spread) = (Again::default(), 0, HOLD_SPREAD);
        let mut answered = self.contact.reports.subscribe();
        drop(answered.wait_for(|count| *count > reports).await);
        let mut asked = self.contact.asked.subscribe();
        loop {
            asked.mark_unchanged();
            let asking = self.node.asking();
            let (began, seq) = (Instant::now(), asking.seq);
            let tag = again.tag(asking);
            let polled = tokio::select! {
                polled = self.client.poll(tag.as_deref(), seq, HOLD - jitter(hold_spread)) => polled,
                () = heard(&mut asked) => {
                    tokio::time::sleep_until(began + SPACING).await;
                    continue;
                }
            };
            let next = match polled {
                Ok(Polled::Unchanged { held }) => {
                    self.contact.answered();
                    self.contact.fresh();
                    self.metrics.polled("unchanged");
                    if held { Next::Held } else { Next::Paced }
                }
                Ok(Polled::Listing { listing }) => {
                    self.contact.answered();
                    if self.take(*listing).await { Next::News } else { Next::Paced }
                }
                Err(fault) => {
                    self.metrics.polled(if fault.kind == FaultKind::Bad { "bad_desired_state" } else { fault.kind.word() });
                    if fault.kind == FaultKind::Bad {
                        self.bad_set("bad_desired_state", &fault.message);
                    }
                    self.contact.failed("poll", &fault);
                    if fault.kind == FaultKind::Unknown {
                        return;
                    }
                    tokio::select! {
                        () = self.pause(&fault, &mut attempts) => {}
                        // A server that has nothing to poll may have by now.
                        Ok(()) = asked.changed(), if fault.kind == FaultKind::NotOffered => {}
                    }
                    if fault.kind.is_silence() {
                        self.after_a_report().await;
                    }
                    continue;
                }
            };
            attempts = 0;
            hold_spread = if matches!(next, Next::News) { HOLD - HOLD_LEAST } else { HOLD_SPREAD };
            self.until_next(&next, began, &mut asked).await;
        }
    }

    /// CHaS hears first how the node is, and is asked then.
    async fn after_a_report(&self) {
        let mut reports = self.contact.reports.subscribe();
        reports.mark_unchanged();
        self.contact.report_now();
        let _never_ends = reports.changed().await;
    }

    async fn until_next(&self, next: &Next, began: Instant, asked: &mut watch::Receiver<()>) {
        let floor = began + SPACING;
        let wait = match next {
            Next::Held => Duration::ZERO,
            Next::News => began.elapsed() + jitter(NEWS_SPREAD),
            Next::Paced => {
                let after = self.contact.poll_after().unwrap_or(AFTER);
                after / 2 + jitter(after)
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(began + wait) => {}
            Ok(()) = asked.changed() => {}
        }
        tokio::time::sleep_until(floor).await;
    }

    /// Takes in what CHaS lists. `true`: it is news, or what is stored.
    async fn take(&self, listing: Listing) -> bool {
        self.contact.set_poll_after(listing.poll_after);
        let Listing { set, .. } = listing;
        let (version, known) = (set.version(), self.node.asking().generation);
        match self.node.pull(set).await {
            Ok(PullOutcome { stale: true, .. }) => {
                if known > Some(version.generation) {
                    self.metrics.polled("stale_generation");
                    tracing::warn!(
                        generation = version.generation,
                        ?known,
                        "CHaS answered with an older generation; it is ignored"
                    );
                } else {
                    self.metrics.polled("unchanged");
                    self.contact.fresh();
                }
                false
            }
            Ok(outcome) => {
                self.metrics.polled("taken");
                self.contact.fresh();
                say(&outcome, version.generation);
                true
            }
            Err(why) => {
                self.metrics.polled("not_stored");
                self.bad_set("not_stored", &why);
                tokio::time::sleep(jitter(AFTER)).await;
                false
            }
        }
    }

    fn bad_set(&self, code: &'static str, message: &str) {
        if self.contact.bad_set(code, message) {
            tracing::warn!(code, error = message, "what CHaS answered is not applied; what was pulled before stays in force");
            self.contact.report_now();
        }
    }
}

/// It is heard elsewhere that there is something new, and a poll that is held does not say so.
async fn heard(asked: &mut watch::Receiver<()>) {
    let _never_ends = asked.changed().await;
    tokio::time::sleep(PATIENCE).await;
}

fn say(outcome: &PullOutcome, generation: u64) {
    let PullOutcome { changed, conflicts, rejected, held, .. } = outcome;
    tracing::info!(
        generation,
        changed = changed.len(),
        conflicts = conflicts.len(),
        rejected = rejected.len(),
        "what CHaS lists was taken"
    );
    if let Some(held) = held {
        let names: Vec<_> = held.names().map(|name| name.as_str()).collect();
        tracing::warn!(
            generation,
            count = names.len(),
            names = names.join(" "),
            "what CHaS lists would end too much at once and is held; if it is meant so: chas-node-agent confirm"
        );
    }
}
