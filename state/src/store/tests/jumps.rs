//! Generations far from the one before: nobody makes a node deaf for good with one.

use super::*;
use crate::desired::applied::AppliedSet;
use crate::ownership::{ChasSet, SetSignature};

fn set(generation: u64, names: &[&str]) -> ChasSet {
    let bodies = names
        .iter()
        .map(|name| json!({"name": name, "image": "x:1"}));
    ChasSet {
        epoch: "e".to_owned(),
        generation,
        containers: bodies
            .map(|body| crate::spec::parse::deploy(&body).unwrap())
            .collect(),
        requested_at_seq: u64::MAX,
        ..ChasSet::default()
    }
}

fn staying(store: &Store) -> Vec<String> {
    let desired = store.desired();
    let staying = desired.records().filter(|record| !record.removing);
    let mut names: Vec<_> = staying.map(|record| record.name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_node_that_took_the_highest_generation_is_deaf_only_until_chas_has_settled_on_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let roomy = Limits {
        containers_max: 9,
        ..limits()
    };
    for highest in [u64::MAX, (1 << 40) + 5, 7] {
        let directory = directory.path().join(highest.to_string());
        let store = Store::open(&directory, roomy.clone()).unwrap();
        store.apply_set(&set(highest, &["a", "b"]), 1).unwrap();
        let mut own = set(5, &["c"]);
        assert!(store.apply_set(&own, 1).unwrap().stale);
        own.is_settled = true;
        // What is new starts; what the set leaves out waits for a person, as after a restore.
        let outcome = store.apply_set(&own, 1).unwrap();
        assert!(!outcome.stale, "{outcome:?}");
        assert_eq!(staying(&store), ["a", "b", "c"]);
        assert_eq!(
            outcome
                .unconfirmed
                .map(|unconfirmed| unconfirmed.omitted.len()),
            Some(2)
        );
        store.confirm(Some(5)).unwrap();
        assert_eq!(staying(&store), ["c"]);
        // From then on it counts as ever.
        store.apply_set(&set(6, &["c", "d"]), 1).unwrap();
        assert_eq!(staying(&store), ["c", "d"]);
        assert!(store.apply_set(&set(5, &[]), 1).unwrap().stale);
    }
}

#[test]
fn a_clock_may_be_a_generation() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (now, year) = (1_800_000_000_000_000_000, 31_556_952_000_000_000);
    for (generation, names) in [(now, &["a"][..]), (now + year, &["b"])] {
        let outcome = store.apply_set(&set(generation, names), 1).unwrap();
        assert!(outcome.unconfirmed.is_none(), "{outcome:?}");
    }
    assert_eq!(staying(&store), ["b"]);
}

fn signature(by: &[&str], keys: &[&str]) -> Option<SetSignature> {
    let [by, keys] = [by, keys].map(|keys| keys.iter().map(ToString::to_string).collect());
    Some(SetSignature { by, keys })
}

fn signed(epoch: &str, generation: u64, names: &[&str]) -> ChasSet {
    ChasSet {
        epoch: epoch.to_owned(),
        signature: signature(&["k"], &["k"]),
        prune_confirm: Some(generation),
        ..set(generation, names)
    }
}

#[test]
fn a_signed_set_is_applied_over_unsigned_ones_and_never_again_once_its_epoch_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let applied = || store.desired().marks().applied_set().cloned().unwrap();
    store.apply_set(&set(7, &["theirs"]), 1).unwrap();
    assert!(!applied().is_signed);
    // The same version with another content; and a count that nobody with a key reached.
    store
        .apply_set(&signed("e", 7, &["theirs", "a"]), 1)
        .unwrap();
    assert_eq!((staying(&store).len(), applied().is_signed), (2, true));
    assert!(store.apply_set(&signed("e", 6, &[]), 1).unwrap().stale);
    store.apply_set(&set(u64::MAX, &["theirs"]), 1).unwrap();
    let outcome = store.apply_set(&signed("e", 8, &["a"]), 1).unwrap();
    assert!(
        !outcome.stale && applied().version.generation == 8,
        "{outcome:?}"
    );
    store.apply_set(&signed("e", 9, &["a"]), 1).unwrap();
    // Another epoch; the sets of the one before are kept by somebody.
    store.apply_set(&signed("f", 1, &["a", "b"]), 1).unwrap();
    assert_eq!(applied().left_epochs, ["e"]);
    let before = applied();
    let replayed = store.apply_set(&signed("e", 10, &[]), 1).unwrap();
    assert!(replayed.is_of_left_epoch && replayed.changed.is_empty());
    let refused = applied().refused.take();
    let after = AppliedSet {
        refused: None,
        ..applied()
    };
    assert_eq!((after, staying(&store).len()), (before, 2));
    assert_eq!(refused.unwrap().generation, 10);
    // Of many the newest are remembered, also over a start.
    for n in 0..20 {
        store
            .apply_set(&signed(&format!("g{n}"), 1, &["a", "b"]), 1)
            .unwrap();
    }
    let left = applied().left_epochs;
    assert_eq!((left.len(), left[15].as_str()), (16, "g18"));
    drop(store);
    let again = open(directory.path());
    assert!(
        again
            .apply_set(&signed("g18", 5, &[]), 1)
            .unwrap()
            .is_of_left_epoch
    );
}

