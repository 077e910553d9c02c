//! Circles among containers that wait for each other: none is taken in.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::Record;
use crate::id::ContainerName;
use crate::spec::After;
use crate::spec::parse::Deploy;

/// Tries of [`closing`] with what stays as it is, before every new wait is refused.
const ROUNDS_MAX: usize = 8;

/// Containers by name, and whom each waits for.
#[derive(Debug, Default)]
struct Waiters<'a>(BTreeMap<&'a ContainerName, &'a [After]>);

impl<'a> Waiters<'a> {
    /// The way from `from` to `to`, both included, if one waits for the other.
    fn way(&self, from: &'a ContainerName, to: &ContainerName) -> Option<Vec<&'a ContainerName>> {
        let mut came_from: BTreeMap<&ContainerName, &'a ContainerName> = BTreeMap::new();
        let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = next.pop() {
            if at == to {
                let back = std::iter::successors(Some(at), |name| came_from.get(name).copied());
                let mut way: Vec<_> = back.collect();
                way.reverse();
                return Some(way);
            }
            for after in self.0.get(at).copied().unwrap_or_default() {
                if seen.insert(&after.name) {
                    came_from.insert(&after.name, at);
                    next.push(&after.name);
                }
            }
        }
        None
    }

    /// The circle that these waits of `name` would close, from `name` to itself.
    fn circle(&self, name: &'a ContainerName, after: &'a [After]) -> Option<Vec<ContainerName>> {
        let ways = after.iter().filter_map(|after| self.way(&after.name, name));
        let shortest = ways.min_by_key(Vec::len)?;
        Some(std::iter::once(name).chain(shortest).cloned().collect())
    }
}

/// Deploys of `wanted`, in its order, of which each closes a circle with those before it and with the
/// records that stay; each with that circle. Who is refused stays as its record is.
#[must_use]
pub fn closing<'a>(
    records: impl Iterator<Item = &'a Record> + Clone,
    wanted: &'a [Deploy],
) -> BTreeMap<ContainerName, Vec<ContainerName>> {
    let mut refused = BTreeMap::new();
    if wanted.iter().all(|deploy| deploy.spec.after.is_empty()) {
        return refused;
    }
    let names: BTreeSet<_> = wanted.iter().map(|deploy| &deploy.name).collect();
    let records = records.filter(|record| !record.removing);
    for _ in 0..ROUNDS_MAX {
        let stays =
            |record: &&Record| !names.contains(&record.name) || refused.contains_key(&record.name);
        let mut waiters = Waiters::default();
        let staying = records.clone().filter(stays);
        waiters
            .0
            .extend(staying.map(|record| (&record.name, record.spec.after.as_slice())));
        let mut found = BTreeMap::new();
        for deploy in wanted {
            if refused.contains_key(&deploy.name) {
                continue;
            }
            match waiters.circle(&deploy.name, &deploy.spec.after) {
                Some(circle) => {
                    found.insert(deploy.name.clone(), circle);
                }
                None => {
                    waiters.0.insert(&deploy.name, &deploy.spec.after);
                }
            }
        }
        if found.is_empty() {
            return refused;
        }
        refused.extend(found);
    }
    // Somebody makes an effort: what asks for nothing to be waited for is still taken.
    for deploy in wanted.iter().filter(|deploy| !deploy.spec.after.is_empty()) {
        let itself = || vec![deploy.name.clone(), deploy.name.clone()];
        refused.entry(deploy.name.clone()).or_insert_with(itself);
    }
    refused
}

/// A circle as text: `a -> b -> a`.
#[must_use]
pub fn as_text(circle: &[ContainerName]) -> String {
    const NAMES_MAX: usize = 20;
    let names: Vec<_> = circle.iter().map(ContainerName::as_str).collect();
    match names.len() > NAMES_MAX {
        true => {
            let (begin, end) = (names[..NAMES_MAX - 2].join(" -> "), names.last());
            format!("{begin} -> … -> {}", end.unwrap_or(&""))
        }
        false => names.join(" -> "),
    }
}
