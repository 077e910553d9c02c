//! Bridge driver: one bridge for all, a veth pair into each netns, and host ports by nftables.
//!
//! In reading order: `device` is the kernel's bridge and `veth` a pair of links, both over `links`
//! and `sysctl`; `ports` says which instance has which host port and `nftables` tells the kernel;
//! `firewall` reads the rules of other programs, `others` what they mean for the agent, and `holders` who else has a host port;
//! `connect` makes the pair of an instance; `connections` counts who is connected to it; `groups` puts the rules of containers in force; `ipv6` is what a second subnet adds to all of them; `findings` looks for whatever else disturbs; `forward` gets the bridge's packets through them; `conntrack` deletes flows that lead elsewhere, for `flows`; `published` knows who has ports and names;
//! `routing` keeps the node from connecting its networks; `addresses` chooses addresses; `tools` runs the host's programs; `table_watch` restores the table; `repair` compares the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use state::assign::{AssignError, HostNetwork, PortHolder};
use state::desired::{Assignment, PortBinding};
use state::id::{ContainerId, InstanceName};
use state::reach::NodeReach;
use state::spec::{Network, Protocol};
use state::subnet::{Ipv4Subnet, Ipv6Subnet};
use tokio::sync::{RwLock, watch};
use tokio::time::Instant;

use super::directory::{HostsDirectory, Member};
use super::{
    AssignedInstance, Attached, InstanceNames, NetworkDriver, NetworkError, NetworkFinding,
    NetworkPaths, netns,
};
use crate::lock::lock;
use connections::Arrivals;
use device::BridgeDevice;
use groups::memory::RuleMemory;
use ipv6::switches::SwitchMemory;
pub use nftables::rules::{ContainerReach, HostReach};
use ports::HostPorts;
use routing::RoutingMemory;

mod addresses;
mod apart;
mod connect;
mod connections;
mod conntrack;
mod device;
mod findings;
mod firewall;
mod flows;
mod forward;
mod free_subnet;
mod groups;
mod holders;
#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
mod ipv6;
mod links;
mod nfnetlink;
mod nftables;
mod others;
mod ports;
mod published;
mod repair;
mod routing;
mod sysctl;
mod table_watch;
mod tools;
mod veth;

pub use free_subnet::free_subnet;
pub(crate) use veth::name as link_name;

/// Time for which [`NetworkDriver::repair`] spares an instance that this agent connected although
/// it is not wanted: the caller's list may be older than the instance. No list is that old.
const SPARED_FOR: Duration = Duration::from_secs(60);

/// Place of an agent's network on its host. Agents that differ in all of it do not touch each
/// other.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Name of the bridge, at most 15 bytes as of any link; also that of the nftables table, so
    /// letters, digits, `_` and `-`.
    pub bridge: String,
    /// Range of the containers' addresses; the bridge has the first.
    pub subnet: Ipv4Subnet,
    /// Range of their IPv6 addresses; the bridge has the first. `None`: they have none.
    pub subnet6: Option<Ipv6Subnet>,
    /// Directory with a file for each instance's netns, as in `/run/chas/netns`. Must not outlive a
    /// reboot, and containerd must see the mounts in it: no private mount namespace.
    pub netns_dir: PathBuf,
    /// Directory with a directory for each instance, for its `resolv.conf`, `hosts` and `hostname`.
    pub files_dir: PathBuf,
    /// Lists of the host's name servers ([`RESOLV_CONF`](super::RESOLV_CONF)), of which the first with a
    /// usable one counts.
    pub resolv_conf: Vec<PathBuf>,
    /// Address and port of the agent's own API; no container gets the port on any address.
    pub api: SocketAddr,
    /// The agent's own `PATH`, for the programs of the host that it runs.
    pub search_path: OsString,
    /// Reach of containers into the host and its surroundings.
    pub reach: ContainerReach,
    /// Whether a container can send from its own addresses only.
    pub source_guard: bool,
    /// Whether the node goes on to connect the networks that it is in, although it did not forward
    /// before the agent.
    pub routes_between_networks: bool,
}

impl BridgeConfig {
    /// Memory of the links that the node had when it did not forward. It is kept also where the node
    /// connects them, for when that is configured otherwise.
    fn routing_memory(&self) -> RoutingMemory {
        RoutingMemory::below(self.run_dir())
    }

    /// Memory of the switches that were set so that the node forwards IPv6.
    fn switch_memory(&self) -> SwitchMemory {
        SwitchMemory::below(self.run_dir())
    }

    /// Directory of what a reboot ends.
    fn run_dir(&self) -> &Path {
        self.netns_dir.parent().unwrap_or(&self.netns_dir)
    }
}