#[test]
fn an_epoch_is_left_only_once_the_one_after_it_is_in_no_doubt() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let applied = || store.desired().marks().applied_set().cloned().unwrap();
    store.apply_set(&signed("own", 5, &["a", "b"]), 1).unwrap();
    // One that somebody kept, of an epoch that the node never saw: it would end what runs.
    let outcome = store.apply_set(&signed("kept", 9, &["a"]), 1).unwrap();
    assert!(outcome.unconfirmed.is_some() && applied().left_epochs.is_empty());
    store.apply_set(&signed("kept", 9, &["a"]), 1).unwrap();
    // The true one counts on, and nothing is lost.
    let outcome = store.apply_set(&signed("own", 6, &["a", "b"]), 1).unwrap();
    assert!(
        !outcome.stale && outcome.unconfirmed.is_none(),
        "{outcome:?}"
    );
    assert_eq!((applied().left_epochs.len(), staying(&store).len()), (0, 2));
    // A person says which of them is CHaS's.
    store.apply_set(&signed("next", 1, &["a"]), 1).unwrap();
    store.confirm(Some(1)).unwrap();
    assert_eq!(
        (applied().left_epochs, staying(&store)),
        (vec!["own".to_owned()], vec!["a".to_owned()])
    );
    assert!(
        store
            .apply_set(&signed("own", 7, &["a"]), 1)
            .unwrap()
            .is_of_left_epoch
    );
    // And may have been mistaken.
    assert!(matches!(
        store.confirm(Some(1)),
        Err(StoreError::OtherGeneration(7))
    ));
    store.confirm(Some(7)).unwrap();
    assert!(matches!(
        store.confirm(None),
        Err(StoreError::NothingToConfirm)
    ));
    assert_eq!(applied().etag, None);
    let outcome = store.apply_set(&signed("own", 7, &["a"]), 1).unwrap();
    assert!(
        !outcome.stale && applied().version.generation == 7,
        "{outcome:?}"
    );
    assert_eq!(applied().left_epochs, ["next"]);
}

#[test]
fn a_key_that_is_taken_out_of_the_file_vouches_for_nothing_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let applied = || store.desired().marks().applied_set().cloned().unwrap();
    let by = |epoch: &str, generation, by: &[&str], keys: &[&str]| ChasSet {
        signature: signature(by, keys),
        ..signed(epoch, generation, &["a"])
    };
    store.apply_set(&by("e", 3, &["old"], &["old"]), 1).unwrap();
    // Whoever has the old key: another epoch, and the highest count.
    store
        .apply_set(&by("f", u64::MAX, &["old"], &["old"]), 1)
        .unwrap();
    assert_eq!(applied().left_epochs, ["e"]);
    // While the old one counts beside the new one, so does what it signed.
    let both = ["old", "new"];
    assert!(
        store
            .apply_set(&by("f", u64::MAX, &["new"], &both), 1)
            .unwrap()
            .stale
    );
    assert!(
        store
            .apply_set(&by("e", 4, &["new"], &both), 1)
            .unwrap()
            .is_of_left_epoch
    );
    assert_eq!(applied().signed_by, ["old".to_owned()].into());
    let outcome = store.apply_set(&by("e", 4, &["new"], &["new"]), 1).unwrap();
    assert!(
        !outcome.stale && applied().version.generation == 4,
        "{outcome:?}"
    );
    assert_eq!(applied().left_epochs, [""; 0]);
    // One that two keys signed outlives either.
    store.apply_set(&by("e", 5, &both, &both), 1).unwrap();
    assert!(
        store
            .apply_set(&by("e", 4, &["old"], &["old"]), 1)
            .unwrap()
            .stale
    );
}

#[test]
fn a_node_with_another_name_has_seen_no_signed_set() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let name = |name: &str| store.set_identity(|identity| identity.node_id = name.to_owned());
    name("one").unwrap();
    for epoch in ["e", "f"] {
        store.apply_set(&signed(epoch, 3, &["a"]), 1).unwrap();
    }
    name("two").unwrap();
    let applied = store.desired().marks().applied_set().cloned().unwrap();
    assert_eq!(
        applied,
        AppliedSet {
            has_listed_hashes: true,
            fully_applied: true,
            ..AppliedSet::default()
        }
    );
    // Also one of an epoch of which the other name's sets were left.
    assert!(!store.apply_set(&signed("e", 1, &["a"]), 1).unwrap().stale);
}
