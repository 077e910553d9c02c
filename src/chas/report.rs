//! Reports the node's state to CHaS: at an interval, soon after a change, and first of all when
//! CHaS is reachable again.

use std::time::Duration;

use state::event::EventKind;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::ChasError;
use super::wire::{Report, ReportContent, ReportReply};
use super::{ChasCalls, ChasLink, LinkNode, jitter};

/// Time for which changes are collected into one report, and its random share: nodes that got news
/// at once report apart.
const COLLECT: Duration = Duration::from_millis(200);
const COLLECT_SPREAD: Duration = Duration::from_millis(600);
/// Shortest time between the starts of two reports.
const SPACING: Duration = Duration::from_secs(2);

/// Signals that make a report before its interval ends.
struct ReportTriggers {
    changes: watch::Receiver<u64>,
    wanted: watch::Receiver<()>,
}

/// A report that was sent.
struct SentReport {
    report: Report,
    at: Instant,
    /// Whether it had all of its content, not only the vitals.
    is_full: bool,
}

/// The position of the report loop between two reports.
struct ReportProgress {
    /// Errors in a row.
    attempts: u32,
    /// Content that CHaS acknowledged last. `None`: the next report is sent in full.
    acknowledged: Option<ReportContent>,
    /// End of the current interval.
    due: Instant,
}

impl<N: LinkNode, C: ChasCalls> ChasLink<N, C> {
    /// Reports until the node has to register again.
    pub(super) async fn report_for_ever(&self) {
        let mut progress = ReportProgress {
            attempts: 0,
            acknowledged: None,
            due: Instant::now(),
        };
        let mut triggers = ReportTriggers {
            changes: self.node.changes(),
            wanted: self.state.report_wanted.subscribe(),
        };
        loop {
            triggers.changes.mark_unchanged();
            triggers.wanted.mark_unchanged();
            let (sent, result) = self.send_report(progress.acknowledged.as_ref()).await;
            match result {
                Ok(reply) => {
                    self.digest_acknowledgement(&sent, &reply, &mut progress)
                        .await;
                    let before = sent.report.content.without_retry_times();
                    self.until_due(sent.at, progress.due, &before, &mut triggers)
                        .await;
                }
                Err(error) => {
                    progress.acknowledged = None;
                    self.failed("report", &error);
                    if error.requires_registration(progress.attempts) {
                        return;
                    }
                    self.after_error(sent.at, &error, &mut progress.attempts, &mut triggers)
                        .await;
                }
            }
        }
    }

    async fn send_report(
        &self,
        acknowledged: Option<&ReportContent>,
    ) -> (SentReport, Result<ReportReply, ChasError>) {
        let (report, at) = (self.node.report(), Instant::now());
        let is_full = !self.state.keeps_reports() || acknowledged != Some(&report.content);
        let result = self.client.report(&report, is_full).await;
        self.journal.record(EventKind::ReportEnded {
            result: match &result {
                Ok(_) => "taken",
                Err(error) => error.kind.as_str(),
            },
        });
        let sent = SentReport {
            report,
            at,
            is_full,
        };
        (sent, result)
    }

    async fn digest_acknowledgement(
        &self,
        sent: &SentReport,
        reply: &ReportReply,
        progress: &mut ReportProgress,
    ) {
        let content = &sent.report.content;
        progress.attempts = 0;
        progress.acknowledged = (!reply.send_all).then(|| content.clone());
        self.state.record_success(&self.journal);
        self.state.set_takes_reports();
        self.answered();
        match reply.confirms(content) {
            Some(true) => self.state.record_up_to_date(),
            Some(false) => self.state.poll_now(),
            None => {}
        }
        self.state.record_report(true);
        self.node.report_acknowledged(sent.report.up_to_seq).await;
        if reply.send_all && !sent.is_full {
            self.state.report_now();
        }
        // An early report does not move the interval: nodes that got news at once would report
        // together from then on.
        if progress.due <= sent.at + SPACING {
            let interval = self.state.health_after();
            progress.due =
                progress.due.max(sent.at) + interval.unwrap_or(self.settings.health_interval);
        }
    }

    async fn after_error(
        &self,
        sent_at: Instant,
        error: &ChasError,
        attempts: &mut u32,
        triggers: &mut ReportTriggers,
    ) {
        // CHaS answered, so that it is reachable, and polls need not wait for a report any longer.
        self.state.record_report(error.is_answer);
        let may_hurry = error.is_answer && error.retry_after.is_none();
        tokio::select! {
            () = self.back_off(error, attempts) => {}
            // Something other than the interval waits for this report.
            Ok(()) = triggers.wanted.changed(), if may_hurry => {
                tokio::time::sleep_until(sent_at + SPACING).await;
            }
        }
    }

    /// Waits until the next report: its interval ends, it is asked for, or the content is no longer
    /// `before`.
    async fn until_due(
        &self,
        sent_at: Instant,
        due: Instant,
        before: &ReportContent,
        triggers: &mut ReportTriggers,
    ) {
        let soonest = due.min(sent_at + SPACING);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                Ok(()) = triggers.wanted.changed() => break,
                Ok(()) = triggers.changes.changed() => {
                    tokio::time::sleep(COLLECT + jitter(COLLECT_SPREAD)).await;
                    triggers.changes.mark_unchanged();
                    if self.node.report().content.without_retry_times() != *before {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep_until(soonest).await;
    }
}
