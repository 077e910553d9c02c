//! The files of the API's TLS, looked at again and again: a new certificate is in force soon after
//! it is there. Files that cannot be used change nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use state::alarm::Alarm;
use tokio::sync::Notify;

use super::looks::Looks;
use crate::api::listener::{TlsInForce, TlsMaterial};
use crate::config::ApiTls;
use crate::journal::Journal;
use crate::registry::FileStamp;

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
        let mut looks = Looks::new(due);
        loop {
            looks.next().await;
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
                // What is shown meanwhile ends all the same.
                let told = self.told(SystemTime::now());
                let ends = told.and_then(|(unusable, expiring)| unusable.or(expiring));
                self.journal.set_alarm(Alarm::TlsExpiring, "", ends);
            }
            Err(error) => tracing::debug!(%error, "certificate not looked at"),
        }
    }

    /// Tells how long the certificate in force still counts.
    fn tell(&self) {
        let Some((unusable, expiring)) = self.told(SystemTime::now()) else {
            return;
        };
        self.journal.set_alarm(Alarm::TlsFileUnusable, "", unusable);
        self.journal.set_alarm(Alarm::TlsExpiring, "", expiring);
    }

    /// Whether the certificate in force does not count, or counts only a while longer. `None`: there
    /// is none.
    fn told(&self, now: SystemTime) -> Option<(Option<String>, Option<String>)> {
        let material = self.in_force.as_ref()?;
        let end = |at| humantime::format_rfc3339_seconds(at);
        let path = self.files.certificate.display();
        let chain = material.chain_last().filter(|&last| {
            let left = last.duration_since(now).unwrap_or_default();
            left < TOLD_BEFORE && last < material.last()
        });
        Some(match verdict(material.left(now)) {
            CertificateVerdict::CountsNot => {
                let last = end(material.last());
                let text = format!("{path} does not count now, but until {last}");
                (Some(text), None)
            }
            CertificateVerdict::EndsSoon => {
                let text = format!("{path} counts until {}", end(material.last()));
                (None, Some(text))
            }
            CertificateVerdict::Counts => {
                let text = |last| {
                    let last = end(last);
                    format!("{path}: a certificate behind the first one counts until {last}")
                };
                (None, chain.map(text))
            }
        })
    }
}

/// Verdict about a certificate's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateVerdict {
    /// Well.
    Counts,
    /// Well, and whatever renews it should have by now.
    EndsSoon,
    /// Over, or not begun.
    CountsNot,
}

/// Verdict about a certificate that counts from the one moment to the other.
pub(crate) fn certificate_verdict(
    (first, last): (SystemTime, SystemTime),
    now: SystemTime,
) -> CertificateVerdict {
    let (left, gone) = (last.duration_since(now), now.duration_since(first));
    let all = last.duration_since(first).unwrap_or_default();
    verdict(left.ok().zip(gone.ok()).map(|(left, _)| (left, all)))
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
    use std::path::Path;

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
        let at = |day: u64| SystemTime::UNIX_EPOCH + hours(24 * day);
        for (now, expected) in [
            (0, CertificateVerdict::CountsNot),
            (2, CertificateVerdict::Counts),
            (90, CertificateVerdict::EndsSoon),
            (102, CertificateVerdict::CountsNot),
        ] {
            let found = certificate_verdict((at(1), at(101)), at(now));
            assert_eq!(found, expected, "{now}");
        }
    }
    fn written(directory: &Path, behind: &str) -> ApiTls {
        let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/listener/tls/pem/");
        let read = |name: &str| std::fs::read_to_string(format!("{pem}{name}")).unwrap();
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let behind = match behind {
            "" => String::new(),
            name => read(name),
        };
        ApiTls {
            certificate: write("crt", read("server-crt.pem") + &behind),
            key: write("key", read("server-key.pem")),
            client_authorities: None,
        }
    }

    #[tokio::test]
    async fn what_is_shown_while_its_successor_is_broken_is_told_of_before_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let time = |text: &str| humantime::parse_rfc3339(text).unwrap();
        let day = Duration::from_hours(24);
        for (behind, last, part) in [
            ("", "2099-01-01T00:00:00Z", "crt counts until 2099"),
            (
                "between-crt.pem",
                "2030-01-01T00:00:00Z",
                "behind the first one counts until 2030",
            ),
        ] {
            let files = written(directory.path(), behind);
            let journal = Journal::default();
            let mut watch = TlsWatch::new(files.clone(), TlsInForce::default(), journal);
            watch.look().await;
            std::fs::write(&files.certificate, "none").unwrap();
            watch.look().await;
            let told = |at| watch.told(at).unwrap();
            assert_eq!(told(time(last) - 15 * day), (None, None), "{behind}");
            let (unusable, expiring) = told(time(last) - 13 * day);
            let expiring = expiring.unwrap();
            assert!(unusable.is_none() && expiring.contains(part), "{expiring}");
        }
    }
}
