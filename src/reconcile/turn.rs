//! The turn of one container: look, decide, do one step, look again, until it is settled or has to wait.

use std::sync::Arc;
use std::time::Duration;

use state::desired::Record;
use state::event::{Event, EventKind, EventSubject};
use state::history::History;
use state::id::ContainerId;
use state::observed::{Exit, Seen};
use state::phase::Stage;
use state::plan::{STEPS_MAX, Step, decide};
use state::reason::Reason;
use state::surroundings::Surroundings;
use state::time::BootTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use super::effects::{kind_of, record_done, restart_delay};
use super::ended::{former_exited, is_to_end};
use super::failed::AfterStep;
use super::update::change_of;
use crate::otlp::{Span, SpanFact, SpanOf};
use crate::runtime::{Runtime, RuntimeError};

/// Wait of a turn that ran out of steps, or found the runtime unreachable.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The facts that a look brought to light, in the order in which they happened.
fn news(kills: u64, is_newly_unresponsive: bool, exited: Option<Event>) -> Vec<Event> {
    let killed = (kills > 0).then(|| {
        let killed = Event::from(EventKind::MemoryKilled { kills });
        let reason = Reason::OutOfMemory;
        killed.because(reason).saying(reason.remedy())
    });
    let unresponsive = is_newly_unresponsive.then(|| {
        let reason = Reason::ShimUnresponsive;
        let unresponsive = Event::from(EventKind::ShimUnresponsive).because(reason);
        unresponsive.saying(reason.meaning())
    });
    let facts = [killed, unresponsive, exited].into_iter();
    facts.flatten().collect()
}

/// Gives the container back to the queue, also when its turn panics.
struct Turn<'a, R: Runtime> {
    reconciler: &'a Reconciler<R>,
    id: ContainerId,
}

impl<R: Runtime> Drop for Turn<'_, R> {
    fn drop(&mut self) {
        self.reconciler.queue.done(self.id);
    }
}

impl<R: Runtime> Reconciler<R> {
    pub(super) async fn turn(&self, id: ContainerId, interrupt: CancellationToken) {
        let _turn = Turn {
            reconciler: self,
            id,
        };
        let name = |record: &Arc<Record>| record.name.clone();
        let named = self.writer.store().desired().get(id).map(name);
        let before = self.board.known(id).history;
        self.steps(id, interrupt).await;
        if let Some(name) = named {
            self.wake_followers(&name);
        }
        let history = self.board.known(id).history;
        if history != before && self.writer.store().desired().get(id).is_some() {
            self.remember(id).await;
        }
    }

    /// Saves a container's history over a restart of the agent.
    async fn remember(&self, id: ContainerId) {
        let board = Arc::clone(&self.board);
        self.writer.remember(id, move || board.to_store(id)).await;
    }

    async fn steps(&self, id: ContainerId, interrupt: CancellationToken) {
        let mut is_news_to_others = false;
        for _ in 0..STEPS_MAX {
            self.queue.advanced(id);
            let desired = self.writer.store().desired();
            let record = desired.get(id).cloned();
            // What is not known to be unwanted is not taken away; the adoption wakes whom it concerns.
            if desired.is_unreadable(id)
                || desired
                    .adoption()
                    .is_some_and(|adoption| adoption.is_new || record.is_none())
                || (desired.is_unknown() && record.is_none())
            {
                if record.is_none() {
                    self.board.drop_known(id);
                }
                return;
            }
            let record = record.as_deref();
            let seen = match self.runtime.observe(id).await {
                Ok(seen) => seen,
                Err(error) => return self.unseen(id, &error),
            };
            // It is shown as it is, and no more: nobody knows what was asked last, nor what its end means.
            if !self.may_act(&desired) {
                return self.board.note_seen(id, seen);
            }
            let now = self.board.clock.now();
            let next = self.decide(id, record, &seen, now);
            // The step after it may be a pull of minutes.
            let was_news = std::mem::replace(
                &mut is_news_to_others,
                matches!(next, Step::Launch | Step::Revive(_) | Step::Finish(_)),
            );
            if let Some(record) = record.filter(|_| was_news) {
                self.wake_followers(&record.name);
            }
            match next {
                Step::Settled if record.is_none() => return self.board.drop_known(id),
                Step::Settled | Step::WaitForOthers => return,
                Step::Wait(until) => {
                    return self.queue.wake_at(id, Instant::now() + until.since(now));
                }
                next @ (Step::Pull
                | Step::Adjust(_)
                | Step::Launch
                | Step::Revive(_)
                | Step::Switch
                | Step::HandOver(_)
                | Step::GiveBack(_)
                | Step::Signal(_)
                | Step::Conclude
                | Step::RollBack(_)
                | Step::Stop(_)
                | Step::Suspend(_)
                | Step::Remove(_)
                | Step::NoteRestart
                | Step::Finish(_)
                | Step::Forget) => match self.carry_out(id, record, next, &interrupt).await {
                    AfterStep::Look => {}
                    AfterStep::Pause => {
                        return self.queue.wake_at(id, Instant::now() + AGAIN_AFTER);
                    }
                    AfterStep::End => return,
                },
            }
        }
        let desired = self.writer.store().desired();
        let subject = EventSubject::new(id, desired.get(id).map(AsRef::as_ref));
        self.journal
            .record(Event::from(EventKind::TurnExhausted).about(subject));
        self.queue.wake_at(id, Instant::now() + AGAIN_AFTER);
    }

