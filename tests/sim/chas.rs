//! CHaS: a set that changes, and is polled. Of its entries, some cannot be understood.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chas_node_agent::chas::wire::parse_set;
use chas_node_agent::reconcile::Handle;
use chas_node_agent::writer::Writer;
use serde_json::{Value, json};
use state::desired::RunState;
use state::ownership::{ChasSet, SetOutcome};
use state::store::{Store, StoreError};
use state::time::unix_ms;

use crate::bodies::{self, LISTED};
use crate::client::{Clients, Wanted, id_of, note_asked, stored};
use crate::dice;
use crate::plants::{self, Plant};
use crate::world::World;

/// Container that CHaS lists.
#[derive(Clone, Copy, Debug)]
struct Entry {
    body: u64,
    run: RunState,
    revision: u64,
    /// Whether no agent understands it.
    is_broken: bool,
}

#[derive(Debug, Default)]
struct Listing {
    generation: u64,
    entries: BTreeMap<&'static str, Entry>,
    confirms: Option<u64>,
    is_cordoned: bool,
    /// Whether nobody can reach it.
    is_away: bool,
}

/// Longest time between two answers of a CHaS that is well.
pub(crate) const ASKED_EVERY: Duration = Duration::from_secs(21);

/// CHaS, which outlives the agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chas(Arc<Mutex<Listing>>);

impl Listing {
    /// The set as it is answered.
    fn json(&self) -> Value {
        let entry = |(name, entry): (&&'static str, &Entry)| {
            let mut body = bodies::json(name, entry.body, entry.run);
            body["revision"] = json!(entry.revision);
            if entry.is_broken {
                body["exposed_ports"] = json!([{"container": 0}]);
            }
            body
        };
        let containers: Vec<_> = self.entries.iter().map(entry).collect();
        json!({"schema": 1, "node_id": "node", "complete": true, "epoch": "first", "generation": self.generation,
            "containers": containers, "prune_confirm": self.confirms, "cordon": self.is_cordoned})
    }
}

/// State that a set asks for.
fn wanted(set: &ChasSet, name: &str) -> Wanted {
    let mut all = set.containers.iter();
    let deploy = all.find(|deploy| deploy.name.as_str() == name)?;
    Some((deploy.spec.labels["body"].parse().unwrap(), deploy.run))
}

