//! Random sequences of pushes, sets and orders, checked against the rules of ownership.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::id::ContainerName;

/// An event on a node.
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
    let listed = (
        0..4usize,
        0..3u8,
        revision(),
        proptest::bool::weighted(0.8),
        any::<bool>(),
    );
    let push = (
        0..4usize,
        0..3u8,
        revision(),
        proptest::bool::weighted(0.8),
        any::<bool>(),
    );
    let push = push.prop_map(|(name, image, revision, running, port)| Event::Push {
        name,
        image,
        revision,
        running,
        port,
    });
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
    pending: Option<ChasSet>,
    /// The set applied last, by version.
    taken: Option<ChasSet>,
}

impl World {
    fn happen(self, event: Event) -> Self {
        match event {
            Event::Reopen => {
                return Self {
                    store: restarted(self.store, self.directory.path()),
                    ..self
                };
            }
            Event::List(listing, other_epoch) => {
                let listing = listing
                    .iter()
                    .map(|l| (l.0, body(l.0, l.1, l.2, l.3, l.4)))
                    .collect::<BTreeMap<_, _>>();
                let (epoch, generation) = if other_epoch {
                    (self.epoch + 1, 1)
                } else {
                    (self.epoch, self.generation + 1)
                };
                return Self {
                    listing: listing.into_values().collect(),
                    epoch,
                    generation,
                    ..self
                };
            }
            Event::Ask => {
                let pending = Some(self.asked());
                return Self { pending, ..self };
            }
            Event::Answer => return self.answered(),
            Event::Push {
                name,
                image,
                revision,
                running,
                port,
            } => {
                self.push(&body(name, image, revision, running, port));
            }
            Event::Replace(wanted) => self.replace(&wanted),
            Event::Order(name, order) => {
                let orders = [Order::Stop, Order::Start, Order::Restart, Order::Remove];
                self.order(name, orders[usize::from(order)]);
            }
            Event::Gone => {
                let gone: Vec<_> = self
                    .store
                    .desired()
                    .records()
                    .filter(|record| record.removing)
                    .map(|r| r.id)
                    .collect();
                gone.into_iter()
                    .for_each(|id| self.store.forget(id).unwrap());
            }
            Event::Note(name) => {
                if let Some(record) = self.store.desired().named(&NAMES[name].parse().unwrap()) {
                    let digest = Some(format!("sha256:{}", self.store.desired().seq()));
                    self.store
                        .set_image_digest(record.instance(), digest)
                        .unwrap();
                }
            }
            Event::Acknowledge => self
                .store
                .report_acknowledged(self.store.desired().seq())
                .unwrap(),
        }
        self
    }

