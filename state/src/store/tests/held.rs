//! What a pulled set may not end without a confirmation, and what comes to a cordoned node.

use super::*;
use crate::desired::RunState;
use crate::desired::pulled::{Held, Rejected};
use crate::ownership::{PullOutcome, PulledSet};

fn body(name: usize) -> Value {
    json!({"name": format!("c{name}"), "image": "x:1"})
}

fn set(epoch: &str, generation: u64, bodies: &[Value]) -> PulledSet {
    let containers = bodies.iter().map(|body| crate::spec::parse::deploy(body).unwrap()).collect();
    PulledSet { epoch: epoch.to_owned(), generation, containers, sent_after: u64::MAX, ..PulledSet::default() }
}

fn listing(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(body).collect()
}

fn pull(store: &Store, set: &PulledSet) -> PullOutcome {
    store.pull(set, 1, |_| false).unwrap()
}

/// A node that runs so many of CHaS's containers, by generation 1 of epoch `e`.
fn node(path: &Path, count: usize) -> Store {
    let store = Store::open(path, Limits { containers_max: 50, ..limits() }).unwrap();
    assert_eq!(pull(&store, &set("e", 1, &listing(0..count))).changed.len(), count);
    store
}

fn staying(store: &Store) -> usize {
    store.desired().records().filter(|record| !record.removing).count()
}

fn held(store: &Store) -> Option<Held> {
    store.desired().marks().pulled().and_then(|pulled| pulled.held.clone())
}

#[test]
fn a_set_that_leaves_out_too_much_is_held_until_it_is_confirmed_by_chas() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    let empty = set("e", 2, &[body(7)]);
    let outcome = pull(&store, &empty);
    assert_eq!((outcome.changed.len(), staying(&store)), (1, 6), "what is new is taken");
    assert_eq!(outcome.held.map(|held| held.omitted.len()), Some(5));
    let store = reopened(store, directory.path(), &Limits { containers_max: 50, ..limits() });
    assert_eq!((staying(&store), held(&store).map(|held| held.omitted.len())), (6, Some(5)));
    // The same again, or confirmed for another generation: nothing.
    for prune_confirm in [None, Some(1)] {
        assert!(pull(&store, &PulledSet { prune_confirm, ..empty.clone() }).held.is_some());
        assert_eq!(staying(&store), 6);
    }
    let outcome = pull(&store, &PulledSet { prune_confirm: Some(2), ..empty.clone() });
    assert_eq!((outcome.changed.len(), outcome.held, staying(&store)), (5, None, 1));
    assert!(pull(&store, &empty).stale);
}

#[test]
fn what_is_held_ends_when_it_is_named_or_listed_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    assert!(pull(&store, &set("e", 2, &[])).held.is_some());
    let named = (0..4).map(|name| format!("c{name}").parse().unwrap()).collect();
    let outcome = pull(&store, &PulledSet { remove: named, ..set("e", 3, &[]) });
    assert_eq!((outcome.changed.len(), outcome.held, staying(&store)), (5, None, 0));

    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    assert!(pull(&store, &set("e", 2, &[])).held.is_some());
    assert_eq!(pull(&store, &set("e", 3, &listing(0..5))).held, None);
    assert_eq!(staying(&store), 5);
}

#[test]
fn an_operator_confirms_what_is_held_and_only_that() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 5);
    assert!(matches!(store.confirm(None), Err(StoreError::NothingHeld)));
    pull(&store, &set("e", 2, &[]));
    assert!(matches!(store.confirm(Some(1)), Err(StoreError::OtherHeld(2))));
    assert_eq!(staying(&store), 5);
    assert_eq!(store.confirm(Some(2)).unwrap().len(), 5);
    assert_eq!((staying(&store), held(&store)), (0, None));
    assert!(pull(&store, &set("e", 2, &[])).stale);
}

