//! Adoption of the records in the runtime's labels after the state was rebuilt. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::desired::Record;
use crate::desired::set::{Adoption, Desired, DesiredChange};
use crate::id::ContainerId;
use crate::seal::NodeKey;

/// The changes that adopt records newer than the state, and a sentence for a person about each.
pub(super) fn adopted(
    desired: &Desired,
    adoption: Adoption,
    copies: &[(ContainerId, Value)],
    key: Option<&NodeKey>,
) -> (Vec<DesiredChange>, Vec<String>) {
    let (mut records, mut changes, mut told) = (Vec::new(), Vec::new(), Vec::new());
    let sealer = key.and_then(|key| key.sealer().ok());
    // A container without a copy of its record is what a removal left half done.
    let copies = copies.iter().filter(|(_, copy)| !copy.is_null());
    let mut of_each: BTreeMap<ContainerId, Vec<&Value>> = BTreeMap::new();
    for (id, copy) in copies.filter(|(id, _)| !desired.is_unreadable(*id)) {
        of_each.entry(*id).or_default().push(copy);
    }
    for (id, copies) in of_each {
        let Some((newest, earlier)) = copies.split_last() else {
            continue;
        };
        let read = |copy: &Value| {
            let read = serde_json::from_value::<Record>(copy.clone()).ok();
            // These were noted when the container was created, and are done since.
            let mut record = read.filter(|record| record.id == id)?;
            (record.restart_pending, record.finished) = (false, None);
            // Containers of older versions have their values readable.
            if let Some(sealer) = sealer {
                record.spec.seal_environment(&record.name, sealer);
            }
            Some(record)
        };
        match read(newest) {
            Some(mut record) => {
                // Two at once are an update, of which the earlier one serves.
                let former = earlier.iter().rev().find_map(|copy| read(copy));
                record.update = former.and_then(|former| record.resumed_from(&former));
                records.push(record);
            }
            // An unreadable record may be wanted, so its container must not count as a leftover.
            None if desired.get(id).is_none() => {
                changes.push(DesiredChange::KeepUnreadable(id, (*newest).clone()));
                told.push(format!(
                    "container {id} is left alone: the record in its labels cannot be read"
                ));
            }
            None => {}
        }
    }
    // Of two records with one name or address, the newer counts: it was accepted, so the other had
    // been removed by then. The other's container is swept.
    records.sort_by_key(|record| std::cmp::Reverse(record.seq));
    let mut known = Desired::clone(desired);
    for record in records {
        let is_newer = record.seq > adoption.above
            && known
                .get(record.id)
                .is_none_or(|known| known.seq < record.seq);
        let rivals: Vec<_> = known
            .records()
            .filter(|other| collides(other, &record))
            .map(|other| (other.id, other.seq))
            .collect();
        if is_newer && rivals.iter().all(|(_, seq)| *seq < record.seq) {
            told.push(format!(
                "{} ({}, change {}) was taken from containerd's labels",
                record.name, record.id, record.seq
            ));
            let gone = rivals
                .iter()
                .map(|(id, _)| DesiredChange::RemoveRecord(*id));
            let taken: Vec<_> = gone.chain([DesiredChange::Put(Box::new(record))]).collect();
            taken.iter().for_each(|change| known.apply(change));
            changes.extend(taken);
        } else if let Some(known) = known.get(record.id).filter(|known| lags(known, &record)) {
            // The copy is from before a restart whose number its container bears.
            let mut known = Record::clone(known);
            known.restarts_asked = record.restarts_asked;
            changes.push(DesiredChange::Put(Box::new(known)));
        }
    }
    (changes, told)
}

/// Whether a record has an older number of restarts than its container.
const fn lags(known: &Record, label: &Record) -> bool {
    known.restarts_asked < label.restarts_asked && !known.restart_pending
}

