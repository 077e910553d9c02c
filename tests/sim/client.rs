//! Callers of the agent, and what they remember of its answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use chas_node_agent::reconcile::Handle;
use chas_node_agent::writer::Writer;
use state::desired::{Owner, Record, RunState};
use state::id::{ContainerId, ContainerName};
use state::ownership::Order;
use state::store::{Idempotent, RollbackRequest, Store, StoreError};
use state::time::unix_ms;

use crate::bodies::{self, JOBS, LISTED, NAMES};
use crate::dice;
use crate::judge::Judge;
use crate::plants::{self, Plant};
use crate::world::World;

/// State asked for one container: its body, and whether it runs. `None`: it is removed.
pub(crate) type Wanted = Option<(u64, RunState)>;

#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) acknowledged: Wanted,
    /// Request without an answer so far: it may be carried out or not.
    asked: Option<Wanted>,
    /// Requests of the life before that may be carried out or not, until the state is known.
    carried: Vec<Wanted>,
    /// Requests of which the agent said that it does not know whether the disk has them. After a crash it
    /// may turn out to; not while the agent lives, and not once the disk has taken another.
    pub(crate) unsure: Vec<Wanted>,
    /// Generation from which it was gone back, and the one that is back.
    given_up: Option<(u64, u64)>,
    /// Bodies of its generations, as far as they were seen.
    past: (Option<ContainerId>, BTreeMap<u64, u64>),
}

/// Knowledge of all callers, by the container's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Mutex<BTreeMap<&'static str, Told>>>);

#[derive(Clone, Copy, Debug)]
enum Ask {
    Deploy(u64, RunState),
    Order(Order),
    /// Go back to one of the generations before that were seen, by its place among them.
    Back(u64),
}

fn ask(name: &str) -> Ask {
    match dice::below(16) {
        0..6 => Ask::Deploy(
            dice::below(bodies::count(name)),
            if dice::chance(90) {
                RunState::Running
            } else {
                RunState::Stopped
            },
        ),
        6..8 => Ask::Order(Order::Remove),
        8 => Ask::Order(Order::Stop),
        9..11 => Ask::Order(Order::Start),
        11 => Ask::Order(Order::Restart),
        _ => Ask::Back(dice::random()),
    }
}

fn parsed(name: &str) -> ContainerName {
    name.parse().unwrap()
}

/// Id of the container with this name.
pub(crate) fn id_of(store: &Store, name: &str) -> Option<ContainerId> {
    let desired = store.desired();
    desired.named(&parsed(name)).map(|record| record.id)
}

/// State of the container with this name, as it is stored.
pub(crate) fn stored(store: &Store, name: &str) -> Wanted {
    actual(store.desired().named(&parsed(name)))
}

/// Notes at the judge that something else was asked of a container.
pub(crate) fn note_asked(world: &World, judge: &mut Judge, id: Option<ContainerId>) {
    let names = world.instances();
    for instance in names.iter().filter(|instance| Some(instance.id) == id) {
        judge.forget_exits(*instance);
        judge.protected.remove(instance);
    }
    if let Some(id) = id {
        judge.note_asked(id);
    }
    judge.look(names.into_iter());
}

impl Ask {
    fn after(self, before: Wanted, told: &Told) -> Wanted {
        match self {
            Self::Back(_) => {
                let (_, body) = self.target(told)?;
                before.map(|(_, run)| (body, run))
            }
            Self::Deploy(body, run) => Some((body, run)),
            Self::Order(Order::Remove) => None,
            Self::Order(Order::Stop) => before.map(|(body, _)| (body, RunState::Stopped)),
            Self::Order(Order::Start | Order::Restart) => {
                before.map(|(body, _)| (body, RunState::Running))
            }
        }
    }

    /// The generation that is gone back to, and its body.
    fn target(self, told: &Told) -> Option<(u64, u64)> {
        let Self::Back(place) = self else {
            return None;
        };
        let before = told.past.1.len().saturating_sub(1);
        let place = usize::try_from(place).ok()? % before.max(1);
        let target = told.past.1.iter().take(before).nth(place);
        target.map(|(generation, body)| (*generation, *body))
    }

