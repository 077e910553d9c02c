//! Timer that has tags asked for anew, of the containers that follow theirs.

use std::time::Duration;

use state::desired::{Record, RunState};
use state::id::ContainerId;
use state::observed::Task;
use state::store::Store;

use super::Handle;
use crate::backoff;
use crate::writer::Writer;

/// Timer that has each tag that is followed asked for once in an `interval`, one after the other.
/// It never ends. It begins within the first interval, at random: nodes that started together do
/// not ask together.
pub async fn follow_tags(writer: Writer, handle: Handle, interval: Duration) {
    tokio::time::sleep(backoff::delay(interval, interval, 0)).await;
    loop {
        let due = followed(writer.store(), &handle);
        let pause = interval / u32::try_from(due.len().max(1)).unwrap_or(u32::MAX);
        if due.is_empty() {
            tokio::time::sleep(pause).await;
        }
        for id in due {
            let handle = handle.clone();
            let asked = writer.write(move |store| {
                // It may have been stopped, changed or removed since.
                if store
                    .desired()
                    .get(id)
                    .is_some_and(|record| is_due(record, store))
                {
                    store.ask_tag(id)?;
                    handle.wake(id);
                }
                Ok(())
            });
            if let Err(error) = asked.await {
                tracing::debug!(container = %id, %error, "tag not asked for");
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Containers that run and follow their tags. One that only tries to is not helped by a question,
/// which would end its wait.
fn followed(store: &Store, handle: &Handle) -> Vec<ContainerId> {
    let desired = store.desired();
    let runs = |record: &Record| {
        let seen = handle.board().known(record.id).seen;
        matches!(seen.task(record), Task::Running { .. })
    };
    let due = desired
        .records()
        .filter(|record| is_due(record, store) && runs(record));
    due.map(|record| record.id).collect()
}

fn is_due(record: &Record, store: &Store) -> bool {
    let runs = record.run == RunState::Running && record.finished.is_none() && !record.removing;
    let is_asked = !record.follows_tag() || record.is_tag_unchecked() || record.is_uncertain;
    // One that the policy would not start again stays as it is.
    runs && !is_asked && store.judge_start(record).is_ok()
}