/// Whether two records exclude each other: one name or address cannot belong to both.
fn collides(other: &Record, record: &Record) -> bool {
    let addresses = |record: &Record| -> BTreeSet<_> {
        let places = record.with_former();
        places
            .filter_map(|record| record.assignment.address)
            .collect()
    };
    let is_same_address = !addresses(other).is_disjoint(&addresses(record));
    other.id != record.id && (other.name == record.name || is_same_address)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;
    use crate::desired::tests::record;

    fn copy(name: &str, bits: u64, seq: u64) -> (ContainerId, Value) {
        let mut record = record(name, bits);
        (record.seq, record.assignment.address) = (
            seq,
            Some(Ipv4Addr::new(10, 0, 1, u8::try_from(bits).unwrap())),
        );
        (record.id, serde_json::to_value(record).unwrap())
    }

    #[track_caller]
    fn check(known: &[(ContainerId, Value)], copies: &[(ContainerId, Value)], expected: &[&str]) {
        let adoption = Adoption {
            above: 5,
            is_new: false,
        };
        let known: Vec<_> = known
            .iter()
            .map(|(_, copy)| serde_json::from_value(copy.clone()).unwrap())
            .collect();
        let desired = Desired::default().with(
            &known
                .into_iter()
                .map(|r| DesiredChange::Put(Box::new(r)))
                .collect::<Vec<_>>(),
        );
        let (changes, told) = adopted(&desired, adoption, copies, None);
        let after = desired.with(&changes);
        let names: Vec<_> = after
            .records()
            .map(|record| format!("{}@{}", record.name, record.seq))
            .collect();
        assert_eq!(names, expected);
        let removed = |change: &&DesiredChange| matches!(change, DesiredChange::RemoveRecord(_));
        let removed = changes.iter().filter(removed).count();
        assert_eq!(told.len(), changes.len() - removed);
    }

    #[test]
    fn only_newer_records_are_adopted() {
        check(&[], &[copy("a", 1, 6)], &["a@6"]);
        check(&[], &[copy("a", 1, 5)], &[]);
        check(&[copy("a", 1, 3)], &[copy("a", 1, 6)], &["a@6"]);
        check(&[copy("a", 1, 7)], &[copy("a", 1, 6)], &["a@7"]);
    }

    #[test]
    fn an_older_copy_of_the_state_learns_the_number_of_a_restart_from_its_container() {
        let mut known = record("a", 1);
        known.seq = 7;
        let mut label = known.clone();
        (label.seq, label.restarts_asked) = (6, 3);
        let copies = [(label.id, serde_json::to_value(&label).unwrap())];
        let desired = Desired::default().with(&[DesiredChange::Put(Box::new(known))]);
        let adoption = Adoption {
            above: 5,
            is_new: false,
        };
        let (changes, _) = adopted(&desired, adoption, &copies, None);
        let after = desired.with(&changes);
        let after = after.get(label.id).unwrap();
        assert_eq!((after.restarts_asked, after.seq), (3, 7));
    }

    #[test]
    fn of_two_records_that_exclude_each_other_the_newer_is_adopted() {
        check(&[], &[copy("a", 1, 6), copy("a", 2, 7)], &["a@7"]);
        check(&[copy("a", 1, 3)], &[copy("a", 2, 7)], &["a@7"]);
        check(&[copy("a", 1, 8)], &[copy("a", 2, 7)], &["a@8"]);
    }

    #[test]
    fn an_unreadable_record_is_kept() {
        let id = ContainerId::from_bits(9);
        let (changes, told) = adopted(
            &Desired::default(),
            Adoption {
                above: 0,
                is_new: true,
            },
            &[(id, json!({"id": "another"}))],
            None,
        );
        assert!(Desired::default().with(&changes).is_unreadable(id));
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn of_two_generations_that_ran_at_once_the_earlier_one_serves() {
        let generation = |generation: u64, last: u8, body: &Value| {
            let mut record = record("a", 1);
            let spec = crate::spec::parse::deploy(body).unwrap().spec;
            (record.generation, record.seq, record.spec) = (generation, 5 + generation, spec);
            record.assignment.address = Some(Ipv4Addr::new(10, 0, 1, last));
            record
        };
        let body = json!({"name": "a", "image": "b", "update": {"strategy": "start-first"}});
        let (one, two) = (
            generation(1, 1, &json!({"name": "a", "image": "b"})),
            generation(2, 2, &body),
        );
        let stopping = generation(3, 1, &json!({"name": "a", "image": "b"}));
        let adopt = |records: &[&Record]| {
            let copies = records
                .iter()
                .map(|record| (record.id, serde_json::to_value(record).unwrap()));
            let adoption = Adoption {
                above: 0,
                is_new: true,
            };
            let copies: Vec<_> = copies.chain([(one.id, Value::Null)]).collect();
            let (changes, _) = adopted(&Desired::default(), adoption, &copies, None);
            let after = Desired::default().with(&changes);
            Record::clone(after.get(one.id).unwrap())
        };
        let both = adopt(&[&one, &two]);
        assert_eq!((both.generation, both.serving().generation), (2, 1));
        assert!(both.stands_back());
        assert_eq!(adopt(&[&two]).update, None);
        assert_eq!(adopt(&[&one, &stopping]).update, None, "never at once");
    }
}
