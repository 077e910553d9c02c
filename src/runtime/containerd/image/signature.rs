//! Signatures of images that the policy demands: looked for beside the image, in its repository,
//! before it is unpacked, and each time that it is started.
//!
//! An image is what its digest says, and so is its signature: who signed it once has signed it. That
//! is noted at its name in containerd, by the fingerprints of the keys, and so no registry is needed
//! to start it again, as long as one of these keys counts.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use state::policy::signers::SignatureDemand;
use state::policy::{self};
use state::reason::Reason;
use state::reference::ImageReference;

use super::names;
use super::patience::Patience;
use crate::registry::{RegistryClient, RegistryConfig, RegistryError};
use crate::runtime::containerd::rpc::client::ContainerdClient;
use crate::runtime::{PullProgress, RuntimeError};

mod simple;

/// Payloads that are fetched for one image. Those of one signer are mostly the same.
const PAYLOADS_MAX: usize = 16;

/// Look at the signatures of one image.
#[derive(Debug)]
pub(crate) struct SignatureCheck<'a> {
    pub(crate) client: &'a ContainerdClient,
    /// Source of signatures; `None`: what is noted already has to do.
    pub(crate) registry: Option<&'a RegistryClient>,
    pub(crate) config: &'a RegistryConfig,
    pub(crate) image: &'a ImageReference,
    pub(crate) demands: &'a [SignatureDemand],
    pub(crate) progress: &'a PullProgress,
}

/// Findings about signatures so far.
#[derive(Debug, Default)]
struct SignatureFindings {
    /// Fingerprints of the keys that signed.
    signed_by: BTreeSet<String>,
    /// Signatures that were looked at.
    seen: usize,
    /// Faults of what was found, in a few words.
    faults: Vec<String>,
}

