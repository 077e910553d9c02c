//! Whatever is pushed, pulled, deleted, stopped and started again, in whatever order: nobody loses what is his.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::desired::RunState;
use crate::desired::pulled::Pulled;
use crate::ownership::{Order, PullOutcome, PulledSet};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn plenty() -> Limits {
    Limits { containers_max: 50, ..limits() }
}

fn body(name: usize, image: u8, revision: Option<u64>, running: bool, port: bool) -> Value {
    let ports = if port { json!([{"container": 80, "host": 8080}]) } else { json!([]) };
    let state = if running { "running" } else { "stopped" };
    json!({"name": NAMES[name], "image": format!("x:{image}"), "revision": revision, "state": state, "exposed_ports": ports})
}

fn set(epoch: &str, generation: u64, containers: &[Value], sent_after: u64) -> PulledSet {
    let containers: Vec<_> = containers.iter().map(|body| crate::spec::parse::deploy(body).unwrap()).collect();
    let (epoch, etag, remove) = (epoch.to_owned(), Some(format!("{epoch}{generation}")), BTreeSet::new());
    PulledSet { epoch, generation, etag, containers, remove, sent_after, ..PulledSet::default() }
}

fn pull(store: &Store, set: &PulledSet) -> PullOutcome {
    store.pull(set, 1, |_| false).unwrap()
}

fn named(store: &Store, name: &str) -> Arc<Record> {
    Arc::clone(store.desired().named(&name.parse().unwrap()).unwrap())
}

fn web(image: u8) -> Value {
    body(0, image, None, true, false)
}

#[test]
fn what_was_pushed_and_is_listed_changes_hands_and_does_not_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let pushed = deploy(&store, &web(1)).unwrap().record;
    let outcome = pull(&store, &set("e", 1, &[web(1)], 0));
    assert_eq!((outcome.changed.as_slice(), outcome.conflicts.len()), (&[pushed.id][..], 0));
    let record = named(&store, "a");
    assert_eq!((record.owner, record.generation), (Owner::Chas, 1));
    assert!(pull(&store, &set("e", 1, &[], 9)).stale);
    assert!(matches!(deploy(&store, &web(2)), Err(StoreError::Owned(_, 1))));
    assert!(!deploy(&store, &web(1)).unwrap().changed);
    assert_eq!(pull(&store, &set("e", 2, &[], 9)).changed, [pushed.id]);
    assert!(named(&store, "a").removing);
}

#[test]
fn a_push_that_is_younger_than_the_question_stands_until_the_same_set_is_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let sent_after = store.desired().seq();
    let pushed = deploy(&store, &web(1)).unwrap().record;
    let outcome = pull(&store, &set("e", 1, &[web(2)], sent_after));
    assert_eq!((outcome.changed.len(), outcome.conflicts[0].winner), (0, Owner::Push));
    assert!(!store.desired().marks().pulled().unwrap().whole, "so that it is sent again");
    // What the reconciler notes of it makes it no younger.
    let sent_after = store.desired().seq();
    store.set_image_digest(pushed.id, 1, Some("sha256:1".to_owned())).unwrap();
    let outcome = pull(&store, &set("e", 1, &[web(2)], sent_after));
    assert_eq!((outcome.changed.len(), outcome.conflicts[0].winner), (1, Owner::Chas));
    let pulled = store.desired().marks().pulled().cloned().unwrap();
    assert_eq!((pulled.whole, pulled.etag.as_deref()), (true, Some("e1")));
    assert_eq!((named(&store, "a").owner, named(&store, "a").generation), (Owner::Chas, 2));
}

#[test]
fn a_higher_revision_takes_it_from_chas_until_chas_lists_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    pull(&store, &set("e", 1, &[body(0, 1, Some(7), true, false)], 0));
    assert!(deploy(&store, &body(0, 2, Some(8), true, false)).unwrap().changed);
    assert_eq!(named(&store, "a").owner, Owner::Push);
    assert!(!store.desired().marks().pulled().unwrap().whole);
    // A set from before it neither prunes it nor takes it back.
    for old in [vec![], vec![body(0, 1, Some(7), true, false)]] {
        pull(&store, &set("e", 2 + u64::try_from(old.len()).unwrap(), &old, 99));
        assert_eq!((named(&store, "a").owner, named(&store, "a").removing), (Owner::Push, false));
    }
    pull(&store, &set("e", 4, &[body(0, 2, Some(8), true, false)], 99));
    assert_eq!((named(&store, "a").owner, named(&store, "a").generation), (Owner::Chas, 2));
}

