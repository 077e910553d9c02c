//! Sums and counts over all containers that a rule is for. Only a change can make them worse, so
//! only what a change adds is denied: who is over a bound that was lowered may still come down.

use super::Denial;
use super::rule::PolicyRule;
use crate::desired::Record;
use crate::desired::set::Desired;
use crate::quantity::{ByteCount, CpuMillis};
use crate::spec::parse::Deploy;
use crate::spec::{Resources, Spec};

/// Every denial of a deploy by what all containers of the rule may have together.
pub(super) fn denials(rule: &PolicyRule, deploy: &Deploy, desired: &Desired) -> Vec<Denial> {
    let totals = &rule.totals;
    if totals.memory.is_none() && totals.cpu.is_none() && totals.count.is_none() {
        return Vec::new();
    }
    let counted =
        |record: &&Record| !record.removing && rule.scope.holds(&record.name, record.owner);
    let all: Vec<&Record> = desired
        .records()
        .map(AsRef::as_ref)
        .filter(counted)
        .collect();
    let (own, others): (Vec<&Record>, Vec<_>) = all
        .into_iter()
        .partition(|record| record.name == deploy.name);
    let before = own.first().copied();
    let mut denials = Vec::new();
    let mut deny = |field: &str, message: Option<String>| {
        denials.extend(message.map(|message| Denial::new(&rule.name, field, message)));
    };
    if let Some(most) = totals.memory {
        let of = |resources: &Resources| resources.memory.map(|memory| memory.0);
        let tell = |bytes| ByteCount(bytes).to_string();
        let sum = Sum::of(of, &others, before, &deploy.spec.resources);
        deny("resources.memory", sum.fault(most.0, tell));
    }
    if let Some(most) = totals.cpu {
        let of = |resources: &Resources| resources.cpu.map(|cpu| cpu.0);
        let tell = |millis| CpuMillis(millis).to_string();
        let sum = Sum::of(of, &others, before, &deploy.spec.resources);
        deny("resources.cpu", sum.fault(most.0, tell));
    }
    if let Some(most) = totals.count {
        let count = u64::try_from(others.len()).unwrap_or(u64::MAX);
        let is_one_more = before.is_none() && count >= most;
        let message =
            || format!("{count} containers of the {most} permitted are there; delete one");
        deny("name", is_one_more.then(message));
    }
    denials
}

/// Limits that a container lacks, so that it counts for nothing in a sum of the rule.
pub(super) fn uncounted(rule: &PolicyRule, spec: &Spec) -> Vec<Denial> {
    let (totals, resources) = (&rule.totals, &spec.resources);
    let memory = totals.memory.is_some() && resources.memory.is_none();
    let cpu = totals.cpu.is_some() && resources.cpu.is_none();
    let fields = [(memory, "resources.memory"), (cpu, "resources.cpu")];
    let without = fields.into_iter().filter(|(is_without, _)| *is_without);
    without
        .map(|(_, field)| {
            let message = "has no limit, and counts for nothing in the sum; give it one";
            Denial::new(&rule.name, field, message)
        })
        .collect()
}

/// A sum over containers, without the one that changes; and that one before and after.
struct Sum {
    others: u64,
    before: Option<u64>,
    after: Option<u64>,
}

impl Sum {
    fn of(
        of: impl Fn(&Resources) -> Option<u64>,
        others: &[&Record],
        before: Option<&Record>,
        after: &Resources,
    ) -> Self {
        // While an update is under way both generations may run, and either may stay.
        let held = |record: &Record| {
            let generations = record.with_former();
            generations
                .filter_map(|record| of(&record.spec.resources))
                .max()
        };
        let parts = others.iter().filter_map(|record| held(record));
        Self {
            others: parts.fold(0, u64::saturating_add),
            before: before.and_then(held),
            after: of(after),
        }
    }

    fn fault(&self, most: u64, tell: impl Fn(u64) -> String) -> Option<String> {
        let Some(after) = self.after else {
            return Some(format!("is required, {} at most in all", tell(most)));
        };
        let all = self.others.saturating_add(after);
        let is_more = self.before.is_none_or(|before| after > before);
        (is_more && all > most).then(|| {
            format!(
                "{} with the {} of others is more than the {} permitted in all",
                tell(after),
                tell(self.others),
                tell(most)
            )
        })
    }
}
