//! When the node reports: every interval, soon after something changed, and first of all when CHaS is there again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::wire::Content;
use super::{Calls, Link, Node, jitter};

/// Changes that come together make one report; and nodes that were told the same at once do not all answer at once.
const JOIN: Duration = Duration::from_millis(200);
const JOIN_SPREAD: Duration = Duration::from_millis(600);
/// Two reports are at least so far apart.
const SPACING: Duration = Duration::from_secs(2);

/// What a report is made for before its time.
struct Occasions {
    changes: watch::Receiver<u64>,
    wanted: watch::Receiver<()>,
}

impl<N: Node, C: Calls> Link<N, C> {
    /// Reports until CHaS does not know the node any more.
    pub(super) async fn report_for_ever(&self) {
        let (mut attempts, mut known, mut due) = (0, None, Instant::now());
        let mut calls = Occasions {
            changes: self.node.changes(),
            wanted: self.contact.wanted.subscribe(),
        };
        loop {
            calls.changes.mark_unchanged();
            calls.wanted.mark_unchanged();
            let (report, sent) = (self.node.report(), Instant::now());
            // To the letter, with what is only said aside.
            let said = serde_json::to_string(&report.content).ok();
            let whole = !self.contact.report_changes() || said.is_none() || known != said;
            let result = self.client.report(&report, whole).await;
            self.metrics.reported(
                result
                    .as_ref()
                    .map_or_else(|fault| fault.kind.word(), |_| "taken"),
            );
            match result {
                Ok(answer) => {
                    attempts = 0;
                    known = said.filter(|_| !answer.send_all);
                    self.contact.answered();
                    match answer.lists(&report.content) {
                        Some(true) => self.contact.up_to_date(),
                        Some(false) => self.contact.ask_now(),
                        None => {}
                    }
                    self.contact.reported(true);
                    self.node.acknowledged(report.up_to_seq).await;
                    if answer.send_all && !whole {
                        self.contact.report_now();
                    }
                    // What is told before its time does not put off the rest: nodes that were told something at once would
                    // report together from then on.
                    if due <= sent + SPACING {
                        due = due.max(sent)
                            + self
                                .contact
                                .health_after()
                                .unwrap_or(self.settings.health_interval);
                    }
                    self.until_due(sent, due, &report.content, &mut calls).await;
                }
                Err(fault) => {
                    known = None;
                    self.contact.failed("report", &fault);
                    if fault.is_to_register_again(attempts) {
                        return;
                    }
                    // One that answers is there, and so may be asked.
                    self.contact.reported(fault.is_answer);
                    let is_pressed = fault.is_answer && fault.retry_after.is_none();
                    tokio::select! {
                        () = self.pause(&fault, &mut attempts) => {}
                        // Something waits for it that is more than another of its kind.
                        Ok(()) = calls.wanted.changed(), if is_pressed => tokio::time::sleep_until(sent + SPACING).await,
                    }
                }
            }
        }
    }

    /// Waits until there is something to report.
    async fn until_due(
        &self,
        sent: Instant,
        due: Instant,
        reported: &Content,
        calls: &mut Occasions,
    ) {
        let soonest = due.min(sent + SPACING);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                Ok(()) = calls.wanted.changed() => return tokio::time::sleep_until(soonest).await,
                Ok(()) = calls.changes.changed() => {
                    tokio::time::sleep(JOIN + jitter(JOIN_SPREAD)).await;
                    calls.changes.mark_unchanged();
                    if self.node.report().content != *reported {
                        return tokio::time::sleep_until(soonest).await;
                    }
                }
            }
        }
    }
}