#[test]
fn what_an_operator_stops_or_deletes_stays_so_until_a_newer_set_lists_it() {
    for order in [Order::Stop, Order::Remove] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        pull(&store, &set("e", 1, &[web(1)], 0));
        let id = named(&store, "a").id;
        store.order(id, order).unwrap();
        if order == Order::Remove {
            store.forget(id).unwrap();
        }
        let store = open_again(store, directory.path());
        // Something else of the set is open, so that it is sent again.
        deploy(&store, &body(1, 9, Some(9), true, false)).unwrap();
        let listing = [web(1), body(1, 1, Some(1), true, false)];
        assert!(pull(&store, &set("e", 1, &listing, 99)).stale);
        let outcome = pull(&store, &set("e", 2, &listing, 99));
        assert_eq!(outcome.conflicts.len(), 1);
        let record = named(&store, "a");
        assert_eq!((record.run, record.removing), (RunState::Running, false));
        store.order(record.id, order).unwrap();
        assert!(pull(&store, &set("e", 2, &listing, 99)).changed.is_empty());
        let record = named(&store, "a");
        assert!(record.run == RunState::Stopped || record.removing);
    }
}

#[test]
fn what_cannot_be_had_is_rejected_and_had_once_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mine = deploy(&store, &body(0, 1, None, true, true)).unwrap().record;
    let listing = [body(1, 1, None, true, true), body(2, 1, None, true, false), body(2, 2, None, true, false)];
    let outcome = pull(&store, &set("e", 1, &listing, 99));
    assert_eq!(outcome.changed.len(), 1);
    let rejected: Vec<_> =
        outcome.rejected.iter().map(|r| format!("{}: {}", r.name.as_deref().unwrap(), r.errors[0].message)).collect();
    assert_eq!(rejected, ["c: it is listed twice", "b: host port 8080/tcp is taken by container a"]);
    store.order(mine.id, Order::Remove).unwrap();
    store.forget(mine.id).unwrap();
    let outcome = pull(&store, &set("e", 1, &listing[..2], 99));
    assert_eq!((outcome.changed.len(), outcome.rejected.len()), (1, 0));
    let mut both = set("e", 2, &listing[..2], 99);
    both.remove.insert("c".parse().unwrap());
    assert!(pull(&store, &both).rejected[0].errors[0].message.contains("remove"));
    assert!(!named(&store, "c").removing, "what is not understood is left alone");
}

#[test]
fn a_late_answer_does_not_bring_back_what_was_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let id = deploy(&store, &web(1)).unwrap().record.id;
    let sent_after = store.desired().seq();
    store.order(id, Order::Remove).unwrap();
    store.forget(id).unwrap();
    let outcome = pull(&store, &set("e", 1, &[web(1)], sent_after));
    assert_eq!((outcome.changed.len(), outcome.conflicts[0].winner), (0, Owner::Push));
    assert_eq!(pull(&store, &set("e", 1, &[web(1)], store.desired().seq())).changed.len(), 1);
    store.report_acknowledged(store.desired().seq()).unwrap();
    assert!(store.desired().marks().tombstones().is_empty());
}

/// One thing that happens to a node.
#[derive(Clone, Debug)]
enum Event {
    Push {
        name: usize,
        image: u8,
        revision: Option<u64>,
        running: bool,
        port: bool,
    },
    Replace(Vec<(usize, u8)>),
    Order(usize, u8),
    /// CHaS changes what it lists. Fields of one container each.
    List(Vec<(usize, u8, Option<u64>, bool, bool)>, bool),
    Ask,
    Answer,
    Gone,
    Note(usize),
    Reopen,
    Acknowledge,
}

fn event() -> impl Strategy<Value = Event> {
    let revision = || proptest::option::of(1..4u64);
    let listed = (0..4usize, 0..3u8, revision(), proptest::bool::weighted(0.8), any::<bool>());
    let push = (0..4usize, 0..3u8, revision(), proptest::bool::weighted(0.8), any::<bool>());
    let push = push.prop_map(|(name, image, revision, running, port)| Event::Push { name, image, revision, running, port });
    prop_oneof![
        4 => push,
        1 => proptest::collection::vec((0..4usize, 0..3u8), 0..4).prop_map(Event::Replace),
        4 => (0..4usize, 0..4u8).prop_map(|(name, order)| Event::Order(name, order)),
        3 => (proptest::collection::vec(listed, 0..5), proptest::bool::weighted(0.1)).prop_map(|(l, e)| Event::List(l, e)),
        3 => Just(Event::Ask),
        4 => Just(Event::Answer),
        2 => Just(Event::Gone),
        1 => (0..4usize).prop_map(Event::Note),
        1 => Just(Event::Reopen),
        1 => Just(Event::Acknowledge),
    ]
}

