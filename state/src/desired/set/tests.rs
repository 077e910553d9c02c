use serde_json::json;

use super::*;
use crate::desired::tests::record;

#[test]
fn what_is_written_is_read_again() {
    let desired = Desired::default().with(&[
        DesiredChange::Put(Box::new(record("a", 1))),
        DesiredChange::Adopt(Some(Adoption {
            above: 7,
            is_new: false,
        })),
    ]);
    let desired = desired.with(&[DesiredChange::Put(Box::new(record("b", 2)))]);
    assert_eq!(Desired::from_entries(desired.entries()), desired);
    let gone = desired.with(&[
        DesiredChange::RemoveRecord(ContainerId::from_bits(1)),
        DesiredChange::Adopt(None),
    ]);
    assert_eq!(
        (gone.records().count(), gone.seq(), gone.adoption()),
        (1, 3, None)
    );
    assert_eq!(Desired::from_entries(gone.entries()), gone);
}

#[test]
fn what_a_newer_version_wrote_is_kept_and_held() {
    let mut entries = Desired::default()
        .with(&[DesiredChange::Put(Box::new(record("a", 1)))])
        .entries();
    let newer = json!({"id": "000000000002", "name": "b", "shape": "unheard of"});
    entries.insert("record/000000000002".to_owned(), newer);
    entries.insert("wish/9".to_owned(), json!([1]));
    entries.insert("format".to_owned(), json!(2));
    let desired = Desired::from_entries(entries.clone());
    assert_eq!(
        (desired.records().count(), desired.unreadable_count()),
        (1, 3)
    );
    assert!(
        desired.is_unreadable(ContainerId::from_bits(2))
            && desired.is_unreadable_name(&"b".parse().unwrap())
    );
    assert!(
        !desired.is_unreadable(ContainerId::from_bits(1))
            && !desired.is_unreadable_name(&"a".parse().unwrap())
    );
    assert_eq!(desired.entries(), entries);
}
