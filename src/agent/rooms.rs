//! Every room: built from the configuration, wired to the others, and started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use state::alarm::Alarm;
use state::failure::Failure;
use state::reach::NodeReach;
use state::store::Defaults;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::confinement;
use super::followers;
use super::hearing::{self, Hearing};
use super::host_paths::host_paths;
use super::link::link;
use super::measured;
use super::probes;
use super::registries::{follow_registries, registry_config, room_config};
use super::review;
use super::secrets;
use super::shelf::NodeShelves;
use super::status_line;
use super::store::{self, open_store};
use super::usage;
use crate::api::{self, CallRules, CallerToken, ClientList, Gate, OwnNames};
use crate::audit::{self, AuditLog};
use crate::chas::{ChasLink, LinkState};
use crate::config::{self, Config, RuntimeChoice, SystemUser, shim_program};
use crate::exec::ExecRoom;
use crate::feed::EventFeed;
use crate::journal::Journal;
use crate::log_level::LogLevel;
use crate::logs::keep::Loggers;
use crate::logs::program::LoggerProgram;
use crate::logs::rules::{LoggerRules, LoggerUser};
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::network::{
    BridgeConfig, BridgeNetwork, ContainerReach, NetworkDriver as _, NetworkFaults, NetworkFinding,
    RESOLV_CONF,
};
use crate::node::link::AgentLink;
use crate::node::policy_watch::PolicyWatch;
use crate::node::volumes::NodeVolumes;
use crate::node::{self, AgentNode};
use crate::reconcile::{Clock, Handle, Reconciler, follow_contact};
use crate::runtime::containerd::image::Images;
use crate::runtime::containerd::{
    Confinement, Containerd, ContainerdClient, ContainerdConfig, OciRuntime, ValueSources,
};
use crate::runtime::node::NodeRuntime;
use crate::volumes::Volumes;
use crate::writer::Writer;

/// Wait before the network is set up again after a failure.
const NETWORK_RETRY: Duration = Duration::from_secs(2);

/// Runtime of this agent.
pub(super) type AgentRuntime = NodeRuntime<Containerd, BridgeNetwork>;

/// Every room, built and not yet started.
pub(super) struct Rooms {
    network: Arc<BridgeNetwork>,
    reconciler: Reconciler<AgentRuntime>,
    handle: Handle,
    writer: Writer,
    journal: Journal,
    monitor: Arc<Monitor>,
    /// `None`: no CHaS is configured.
    link: Option<(Arc<AgentLink>, ChasLink<AgentLink>)>,
    contact: Option<Arc<LinkState>>,
    router: axum::Router,
}

impl Rooms {
    pub(super) async fn build(
        config: &Config,
        callers: (CallerToken, ClientList),
        (feed, level): (EventFeed, LogLevel),
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) -> anyhow::Result<Self> {
        let network = Arc::new(BridgeNetwork::new(bridge_config(config)));
        let monitor = Arc::new(Monitor::new(config.state.dir.clone())?);
        let facts = monitor.snapshot();
        let store = Arc::new(open_store(config, Arc::clone(&network) as _, &facts).await?);
        secrets::take_key(config, &store).await?;
        store::end_if_stuck(Arc::clone(&store), stop.clone(), tracker);
        let (clock, metrics) = (Clock::start(), Metrics::new());
        let journal = Journal::with_feed(metrics.clone(), feed);
        store.set_witness(Arc::new(audit_log(config, &journal)));
        let loggers = loggers(config, &journal, stop, tracker)?;
        let client = ContainerdClient::new(&config.containerd.socket, &config.containerd.namespace);
        let images = Images::new(client.clone(), registry_config(config), room_config(config))?;
        follow_registries(config, &images, &journal, stop, tracker);
        review::follow(config, &journal, stop, tracker);
        confinement::follow_versions(client.clone(), journal.clone(), stop.clone(), tracker);
        secrets::follow(config, Arc::clone(&store), &journal, stop, tracker);
        let engine = engine(config, images, client, secrets::sources(config, &store))?;
        let confined = confinement::follow(limits(config), &engine, stop.clone(), tracker);
        let shelves = NodeShelves::of(&engine, (stop, tracker));
        let (execs, roots) = (engine.execs(), engine.roots());
        let execs = ExecRoom::new(execs, journal.clone(), tracker.clone(), stop.clone());
        let volumes = Volumes::new(config.state.dir.clone());
        let runtime = NodeRuntime::new(
            engine,
            Arc::clone(&network),
            loggers.clone(),
            (volumes.clone(), host_paths(config)),
        );
        let writer = Writer::new(store, journal.clone(), tracker.clone());
        let reconciler = Reconciler::new(
            Arc::new(runtime),
            writer.clone(),
            journal.clone(),
            clock,
            config.reconcile.resync_interval,
        );
        let contact = config.chas.as_ref().map(|_| Arc::new(LinkState::default()));
        let node = AgentNode::new(
            writer.clone(),
            reconciler.handle(),
            journal.clone(),
            Arc::clone(&monitor),
            loggers,
            contact.clone(),
            confined,
        );
        let told = (journal.clone(), &metrics);
        let asking = (&writer, reconciler.handle(), &execs);
        probes::start(asking, told.clone(), (stop, tracker));
        let volumes = NodeVolumes::start(volumes, &writer, told, roots, (stop, tracker));
        let node = usage::shown_by(node.with_execs(execs).with_volumes(volumes), config)?;
        let node = shelves.given_to(node.with_reach(reach(config)).with_log_level(level));
        let node = status_line::follow(Arc::new(node), stop, tracker);
        measured::send(config, &node, &metrics, stop);
        let to = (contact.clone(), journal.clone());
        let link = link(config, &node, to, clock.boot_id());
        Ok(Self {
            network,
            handle: reconciler.handle(),
            reconciler,
            writer,
            journal,
            monitor,
            link,
            contact,
            router: api::router(node, call_rules(config, callers), scraped(config, metrics)),
        })
    }

