//! Callers of the agent, and what they remember of its answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use chas_node_agent::reconcile::Handle;
use chas_node_agent::writer::Writer;
use serde_json::{Value, json};
use state::desired::{Owner, Record, RunState};
use state::store::{Store, StoreError};

use crate::dice;
use crate::world::World;

/// Bodies that differ in more than what a container takes on as it is.
const KINDS: u64 = 3;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// State asked for one container: its body, and whether it runs. `None`: it is removed.
type Wanted = Option<(u64, RunState)>;

#[derive(Debug, Default)]
struct Told {
    acknowledged: Wanted,
    /// Request without an answer so far: it may be carried out or not.
    asked: Option<Wanted>,
    /// Requests of the life before that may be carried out or not, until the state is known.
    carried: Vec<Wanted>,
    /// Requests that the disk refused. After a crash it may turn out to have taken one; not while
    /// the agent lives, and not once it has taken another.
    refused: Vec<Wanted>,
}

/// Knowledge of all callers, by the container's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Mutex<BTreeMap<&'static str, Told>>>);

#[derive(Clone, Copy, Debug)]
enum Ask {
    Deploy(u64, RunState),
    Remove,
    Stop,
    Start,
    Restart,
}

fn ask() -> Ask {
    match dice::below(12) {
        0..6 => Ask::Deploy(
            dice::below(2 * KINDS),
            if dice::chance(90) {
                RunState::Running
            } else {
                RunState::Stopped
            },
        ),
        6..8 => Ask::Remove,
        8 => Ask::Stop,
        9..11 => Ask::Start,
        _ => Ask::Restart,
    }
}

/// Whom the container waits for: the one before it, so that nobody waits for itself.
fn after(name: &str, body: u64) -> Value {
    let before = NAMES.iter().rev().find(|other| **other < name);
    let (condition, timeout) = match body {
        1 | 2 => ("started", None),
        3 => ("ready", None),
        4 => ("completed", Some("40s")),
        5 => ("completed", None),
        _ => return json!([]),
    };
    let entry = |before| json!([{"name": before, "condition": condition, "timeout": timeout}]);
    before.map_or(json!([]), entry)
}

impl Ask {
    fn after(self, before: Wanted) -> Wanted {
        match self {
            Self::Deploy(body, run) => Some((body, run)),
            Self::Remove => None,
            Self::Stop => before.map(|(body, _)| (body, RunState::Stopped)),
            Self::Start | Self::Restart => before.map(|(body, _)| (body, RunState::Running)),
        }
    }

    /// Makes the change in the store as the API does.
    fn change(self, store: &Store, name: &str, handle: &Handle) -> Result<(), StoreError> {
        if let Self::Deploy(body, run) = self {
            let policy = ["always", "always", "always", "on-failure", "never"]
                [usize::try_from(body).unwrap() % 5];
            let (kind, memory) = (body % KINDS, format!("{}m", 64 + body / KINDS));
            let body = json!({"name": name, "after": after(name, body), "image": format!("image{kind}"), "state": run, "environment": {"KIND": kind.to_string()},
                "labels": {"body": body.to_string()}, "resources": {"memory": memory},
                "restart": {"policy": policy}, "stop": {"timeout": "2s"}, "exposed_ports": [{"container": 80}]});
            let deploy = state::spec::parse::deploy(&body).unwrap();
            let accepted = store.deploy(deploy, Owner::Push, false, 0)?;
            handle.wake(accepted.record.id);
            return Ok(());
        }
        if store.desired().is_unknown() {
            return Err(StoreError::Unknown(String::new()));
        }
        let Some(id) = store
            .desired()
            .named(&name.parse().unwrap())
            .map(|record| record.id)
        else {
            return Ok(());
        };
        store.change(id, |record| match self {
            Self::Stop => record.run = RunState::Stopped,
            Self::Start => (record.run, record.finished) = (RunState::Running, None),
            Self::Restart => {
                (record.run, record.finished, record.restart_pending) =
                    (RunState::Running, None, true);
            }
            Self::Remove | Self::Deploy(..) => record.removing = true,
        })?;
        handle.wake(id);
        Ok(())
    }
}

fn actual(record: Option<&Arc<Record>>) -> Wanted {
    let record = record.filter(|record| !record.removing)?;
    Some((record.spec.labels["body"].parse().unwrap(), record.run))
}

impl Clients {
    fn told(&self) -> MutexGuard<'_, BTreeMap<&'static str, Told>> {
        self.0.lock().unwrap()
    }

    /// Asks for one thing, unless an earlier request for the same name has no answer yet.
    pub(crate) async fn ask(self, world: Arc<World>, writer: Writer, handle: Handle) {
        let (name, ask) = (NAMES[dice::index(NAMES.len())], ask());
        {
            let mut all = self.told();
            let told = all.entry(name).or_default();
            let removing = matches!(ask, Ask::Deploy(..)) || told.acknowledged.is_some();
            if told.asked.is_some() || !told.carried.is_empty() || !removing {
                return;
            }
            told.asked = Some(ask.after(told.acknowledged));
        }
        world.judge().trace(|| format!("ask {name} {ask:?}"));
        let looking = Arc::clone(&world);
        let asked = writer.write(move |store| {
            let changed = ask.change(store, name, &handle);
            let (names, mut judge) = (looking.instances(), looking.judge());
            let id = store
                .desired()
                .named(&name.parse().unwrap())
                .map(|record| record.id);
            for instance in names.iter().filter(|instance| Some(instance.id) == id) {
                judge.forget_exits(*instance);
                judge.protected.remove(instance);
            }
            judge.look(names.into_iter());
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
                all.values_mut().for_each(|told| told.refused.clear());
            }
            (Some(asked), Err(StoreError::Disk(_))) => told.refused.push(asked),
            (Some(_), Err(_)) | (None, _) => {}
        }
    }

    /// Notes that the agent ended: nobody will hear of what was asked before.
    pub(crate) fn begin_life(&self) {
        for told in self.told().values_mut() {
            let (asked, refused) = (told.asked.take(), std::mem::take(&mut told.refused));
            told.carried.extend(asked.into_iter().chain(refused));
        }
    }

    /// Compares the store with the answers, once the state is known.
    pub(crate) fn check(&self, store: &Store) -> Result<(), String> {
        let desired = store.desired();
        if desired.is_unknown() {
            return Ok(());
        }
        for (name, told) in self.told().iter_mut() {
            let is = actual(desired.named(&name.parse().unwrap()));
            if told.carried.contains(&is) {
                told.acknowledged = is;
            }
            if is != told.acknowledged && Some(is) != told.asked {
                return Err(format!("{name} is {is:?}: {told:?}"));
            }
            told.carried.clear();
        }
        Ok(())
    }

    /// Takes what is stored as answered, because all of the agent's files were lost.
    pub(crate) fn take_as_it_is(&self, store: &Store) {
        for name in NAMES {
            let is = actual(store.desired().named(&name.parse().unwrap()));
            self.told().insert(
                name,
                Told {
                    acknowledged: is,
                    ..Told::default()
                },
            );
        }
    }
}
