//! When CHaS is asked what should run, and what becomes of its answer.

use std::time::Duration;

use state::ownership::PullOutcome;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Fault, FaultKind, Polled};
use super::poll_wait::Hold;
use super::wire::Listing;
use super::{Asking, Calls, Link, Node, jitter, not_offered};

/// Between polls where CHaS neither holds them nor says how often to come.
const AFTER: Duration = Duration::from_secs(15);
/// Two polls are at least so far apart, whatever the server does.
const SPACING: Duration = Duration::from_secs(1);
/// A poll that is held may be about to be answered when it is heard elsewhere that there is something new.
const PATIENCE: Duration = Duration::from_secs(1);
/// What could not be had is asked for again, though it is the same: after this, doubling up to that.
const AGAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));
/// After a set, the next poll is not to meet those of all others that got theirs: for each node of the cluster, and at most.
const NEWS_SPREAD: (Duration, Duration) = (Duration::from_micros(300), Duration::from_secs(3));
/// So long, about, CHaS is not asked because it does not hear how the node is: that call alone may be what does not work.
const REPORT_PATIENCE: Duration = Duration::from_secs(300);
/// Within that, a report was tried, unless CHaS asked to be left alone with reports.
const REPORT_TRIED: Duration = Duration::from_secs(90);

/// What a poll asks for next.
enum Next {
    /// Another one, soon: whether CHaS holds polls shows when it is asked to, with the new tag.
    News,
    /// Another one; CHaS holds it as long as nothing is new.
    Held,
    /// Another one after a pause.
    Paced,
}

/// When the same set is taken again, of which not all could be had.
#[derive(Default)]
struct Again {
    /// Epoch and generation.
    of: (Option<String>, Option<u64>),
    attempts: u32,
    at: Option<Instant>,
}

impl Again {
    /// The tag to ask with, and when it is to be asked next at the latest. Without a tag, the set is sent again.
    fn tag(&mut self, asking: &Asking) -> (Option<String>, Option<Instant>) {
        let of = (asking.epoch.clone(), asking.generation);
        if asking.whole || self.of != of {
            *self = Self {
                of,
                ..Self::default()
            };
        }
        if asking.whole {
            return (asking.etag.clone(), None);
        }
        let at = *self.at.get_or_insert_with(Instant::now);
        if Instant::now() < at {
            return (asking.etag.clone(), Some(at));
        }
        let (first, most) = AGAIN;
        let next = Instant::now() + first.saturating_mul(1 << self.attempts.min(5)).min(most);
        (self.at, self.attempts) = (Some(next), self.attempts + 1);
        (None, Some(next))
    }
}

impl<N: Node, C: Calls> Link<N, C> {
    /// Polls until the node is to register again; first when more than so many reports were answered.
    pub(super) async fn poll_for_ever(&self, reports: u64) {
        let (mut again, mut attempts, mut hold) = (Again::default(), 0, Hold::default());
        // What is stored may be what CHaS lists: it says so at once, if it is not asked to hold that back.
        let (mut is_news, mut is_hurried) = (false, true);
        self.after_a_report(reports).await;
        let mut asked = self.contact.asked.subscribe();
        loop {
            asked.mark_unchanged();
            let asking = self.node.asking();
            let (tag, latest) = again.tag(&asking);
            let began = Instant::now();
            let until_latest = latest.map_or(Duration::MAX, |latest| latest - began);
            let held_for = if is_hurried {
                Duration::ZERO
            } else {
                hold.next(is_news).min(until_latest)
            };
            let polled = tokio::select! {
                polled = self.client.poll(tag.as_deref(), asking.seq, held_for) => polled,
                // Cut off once, it is not cut off again: an answer that takes its time is still one.
                () = heard(&mut asked), if !is_hurried => {
                    is_hurried = true;
                    tokio::time::sleep_until(began + SPACING).await;
                    continue;
                }
            };
            is_hurried = false;
            let next = match polled {
                Ok(polled) => {
                    hold.answered();
                    self.contact.answered();
                    self.answered(polled, &asking, is_news, held_for.is_zero())
                        .await
                }
                Err(fault) => {
                    if fault.kind == FaultKind::Away && (fault.is_cut || fault.is_answer) {
                        hold.cut(began.elapsed());
                    }
                    if self.failed(&fault, &mut attempts, &mut asked).await {
                        continue;
                    }
                    return;
                }
            };
            attempts = 0;
            is_news = matches!(next, Next::News);
            self.until_next(&next, began, &mut asked).await;
        }
    }