    pub(super) fn journal(&self) -> Journal {
        self.journal.clone()
    }

    /// Keeps the policy as its file says.
    pub(super) fn watch_policy(
        &self,
        config: &Config,
        due: Arc<Notify>,
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) {
        let watch = PolicyWatch {
            writer: self.writer.clone(),
            handle: self.handle.clone(),
            journal: self.journal.clone(),
            due,
            poll: self.contact.clone(),
        };
        let (config, stop) = (config.clone(), stop.clone());
        let keeping = config.clone();
        let watching = watch.run(
            move || config.read_policy(),
            move |text| keeping.keep_policy(text),
        );
        tracker.spawn(async move { Box::pin(stop.run_until_cancelled(watching)).await });
    }

    /// Starts all but the API, whose routes it answers.
    pub(super) fn start(
        self,
        config: &Config,
        hearing: Hearing,
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) -> axum::Router {
        let findings = self.network.findings();
        tracker.spawn(tell(findings, self.journal.clone(), stop.clone()));
        let reconciling = begin(
            self.reconciler.with_chas(self.link.is_some()),
            self.network,
            self.journal.clone(),
            stop.clone(),
            tracker.clone(),
        );
        tracker.spawn(reconciling);
        tracker.spawn(self.writer.clone().keep_copies(stop.clone()));
        tracker.spawn(self.writer.clone().keep_tending(stop.clone()));
        followers::start(
            config,
            (&self.writer, &self.handle, &self.journal),
            (stop, tracker),
        );
        if let Some((node, link)) = self.link {
            let (following, stopping) = (self.writer.clone(), stop.clone());
            let following = follow_contact(following, self.handle.clone());
            tracker.spawn(async move { stopping.run_until_cancelled(following).await });
            let stop = stop.clone();
            tracker.spawn(async move {
                if stop.run_until_cancelled(node.prepare()).await.is_some() {
                    stop.run_until_cancelled(node.first_look()).await;
                    Box::pin(link.run(stop)).await;
                }
            });
        }
        let (samples, journal) = (self.monitor.watch(), self.journal);
        tracker.spawn(node::disk_alarms::follow(samples, journal.clone()));
        let (monitor, interval) = (self.monitor, config.monitoring.health_interval);
        let sampling = stop.clone();
        tracker.spawn(async move { monitor.run(interval, sampling).await });
        hearing::watch(hearing, (self.handle, self.writer, journal), stop, tracker);
        self.router
    }
}

fn scraped(config: &Config, metrics: Metrics) -> Option<Metrics> {
    config.monitoring.metrics_enabled.then_some(metrics)
}

fn audit_log(config: &Config, journal: &Journal) -> AuditLog {
    let lines = config.state.dir.join(audit::DIRECTORY);
    AuditLog::new(&lines, config.audit.fail_closed, journal.clone())
}

fn reach(config: &Config) -> NodeReach {
    NodeReach {
        subnet: config.network.subnet,
        open: config.network.neighbours,
        name_servers: BTreeSet::new(),
    }
}

