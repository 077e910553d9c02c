//! Sweep of what the runtime holds without a record, and what is told of it.

use state::alarm::Alarm;
use state::event::{Event, EventKind};
use state::reason::Reason;

use super::Reconciler;
use crate::runtime::{Runtime, WantedRecords};

impl<R: Runtime> Reconciler<R> {
    pub(super) async fn sweep(&self, wanted: &WantedRecords) {
        let swept = self.runtime.sweep(wanted).await;
        let fault = swept.as_ref().err().map(ToString::to_string);
        self.journal.set_alarm(Alarm::SweepFailing, "", fault);
        match swept {
            Ok(swept) if swept.removed.is_empty() => {}
            Ok(swept) => self.journal.record(EventKind::LeftoversSwept {
                removed: swept.removed.into_iter().collect(),
            }),
            Err(error) => {
                let failed = Event::from(EventKind::SweepFailed).because(Reason::RemoveFailed);
                let message = format!("leftovers could not be removed: {error}");
                self.journal.record(failed.saying(message));
            }
        }
    }
}
