//! One history: some lives of the agent on a node, faults in and between them, and a quiet end.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chas_node_agent::journal::Journal;
use chas_node_agent::metrics::Metrics;
use chas_node_agent::probe::Probes;
use chas_node_agent::reconcile::{
    Clock, Handle, Reconciler, follow_contact, follow_drain, follow_schedules,
};
use chas_node_agent::runtime::RuntimeEvent;
use chas_node_agent::writer::Writer;
use state::assign::QuietNetwork;
use state::cordon::NodeOrder;
use state::id::InstanceName;
use state::store::{Limits, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chas::Chas;
use crate::client::Clients;
use crate::dice;
use crate::disk;
use crate::files::{Fate, Files};
use crate::operator::Operator;
use crate::plants::{self, Plant};
use crate::probes::Asking;
use crate::silence::Silence;
use crate::verdicts::Verdicts;
use crate::world::World;

mod between;
mod drained;
mod rest;

/// Time between whole looks, the agent's own default.
const RESYNC: Duration = Duration::from_secs(30);
/// Time to settle in: the longest wait is five minutes, and a few of them may follow each other.
const CONVERGED_WITHIN: Duration = Duration::from_mins(30);
/// Most looks at single containers in a history: more of them mean that the agent spins.
const LOOKS_MAX: u64 = 8000;
/// Time on the wall at which histories begin: in the middle of 2026.
const WALL: Duration = Duration::from_secs(1_782_000_000);

/// End of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As by `kill -9`: every task ends at the await it is at.
    Crash,
    /// As by SIGTERM.
    Orderly,
}

/// Node with everything that outlives the agent.
struct Node {
    world: Arc<World>,
    clients: Clients,
    chas: Chas,
    operator: Operator,
    files: Files,
    /// Time on the wall when the history began, as the clock has it now.
    wall: Duration,
    boot_time: Duration,
    boots: u128,
    fate: Fate,
    /// Whether both copies hold the last change of the last life.
    is_copied: bool,
    /// Whether the histories of the last life are on the disk.
    is_saved: bool,
    /// Instances that ran and were wanted when the last life ended.
    healthy: Vec<InstanceName>,
    /// Verdicts that the last life cannot have lost.
    verdicts: Verdicts,
    /// Silence of CHaS that the last life cannot have lost.
    silence: Silence,
}

/// One life of the agent.
struct Life {
    world: Arc<World>,
    clients: Clients,
    chas: Chas,
    operator: Operator,
    store: Arc<Store>,
    writer: Writer,
    handle: Handle,
    stop: CancellationToken,
    tracker: TaskTracker,
    fate: Fate,
}

/// Runs the history of a seed.
///
/// # Errors
/// The first rule that was broken.
pub(crate) fn run(seed: u64, verbose: bool) -> Result<u64, String> {
    dice::seed(seed);
    let files = Files::new();
    let (world, clients) = (Arc::new(World::anew()), Clients::default());
    if verbose {
        world.judge().verbose();
    }
    let mut node = Node {
        world,
        clients,
        chas: Chas::default(),
        operator: Operator::default(),
        files,
        wall: WALL,
        boot_time: Duration::from_secs(60),
        boots: 1,
        fate: Fate::Whole,
        is_copied: true,
        is_saved: true,
        healthy: Vec::new(),
        verdicts: Verdicts::default(),
        silence: Silence::default(),
    };
    let lives = dice::below(4);
    for life in 0..=lives {
        node.live(life == lives)?;
        node.world.judge().verdict()?;
    }
    Ok(node.world.judge().hash())
}