impl Chas {
    fn listing(&self) -> MutexGuard<'_, Listing> {
        self.0.lock().unwrap()
    }

    /// Somebody changes the set.
    pub(crate) fn change(&self, world: &World) {
        let mut listing = self.listing();
        let name = LISTED[dice::index(LISTED.len())];
        let revision = listing.entries.get(name).map_or(1, |entry| entry.revision);
        match dice::below(12) {
            0..7 => {
                let entry = Entry {
                    body: dice::below(bodies::count(name)),
                    run: [RunState::Running, RunState::Stopped][usize::from(dice::chance(10))],
                    revision: revision + dice::below(2),
                    is_broken: dice::chance(10),
                };
                listing.entries.insert(name, entry);
            }
            7 => drop(listing.entries.remove(name)),
            8 => listing.entries.clear(),
            9 => {
                let entry = listing.entries.get_mut(name);
                entry.into_iter().for_each(|entry| entry.revision += 1);
            }
            10 => listing.is_cordoned = dice::chance(50),
            _ => listing.confirms = Some(listing.generation + dice::below(2)),
        }
        listing.generation += 1;
        let set = listing.json();
        drop(listing);
        world.judge().trace(|| format!("CHaS lists {set}"));
    }

    /// CHaS goes away, or comes back.
    pub(crate) fn set_away(&self, is_away: bool, world: &World) {
        self.listing().is_away = is_away;
        world.judge().trace(|| format!("CHaS is away: {is_away}"));
    }

    pub(crate) fn is_away(&self) -> bool {
        self.listing().is_away
    }

    /// Notes at the board that CHaS was asked, with an answer or in vain.
    fn is_heard(&self, world: &World, handle: &Handle) -> bool {
        let is_away = self.is_away();
        if !is_away {
            world.judge().chas_answers();
        }
        let is_misheard = plants::is(match is_away {
            true => Plant::HearsAnswers,
            false => Plant::HearsNoAnswer,
        });
        let answered = is_away == is_misheard;
        handle.board().record_call(answered.then_some(ASKED_EVERY));
        !is_away
    }

    /// From now on the set means what it says.
    pub(crate) fn settle(&self) {
        let mut listing = self.listing();
        (listing.is_cordoned, listing.confirms) = (false, None);
        listing
            .entries
            .values_mut()
            .for_each(|entry| entry.is_broken = false);
        listing.generation += 1;
    }

    /// Whether the agent has applied the set.
    pub(crate) fn is_applied(&self, store: &Store) -> bool {
        let (desired, generation) = (store.desired(), self.listing().generation);
        generation == 0
            || desired.marks().applied_set().is_some_and(|applied| {
                let is_whole = applied.fully_applied && applied.unconfirmed.is_none();
                is_whole && applied.version.generation == generation
            })
    }

    /// Polls for ever.
    pub(crate) async fn poll(
        self,
        world: Arc<World>,
        clients: Clients,
        writer: Writer,
        handle: Handle,
    ) {
        loop {
            tokio::time::sleep(Duration::from_secs(1) + dice::millis(20_000)).await;
            if !self.is_heard(&world, &handle) {
                continue;
            }
            let desired = writer.store().desired();
            let is_unknown = desired.may_lack_records() || desired.is_unknown();
            if is_unknown || self.is_applied(writer.store()) {
                continue;
            }
            let set = self.listing().json().to_string();
            tokio::time::sleep(dice::pause()).await;
            let parsed = parse_set(set.as_bytes(), "node", None, desired.seq());
            let set = parsed.unwrap().set;
            self.apply(set, (&world, &clients), &writer, &handle).await;
        }
    }

    async fn apply(
        &self,
        set: ChasSet,
        (world, clients): (&Arc<World>, &Clients),
        writer: &Writer,
        handle: &Handle,
    ) {
        let (looking, waking) = (Arc::clone(world), handle.clone());
        let clients = clients.clone();
        let applied = writer.write(move |store| {
            let before = LISTED.map(|name| stored(store, name));
            let now_ms = unix_ms(waking.board().clock.wall_now());
            let outcome = store.apply_set(&set, now_ms);
            for (name, before) in LISTED.into_iter().zip(before) {
                note(&clients, (name, before), wanted(&set, name), &outcome);
                if stored(store, name) != before {
                    note_asked(&looking, &mut looking.judge(), id_of(store, name));
                }
            }
            let outcome = outcome?;
            for id in &outcome.changed {
                note_asked(&looking, &mut looking.judge(), Some(*id));
                waking.wake(*id);
            }
            waking.board().changed();
            Ok(outcome)
        });
        let answer = applied.await;
        world.judge().trace(|| format!("the set: {answer:?}"));
        if answer.is_ok_and(|outcome| outcome.unconfirmed.is_some()) && dice::is_calm() {
            let mut listing = self.listing();
            listing.generation += 1;
            listing.confirms = Some(listing.generation);
        }
    }
}

/// Notes what the set asks for, and what is to come of it.
fn note(
    clients: &Clients,
    (name, before): (&'static str, Wanted),
    listed: Wanted,
    outcome: &Result<SetOutcome, StoreError>,
) {
    let mut all = clients.told();
    let told = all.entry(name).or_default();
    match outcome {
        Ok(outcome) if !outcome.stale => {
            let waiting = outcome.unconfirmed.iter().flat_map(|wait| wait.names());
            let rejected = outcome.rejected.iter();
            let rejected = rejected.filter_map(|entry| entry.name.clone());
            let mut left = waiting.map(ToString::to_string).chain(rejected);
            let is_left = left.any(|left| left == name);
            told.acknowledged = if is_left { before } else { listed };
            told.unsure.clear();
        }
        Err(StoreError::Unsure(_)) => told.unsure.push(listed),
        Ok(_) | Err(_) => {}
    }
}