/// Sets up the network and reconciles. The network comes first, since a container cannot start without; until it is set up,
/// an alarm says why, and running containers are left alone.
async fn begin(
    reconciler: Reconciler<AgentRuntime>,
    network: Arc<BridgeNetwork>,
    journal: Journal,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    while let Err(error) = network.prepare().await {
        let fault = Failure::from(error).to_string();
        journal.set_alarm(Alarm::NetworkNotReady, "", Some(fault));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(NETWORK_RETRY) => {}
        }
    }
    journal.set_alarm(Alarm::NetworkNotReady, "", None);
    let guarded = stop.clone();
    tracker.spawn(async move { guarded.run_until_cancelled(network.guard_table()).await });
    reconciler.run(stop, tracker).await;
}

/// Raises and clears the alarms of what the network found on the host.
async fn tell(
    mut findings: watch::Receiver<Vec<NetworkFinding>>,
    journal: Journal,
    stop: CancellationToken,
) {
    let mut standing = NetworkFaults::new();
    while let Some(Ok(())) = stop.run_until_cancelled(findings.changed()).await {
        let faults = NetworkFinding::faults(&findings.borrow_and_update(), &standing);
        for gone in standing.keys().filter(|key| !faults.contains_key(key)) {
            journal.set_alarm(gone.0, &gone.1, None);
        }
        for ((alarm, subject), fault) in &faults {
            journal.set_alarm(*alarm, subject, Some(fault.clone()));
        }
        standing = faults;
    }
}

fn call_rules(config: &Config, (token, clients): (CallerToken, ClientList)) -> CallRules {
    let own = [config.node.id.clone(), config.node.hostname.clone()];
    let hosts = own.into_iter().chain(config.api.hosts.iter().cloned());
    CallRules {
        gate: Gate::new(
            token,
            clients,
            &config.state.socket(),
            &config.state.admin_token(),
        ),
        hosts: OwnNames::new(hosts, config.state.defaults == Defaults::Earlier),
    }
}

pub(super) fn bridge_config(config: &Config) -> BridgeConfig {
    BridgeConfig {
        resolv_conf: RESOLV_CONF.map(PathBuf::from).into(),
        bridge: config.network.bridge.clone(),
        subnet: config.network.subnet,
        subnet6: config.network.subnet6,
        netns_dir: config.state.run_dir.join("netns"),
        files_dir: config.state.run_dir.join("files"),
        api: config.api.listen,
        search_path: config::environment("PATH").unwrap_or_default(),
        reach: ContainerReach {
            host: config.network.host_access.clone().into(),
            neighbours: config.network.neighbours,
            link_local: config.network.link_local,
        },
        source_guard: config.network.source_guard,
        routes_between_networks: config.network.route_between_networks,
    }
}

pub(super) fn loggers(
    config: &Config,
    journal: &Journal,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) -> anyhow::Result<Loggers> {
    let executable =
        std::env::current_exe().context("the path of the agent's own executable is unknown")?;
    let program = LoggerProgram::new(&config.state.run_dir, executable);
    let logs = config.state.dir.join("logs");
    let user = config.logs.user;
    let rules = LoggerRules {
        rate: config.logs.rate,
        user: user.map(|SystemUser { uid, gid }| LoggerUser { uid, gid }),
    };
    Ok(Loggers::new(
        logs,
        program,
        rules,
        config.containerd.namespace.clone(),
        journal.clone(),
        tracker.clone(),
        stop.clone(),
    ))
}

/// Limits that the node sets to every container.
fn limits(config: &Config) -> Confinement {
    let containers = &config.containers;
    let user_ids = containers.user_ids.clone();
    Confinement {
        capabilities: containers.capabilities.clone(),
        socketcall: containers.allow_socketcall,
        user_ids: containers.user_namespaces.then_some(user_ids),
    }
}

/// Runtimes besides the node's own choice.
fn runtimes(config: &Config) -> BTreeMap<String, OciRuntime> {
    let choices = config.containers.runtimes.iter();
    let known = choices.filter_map(|(name, choice)| {
        let runtime = match choice {
            RuntimeChoice::Program(program) => OciRuntime::of_program(program),
            RuntimeChoice::Shim(runtime) => {
                OciRuntime::of_shim(runtime.clone(), shim_program(runtime)?)
            }
        };
        Some((name.clone(), runtime))
    });
    known.collect()
}

pub(super) fn engine(
    config: &Config,
    images: Images,
    client: ContainerdClient,
    values: ValueSources,
) -> anyhow::Result<Containerd> {
    let settings = ContainerdConfig {
        socket: config.containerd.socket.clone(),
        namespace: config.containerd.namespace.clone(),
        run_dir: config.state.run_dir.clone(),
        oci_runtime: OciRuntime::default(),
        runtimes: runtimes(config),
        confinement: limits(config),
        search_path: config::environment("PATH").unwrap_or_default(),
        values,
    };
    Containerd::new(settings, client, images).context("the host's facts cannot be read")
}