impl Node {
    fn live(&mut self, is_last: bool) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (world, began) = (Arc::clone(&self.world), self.boot_time);
        world.new_life();
        let result = runtime.block_on(async {
            world.judge().begin_life();
            let wall = SystemTime::UNIX_EPOCH + self.wall + world.judge().age();
            let clock = Clock::at(began, self.boots).with_wall(wall);
            let life = self.begin(clock)?;
            let lived = life.pass(is_last).await;
            let lived = match lived {
                Ok(()) if is_last => life.converge().await,
                other => other,
            };
            let end = if dice::chance(60) {
                End::Crash
            } else {
                End::Orderly
            };
            world.judge().trace(|| format!("the agent's end: {end:?}"));
            if end == End::Orderly {
                life.stop.cancel();
                life.tracker.close();
                life.tracker.wait().await;
            }
            self.boot_time = clock.now().0;
            self.verdicts = Verdicts::of(&life.store, &life.handle, &world, end == End::Orderly);
            self.silence = Silence::of(&life.store, &life.handle, &world);
            let running = world.running();
            self.healthy = world.judge().wanted(running);
            // Copies are written a tenth of a second after a change: damage comes later.
            // Observations are flushed, so that a history does not depend on real time.
            self.is_copied = life.store.copy().is_ok();
            self.is_saved = life.store.is_writable();
            life.store.flush();
            self.files.crash();
            world.judge().end_life();
            lived.map(|()| end)
        });
        // Ends every task of the agent.
        drop(runtime);
        self.between(result?);
        Ok(())
    }

    fn begin(&self, clock: Clock) -> Result<Life, String> {
        let addresses = Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 99);
        let limits = Limits {
            ports: 100..=199,
            network: Arc::new(QuietNetwork(addresses)),
            containers_max: 50,
            capacity: state::capacity::Capacity::ENDLESS,
            new_privileges: false,
            random: dice::random,
            disk: disk::ask,
        };
        disk::at(&self.files.now());
        // Damage is for a disk that can be read: both at once may lose what nobody could keep.
        disk::set(disk::Condition::Sound);
        if self.fate == Fate::Whole && dice::chance(30) {
            let condition = disk::draw();
            let mut judge = self.world.judge();
            judge.was_disk_bad |= condition != disk::Condition::Sound;
            judge.trace(|| format!("the disk is {condition:?}"));
        }
        let store =
            Arc::new(Store::open(&self.files.now(), limits).map_err(|error| error.to_string())?);
        self.world.judge().store = Some(Arc::downgrade(&store));
        if !store.is_writable() {
            // No history can be read.
            self.world.judge().forget_all_exits();
            self.world.judge().forget_starts();
        }
        self.world.judge().look_at_cordon();
        if self.fate == Fate::Gone {
            self.operator.take_as_it_is(&store);
        } else {
            self.clients.begin_life();
            self.clients.check(&store, &self.world)?;
            self.operator.begin_life();
            self.operator.check(&store, &self.world.judge())?;
        }
        let metrics = Metrics::new();
        let journal = Journal::new(metrics.clone());
        let writer = Writer::simulated(Arc::clone(&store), journal.clone(), dice::disk_pause);
        let world = Arc::clone(&self.world);
        let reconciler = Reconciler::new(world, writer.clone(), journal.clone(), clock, RESYNC);
        let reconciler = reconciler.drawing(dice::draw).with_chas(true);
        let (handle, stop, tracker) = (
            reconciler.handle(),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        self.verdicts.check(&handle, &self.world)?;
        self.silence.check(&handle, &self.world)?;
        let asking = Arc::new(Asking(Arc::clone(&self.world)));
        let (writing, telling) = (writer.clone(), (journal.clone(), metrics));
        let probes = Probes::new(writing, handle.clone(), telling, asking, dice::draw);
        tracker.spawn(reconciler.run(stop.clone(), tracker.clone()));
        tracker.spawn(probes.run(stop.clone()));
        tracker.spawn(writer.clone().keep_copies(stop.clone()));
        tracker.spawn(writer.clone().keep_tending(stop.clone()));
        let (world, clients) = (Arc::clone(&self.world), self.clients.clone());
        let until = |stopped: CancellationToken| {
            let schedules = follow_schedules(writer.clone(), handle.clone(), journal);
            let contact = follow_contact(writer.clone(), handle.clone());
            let drain = follow_drain(writer.clone(), handle.clone());
            let is_missing = plants::is(Plant::MissesDrain);
            // In one task, and so in this order: who of many watchers is woken first, is random.
            async move {
                let drain = async {
                    match is_missing {
                        true => std::future::pending().await,
                        false => drain.await,
                    }
                };
                let all = futures_util::future::join3(schedules, contact, drain);
                let _ended = Box::pin(stopped.run_until_cancelled(all)).await;
            }
        };
        tracker.spawn(until(stop.clone()));
        let polling = self.chas.clone().poll(
            Arc::clone(&world),
            clients.clone(),
            writer.clone(),
            handle.clone(),
        );
        let (ending, stopped) = (Arc::clone(&world).end_jobs(), stop.clone());
        tracker.spawn(async move {
            let others = futures_util::future::join(polling, ending);
            stopped.run_until_cancelled(others).await;
        });
        Ok(Life {
            world,
            clients,
            chas: self.chas.clone(),
            operator: self.operator.clone(),
            store,
            writer,
            handle,
            stop,
            tracker,
            fate: self.fate,
        })
    }
}

impl Life {
    /// Lets faults and requests happen for a while.
    async fn pass(&self, is_last: bool) -> Result<(), String> {
        if self.fate == Fate::Gone {
            self.settle_into_the_loss().await?;
        }
        let acts = 3 + dice::below(if is_last { 15 } else { 25 });
        for _ in 0..acts {
            self.act();
            tokio::time::sleep(match dice::below(10) {
                0..5 => dice::millis(300),
                5..9 => dice::millis(5000),
                _ => dice::millis(400_000),
            })
            .await;
            self.look()?;
        }
        Ok(())
    }

