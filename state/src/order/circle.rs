//! Circles among containers that wait for each other: none is taken in.

use std::collections::BTreeMap;

use crate::desired::Record;
use crate::desired::set::Desired;
use crate::id::ContainerName;
use crate::spec::After;

/// Names of a circle that are told.
const NAMES_MAX: usize = 20;

/// The circle that a container with this name closes if it waits for these, from its name to its name.
#[must_use]
pub fn closed(
    desired: &Desired,
    name: &ContainerName,
    after: &[After],
) -> Option<Vec<ContainerName>> {
    // A circle comes back by somebody who waits for this name, which is looked for in a tenth of the time
    // of a walk: in a set that lists each after those that it waits for, nobody does yet.
    let is_waited_for = desired.records().any(|record| {
        let mut names = record.spec.after.iter().map(|after| &after.name);
        names.any(|other| other == name)
    });
    if after.is_empty() || !is_waited_for {
        return None;
    }
    // Who was come to, and from whom.
    let mut came_from: BTreeMap<&ContainerName, &ContainerName> = BTreeMap::new();
    let mut next: Vec<(&ContainerName, &ContainerName)> = Vec::new();
    next.extend(after.iter().map(|after| (&after.name, name)));
    while let Some((at, from)) = next.pop() {
        if came_from.contains_key(at) {
            continue;
        }
        came_from.insert(at, from);
        if at == name {
            break;
        }
        let record = desired.named(at).filter(|record| !record.removing);
        let after = record.iter().flat_map(|record| &record.spec.after);
        next.extend(after.map(|after| (&after.name, at)));
    }
    let mut way = vec![name.clone()];
    let mut at = *came_from.get(name)?;
    while at != name {
        way.push(at.clone());
        at = came_from.get(at)?;
    }
    way.push(name.clone());
    way.reverse();
    Some(way)
}

/// The circle that a stored container is on: none is taken in, but records that were put together from
/// copies of different age may be one.
#[must_use]
pub fn of(desired: &Desired, record: &Record) -> Option<Vec<ContainerName>> {
    closed(desired, &record.name, &record.spec.after)
}

/// The record without what it waits for in vain: those that wait for it. `None`: there are none.
#[must_use]
pub fn left(desired: &Desired, record: &Record) -> Option<Record> {
    of(desired, record)?;
    let mut left = record.clone();
    let leads_back =
        |after: &After| closed(desired, &record.name, std::slice::from_ref(after)).is_some();
    left.spec.after.retain(|after| !leads_back(after));
    Some(left)
}

/// A circle as text: `a -> b -> a`.
#[must_use]
pub fn as_text(circle: &[ContainerName]) -> String {
    let names: Vec<_> = circle.iter().map(ContainerName::as_str).collect();
    if names.len() <= NAMES_MAX {
        return names.join(" -> ");
    }
    let (begin, end) = (names[..NAMES_MAX - 2].join(" -> "), names.last());
    format!("{begin} -> … -> {}", end.unwrap_or(&""))
}
