//! Operator of the node: orders to cordon, drain and uncordon it, and what came of them as far
//! as he was told.

use std::sync::{Arc, Mutex, MutexGuard};

use chas_node_agent::reconcile::Handle;
use chas_node_agent::writer::Writer;
use state::cordon::NodeOrder;
use state::store::{Store, StoreError};
use state::time::unix_ms;

use crate::dice;
use crate::judge::Judge;
use crate::plants::{self, Plant};
use crate::world::World;

/// Cordon of the node: whether it is drained, too. `None`: there is none.
type Held = Option<bool>;

/// Answers; as those of [`crate::client::Told`].
#[derive(Debug, Default)]
struct ToldCordon {
    acknowledged: Held,
    asked: Option<Held>,
    carried: Vec<Held>,
    unsure: Vec<Held>,
}

/// Knowledge of the operator, who outlives the agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operator(Arc<Mutex<ToldCordon>>);

fn stored(store: &Store) -> Held {
    let desired = store.desired();
    let cordon = desired.marks().operator_cordon();
    cordon.map(|cordon| cordon.drained_ms.is_some())
}

fn after(order: NodeOrder, before: Held) -> Held {
    match order {
        NodeOrder::Cordon => before.or(Some(false)),
        NodeOrder::Drain => Some(true),
        NodeOrder::Uncordon => None,
    }
}

impl Operator {
    fn told(&self) -> MutexGuard<'_, ToldCordon> {
        self.0.lock().unwrap()
    }

    /// Gives any order.
    pub(crate) async fn ask(self, world: Arc<World>, writer: Writer, handle: Handle) {
        let order = match dice::below(9) {
            0..2 => NodeOrder::Cordon,
            2..5 => NodeOrder::Drain,
            _ => NodeOrder::Uncordon,
        };
        self.order(order, &world, &writer, &handle).await;
    }

    /// Gives an order, unless one before has no answer yet. Whether it is carried out.
    pub(crate) async fn order(
        &self,
        order: NodeOrder,
        world: &Arc<World>,
        writer: &Writer,
        handle: &Handle,
    ) -> bool {
        {
            let mut told = self.told();
            if told.asked.is_some() || !told.carried.is_empty() {
                return false;
            }
            told.asked = Some(after(order, told.acknowledged));
        }
        world.judge().trace(|| format!("order {order:?}"));
        let (looking, operator, waking) = (Arc::clone(world), self.clone(), handle.clone());
        let asked = writer.write(move |store| {
            operator.told().asked = Some(after(order, stored(store)));
            let now_ms = unix_ms(waking.board().clock.wall_now());
            let changed = match plants::is(Plant::LosesOrder) {
                true => Ok(Vec::new()),
                false => store.order_node(order, "an operator", now_ms),
            };
            looking.judge().look_at_cordon();
            for record in changed? {
                waking.wake(record.id);
            }
            waking.board().changed();
            Ok(())
        });
        let answer = asked.await;
        world
            .judge()
            .trace(|| format!("told {order:?}: {answer:?}"));
        let mut told = self.told();
        let asked = told.asked.take();
        match (asked, &answer) {
            (Some(asked), Ok(())) => {
                told.acknowledged = asked;
                told.unsure.clear();
            }
            (Some(asked), Err(StoreError::Unsure(_))) => told.unsure.push(asked),
            (Some(_), Err(_)) | (None, _) => {}
        }
        answer.is_ok()
    }

    /// Notes that the agent ended: nobody will hear of what was asked before.
    pub(crate) fn begin_life(&self) {
        let mut told = self.told();
        let (asked, unsure) = (told.asked.take(), std::mem::take(&mut told.unsure));
        told.carried.extend(asked.into_iter().chain(unsure));
    }

    /// Compares the store with the answers, once the state is known.
    pub(crate) fn check(&self, store: &Store, judge: &Judge) -> Result<(), String> {
        if store.desired().is_unknown() {
            return Ok(());
        }
        let (mut told, is) = (self.told(), stored(store));
        let carried = std::mem::take(&mut told.carried);
        if carried.contains(&is) {
            let before = std::mem::replace(&mut told.acknowledged, is);
            told.unsure.extend(judge.was_disk_bad.then_some(before));
        } else if judge.was_disk_bad {
            // A disk that fails may have had an older copy read, and has the other one next time.
            told.unsure.extend(carried);
        }
        let mut may_be = [Some(told.acknowledged), told.asked].into_iter().flatten();
        match may_be.any(|held| held == is) {
            true => Ok(()),
            false => Err(format!("the cordon is {is:?}: {told:?}")),
        }
    }

    /// Takes what is stored as answered, because all of the agent's files were lost.
    pub(crate) fn take_as_it_is(&self, store: &Store) {
        *self.told() = ToldCordon {
            acknowledged: stored(store),
            ..ToldCordon::default()
        };
    }
}