    /// Waits until the agent has taken over what runs, and asks nothing of it before.
    async fn settle_into_the_loss(&self) -> Result<(), String> {
        for _ in 0..2000 {
            if self.store.desired().adoption().is_none() {
                self.clients.take_as_it_is(&self.store);
                return self.world.judge().verdict();
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err("what the runtime holds was never taken over".to_owned())
    }

    fn act(&self) {
        let running: Vec<_> = self.world.running().into_iter().collect();
        let one = (!running.is_empty()).then(|| running[dice::index(running.len())]);
        match (dice::below(29), one) {
            (0..9, _) => {
                let asking = self.clients.clone().ask(
                    Arc::clone(&self.world),
                    self.writer.clone(),
                    self.handle.clone(),
                );
                self.tracker.spawn(asking);
            }
            (9..14, Some(name)) => self.world.end(name),
            (14, Some(name)) => self.world.lose_task(name),
            (15, _) => self.world.inner().images.clear(),
            (16, _) => {
                self.world.hint(Duration::ZERO, RuntimeEvent::Disconnected);
                self.world.hint(dice::millis(3000), RuntimeEvent::Connected);
            }
            (26..29, _) => {
                let asking = self.operator.clone().ask(
                    Arc::clone(&self.world),
                    self.writer.clone(),
                    self.handle.clone(),
                );
                self.tracker.spawn(asking);
            }
            (20..23, _) => self.chas.change(&self.world),
            (23..26, Some(name)) => self.world.change_manner(name),
            (19, _) => self.chas.set_away(!self.chas.is_away(), &self.world),
            (18, _) => {
                let condition = disk::draw();
                self.world.judge().was_disk_bad |= condition != disk::Condition::Sound;
                self.world
                    .judge()
                    .trace(|| format!("the disk is {condition:?}"));
            }
            (17, Some(name)) => self
                .world
                .hint(Duration::ZERO, RuntimeEvent::Changed(name.id)),
            _ => {}
        }
    }

    fn look(&self) -> Result<(), String> {
        self.clients.check(&self.store, &self.world)?;
        self.operator.check(&self.store, &self.world.judge())?;
        self.world.look_at_ports(&self.store);
        self.world.look_at_silence(&self.store, self.handle.board());
        self.world.judge().verdict()?;
        let ids = self.world.instances().len() + self.store.desired().records().count();
        let waiting = self.handle.waiting();
        // A container that was just removed may have one turn left.
        if waiting > ids + 4 {
            return Err(format!("{waiting} wait for a turn, of {ids}"));
        }
        let looks = self.world.judge().looks;
        if looks > LOOKS_MAX {
            Err(format!("{looks} looks at single containers"))
        } else {
            Ok(())
        }
    }

    fn unsettled(&self) -> Option<String> {
        let unapplied = (!self.chas.is_applied(&self.store)).then(|| "the set waits".to_owned());
        // What rests for its silence is to run once it has answered, and not before.
        let is_silent = !self.chas.is_away() && self.world.judge().is_long_silent();
        let unheard = is_silent.then(|| "CHaS has not answered yet".to_owned());
        unapplied
            .or(unheard)
            .or_else(|| self.world.unsettled(&self.store, self.handle.board()))
    }

    /// Stops all faults, and checks that everything becomes as desired and then stays untouched.
    async fn converge(&self) -> Result<(), String> {
        dice::calm(true);
        disk::set(disk::Condition::Sound);
        self.world
            .judge()
            .trace(|| "from now on all goes well".to_owned());
        let (world, writer) = (&self.world, &self.writer);
        world.all_work();
        self.chas.settle();
        let step = Duration::from_secs(5);
        let mut left = CONVERGED_WITHIN;
        // What is stopped cannot be told to before the state is known.
        while self.store.desired().is_unknown() || self.store.desired().adoption().is_some() {
            tokio::time::sleep(step).await;
            left = left.checked_sub(step).ok_or("the state stays unknown")?;
        }
        // What was asked just before has its answer by then, and does not come after the stop.
        tokio::time::sleep(step).await;
        self.clients.stop_jobs(world, writer, &self.handle).await;
        if dice::chance(30) {
            self.drained().await?;
        }
        self.order(NodeOrder::Uncordon).await?;
        if dice::chance(30) {
            self.rest().await?;
        }
        self.chas.set_away(false, world);
        while let Some(why) = self.unsettled() {
            if left.is_zero() {
                return Err(format!(
                    "not settled when all had gone well for {CONVERGED_WITHIN:?}: {why}"
                ));
            }
            left = left.saturating_sub(step);
            tokio::time::sleep(step).await;
            self.look()?;
        }
        self.clients.check(&self.store, &self.world)?;
        // One more whole look is due for what settled just now; after it nobody may be looked at.
        tokio::time::sleep(RESYNC * 2).await;
        let looks = self.world.judge().looks;
        tokio::time::sleep(RESYNC * 4).await;
        let more = self.world.judge().looks - looks;
        let (waiting, mut gone) = (self.handle.waiting(), self.handle.board().known_ids());
        gone.retain(|id| self.store.desired().get(*id).is_none());
        match (more, waiting, gone.is_empty()) {
            (0, 0, true) => self.world.judge().verdict(),
            _ => Err(format!(
                "settled, and yet {more} looks, {waiting} waiting, and something is known of {gone:?}"
            )),
        }
    }
}
