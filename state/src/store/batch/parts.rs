//! Parts of a record that is decided on.

use super::Batch;
use crate::assign::{AddressWish, AssignError, assign};
use crate::desired::tag_check::TagCheck;
use crate::desired::{Assignment, Record};
use crate::id::ContainerId;
use crate::spec::parse::Deploy;

impl Batch<'_> {
    /// Question to the registry that a record has: one that is open is about the tag, whatever else
    /// changes.
    pub(super) fn tag_check(
        &self,
        (same, goes_on): (Option<&Record>, Option<&Record>),
        before: Option<&Record>,
        deploy: &Deploy,
    ) -> Option<TagCheck> {
        match (same, goes_on) {
            (Some(same), _) => same.tag_check.clone(),
            // A change is a reason to ask what the tag stands for, and none to end what runs.
            (None, Some(before)) if before.follows_tag() => Some(TagCheck::by_change(self.seq)),
            (None, Some(before)) => before.tag_check.clone(),
            (None, None) => before
                .filter(|before| !before.removing && before.spec.image == deploy.spec.image)
                .and_then(|before| before.tag_check.clone())
                .filter(TagCheck::is_open),
        }
    }

    /// Place on the network for what `deploy` asks for.
    pub(super) fn place(
        &self,
        id: ContainerId,
        deploy: &Deploy,
        wish: AddressWish,
    ) -> Result<Assignment, AssignError> {
        assign(
            id,
            &deploy.spec,
            self.desired.records().map(AsRef::as_ref),
            &self.desired.unreadable_assignments(),
            &self.store.limits.ports,
            &*self.store.limits.network,
            wish,
        )
    }
}
