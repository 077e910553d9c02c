//! The files of the API's TLS, looked at again and again: a new certificate is in force soon after
//! it is there. Files that cannot be used change nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use state::alarm::Alarm;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::api::listener::{TlsInForce, TlsMaterial};
use crate::config::ApiTls;
use crate::journal::Journal;
use crate::registry::FileStamp;

/// Interval between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Time before a certificate's end at which a person is told: whatever renews it should have by then.
const TOLD_BEFORE: Duration = Duration::from_hours(14 * 24);
/// Part of a certificate's time, for those that live shorter.
const TOLD_BEFORE_PART: u32 = 5;

/// Keeps the TLS of the API as its files say.
#[derive(Debug)]
pub(super) struct TlsWatch {
    pub(super) files: ApiTls,
    pub(super) door: TlsInForce,
    pub(super) journal: Journal,
    /// Files that were looked at last, and what is in force.
    seen: Option<Vec<Option<FileStamp>>>,
    in_force: Option<TlsMaterial>,
}

impl TlsWatch {
    pub(super) const fn new(files: ApiTls, door: TlsInForce, journal: Journal) -> Self {
        Self {
            files,
            door,
            journal,
            seen: None,
            in_force: None,
        }
    }

    /// Looks with an interval, and when it is asked to. It never ends.
    pub(super) async fn run(mut self, due: Arc<Notify>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = due.notified() => {}
            }
            self.look().await;
        }
    }

    /// Takes the files in, if they are others than before.
    pub(super) async fn look(&mut self) {
        let (files, seen) = (self.files.clone(), self.seen.clone());
        let looking = tokio::task::spawn_blocking(move || {
            // What is read are these files, or newer ones that the next look finds.
            let pair = [&files.certificate, &files.key].into_iter();
            let stamps = pair
                .chain(&files.client_authorities)
                .map(|path| FileStamp::of(path).ok());
            let stamps = Some(stamps.collect());
            (stamps != seen).then(|| (stamps, TlsMaterial::read(&files)))
        });
        match looking.await {
            Ok(None) => self.tell(),
            Ok(Some((stamps, Ok(material)))) => {
                self.seen = stamps;
                self.door.replace(material.clone());
                let until = humantime::format_rfc3339_seconds(material.last());
                tracing::info!(%until, "certificate taken over");
                self.in_force = Some(material);
                self.tell();
            }
            Ok(Some((_, Err(fault)))) => {
                // A pair is two files, of which one comes first.
                self.seen = None;
                let rest = if self.in_force.is_some() {
                    "the certificate before is shown on"
                } else {
                    "nobody comes in by TCP"
                };
                let fault = format!("{fault}; {rest}");
                self.journal
                    .set_alarm(Alarm::TlsFileUnusable, "", Some(fault));
            }
            Err(error) => tracing::debug!(%error, "certificate not looked at"),
        }
    }

    /// Tells how long the certificate in force still counts.
    fn tell(&self) {
        let Some(material) = &self.in_force else {
            return;
        };
        let end = humantime::format_rfc3339_seconds(material.last());
        let path = self.files.certificate.display();
        let (unusable, expiring) = match verdict(material.left(SystemTime::now())) {
            CertificateVerdict::Counts => (None, None),
            CertificateVerdict::EndsSoon => (None, Some(format!("{path} counts until {end}"))),
            CertificateVerdict::CountsNot => (
                Some(format!("{path} does not count now, but until {end}")),
                None,
            ),
        };
        self.journal.set_alarm(Alarm::TlsFileUnusable, "", unusable);
        self.journal.set_alarm(Alarm::TlsExpiring, "", expiring);
    }
}

/// CertificateVerdict about a certificate's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CertificateVerdict {
    Counts,
    EndsSoon,
    CountsNot,
}

/// The verdict about the time that is left to a certificate, and that it has in all.
fn verdict(left: Option<(Duration, Duration)>) -> CertificateVerdict {
    match left {
        None => CertificateVerdict::CountsNot,
        Some((left, all)) if left < TOLD_BEFORE.min(all / TOLD_BEFORE_PART) => {
            CertificateVerdict::EndsSoon
        }
        Some(_) => CertificateVerdict::Counts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_before_it_ends_by_as_much_as_whoever_renews_it_needs() {
        let hours = Duration::from_hours;
        let second = Duration::from_secs(1);
        for (all, told_at) in [
            (hours(24 * 365), hours(24 * 14)),
            (hours(24 * 90), hours(24 * 14)),
            (hours(24 * 45), hours(24 * 9)),
            (hours(25), hours(5)),
        ] {
            let at = |left| verdict(Some((left, all)));
            assert_eq!(at(told_at), CertificateVerdict::Counts, "{all:?}");
            assert_eq!(
                at(told_at.saturating_sub(second)),
                CertificateVerdict::EndsSoon,
                "{all:?}"
            );
        }
        assert_eq!(verdict(None), CertificateVerdict::CountsNot);
    }
}
