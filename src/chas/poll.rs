//! Polls CHaS for the set that the node should run, and applies it.

use std::time::Duration;

use state::event::{Event, EventKind};
use state::ownership::{ChasSet, SetOutcome};
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{ChasError, ChasErrorKind, PollReply};
use super::poll_wait::PollWait;
use super::wire::SetReply;
use super::{ChasCalls, ChasLink, LastApplied, LinkNode, jitter, not_offered_wait};

/// Interval between polls where CHaS neither keeps them open nor names an interval.
const INTERVAL: Duration = Duration::from_secs(15);
/// Shortest time between the starts of two polls, whatever the server does.
const SPACING: Duration = Duration::from_secs(1);
/// Time that a waited poll still has to be answered after another call announced news.
const NEWS_GRACE: Duration = Duration::from_secs(1);
/// Backoff before a set that was not fully applied is asked for again: the first wait and the
/// longest.
const REAPPLY_BACKOFF: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));
/// After a set, the next poll is spread over this much time for each node of the cluster, up to the
/// maximum.
const NEWS_SPREAD: (Duration, Duration) = (Duration::from_micros(300), Duration::from_secs(3));
/// Longest time that polls wait for a report to be answered: reports alone may be what does not
/// work.
const REPORT_PATIENCE: Duration = Duration::from_secs(300);
/// After that, longest time until a report ends, unless CHaS asked for a longer pause between
/// reports.
const REPORT_ATTEMPT: Duration = Duration::from_secs(90);

/// Time, and answers, after which a generation below the applied one is believed if there was no
/// other. A server that lags behind its own database answers an old set for seconds.
const LOWER_PATIENCE: Duration = Duration::from_mins(10);
const LOWER_ANSWERS: u32 = 3;

/// The timing of the next poll.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextPoll {
    /// Poll soon, after news: the poll with the new tag shows whether CHaS keeps polls open.
    AfterNews,
    /// Poll at once: CHaS keeps it open while nothing is new.
    Waited,
    /// Poll after an interval.
    Paced,
}

/// The schedule on which a set that was not fully applied is asked for again.
#[derive(Default)]
struct Reapply {
    epoch: Option<String>,
    generation: Option<u64>,
    attempts: u32,
    at: Option<Instant>,
}

impl Reapply {
    /// The tag for a poll, and the latest time of the next one. Without a tag, CHaS sends the set
    /// again.
    fn tag(&mut self, last: &LastApplied) -> (Option<String>, Option<Instant>) {
        let is_same = self.epoch == last.epoch && self.generation == last.generation;
        if last.fully_applied || !is_same {
            *self = Self {
                epoch: last.epoch.clone(),
                generation: last.generation,
                ..Self::default()
            };
        }
        if last.fully_applied {
            return (last.etag.clone(), None);
        }
        let now = Instant::now();
        let at = *self.at.get_or_insert(now);
        if now < at {
            return (last.etag.clone(), Some(at));
        }
        let (first, most) = REAPPLY_BACKOFF;
        let next = now + first.saturating_mul(1 << self.attempts.min(5)).min(most);
        (self.at, self.attempts) = (Some(next), self.attempts + 1);
        (None, Some(next))
    }
}

/// Answers below the applied generation, in a row.
#[derive(Default)]
struct LowerAnswers {
    since: Option<Instant>,
    count: u32,
}

impl LowerAnswers {
    /// Whether CHaS has settled on a generation below the applied one, as of this set.
    fn are_settled(&mut self, last: &LastApplied, set: &ChasSet) -> bool {
        let is_lower =
            Some(&set.epoch) == last.epoch.as_ref() && Some(set.generation) < last.generation;
        if !is_lower {
            *self = Self::default();
            return false;
        }
        self.count += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        self.count >= LOWER_ANSWERS && since.elapsed() >= LOWER_PATIENCE
    }
}

