//! Manners of the containers that are asked whether they work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chas_node_agent::probe::{Asker, ProbeOrder, ProbeResult};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::id::InstanceName;

use crate::bodies;
use crate::dice;
use crate::plants::{self, Plant};
use crate::world::World;

/// Manner in which a process answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    #[default]
    Works,
    Fails,
    Hangs,
}

/// Manners of the processes that are another than to work.
pub(crate) type Manners = Mutex<BTreeMap<InstanceName, Manner>>;

/// Draws how a process that begins, or changes, answers from now on.
pub(crate) fn draw() -> Manner {
    match dice::below(if dice::is_calm() { 1 } else { 10 }) {
        0..7 => Manner::Works,
        7 | 8 => Manner::Fails,
        _ => Manner::Hangs,
    }
}

/// Asks the containers of the world.
#[derive(Debug)]
pub(crate) struct Asking(pub(crate) Arc<World>);

impl Asker for Asking {
    fn ask(&self, wanted: ProbeOrder) -> BoxFuture<'static, ProbeResult> {
        let world = Arc::clone(&self.0);
        async move {
            let name = wanted.instance;
            tokio::time::sleep(dice::pause().min(Duration::from_millis(500))).await;
            // Nobody can ask now and then.
            if !dice::is_calm() && dice::chance(3) {
                return None;
            }
            let manner = world.manner(name);
            if manner == Manner::Hangs {
                tokio::time::sleep(wanted.check.timeout).await;
            }
            let works = manner == Manner::Works && world.running().contains(&name);
            world.judge().answers(name, works);
            let is_misread = plants::is(match works {
                true => Plant::CallsUnhealthy,
                false => Plant::CallsReady,
            });
            Some(match works != is_misread {
                true => Ok("port 80 accepts connections".to_owned()),
                false => Err("port 80 refuses connections".to_owned()),
            })
        }
        .boxed()
    }
}

impl World {
    /// Manner in which an instance answers now.
    fn manner(&self, name: InstanceName) -> Manner {
        let made = self.inner().instances.get(&name).cloned();
        let body =
            made.and_then(|made| made.label["spec"]["labels"]["body"].as_str()?.parse().ok());
        if body.is_some_and(bodies::is_bad) {
            return Manner::Fails;
        }
        let manners = self.circumstances.manners.lock().unwrap();
        manners.get(&name).copied().unwrap_or_default()
    }

    /// A process answers otherwise from now on.
    pub(crate) fn change_manner(&self, name: InstanceName) {
        let manner = draw();
        self.judge()
            .trace(|| format!("{name} answers otherwise: {manner:?}"));
        let mut manners = self.circumstances.manners.lock().unwrap();
        manners.insert(name, manner);
    }

    /// Every process that can works from now on.
    pub(crate) fn all_work(&self) {
        self.circumstances.manners.lock().unwrap().clear();
    }
}