    /// Makes the change in the store as the API does. `target`: the generation to go back to.
    fn change(
        self,
        (store, name): (&Store, &str),
        target: Option<u64>,
        handle: &Handle,
    ) -> Result<(), StoreError> {
        let order = match self {
            Self::Back(_) => return back(store, name, target, handle),
            Self::Deploy(body, run) => {
                let deploy = bodies::deploy(name, body, run);
                let now_ms = unix_ms(handle.board().clock.wall_now());
                let accepted = store.deploy(deploy, Owner::Push, false, now_ms)?;
                handle.wake(accepted.record.id);
                return Ok(());
            }
            Self::Order(order) => order,
        };
        if store.desired().is_unknown() {
            return Err(StoreError::Unknown(String::new()));
        }
        let Some(id) = id_of(store, name) else {
            return Ok(());
        };
        store.order(id, order)?;
        handle.wake(id);
        Ok(())
    }
}

/// Goes back to that generation of the container with this name.
fn back(
    store: &Store,
    name: &str,
    generation: Option<u64>,
    handle: &Handle,
) -> Result<(), StoreError> {
    let present = store.desired().named(&parsed(name)).cloned();
    let present = present.ok_or(StoreError::NotFound(ContainerId::from_bits(0)))?;
    let is_mistaken = plants::is(Plant::MistakesGeneration);
    let request = RollbackRequest {
        id: present.id,
        generation: generation.map(|asked| asked + u64::from(is_mistaken)),
        if_match: None,
        keyed: None,
        by: "a client".to_owned(),
    };
    let Idempotent::Now(target) = store.rollback_target(&request)? else {
        return Ok(());
    };
    let board = handle.board();
    let former = target.record.instance().generation;
    let is_there = board.known(present.id).seen.instances.contains_key(&former);
    store.go_back(&request, &target, is_there, unix_ms(board.clock.wall_now()))?;
    handle.wake(present.id);
    Ok(())
}

fn actual(record: Option<&Arc<Record>>) -> Wanted {
    let record = record.filter(|record| !record.removing)?;
    Some((record.spec.labels["body"].parse().unwrap(), record.run))
}

/// Whether the record is what was gone back to from what was asked.
fn is_back_from(record: &Record, asked: Wanted) -> bool {
    let Some((body, _)) = asked else {
        return false;
    };
    let hash = bodies::deploy(record.name.as_str(), body, RunState::Running)
        .spec
        .hash();
    let given_up = record.rolled_back.as_ref();
    record.run == RunState::Running && given_up.is_some_and(|given_up| given_up.spec_hash == hash)
}

impl Told {
    /// Compares the store with the answers.
    fn check(&mut self, name: &str, store: &Store, judge: &mut Judge) -> Result<(), String> {
        let desired = store.desired();
        let record = desired.named(&parsed(name));
        let is = actual(record);
        let carried = std::mem::take(&mut self.carried);
        if carried.contains(&is) {
            let before = std::mem::replace(&mut self.acknowledged, is);
            // A disk that fails keeps the agent from noting that it knows of it.
            self.unsure.extend(judge.was_disk_bad.then_some(before));
        }
        let asked = [Some(self.acknowledged), self.asked];
        let asked = || asked.into_iter().flatten().chain(carried.iter().copied());
        let is_told = asked().any(|asked| asked == is);
        let back = record.filter(|record| asked().any(|asked| is_back_from(record, asked)));
        if !is_told && back.is_none() {
            return Err(format!("{name} is {is:?}: {self:?}"));
        }
        if let (false, Some(back)) = (is_told, back) {
            let given_up = back.rolled_back.as_ref().map(|bad| bad.generation);
            judge.gave_up(back.id, given_up.unwrap_or_default());
            self.acknowledged = is;
        }
        let now = record.and_then(|record| {
            let bad = record.rolled_back.as_ref()?;
            Some((bad.generation, record.generation))
        });
        if let (Some(record), Some((body, _))) = (record, is) {
            if self.past.0 != Some(record.id) {
                self.past = (Some(record.id), BTreeMap::new());
            }
            self.past.1.insert(record.generation, body);
        }
        let generation = record.map(|record| record.generation);
        let before = std::mem::replace(&mut self.given_up, now);
        match before.filter(|(_, back)| Some(*back) == generation) {
            Some(before) if now != Some(before) => Err(format!(
                "{name} was gone back from generation {}, which is forgotten",
                before.0
            )),
            Some(_) | None => Ok(()),
        }
    }
}

