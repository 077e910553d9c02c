//! The same guard for the set owned by push: a script that lost half of its list, or sent none, ends
//! no more than a few containers before somebody names their number.

use super::{is_many, runs};
use crate::desired::set::Desired;
use crate::desired::{Owner, Record};
use crate::id::ContainerName;

/// The running containers among `gone` that end only once their number is confirmed; none, if so
/// many may go. `desired` is the state before.
#[must_use]
pub fn unconfirmed(
    desired: &Desired,
    gone: &[Record],
    confirm: Option<usize>,
) -> Vec<ContainerName> {
    let ended: Vec<_> = gone.iter().filter(|record| runs(record)).collect();
    let pushed = desired
        .records()
        .filter(|record| record.owner == Owner::Push);
    let all = pushed.filter(|record| runs(record)).count();
    let may_go = confirm.is_some_and(|count| ended.len() <= count);
    if may_go || !is_many(ended.len(), all) {
        return Vec::new();
    }
    ended.iter().map(|record| record.name.clone()).collect()
}