#[test]
fn a_restored_database_ends_and_changes_nothing_until_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 4);
    let changed = json!({"name": "c0", "image": "x:0"});
    let stopped = json!({"name": "c1", "image": "x:1", "state": "stopped"});
    let old = set("f", 9, &[changed, stopped, body(2), body(8)]);
    let outcome = pull(&store, &old);
    assert_eq!(outcome.changed.len(), 1, "what is new is taken");
    let names = |held: &Held| held.names().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(outcome.held.as_ref().map(names).as_deref(), Some("c0 c1 c3"));
    let runs = |store: &Store| store.desired().records().filter(|record| guard::runs(record) && record.generation == 1).count();
    assert_eq!(runs(&store), 5);
    // The guard stays up for the epoch's next sets, however little they end.
    let listed = |bodies: &[usize]| bodies.iter().map(|&name| body(name)).collect::<Vec<_>>();
    assert_eq!(pull(&store, &set("f", 10, &listed(&[0, 1, 2, 8]))).held.as_ref().map(names).as_deref(), Some("c3"));
    assert_eq!(runs(&store), 5);
    // An operator's word counts for what is left out at once, and for the rest with the next answer.
    let next = PulledSet { generation: 11, ..old };
    assert!(pull(&store, &next).held.is_some());
    assert_eq!(store.confirm(Some(11)).unwrap().len(), 1);
    assert_eq!(runs(&store), 4);
    let pulled = store.desired().marks().pulled().cloned().unwrap();
    assert!(!pulled.whole && pulled.etag.is_none(), "so that it is asked for again, at once");
    assert_eq!(pull(&store, &next).held, None);
    assert_eq!(runs(&store), 2);
    // From then on it is an epoch like any other.
    assert_eq!(pull(&store, &set("f", 12, &listed(&[0, 1, 2]))).held, None);
}

#[test]
fn what_a_restored_database_said_before_is_no_word_of_today() {
    let named = |names: &[usize]| names.iter().map(|name| format!("c{name}").parse().unwrap()).collect();
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 3);
    // Both were said in last week's generation 9.
    let old = PulledSet { remove: named(&[0]), prune_confirm: Some(9), ..set("f", 9, &listing(2..3)) };
    for _ in 0..3 {
        assert_eq!(pull(&store, &old).held.unwrap().omitted.len(), 2);
        assert_eq!(staying(&store), 3);
    }
    // It is kept with the rest, and said again with what is new.
    let next = PulledSet { generation: 10, ..old.clone() };
    assert_eq!(pull(&store, &next).held.unwrap().omitted.len(), 2);
    // What is named only now is meant, and so is a confirmation of what was held, though it counts as another generation.
    assert_eq!(pull(&store, &PulledSet { generation: 11, remove: named(&[0, 1]), ..old.clone() }).changed.len(), 1);
    let confirmed = PulledSet { generation: 12, prune_confirm: Some(11), ..old };
    assert_eq!((pull(&store, &confirmed).held, staying(&store)), (None, 1));
    // From then on, it is an epoch like any other.
    assert_eq!(pull(&store, &PulledSet { remove: named(&[2]), ..set("f", 13, &[]) }).changed.len(), 1);
}

#[test]
fn a_restored_database_is_one_until_all_that_it_lists_was_understood() {
    let bad = |name: Option<&str>| Rejected { name: name.map(str::to_owned), index: Some(0), errors: Vec::new() };
    for name in [None, Some("c0")] {
        let directory = tempfile::tempdir().unwrap();
        let store = node(directory.path(), 3);
        let half = PulledSet { rejected: vec![bad(name)], ..set("f", 1, &listing(1..3)) };
        assert_eq!((pull(&store, &half).held, staying(&store)), (None, 3), "{name:?}");
        let store = reopened(store, directory.path(), &Limits { containers_max: 50, ..limits() });
        let changed = json!({"name": "c1", "image": "x:0"});
        let outcome = pull(&store, &set("f", 2, &[changed, body(2)]));
        assert_eq!(outcome.held.unwrap().names().count(), 2, "{name:?}");
        assert_eq!((staying(&store), outcome.changed.len()), (3, 0));
        assert_eq!(pull(&store, &set("f", 3, &listing(0..3))).held, None);
        assert_eq!(pull(&store, &set("f", 4, &listing(0..2))).changed.len(), 1, "it is an epoch like any other now");
    }
}

