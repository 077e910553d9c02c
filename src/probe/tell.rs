//! Events and the alarm that follow from verdicts.

use state::alarm::Alarm;
use state::event::{Event, EventKind, EventSubject};
use state::health::Verdict;
use state::id::ContainerId;
use state::reason::Reason;
use tokio::time::Instant;

use super::Probes;

impl Probes {
    /// Ends nothing for its health where most stopped working at once; and again what is unhealthy, once
    /// they work.
    pub(super) fn brake(&self) {
        let was_on = self.handle.board().is_braked();
        let is_on = self.handle.board().look_for_brake();
        // Without numbers, which change with each answer.
        let fault = "more than half of the containers that are asked fail; none is stopped for it";
        let fault = is_on.then(|| fault.to_owned());
        self.journal.set_alarm(Alarm::MostUnhealthy, "", fault);
        if was_on && !is_on {
            self.slots.keys().for_each(|id| self.handle.look_at(*id));
        }
    }

    /// Tells of another verdict.
    pub(super) fn tell(&mut self, id: ContainerId, subject: EventSubject, verdict: Verdict) {
        let slot = self.slots.get_mut(&id);
        let Some(untold) = slot.map_or(Some(0), |slot| slot.told.next(Instant::now())) else {
            return self.metrics.judged(verdict.as_str());
        };
        let health = self.handle.board().known(id).history.health;
        let health = health.unwrap_or_default();
        let event = match verdict {
            Verdict::Unhealthy => Event::from(EventKind::ContainerUnhealthy)
                .because(Reason::Unhealthy)
                .saying(text(health.why(), untold)),
            Verdict::Ready | Verdict::Starting => {
                let answer = health.answer.unwrap_or_default();
                Event::from(EventKind::ContainerReady).saying(text(answer, untold))
            }
        };
        self.journal.record(event.about(subject));
    }
}

/// Text of a verdict, with the number of those before it that were not told.
fn text(told: String, untold: u32) -> String {
    match untold {
        0 => told,
        _ => format!("{told} ({untold} verdicts before it were not told)"),
    }
}