impl<N: LinkNode, C: ChasCalls> ChasLink<N, C> {
    /// Polls until the node has to register again. The first poll waits for more than `reports`
    /// answered reports.
    pub(super) async fn poll_for_ever(&self, reports: u64) {
        let (mut reapply, mut attempts, mut wait) = (Reapply::default(), 0, PollWait::default());
        // The stored set may be the one CHaS lists. It says so at once if the first poll has no
        // wait.
        let (mut next, mut is_immediate) = (NextPoll::Paced, true);
        let mut lower = LowerAnswers::default();
        self.await_report(reports).await;
        let mut wanted = self.state.poll_wanted.subscribe();
        loop {
            wanted.mark_unchanged();
            let last = self.node.last_applied();
            if self.state.take_again() {
                reapply = Reapply::default();
            }
            let (tag, latest) = reapply.tag(&last);
            // What was applied before signatures were asked for, or by a key that is gone, is
            // nobody's word.
            let is_believed = self.client.believes(&last.signed_by).await;
            let tag = tag.filter(|_| is_believed);
            let started = Instant::now();
            let poll_wait = if is_immediate {
                Duration::ZERO
            } else {
                let until_latest = latest.map_or(Duration::MAX, |latest| latest - started);
                wait.next(next == NextPoll::AfterNews).min(until_latest)
            };
            let polled = tokio::select! {
                polled = self.client.poll(tag.as_deref(), last.seq, poll_wait) => polled,
                // A poll is cut short once only: an answer that takes its time is still one.
                () = news_announced(&mut wanted), if !is_immediate => {
                    is_immediate = true;
                    tokio::time::sleep_until(started + SPACING).await;
                    continue;
                }
            };
            is_immediate = false;
            match polled {
                Ok(mut reply) => {
                    wait.record_answer();
                    match &mut reply {
                        PollReply::Set(reply) => {
                            let are_settled = lower.are_settled(&last, &reply.set);
                            // An old set that somebody kept is signed well too; and nobody without
                            // the key made the applied one.
                            reply.set.is_settled = are_settled && reply.set.signature.is_none();
                        }
                        PollReply::Unchanged { .. } => lower = LowerAnswers::default(),
                    }
                    self.state.record_success(&self.journal);
                    self.answered();
                    let was_news = next == NextPoll::AfterNews;
                    next = self
                        .digest_reply(reply, &last, was_news, poll_wait.is_zero())
                        .await;
                    attempts = 0;
                    self.until_next_poll(next, started, &mut wanted).await;
                }
                Err(error) => {
                    let is_cut = error.is_cut || error.is_answer;
                    if error.kind == ChasErrorKind::Unreachable && is_cut {
                        wait.record_cut(started.elapsed());
                    }
                    if !self.digest_error(&error, &mut attempts, &mut wanted).await {
                        return;
                    }
                }
            }
        }
    }

    /// Acts on an answer. `was_news`: the answer before was a new set; `had_no_wait`: CHaS was not
    /// asked to keep this poll open.
    async fn digest_reply(
        &self,
        reply: PollReply,
        last: &LastApplied,
        was_news: bool,
        had_no_wait: bool,
    ) -> NextPoll {
        match reply {
            PollReply::Unchanged { waited } => {
                self.state.record_fresh();
                self.poll_ended("unchanged");
                match waited {
                    true => NextPoll::Waited,
                    false if had_no_wait => NextPoll::AfterNews,
                    false => NextPoll::Paced,
                }
            }
            PollReply::Set(reply) => {
                // Only a poll with the tag of the current set shows whether CHaS keeps polls open;
                // with a server that changes the tag each time, it never does.
                let set = &reply.set;
                let is_other = Some(set.generation) != last.generation
                    || Some(&set.epoch) != last.epoch.as_ref();
                let is_tagged = set.etag.is_some() && set.etag != last.etag;
                let is_news = is_tagged && (is_other || !was_news);
                if self.apply(*reply, last.generation).await && is_news {
                    NextPoll::AfterNews
                } else {
                    NextPoll::Paced
                }
            }
        }
    }

    /// Records an error of a poll and waits before the next one. `false`: the node has to register
    /// again.
    async fn digest_error(
        &self,
        error: &ChasError,
        attempts: &mut u32,
        wanted: &mut watch::Receiver<()>,
    ) -> bool {
        if error.kind == ChasErrorKind::InvalidResponse {
            self.reject_set("bad_desired_state", &error.message);
        } else if error.kind == ChasErrorKind::BadSignature {
            self.reject_set("bad_signature", &error.message);
        } else if error.kind == ChasErrorKind::SetKeysUnusable {
            self.reject_set("set_keys_unusable", &error.message);
        } else {
            self.poll_ended(error.kind.as_str());
        }
        self.failed("poll", error);
        if matches!(
            error.kind,
            ChasErrorKind::NodeUnknown | ChasErrorKind::IdentityConflict
        ) {
            return false;
        }
        if error.kind == ChasErrorKind::NotOffered {
            tokio::select! {
                () = tokio::time::sleep(not_offered_wait(error)) => {}
                // News announced by another call: the server may offer polls by now.
                Ok(()) = wanted.changed() => {}
            }
            return true;
        }
        self.back_off(error, attempts).await;
        if error.kind.is_unreachable() {
            let answered = self.state.reports.borrow().answered;
            self.state.report_now();
            self.await_report(answered).await;
        }
        true
    }