/// A node, what CHaS lists for it, and what was promised to whom.
struct World {
    store: Store,
    directory: tempfile::TempDir,
    listing: Vec<Value>,
    epoch: u64,
    generation: u64,
    /// An answer of CHaS that is on its way.
    pending: Option<PulledSet>,
    /// What was taken last, by version.
    taken: Option<PulledSet>,
}

impl World {
    fn happen(self, event: Event) -> Self {
        match event {
            Event::Reopen => return Self { store: restarted(self.store, self.directory.path()), ..self },
            Event::List(listing, other_epoch) => {
                let listing = listing.iter().map(|l| (l.0, body(l.0, l.1, l.2, l.3, l.4))).collect::<BTreeMap<_, _>>();
                let (epoch, generation) = if other_epoch { (self.epoch + 1, 1) } else { (self.epoch, self.generation + 1) };
                return Self { listing: listing.into_values().collect(), epoch, generation, ..self };
            }
            Event::Ask => {
                let mut asked = set(&self.epoch.to_string(), self.generation, &self.listing, self.store.desired().seq());
                if self.is_old_word() {
                    asked.prune_confirm = Some(1);
                    asked.remove = NAMES.iter().map(|name| name.parse().unwrap()).collect();
                    asked.containers.iter().for_each(|listed| _ = asked.remove.remove(&listed.name));
                }
                return Self { pending: Some(asked), ..self };
            }
            Event::Answer => return self.answered(),
            Event::Push { name, image, revision, running, port } => {
                self.push(&body(name, image, revision, running, port));
            }
            Event::Replace(wanted) => self.replace(&wanted),
            Event::Order(name, order) => {
                let orders = [Order::Stop, Order::Start, Order::Restart, Order::Remove];
                self.order(name, orders[usize::from(order)]);
            }
            Event::Gone => {
                let gone: Vec<_> = self.store.desired().records().filter(|record| record.removing).map(|r| r.id).collect();
                gone.into_iter().for_each(|id| self.store.forget(id).unwrap());
            }
            Event::Note(name) => {
                if let Some(record) = self.store.desired().named(&NAMES[name].parse().unwrap()) {
                    let digest = Some(format!("sha256:{}", self.store.desired().seq()));
                    self.store.set_image_digest(record.id, record.generation, digest).unwrap();
                }
            }
            Event::Acknowledge => self.store.report_acknowledged(self.store.desired().seq()).unwrap(),
        }
        self
    }

    /// A restored database says at first what it said before it was restored.
    const fn is_old_word(&self) -> bool {
        self.epoch > 1 && self.generation == 1
    }

    fn push(&self, body: &Value) {
        let asked = crate::spec::parse::deploy(body).unwrap();
        if let Ok(accepted) = deploy(&self.store, body) {
            let desired = self.store.desired();
            let stored = desired.named(&asked.name).unwrap();
            assert_eq!((&stored.spec, stored.run, stored.removing), (&asked.spec, asked.run, false), "accepted is kept");
            assert!(stored.owner == Owner::Push || !accepted.changed);
        }
    }

    fn replace(&self, wanted: &[(usize, u8)]) {
        let before = self.store.desired();
        let wanted: BTreeMap<_, _> = wanted.iter().copied().collect();
        let bodies = wanted.iter().map(|(name, image)| body(*name, *image, None, true, false));
        let wanted = bodies.map(|body| crate::spec::parse::deploy(&body).unwrap()).collect();
        let replaced = self.store.replace(Replacing { wanted, ..Replacing::default() }, 1, |_| false);
        let after = self.store.desired();
        for record in before.records().filter(|record| record.owner == Owner::Chas) {
            assert!(replaced.is_ok() && record.removing || after.get(record.id) == Some(record), "CHaS keeps its own");
        }
    }

