//! Policy for an image that is fetched for no container yet: nobody knows whose it will be, so every rule
//! counts.

use super::signers::SignatureDemand;
use super::{Denial, POLICY_FILE, Policy};
use crate::reference::ImageReference;

impl Policy {
    /// Denials of an image that is to be on the node before a container asks for it.
    #[must_use]
    pub fn judge_ahead(&self, image: &ImageReference) -> Vec<Denial> {
        if let Some(fault) = &self.unusable {
            let message = format!("nothing is taken in until the policy can be read: {fault}");
            return vec![Denial::new(POLICY_FILE, "image", message)];
        }
        let rules = self.rules.iter();
        rules.flat_map(|rule| rule.image_denials(image)).collect()
    }

    /// Signatures that such an image needs.
    #[must_use]
    pub fn signatures_ahead(&self, image: &ImageReference) -> Vec<SignatureDemand> {
        let rules = self.rules.iter();
        let rules = rules.filter(|rule| rule.bounds.signers.are_for(image));
        let demand = |rule: &super::PolicyRule| SignatureDemand {
            rule: rule.name.clone(),
            keys: rule.bounds.signers.keys.clone(),
        };
        rules.map(demand).collect()
    }
}