impl SignatureCheck<'_> {
    /// Makes sure that the image is signed as every demand says. `digests` are those of the image,
    /// from the one that its reference stands for down to the manifest for this machine: who signed
    /// any of them has signed what runs. Answers the keys that are to be noted, by
    /// [`Self::note`].
    ///
    /// # Errors
    /// [`Reason::PolicyDenied`] when it is not; what the registry answers when that is not known.
    pub(crate) async fn run(&self, digests: &[String]) -> Result<BTreeSet<String>, RuntimeError> {
        let Some(root) = digests.first().filter(|_| !self.demands.is_empty()) else {
            return Ok(BTreeSet::new());
        };
        if self.is_noted(root).await? {
            return Ok(BTreeSet::new());
        }
        let Some(registry) = self.registry else {
            let fault = "nobody signed it as far as this node knows, and with image_pull \"never\" \
                         no registry is asked";
            return Err(self.denied(root, &SignatureFindings::default(), fault));
        };
        let mut findings = SignatureFindings::default();
        for digest in digests {
            self.look(registry, digest, &mut findings).await?;
            if self.are_met_by(&findings.signed_by) {
                let keys = findings.signed_by.iter().map(String::as_str);
                let keys = keys.collect::<Vec<_>>().join(" ");
                tracing::info!(image = %self.image, digest = %root, keys, "image signature verified");
                return Ok(findings.signed_by);
            }
        }
        let fault = if findings.seen == 0 {
            "has no signature in its repository, in the form of cosign 2; sign it with \
             cosign sign --key (cosign 3: with --new-bundle-format=false \
             --use-signing-config=false too)"
        } else {
            "is signed by others only"
        };
        Err(self.denied(root, &findings, fault))
    }

    /// Whether it is noted that the image with this digest is signed as every demand says.
    pub(crate) async fn is_noted(&self, digest: &str) -> Result<bool, RuntimeError> {
        let name = names::fixed_name(self.image, digest);
        let noted = names::signed_by(self.client, &name).await?;
        Ok(self.are_met_by(&noted))
    }

    /// Notes who signed the image, which has its name by now.
    pub(crate) async fn note(
        &self,
        digest: &str,
        signed_by: &BTreeSet<String>,
    ) -> Result<(), RuntimeError> {
        if signed_by.is_empty() {
            return Ok(());
        }
        let name = names::fixed_name(self.image, digest);
        names::note_signed(self.client, &name, signed_by).await
    }

    fn are_met_by(&self, signed_by: &BTreeSet<String>) -> bool {
        self.demands
            .iter()
            .all(|demand| demand.is_met_by(signed_by))
    }

    /// Looks at the signatures of one digest.
    async fn look(
        &self,
        registry: &RegistryClient,
        digest: &str,
        findings: &mut SignatureFindings,
    ) -> Result<(), RuntimeError> {
        let Some(manifest) = self.manifest(registry, digest).await? else {
            return Ok(());
        };
        let signatures = match simple::signatures(&manifest) {
            Ok(signatures) => signatures,
            Err(fault) => {
                findings
                    .faults
                    .push(format!("its signatures cannot be read: {fault}"));
                return Ok(());
            }
        };
        let mut payloads: HashMap<String, Option<Bytes>> = HashMap::new();
        for signature in signatures {
            findings.seen += 1;
            if !payloads.contains_key(&signature.payload) {
                if payloads.len() >= PAYLOADS_MAX {
                    continue;
                }
                let payload = self.payload(registry, &signature.payload, findings).await?;
                payloads.insert(signature.payload.clone(), payload);
            }
            let Some(Some(payload)) = payloads.get(&signature.payload) else {
                continue;
            };
            // What nobody signed is not even read.
            let keys = self.demands.iter().flat_map(|demand| &demand.keys);
            let signed = keys.filter(|key| simple::has_signed(key, payload, &signature.bytes));
            let signed: BTreeSet<_> = signed.map(|key| key.fingerprint.clone()).collect();
            if !signed.is_empty() && !simple::is_about(payload, digest) {
                findings
                    .faults
                    .push("a signature in its place is of another image".to_owned());
                continue;
            }
            findings.signed_by.extend(signed);
            if self.are_met_by(&findings.signed_by) {
                break;
            }
        }
        Ok(())
    }

    /// Manifest with the signatures of a digest. `None`: the registry has none.
    async fn manifest(
        &self,
        registry: &RegistryClient,
        digest: &str,
    ) -> Result<Option<Bytes>, RuntimeError> {
        let Some(tag) = simple::tag(digest) else {
            return Ok(None);
        };
        let mut patience = Patience::new(self.config);
        loop {
            match registry.manifest(self.image, &tag).await {
                Ok(sent) => {
                    self.progress.set_fault(None);
                    return Ok(Some(sent.bytes));
                }
                Err(error) if is(&error, &[Reason::ImageNotFound]) => return Ok(None),
                Err(error) => patience.wait_after(error, self.progress).await?,
            }
        }
    }

    /// Payload of a signature. `None`: it cannot be had, and is told among the faults.
    async fn payload(
        &self,
        registry: &RegistryClient,
        digest: &str,
        findings: &mut SignatureFindings,
    ) -> Result<Option<Bytes>, RuntimeError> {
        let unusable = [Reason::ImageBlobMissing, Reason::ImageInvalid];
        let mut patience = Patience::new(self.config);
        loop {
            let sent = registry
                .small_blob(self.image, digest, ("signature", simple::PAYLOAD_BYTES_MAX))
                .await;
            match sent {
                Ok(payload) => return Ok(Some(payload)),
                // One of several, perhaps: it must not hide the others.
                Err(error) if is(&error, &unusable) => {
                    findings.faults.push(error.to_string());
                    return Ok(None);
                }
                Err(error) => patience.wait_after(error, self.progress).await?,
            }
        }
    }

    /// Denial by every rule that is not met.
    fn denied(&self, root: &str, findings: &SignatureFindings, fault: &str) -> RuntimeError {
        let faults = findings.faults.iter().take(3);
        let more: String = faults.map(|fault| format!("; {fault}")).collect();
        let unmet = self.demands.iter();
        let unmet = unmet.filter(|demand| !demand.is_met_by(&findings.signed_by));
        let denials: Vec<_> = unmet
            .map(|demand| {
                let image = self.image;
                let keys = demand.keys_told();
                demand.denial(format!(
                    "{image} ({root}) must be signed by {keys}, and {fault}{more}"
                ))
            })
            .collect();
        RuntimeError::failed(Reason::PolicyDenied, policy::told(&denials))
    }
}

fn is(error: &RegistryError, reasons: &[Reason]) -> bool {
    let (RegistryError::Passing(failure) | RegistryError::Lasting(failure)) = error;
    reasons.contains(&failure.reason)
}