    /// Another turn, after a pause: the runtime does not tell how the container is.
    fn unseen(&self, id: ContainerId, error: &RuntimeError) {
        if matches!(error, RuntimeError::Unavailable(_)) {
            self.unreachable(&error.to_string());
        }
        self.queue.wake_at(id, Instant::now() + AGAIN_AFTER);
    }

    /// Takes in a look, and decides on the next step.
    fn decide(&self, id: ContainerId, record: Option<&Record>, seen: &Seen, now: BootTime) -> Step {
        // Two lost tasks in a row are told apart only by their number.
        let ends = |history: &History| {
            let former = history.trial.former.last_exit.clone();
            (history.last_exit.clone(), history.exits, former)
        };
        let (before, history, kills, is_newly_unresponsive) = self.board.update(id, |known| {
            let before = ends(&known.history);
            let was_unresponsive = known.seen.is_unresponsive();
            let kills = record.map_or(0, |record| {
                let delay = |exits| restart_delay(exits, self.draw);
                known.history.record_observation(record, seen, now, delay)
            });
            (known.seen, known.is_looked_at) = (seen.clone(), true);
            let is_newly_unresponsive = known.seen.is_unresponsive() && !was_unresponsive;
            (before, known.history.clone(), kills, is_newly_unresponsive)
        });
        let desired = self.writer.store().desired();
        let around = record.map_or(Surroundings::NONE, |record| {
            self.board.surroundings_of(&desired, record, &history)
        });
        let decision = decide(id, record, seen, &history, &around, now);
        if matches!(decision.phase.stage, Stage::Waiting(_)) {
            self.board
                .update(id, |known| known.history.record_waiting(now));
        }
        let note = |history: &mut History| decision.phase.note_rest(history, now);
        self.board.update(id, |known| note(&mut known.history));
        if around.former_waits.is_some() {
            self.board
                .update(id, |known| known.history.trial.record_waiting(now));
        }
        let (after, next) = (ends(&history), decision.step);
        let is_on_its_way = around.waits.is_none()
            && matches!(
                decision.phase.stage,
                Stage::Replacing(_) | Stage::Created | Stage::Due
            );
        if let Some(record) = record.filter(|_| is_on_its_way && !matches!(next, Step::Wait(_))) {
            self.let_go(&desired, record, &history);
        }
        let is_news = before.0 != after.0 || before.1 < after.1;
        let ended = after.0.filter(|_| is_news);
        let exited = ended.map(|exit| self.exited(is_to_end(record, seen), &exit, &history, &next));
        let former = former_exited(record, before.2.as_ref(), &history);
        let news = news(kills, is_newly_unresponsive, exited);
        for event in former.into_iter().chain(news) {
            let subject = EventSubject::new(id, record);
            self.journal.record(event.about(subject));
        }
        next
    }

    /// Does one step, and notes how it went.
    async fn carry_out(
        &self,
        id: ContainerId,
        record: Option<&Record>,
        next: Step,
        interrupt: &CancellationToken,
    ) -> AfterStep {
        let subject = EventSubject::new(id, record);
        let (cause, activity) = kind_of(record, &next);
        tracing::debug!(container = %subject, step = %next, "step started");
        self.board.update(id, |known| known.activity = activity);
        let is_let_go = record.is_some_and(|record| !record.spec.after.is_empty());
        let is_before_end = matches!(next, Step::Suspend(_) | Step::Finish(_));
        // A pull may take minutes.
        if is_before_end || (is_let_go && matches!(next, Step::Remove(_) | Step::Pull)) {
            // Another agent may find it ended, or gone, and is to know whose end that is, and that it
            // waits for nobody any more.
            self.remember(id).await;
        }
        let mut span = Span::begin(SpanOf::Step);
        span.text(SpanFact::Container, || subject.to_string());
        span.text(SpanFact::ContainerId, || id.to_string());
        span.text(SpanFact::Step, || next.as_str().to_owned());
        let began = Instant::now();
        let result = span
            .around(self.execute(id, record, &next, interrupt))
            .await;
        let (now, took) = (self.board.clock.now(), began.elapsed());
        let (is_restart, exited) = self.board.update(id, |known| {
            let (restarts, last) = (known.history.restart_count, known.history.last_exit.clone());
            known.activity = None;
            let ended = result.as_ref().ok().cloned().flatten();
            if result.is_ok() {
                record_done(
                    &mut known.history,
                    (&next, record),
                    ended.clone(),
                    now,
                    self.draw,
                );
            }
            // An end that a look has seen is told already.
            let is_news = |exit: &Exit| !last.is_some_and(|last| last.is_same_end(exit));
            let exited = ended.filter(is_news).map(|exit| {
                let was_asked = known.history.ended_for.is_none();
                self.exited(was_asked, &exit, &known.history, &next)
            });
            (known.history.restart_count > restarts, exited)
        });
        if let Some(exited) = exited {
            self.journal.record(exited.about(subject.clone()));
        }
        if is_restart {
            self.journal
                .record(Event::from(EventKind::ContainerRestarted).about(subject.clone()));
        }
        match result {
            Ok(_) => {
                let told = record.and_then(|record| change_of(record, &next));
                let mut finished = Event::from(EventKind::StepFinished { step: next, took });
                finished.message = told;
                self.journal.record(finished.about(subject));
                AfterStep::Look
            }
            Err(undone) => self.failed(subject, (next, cause, span), undone, now),
        }
    }
}
