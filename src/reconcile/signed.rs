//! Images of what runs already: nothing of it is ended when a rule demands a signature that it has
//! not, or denies what it says, and a person is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use state::alarm::Alarm;
use state::desired::Record;
use state::failure::Failure;
use state::id::InstanceName;
use state::phase::Goal;
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::runtime::{Runtime, RuntimeError};

/// Interval between two looks at what is known.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Time after which a registry is asked again about an image that nobody signed, and after which
/// about one of which it did not say.
const ASK_AGAIN: Duration = Duration::from_mins(5);
/// Violations that are told; the others are counted.
const TOLD_MAX: usize = 8;
/// Subjects of the alarm, beside that of what a body says itself.
const SIGNATURES: &str = "signatures";
const IMAGES: &str = "images";

/// Verdict about one image by the rules for one container.
#[derive(Clone, Debug)]
enum SignatureVerdict {
    Signed,
    /// Denial, and the time of the answer.
    Denied(String, Instant),
    /// Time of the question that was not answered, and what was known before.
    Unknown(Instant, Option<String>),
}

impl SignatureVerdict {
    fn stands(&self, now: Instant) -> bool {
        match self {
            Self::Signed => true,
            Self::Denied(_, at) | Self::Unknown(at, _) => now < *at + ASK_AGAIN,
        }
    }

    fn denial(&self) -> Option<&String> {
        match self {
            Self::Signed => None,
            Self::Denied(denial, _) => Some(denial),
            Self::Unknown(_, denial) => denial.as_ref(),
        }
    }
}

/// Verdicts by image, digest and demands.
type SignatureVerdicts = BTreeMap<String, SignatureVerdict>;

/// Denials of images by instance, digest and rule, each with the time of its judgement. None lasts: an
/// image may come back to the node, and containerd may map ids after an upgrade.
type JudgedImages =
    BTreeMap<(InstanceName, Option<String>, Option<String>), (Option<String>, Instant)>;

fn key(record: &Record, digest: &str, demands: &[SignatureDemand]) -> String {
    let image = record.spec.image.to_string();
    let demands = demands.iter().flat_map(|demand| {
        let keys = demand.keys.iter().map(|key| key.fingerprint.as_str());
        [demand.rule.as_str()].into_iter().chain(keys)
    });
    let parts = [image.as_str(), digest].into_iter().chain(demands);
    parts.collect::<Vec<_>>().join(" ")
}

impl<R: Runtime> Reconciler<R> {
    /// Looks, with an interval, whether what runs is signed as the policy demands. It never ends.
    pub(super) async fn review_signatures(&self) {
        let (mut verdicts, mut judged) = (SignatureVerdicts::new(), JudgedImages::new());
        loop {
            verdicts = self.look_at_signatures(verdicts).await;
            judged = self.look_at_images(judged).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look_at_signatures(&self, mut before: SignatureVerdicts) -> SignatureVerdicts {
        let (policy, desired) = (self.writer.store().policy(), self.writer.store().desired());
        let (mut verdicts, mut silent) = (SignatureVerdicts::new(), BTreeSet::new());
        let mut told = Vec::new();
        if policy.demands_signatures() {
            for record in desired.records() {
                let demands = policy.signatures_for(record);
                let Some(digest) = record.image_digest.as_deref() else {
                    continue;
                };
                if demands.is_empty() || Goal::of(Some(record)) != Goal::Running {
                    continue;
                }
                let key = key(record, digest, &demands);
                let known = verdicts.get(&key).cloned().or_else(|| before.remove(&key));
                let verdict = match known {
                    Some(known) if known.stands(Instant::now()) => known,
                    known => {
                        let known = known.and_then(|known| known.denial().cloned());
                        self.verdict(record, digest, &demands, known, &mut silent)
                            .await
                    }
                };
                if let Some(denial) = verdict.denial() {
                    told.push(format!("{}: {denial}", record.name));
                }
                verdicts.insert(key, verdict);
            }
        }
        self.tell(SIGNATURES, told);
        verdicts
    }

    /// Judges the images of what runs; each now and then, for a rule.
    async fn look_at_images(&self, mut before: JudgedImages) -> JudgedImages {
        let (policy, desired) = (self.writer.store().policy(), self.writer.store().desired());
        let (mut judged, mut told) = (JudgedImages::new(), Vec::new());
        let mut is_away = false;
        for record in desired.records() {
            if record.image_digest.is_none() || Goal::of(Some(record)) != Goal::Running {
                continue;
            }
            let rule = policy.own_ids_rule(record);
            let key = (
                record.instance(),
                record.image_digest.clone(),
                rule.map(str::to_owned),
            );
            let known = before.remove(&key);
            let stands = |at: &Instant| is_away || Instant::now() < *at + ASK_AGAIN;
            let judgement = match known {
                Some((denial, at)) if stands(&at) => (denial, at),
                None if is_away => continue,
                known => {
                    let judged = self.runtime.judge_image(record, rule).await;
                    is_away |= matches!(judged, Err(RuntimeError::Unavailable(_)));
                    match (judged, known) {
                        (Ok(()), _) => (None, Instant::now()),
                        (Err(RuntimeError::Failed(failure)), _)
                            if failure.reason == Reason::PolicyDenied =>
                        {
                            (Some(failure.message), Instant::now())
                        }
                        (Err(error), known) => {
                            tracing::debug!(container = %record.name, %error, "image not judged");
                            let Some(known) = known else { continue };
                            known
                        }
                    }
                }
            };
            let denied = judgement.0.iter();
            told.extend(denied.map(|denial| format!("{}: {denial}", record.name)));
            judged.insert(key, judgement);
        }
        self.tell(IMAGES, told);
        judged
    }

    fn tell(&self, subject: &str, mut told: Vec<String>) {
        let more = told.len().saturating_sub(TOLD_MAX);
        told.truncate(TOLD_MAX);
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        let told = (!told.is_empty()).then(|| told.join("; "));
        self.journal.set_alarm(Alarm::PolicyViolated, subject, told);
    }

    /// Verdict about a container's image. Registries that are `silent` are not asked again.
    async fn verdict(
        &self,
        record: &Record,
        digest: &str,
        demands: &[SignatureDemand],
        known: Option<String>,
        silent: &mut BTreeSet<String>,
    ) -> SignatureVerdict {
        let image = &record.spec.image;
        if silent.contains(image.registry()) {
            return SignatureVerdict::Unknown(Instant::now(), known);
        }
        let wanted = (record.spec.image_pull, demands);
        let cancel = CancellationToken::new();
        match self
            .runtime
            .ensure_signed(image, digest, wanted, &cancel)
            .await
        {
            Ok(()) => SignatureVerdict::Signed,
            Err(RuntimeError::Failed(Failure {
                reason: Reason::PolicyDenied,
                message,
                ..
            })) => SignatureVerdict::Denied(message, Instant::now()),
            // Who signed what runs cannot be known any more.
            Err(RuntimeError::ImageLost(message)) => {
                SignatureVerdict::Denied(message, Instant::now())
            }
            Err(error) => {
                tracing::debug!(%image, %error, "image signature not looked up");
                silent.insert(image.registry().to_owned());
                SignatureVerdict::Unknown(Instant::now(), known)
            }
        }
    }
}