impl Clients {
    pub(crate) fn told(&self) -> MutexGuard<'_, BTreeMap<&'static str, Told>> {
        self.0.lock().unwrap()
    }

    /// Asks for one thing, unless an earlier request for the same name has no answer yet.
    pub(crate) async fn ask(self, world: Arc<World>, writer: Writer, handle: Handle) {
        let all = NAMES.iter().chain(&JOBS).copied();
        let name = all.clone().nth(dice::index(all.count())).unwrap();
        let ask = ask(name);
        {
            let mut all = self.told();
            let told = all.entry(name).or_default();
            let removing = matches!(ask, Ask::Deploy(..)) || told.acknowledged.is_some();
            if told.asked.is_some() || !told.carried.is_empty() || !removing {
                return;
            }
            if matches!(ask, Ask::Back(_)) && ask.target(told).is_none() {
                return;
            }
            told.asked = Some(ask.after(told.acknowledged, told));
        }
        self.send((name, ask), world, writer, handle).await;
    }

    async fn send(
        &self,
        (name, ask): (&'static str, Ask),
        world: Arc<World>,
        writer: Writer,
        handle: Handle,
    ) {
        world.judge().trace(|| format!("ask {name} {ask:?}"));
        let (looking, clients) = (Arc::clone(&world), self.clone());
        let asked = writer.write(move |store| {
            let before = stored(store, name);
            // It may have gone back to another body meanwhile.
            let target = {
                let mut all = clients.told();
                let told = all.entry(name).or_default();
                told.asked = Some(ask.after(before, told));
                ask.target(told).map(|(generation, _)| generation)
            };
            let changed = ask.change((store, name), target, &handle);
            let id = id_of(store, name);
            note_asked(&looking, &mut looking.judge(), id);
            changed
        });
        let answer = asked.await;
        world.judge().trace(|| format!("told {name} {answer:?}"));
        let mut all = self.told();
        let told = all.entry(name).or_default();
        let asked = told.asked.take();
        match (asked, answer) {
            (Some(asked), Ok(())) => {
                told.acknowledged = asked;
                all.values_mut().for_each(|told| told.unsure.clear());
            }
            (Some(asked), Err(StoreError::Unsure(_))) => told.unsure.push(asked),
            (Some(_), Err(_)) | (None, _) => {}
        }
    }

    /// Stops the containers that would run at times for ever.
    pub(crate) async fn stop_jobs(&self, world: &Arc<World>, writer: &Writer, handle: &Handle) {
        for name in JOBS {
            if stored(writer.store(), name).is_some() {
                let stop = (name, Ask::Order(Order::Stop));
                let (writer, handle) = (writer.clone(), handle.clone());
                self.send(stop, Arc::clone(world), writer, handle).await;
            }
        }
    }

    /// Notes that the agent ended: nobody will hear of what was asked before.
    pub(crate) fn begin_life(&self) {
        for told in self.told().values_mut() {
            let (asked, unsure) = (told.asked.take(), std::mem::take(&mut told.unsure));
            told.carried.extend(asked.into_iter().chain(unsure));
        }
    }

    /// Compares the store with the answers, once the state is known.
    pub(crate) fn check(&self, store: &Store, world: &World) -> Result<(), String> {
        if store.desired().is_unknown() {
            return Ok(());
        }
        let mut all = self.told();
        let mut told = all.iter_mut();
        told.try_for_each(|(name, told)| told.check(name, store, &mut world.judge()))
    }

    /// Takes what is stored as answered, because all of the agent's files were lost.
    pub(crate) fn take_as_it_is(&self, store: &Store) {
        for name in NAMES.iter().chain(&JOBS).chain(&LISTED) {
            let told = Told {
                acknowledged: stored(store, name),
                ..Told::default()
            };
            self.told().insert(name, told);
        }
    }
}