/// Network of one agent on one bridge. Shared by `Arc`.
#[derive(Debug)]
pub struct BridgeNetwork {
    config: BridgeConfig,
    ports: HostPorts,
    hosts: HostsDirectory,
    memory: RuleMemory,
    /// Locked shared while one instance is changed, exclusively while the whole is compared.
    gate: RwLock<()>,
    /// Locked shared while a link is made, exclusively while the guard of all is changed.
    wiring: RwLock<()>,
    /// Findings of the last repair.
    findings: watch::Sender<Vec<NetworkFinding>>,
    state: Mutex<BridgeState>,
}

/// State that this agent has seen or made. Written by every call, never locked across an await.
#[derive(Debug, Default)]
struct BridgeState {
    /// `None`: not made or not looked at yet.
    device: Option<BridgeDevice>,
    /// Time at which an instance was last connected by this agent; dropped after [`SPARED_FOR`].
    connected_at: BTreeMap<InstanceName, Instant>,
    /// Instance of a container that this agent published last, and when; dropped after [`SPARED_FOR`].
    published_at: BTreeMap<ContainerId, (InstanceName, Instant)>,
    /// Connections of instances that serve no more.
    arrivals: BTreeMap<InstanceName, Arrivals>,
    /// Whether the host's firewall was looked at, and lets the bridge's packets through.
    forward_open: bool,
    /// The reason why a link has no guard, as the last repair found it.
    unguarded: Option<String>,
    /// The reason why the host cannot have the IPv6 that is configured, as it was last found.
    no_ipv6: Option<String>,
    /// Instances into which it was looked whether they have IPv6.
    looked_for_ipv6: BTreeSet<InstanceName>,
    /// Whether links lead packets for neighbours to the rules of the table.
    is_routed: bool,
    /// Whether that is so at every link, and running containers know the way.
    is_routed_everywhere: bool,
    /// Whether a link was changed whose container does not know the way yet.
    is_way_new: bool,
}

impl BridgeNetwork {
    /// Network on which nothing has been done yet.
    #[must_use]
    pub fn new(config: BridgeConfig) -> Self {
        tools::look_in(&config.search_path);
        let node = NodeReach {
            subnet: config.subnet,
            open: config.reach.neighbours,
            name_servers: BTreeSet::new(),
        };
        Self {
            ports: HostPorts::new(&config),
            hosts: HostsDirectory::new(config.files_dir.clone(), config.resolv_conf.clone(), node),
            memory: RuleMemory::below(config.run_dir()),
            config,
            gate: RwLock::default(),
            wiring: RwLock::default(),
            findings: watch::Sender::default(),
            state: Mutex::default(),
        }
    }

    /// States of the host that keep containers from the network, as the last
    /// [`NetworkDriver::repair`] found them.
    #[must_use]
    pub fn findings(&self) -> watch::Receiver<Vec<NetworkFinding>> {
        self.findings.subscribe()
    }

    /// Instances that have a netns, wanted or not.
    fn with_any_netns(&self) -> Result<Vec<InstanceName>, NetworkError> {
        netns::instances_in(&self.config.netns_dir)
            .map_err(|error| netns::failed("cannot list the netns", error))
    }

    fn netns(&self, instance: InstanceName) -> PathBuf {
        self.config.netns_dir.join(instance.to_string())
    }

    fn state(&self) -> MutexGuard<'_, BridgeState> {
        lock(&self.state)
    }

    /// Instances that are not wanted, but may be younger than the list that does not name them.
    fn spared(&self, wanted: &BTreeSet<InstanceName>) -> BTreeSet<InstanceName> {
        let mut state = self.state();
        state.connected_at.retain(|_, at| at.elapsed() < SPARED_FOR);
        state
            .connected_at
            .keys()
            .filter(|instance| !wanted.contains(instance))
            .copied()
            .collect()
    }
}

impl HostNetwork for BridgeNetwork {
    fn look(&self) {
        self.ports.look();
    }

    /// A port of which the kernel does not tell counts as free: starting the container will show.
    fn holder(&self, binding: &PortBinding) -> Option<PortHolder> {
        self.ports.holder(binding).unwrap_or_default()
    }

    fn has_ipv6(&self) -> bool {
        self.config.subnet6.is_some() && self.state().no_ipv6.is_none()
    }