    /// Waits until more than `answered` reports were answered, so that CHaS learns the node's state
    /// before it is polled. Where none is answered for long, the poll goes ahead right after a
    /// report that failed.
    async fn await_report(&self, answered: u64) {
        let mut reports = self.state.reports.subscribe();
        let next = reports.wait_for(|reports| reports.answered > answered);
        if tokio::time::timeout(REPORT_PATIENCE, next).await.is_err() {
            let finished = reports.borrow().finished;
            let next = reports.wait_for(|reports| reports.finished > finished);
            drop(tokio::time::timeout(REPORT_ATTEMPT, next).await);
        }
    }

    async fn until_next_poll(
        &self,
        next: NextPoll,
        started: Instant,
        wanted: &mut watch::Receiver<()>,
    ) {
        let wait = match next {
            NextPoll::Waited => Duration::ZERO,
            NextPoll::AfterNews => {
                let (per_node, most) = NEWS_SPREAD;
                started.elapsed() + jitter(self.spread(per_node, most))
            }
            NextPoll::Paced => {
                let interval = self.state.poll_after().unwrap_or(INTERVAL);
                interval / 2 + jitter(interval)
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(started + wait) => {}
            Ok(()) = wanted.changed() => {}
        }
        tokio::time::sleep_until(started + SPACING).await;
    }

    /// Applies a set. `known` is the generation that was applied when the poll was sent. `false`:
    /// the set is not in force.
    async fn apply(&self, reply: SetReply, known: Option<u64>) -> bool {
        self.state.set_poll_after(reply.poll_after);
        let (generation, is_signed) = (reply.set.generation, reply.set.signature.is_some());
        match self.node.apply_set(reply.set).await {
            Ok(SetOutcome {
                is_of_left_epoch: true,
                ..
            }) => {
                let message = "the set is signed, and of an epoch that this node has left for \
                               another; somebody may have kept it. If it is CHaS's own, run \
                               chas-node-agent confirm, or give its database another epoch";
                self.reject_set("left_epoch", message);
                false
            }
            Ok(SetOutcome { stale: true, .. }) if known > Some(generation) => {
                let known = known.unwrap_or_default();
                let rest = if is_signed {
                    "it is signed, so somebody may have kept it: a database that was restored \
                     needs another epoch"
                        .to_owned()
                } else {
                    let minutes = LOWER_PATIENCE.as_secs() / 60;
                    format!(
                        "if CHaS answers no other for {minutes} minutes, it is taken for another epoch's"
                    )
                };
                let message = format!(
                    "set has generation {generation}, older than the applied generation {known}; {rest}"
                );
                self.reject_set("stale_generation", &message);
                false
            }
            Ok(outcome) => {
                self.poll_ended(if outcome.stale { "unchanged" } else { "taken" });
                self.state.record_fresh();
                if !outcome.stale {
                    self.set_applied(&outcome, generation);
                }
                true
            }
            Err(message) => {
                self.reject_set("not_stored", &message);
                tokio::time::sleep(jitter(INTERVAL)).await;
                false
            }
        }
    }

    /// Records that an answer is not applied; the set that was applied before stays in force.
    fn reject_set(&self, code: &'static str, message: &str) {
        self.poll_ended(code);
        if self.state.record_set_error(code, message) {
            let rejected = Event::from(EventKind::SetRejected { code });
            self.journal.record(rejected.saying(message));
            self.state.report_now();
        }
    }

    fn poll_ended(&self, result: &'static str) {
        self.journal.record(EventKind::PollEnded { result });
    }

    /// Records that a set was applied, and the part of it that waits for a confirmation.
    fn set_applied(&self, outcome: &SetOutcome, generation: u64) {
        self.journal.record(EventKind::SetApplied {
            generation,
            changed: outcome.changed.len(),
            conflicts: outcome.conflicts.len(),
            rejected: outcome.rejected.len(),
        });
        if let Some(unconfirmed) = &outcome.unconfirmed {
            let names = unconfirmed.names().map(ToString::to_string).collect();
            self.journal
                .record(EventKind::SetUnconfirmed { generation, names });
        }
    }
}

/// The error for a waited poll that timed out, though another call announced a new set.
async fn news_announced(wanted: &mut watch::Receiver<()>) {
    let _never_ends = wanted.changed().await;
    tokio::time::sleep(NEWS_GRACE).await;
}