    /// What follows from an answer. `was_news`: so was the one before; `at_once`: it was not to be held.
    async fn answered(
        &self,
        polled: Polled,
        asking: &Asking,
        was_news: bool,
        at_once: bool,
    ) -> Next {
        match polled {
            Polled::Unchanged { held } => {
                self.contact.fresh();
                self.metrics.polled("unchanged");
                match held {
                    true => Next::Held,
                    false if at_once => Next::News,
                    false => Next::Paced,
                }
            }
            Polled::Listing { listing } => {
                // Whether CHaS holds polls shows only when it is asked with the tag that it gave. Where that is another one each
                // time, it never shows.
                let is_other = (Some(listing.set.generation), Some(&listing.set.epoch))
                    != (asking.generation, asking.epoch.as_ref());
                let is_tagged = listing.set.etag.is_some() && listing.set.etag != asking.etag;
                let is_news = is_tagged && (is_other || !was_news);
                if self.take(*listing, asking.generation).await && is_news {
                    Next::News
                } else {
                    Next::Paced
                }
            }
        }
    }

    /// Waits before another try. `false`: the node is to register again.
    async fn failed(
        &self,
        fault: &Fault,
        attempts: &mut u32,
        asked: &mut watch::Receiver<()>,
    ) -> bool {
        self.metrics.polled(if fault.kind == FaultKind::Bad {
            "bad_desired_state"
        } else {
            fault.kind.word()
        });
        if fault.kind == FaultKind::Bad {
            self.bad_set("bad_desired_state", &fault.message);
        }
        self.contact.failed("poll", fault);
        if matches!(fault.kind, FaultKind::Unknown | FaultKind::Conflict) {
            return false;
        }
        if fault.kind == FaultKind::NotOffered {
            tokio::select! {
                () = tokio::time::sleep(not_offered(fault)) => {}
                // A server that had nothing to poll may have by now.
                Ok(()) = asked.changed() => {}
            }
            return true;
        }
        self.pause(fault, attempts).await;
        if fault.kind.is_silence() {
            let answered = self.contact.reports.borrow().answered;
            self.contact.report_now();
            self.after_a_report(answered).await;
        }
        true
    }

    /// CHaS hears first how the node is, and is asked then: when more than so many reports were answered. If it answers none,
    /// it may still be asked, right after one that it did not answer.
    async fn after_a_report(&self, answered: u64) {
        let mut reports = self.contact.reports.subscribe();
        let heard = reports.wait_for(|reports| reports.answered > answered);
        if tokio::time::timeout(REPORT_PATIENCE, heard).await.is_err() {
            let tried = reports.borrow().tried;
            drop(
                tokio::time::timeout(
                    REPORT_TRIED,
                    reports.wait_for(|reports| reports.tried > tried),
                )
                .await,
            );
        }
    }

    async fn until_next(&self, next: &Next, began: Instant, asked: &mut watch::Receiver<()>) {
        let floor = began + SPACING;
        let wait = match next {
            Next::Held => Duration::ZERO,
            Next::News => began.elapsed() + jitter(self.spread_over(NEWS_SPREAD.0, NEWS_SPREAD.1)),
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

    /// Takes in what CHaS lists. `known` is the generation that was stored when it was asked. `false`: it could not.
    async fn take(&self, listing: Listing, known: Option<u64>) -> bool {
        self.contact.set_poll_after(listing.poll_after);
        let Listing { set, .. } = listing;
        let version = set.version();
        match self.node.pull(set).await {
            Ok(PullOutcome { stale: true, .. }) if known > Some(version.generation) => {
                self.metrics.polled("stale_generation");
                let known = known.unwrap_or_default();
                self.bad_set(
                    "stale_generation",
                    &format!(
                        "it lists generation {}, and {known} before",
                        version.generation
                    ),
                );
                false
            }
            Ok(PullOutcome { stale: true, .. }) => {
                self.metrics.polled("unchanged");
                self.contact.fresh();
                true
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
            tracing::warn!(
                code,
                error = message,
                "what CHaS answered is not applied; what was pulled before stays in force"
            );
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
    let PullOutcome {
        changed,
        conflicts,
        rejected,
        held,
        ..
    } = outcome;
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