    fn order(&self, name: usize, order: Order) {
        let desired = self.store.desired();
        let Some(before) = desired.named(&NAMES[name].parse().unwrap()) else { return };
        let after = self.store.order(before.id, order).unwrap();
        assert_eq!(self.store.desired().get(before.id), Some(&after));
        assert!(order != Order::Remove || after.removing);
    }

    /// CHaS's answer arrives.
    fn answered(self) -> Self {
        let Some(pending) = self.pending.clone() else { return self };
        let before = self.store.desired();
        let outcome = pull(&self.store, &pending);
        let after = self.store.desired();
        if outcome.stale {
            assert_eq!(before, after);
            return Self { pending: None, ..self };
        }
        for record in before.records().filter(|record| record.owner == Owner::Push && !record.removing) {
            let now = after.get(record.id).expect("a pull forgets nothing");
            assert!(!now.removing, "a pull never prunes what was pushed: {record:?}");
            let listed = pending.containers.iter().find(|listed| listed.name == record.name);
            let overruled = listed.is_some_and(|listed| {
                let is_higher = listed.revision.zip(record.revision).is_some_and(|(listed, pushed)| listed > pushed);
                is_higher || record.seq <= pending.sent_after
            });
            let same = (&now.spec, now.run) == (&record.spec, record.run);
            assert!(same || overruled, "what was acknowledged after the question is not lost: {record:?} {now:?}");
        }
        let ran = |record: &&Arc<Record>| record.owner == Owner::Chas && guard::runs(record);
        let ended = before.records().filter(ran).filter(|record| after.get(record.id).is_some_and(|now| now.removing)).count();
        let all = before.records().filter(ran).count();
        let is_open = |pulled: &Pulled| pulled.version.epoch != pending.epoch || pulled.restored.is_some();
        let is_other = before.marks().pulled().is_some_and(is_open) && pending.generation == 1;
        let runs_on = |record: &Arc<Record>| {
            let now = after.get(record.id).expect("a pull forgets nothing");
            (now.generation, now.run, now.removing) == (record.generation, record.run, record.removing)
        };
        let runs = before.records().filter(|record| guard::runs(record));
        assert!(!is_other || runs.clone().all(runs_on), "a restored database ends and changes nothing");
        assert!(ended <= 2.max(all * 30 / 100), "{ended} of {all} ended");
        let unsettled = outcome.conflicts.iter().any(|lost| lost.winner == Owner::Push) || !outcome.rejected.is_empty();
        assert_eq!(after.marks().pulled().map(|pulled| pulled.whole), Some(!unsettled));
        Self { taken: Some(pending), pending: None, ..self }
    }

    /// What must be so at any time.
    fn check(&self) {
        let desired = self.store.desired();
        let addresses: BTreeSet<_> = desired.records().map(|record| record.assignment.address).collect();
        let ports: Vec<_> = desired.records().flat_map(|record| record.assignment.ports.iter().map(|port| port.host)).collect();
        assert_eq!(addresses.len(), desired.records().count());
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        let (Some(pulled), Some(taken)) = (desired.marks().pulled(), &self.taken) else { return };
        assert_eq!(pulled.version, taken.version());
        if !pulled.whole || pulled.held.is_some() {
            return;
        }
        // Converged: a fresh listing of that version says what is there, but for what an operator keeps otherwise.
        let free = |name: &ContainerName| !desired.marks().suppressed().contains_key(name);
        let theirs = desired.records().filter(|r| r.owner == Owner::Chas && !r.removing && free(&r.name));
        let theirs: BTreeMap<_, _> = theirs.map(|r| (&r.name, (&r.spec, r.run))).collect();
        let listed = taken.containers.iter().filter(|listed| free(&listed.name));
        let listed: BTreeMap<_, _> = listed.map(|listed| (&listed.name, (&listed.spec, listed.run))).collect();
        assert_eq!(theirs, listed);
    }
}

fn restarted(store: Store, path: &Path) -> Store {
    let before = store.desired();
    let store = reopened(store, path, &plenty());
    assert_eq!(store.desired(), before, "an acknowledged change is never lost: {:?}", store.losses());
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nobody_loses_what_is_his(events in proptest::collection::vec(event(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), plenty()).unwrap();
        store.adopt(&[]).unwrap();
        let mut world =
            World { store, directory, listing: Vec::new(), epoch: 1, generation: 1, pending: None, taken: None };
        for event in events {
            world = world.happen(event);
            world.check();
        }
        restarted(world.store, world.directory.path());
    }
}
