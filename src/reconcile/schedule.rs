//! Timer that begins the runs of containers with a schedule.

use std::time::Duration;

use state::desired::Record;
use state::desired::job::RunResult;
use state::due::{Due, due, next_run};
use state::event::{Event, EventKind, EventSubject};
use state::id::ContainerId;
use state::time::unix_ms;
use tokio::time::Instant;

use super::Handle;
use crate::journal::Journal;
use crate::writer::Writer;

/// Longest time between two looks at the wall clock, which anybody may set.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two looks: much changes on a busy node.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// Timer that begins each run at its time. It never ends. A time is dealt with on disk before its run
/// begins.
pub async fn follow_schedules(writer: Writer, handle: Handle, journal: Journal) {
    let mut changes = handle.board().changes();
    loop {
        let looked = Instant::now();
        changes.mark_unchanged();
        let wait = look(&writer, &handle, &journal).await;
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            // Another schedule may have come.
            _changed = changes.changed() => {
                tokio::time::sleep_until((looked + LOOK_AFTER).min(looked + wait)).await;
            }
        }
    }
}

/// Begins what is due, and answers the time until the next look.
async fn look(writer: &Writer, handle: &Handle, journal: &Journal) -> Duration {
    let now_ms = unix_ms(handle.board().clock.wall_now());
    let desired = writer.store().desired();
    if desired.may_lack_records() {
        return LOOK_EVERY;
    }
    let mut wait = LOOK_EVERY;
    for record in desired
        .records()
        .filter(|record| record.spec.schedule.is_some())
        // Times that pass meanwhile are missed, once it may run again.
        .filter(|record| handle.board().suspension(&desired, record).is_none())
    {
        if due(record, now_ms).is_some() {
            begin(writer, handle, journal, record, now_ms).await;
        }
        if let Some(next) = next_run(record, now_ms) {
            // A little later, so that it has come then.
            wait = wait.min(Duration::from_millis(next.saturating_sub(now_ms) + 5));
        }
    }
    wait
}

async fn begin(writer: &Writer, handle: &Handle, journal: &Journal, record: &Record, now_ms: u64) {
    let (id, waking) = (record.id, handle.clone());
    let met = writer.write(move |store| {
        let met = store.meet_schedule(id, now_ms)?;
        if met.is_some_and(|due| due.begins_ms.is_some()) {
            waking.start_now(id);
        }
        Ok(met)
    });
    match met.await {
        Ok(Some(due)) => tell(journal, record, due),
        Ok(None) => {}
        Err(error) => tracing::warn!(container = %id, %error, "run not begun, retrying"),
    }
}

fn tell(journal: &Journal, record: &Record, due: Due) {
    let has_run = record.job.as_ref().is_some_and(|job| job.run.is_some());
    let is_replaced = due.begins_ms.is_some() && has_run;
    let words = [
        (due.is_missed, "missed"),
        (due.is_skipped, "skipped"),
        (is_replaced, RunResult::Replaced.as_str()),
        (due.begins_ms.is_some(), "begun"),
    ];
    for (_, result) in words.into_iter().filter(|(is, _)| *is) {
        let subject = EventSubject::new(record.id, Some(record));
        let told = Event::from(EventKind::JobRun { result }).about(subject);
        journal.record(told);
    }
}

/// The length of a container's last process, as far as it is known.
pub(super) fn took_ms(handle: &super::Board, id: ContainerId) -> Option<u64> {
    let took = handle.known(id).history.last_run?;
    u64::try_from(took.as_millis()).ok()
}