#[test]
fn what_is_pushed_while_a_restored_database_is_asked_is_not_overruled_without_asking() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 1);
    let sent_after = store.desired().seq();
    let pushed = deploy(&store, &json!({"name": "c5", "image": "x:today"})).unwrap().record;
    let old = [body(0), json!({"name": "c5", "image": "x:last-week"})];
    let outcome = pull(&store, &PulledSet { sent_after, ..set("f", 1, &old) });
    assert_eq!((outcome.conflicts[0].winner, outcome.held), (Owner::Push, None));
    // It is sent again, asked for after the push.
    assert_eq!(pull(&store, &set("f", 1, &old)).held.map(|held| held.changed.len()), Some(1));
    assert_eq!(store.desired().get(pushed.id).unwrap().generation, pushed.generation);
}

#[test]
fn an_operators_word_makes_a_restored_database_one_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 4);
    let bad = Rejected { name: Some("never".to_owned()), index: Some(0), errors: Vec::new() };
    let first = PulledSet { rejected: vec![bad], ..set("f", 1, &listing(0..3)) };
    assert!(pull(&store, &first).held.is_some());
    assert_eq!(store.confirm(Some(1)).unwrap().len(), 1);
    assert!(pull(&store, &first).stale);
    assert_eq!(pull(&store, &set("f", 2, &listing(0..2))).held, None);
    assert_eq!(staying(&store), 2);
}

#[test]
fn what_another_name_of_the_node_lists_is_counted_anew_and_guarded() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 2);
    let rename = |name: &'static str| store.link(move |link| link.node_id = name.to_owned()).unwrap();
    rename("one");
    assert!(pull(&store, &set("e", 1, &[])).stale, "a name that was not noted is none that was changed");
    rename("two");
    assert_eq!(pull(&store, &set("e", 1, &listing(1..2))).held.map(|held| held.omitted.len()), Some(1));
    assert_eq!(staying(&store), 2);
}

#[test]
fn what_was_pulled_by_an_agent_whose_memory_of_it_is_lost_is_guarded() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.deploy(crate::spec::parse::deploy(&body(0)).unwrap(), Owner::Chas, false, 1, |_| false).unwrap();
    assert_eq!(store.desired().marks().pulled(), None);
    assert!(pull(&store, &set("e", 1, &[])).held.is_some());
    assert_eq!(staying(&store), 1);
}

#[test]
fn an_entry_that_is_not_understood_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 3);
    let bad = |name: Option<&str>| Rejected { name: name.map(str::to_owned), index: Some(0), errors: Vec::new() };
    let with = |generation, rejected| PulledSet { rejected: vec![rejected], ..set("e", generation, &listing(0..1)) };
    let outcome = pull(&store, &with(2, bad(None)));
    assert_eq!((outcome.changed.len(), staying(&store), outcome.rejected.len()), (0, 3, 1));
    pull(&store, &with(3, bad(Some("c1"))));
    assert_eq!(staying(&store), 2, "c2 is left out, c1 is not");
    assert!(store.desired().marks().pulled().unwrap().whole, "it would be no better the next time");
}

#[test]
fn what_comes_to_a_cordoned_node_waits_and_what_is_there_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = node(directory.path(), 1);
    let cordoned = PulledSet { cordon: true, ..set("e", 2, &listing(0..2)) };
    pull(&store, &cordoned);
    let pushed = deploy(&store, &body(2)).unwrap().record;
    let waiting = |store: &Store| {
        let desired = store.desired();
        let mut names: Vec<_> = desired.records().filter(|r| r.cordoned).map(|r| r.name.to_string()).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!((waiting(&store).as_str(), pushed.cordoned, pushed.run), ("c1 c2", true, RunState::Running));
    // A change of what is there is no new container; one of what waits is waited with.
    let changed = json!({"name": "c0", "image": "x:2"});
    pull(&store, &PulledSet { cordon: true, ..set("e", 3, &[changed.clone(), body(1)]) });
    assert!(deploy(&store, &json!({"name": "c2", "image": "x:3"})).unwrap().record.cordoned);
    let store = reopened(store, directory.path(), &Limits { containers_max: 50, ..limits() });
    assert!(store.desired().marks().cordoned());
    assert_eq!(waiting(&store), "c1 c2");
    // Lifted, also by the same generation.
    let outcome = pull(&store, &set("e", 3, &[changed, body(1)]));
    assert!(outcome.stale && outcome.changed.len() == 2);
    assert_eq!((waiting(&store).as_str(), store.desired().marks().cordoned()), ("", false));
}