    /// The answer of CHaS to a poll that is sent now.
    fn asked(&self) -> ChasSet {
        let (epoch, seq) = (self.epoch.to_string(), self.store.desired().seq());
        let mut asked = set(&epoch, self.generation, &self.listing, seq);
        if self.is_old_word() {
            asked.prune_confirm = Some(1);
            asked.remove = NAMES.iter().map(|name| name.parse().unwrap()).collect();
            for listed in &asked.containers {
                asked.remove.remove(&listed.name);
            }
        }
        asked
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
            assert_eq!(
                (&stored.spec, stored.run, stored.removing),
                (&asked.spec, asked.run, false),
                "accepted is kept"
            );
            assert!(stored.owner == Owner::Push || !accepted.changed);
        }
    }

    fn replace(&self, wanted: &[(usize, u8)]) {
        let before = self.store.desired();
        let wanted: BTreeMap<_, _> = wanted.iter().copied().collect();
        let bodies = wanted
            .iter()
            .map(|(name, image)| body(*name, *image, None, true, false));
        let wanted = bodies
            .map(|body| crate::spec::parse::deploy(&body).unwrap())
            .collect();
        let replaced = self.store.replace(
            ReplaceRequest {
                wanted,
                ..ReplaceRequest::default()
            },
            1,
        );
        let after = self.store.desired();
        for record in before
            .records()
            .filter(|record| record.owner == Owner::Chas)
        {
            assert!(
                replaced.is_ok() && record.removing || after.get(record.id) == Some(record),
                "CHaS keeps its own"
            );
        }
    }

    fn order(&self, name: usize, order: Order) {
        let desired = self.store.desired();
        let Some(before) = desired.named(&NAMES[name].parse().unwrap()) else {
            return;
        };
        let after = self.store.order(before.id, order).unwrap();
        assert_eq!(self.store.desired().get(before.id), Some(&after));
        assert!(order != Order::Remove || after.removing);
    }

    /// CHaS's answer arrives.
    fn answered(self) -> Self {
        let Some(pending) = self.pending.clone() else {
            return self;
        };
        let before = self.store.desired();
        let outcome = apply(&self.store, &pending);
        let after = self.store.desired();
        if outcome.stale {
            assert_eq!(before, after);
            return Self {
                pending: None,
                ..self
            };
        }
        keeps_what_was_pushed(&before, &after, &pending);
        let ran = |record: &&Arc<Record>| record.owner == Owner::Chas && guard::runs(record);
        let ended = before
            .records()
            .filter(ran)
            .filter(|record| after.get(record.id).is_some_and(|now| now.removing))
            .count();
        let all = before.records().filter(ran).count();
        let is_open = |pulled: &AppliedSet| {
            pulled.version.epoch != pending.epoch || pulled.restored.is_some()
        };
        let is_other = before.marks().applied_set().is_some_and(is_open) && pending.generation == 1;
        let runs_on = |record: &Arc<Record>| {
            let now = after.get(record.id).expect("a pull forgets nothing");
            (now.generation, now.run, now.removing)
                == (record.generation, record.run, record.removing)
        };
        let runs = before.records().filter(|record| guard::runs(record));
        assert!(
            !is_other || runs.clone().all(runs_on),
            "a restored database ends and changes nothing"
        );
        assert!(ended <= 2.max(all * 30 / 100), "{ended} of {all} ended");
        let unsettled = outcome
            .conflicts
            .iter()
            .any(|lost| lost.winner == Owner::Push)
            || !outcome.rejected.is_empty();
        assert_eq!(
            after
                .marks()
                .applied_set()
                .map(|pulled| pulled.fully_applied),
            Some(!unsettled)
        );
        Self {
            taken: Some(pending),
            pending: None,
            ..self
        }
    }

    /// Checks the rules that hold at any time.
    fn check(&self) {
        let desired = self.store.desired();
        let addresses: BTreeSet<_> = desired
            .records()
            .map(|record| record.assignment.address)
            .collect();
        let ports: Vec<_> = desired
            .records()
            .flat_map(|record| record.assignment.ports.iter().map(|port| port.host))
            .collect();
        assert_eq!(addresses.len(), desired.records().count());
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        let (Some(pulled), Some(taken)) = (desired.marks().applied_set(), &self.taken) else {
            return;
        };
        assert_eq!(pulled.version, taken.version());
        if !pulled.fully_applied || pulled.unconfirmed.is_some() {
            return;
        }
        // Converged: a fresh listing of that version says what is there, but for what an operator
        // keeps otherwise.
        let free = |name: &ContainerName| !desired.marks().suppressed().contains_key(name);
        let theirs = desired
            .records()
            .filter(|r| r.owner == Owner::Chas && !r.removing && free(&r.name));
        let theirs: BTreeMap<_, _> = theirs.map(|r| (&r.name, (&r.spec, r.run))).collect();
        let listed = taken.containers.iter().filter(|listed| free(&listed.name));
        let listed: BTreeMap<_, _> = listed
            .map(|listed| (&listed.name, (&listed.spec, listed.run)))
            .collect();
        assert_eq!(theirs, listed);
    }
}

/// A pull takes nothing from those who push that they were not told of.
fn keeps_what_was_pushed(before: &Desired, after: &Desired, pending: &ChasSet) {
    for record in before
        .records()
        .filter(|record| record.owner == Owner::Push && !record.removing)
    {
        let now = after.get(record.id).expect("a pull forgets nothing");
        assert!(
            !now.removing,
            "a pull never prunes what was pushed: {record:?}"
        );
        let listed = pending
            .containers
            .iter()
            .find(|listed| listed.name == record.name);
        let overruled = listed.is_some_and(|listed| {
            let is_higher = listed
                .revision
                .zip(record.revision)
                .is_some_and(|(listed, pushed)| listed > pushed);
            is_higher || record.seq <= pending.requested_at_seq
        });
        let same = (&now.spec, now.run) == (&record.spec, record.run);
        assert!(
            same || overruled,
            "what was acknowledged after the question is not lost: {record:?} {now:?}"
        );
    }
}

fn restarted(store: Store, path: &Path) -> Store {
    let before = store.desired();
    let store = reopened(store, path, &plenty());
    assert_eq!(
        store.desired(),
        before,
        "an acknowledged change is never lost: {:?}",
        store.losses()
    );
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