    fn address(
        &self,
        before: Option<Ipv4Addr>,
        taken: &dyn Fn() -> BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Ipv4Addr>, AssignError> {
        addresses::choose(self.config.subnet, before, taken).map(Some)
    }
}

impl NetworkDriver for BridgeNetwork {
    async fn prepare(&self) -> Result<(), NetworkError> {
        device::check_name(&self.config.bridge)?;
        for dir in [&self.config.netns_dir, &self.config.files_dir] {
            std::fs::create_dir_all(dir).map_err(|error| {
                NetworkError::failed(format!("cannot make {}", dir.display()), error)
            })?;
        }
        self.remember_rules().await?;
        if self.config.subnet6.is_none() {
            self.forget_ipv6().await?;
        }
        self.ensure_device().await?;
        self.ports.prepare().await?;
        self.open_ipv6().await;
        Ok(())
    }

    async fn connect(
        &self,
        instance: InstanceName,
        names: &InstanceNames,
        assignment: &Assignment,
        network: &Network,
    ) -> Result<Attached, NetworkError> {
        let _shared = self.gate.read().await;
        if !network.mode.has_address() {
            self.connect_apart(instance, names, network.mode).await?;
            return Ok(Attached {
                addresses: None,
                paths: self.paths(instance),
            });
        }
        let address = assigned_address(instance, assignment)?;
        self.state().connected_at.insert(instance, Instant::now());
        let member = Member {
            name: names.container.clone(),
            address,
            address6: self.address6(address),
            network: network.clone(),
            asked: names.asked.clone(),
            stands_back: names.stands_back,
        };
        self.hosts.add(instance, member.clone());
        let is_ruled = member.network.is_ruled();
        self.apply_rules(is_ruled).await.admit(&member)?;
        let (connected, opened, written) = tokio::join!(
            self.connect_veth(instance, &member),
            self.open_forward(),
            self.hosts.write(instance)
        );
        connected.and(opened).and(written)?;
        Ok(Attached {
            addresses: Some(member.addresses()),
            paths: self.paths(instance),
        })
    }

    async fn publish(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        let _shared = self.gate.read().await;
        self.ports.prepare().await?;
        self.ports.publish(instance, assignment).await?;
        self.state().note_published(instance);
        if assignment
            .ports
            .iter()
            .any(|binding| binding.protocol == Protocol::Udp)
        {
            let published = self.ports.publications(instance, assignment);
            flows::delete_stale(instance, published).await?;
        }
        Ok(())
    }

    async fn check_ports(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        let _shared = self.gate.read().await;
        self.ports.prepare().await?;
        self.ports.check(instance, assignment).await
    }

    fn paths(&self, instance: InstanceName) -> NetworkPaths {
        let files = self.hosts.files(instance);
        NetworkPaths {
            netns: self.netns(instance),
            resolv_conf: files.resolv_conf(),
            hosts: files.hosts(),
            hostname: files.hostname(),
            writable: files.writable(),
            sysfs: files.sysfs(),
        }
    }

    async fn connections(&self, instance: InstanceName) -> Result<usize, NetworkError> {
        self.count_connections(instance).await
    }

    async fn detach(&self, instance: InstanceName) -> Result<(), NetworkError> {
        let _shared = self.gate.read().await;
        self.state().forget(instance);
        let name = veth::name(&self.config.bridge, instance);
        let addresses = self.addresses_of(self.hosts.address(instance));
        let withdraw = async {
            self.ports.withdraw(instance).await?;
            // Once nothing leads to it any more: else the next packet makes the flow again.
            flows::delete_of(instance, addresses).await
        };
        let (withdrawn, disconnected) =
            tokio::join!(withdraw, veth::disconnect(self.netns(instance), name));
        if disconnected.is_err() {
            // Its link may be there yet, and so its rules stay.
            return withdrawn.and(disconnected);
        }
        self.hosts.remove(instance);
        self.memory.forget(instance);
        // Its address may be another's next; and what is gone is not to be in the table until then.
        if let Some(error) = self.apply_rules(false).await.fault {
            tracing::warn!(%instance, %error, "network rules of a removed container not taken away");
        }
        withdrawn.and(self.hosts.remove_files(instance).await)
    }

    async fn repair(
        &self,
        wanted: &[AssignedInstance],
        untouched: &BTreeSet<ContainerId>,
    ) -> Result<Vec<String>, NetworkError> {
        self.repair_all(wanted, untouched).await
    }

    async fn teardown(&self) -> Result<(), NetworkError> {
        self.remove_all().await
    }
}

/// Address that this driver gave when the container was accepted.
fn assigned_address(
    instance: InstanceName,
    assignment: &Assignment,
) -> Result<Ipv4Addr, NetworkError> {
    assignment.address.ok_or_else(|| {
        NetworkError::failed(
            format!("{instance} has no address on the bridge; deploy the container again"),
            "another network driver accepted it",
        )
    })
}
