//! The containers' network: one bridge, a netns and a virtual cable for each, host ports, and names. It knows no containerd.
//!
//! Everything is level-triggered: each call compares with what the kernel has and does what is missing. The only memory
//! is the caller's (which address and which host ports an instance has, [`Assignment`]), and of the kernel's state
//! nothing is believed for longer than until the next [`Network::settle`].
//!
//! In reading order: [`NetworkConfig`] and [`Network`] here; `bridge`, `netns` and `veth` are the wires, over `links`;
//! `ports` says who has which host port, `nftables` tells the kernel; `forward` deals with other firewalls of the host;
//! `conntrack` makes the kernel forget flows that went elsewhere; `names` are the files by which containers know each
//! other, and `directory` keeps them current. `repair` compares the whole.
//!
//! Containers have IPv4 only; published ports answer on the host's IPv4 addresses, 127.0.0.1 among them, not on `::1`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use state::desired::Assignment;
use state::id::{ContainerName, InstanceName};
use state::spec::Protocol;
use state::subnet::Ipv4Subnet;
use tokio::sync::RwLock;
use tokio::time::Instant;

use super::hosts_files::{Files, Peers};
use super::netns;
use super::{NetworkError, Part};
use device::Bridge;
use ports::Ports;
use veth::Cable;

mod conntrack;
mod device;
mod forward;
mod links;
mod nftables;
mod ports;
mod repair;
mod veth;

pub use ports::listener_on;

/// An instance attached by this process within this time is left alone by [`Network::settle`] although it is not wanted:
/// the caller's list may be older than the instance. No list is that old.
const SPARED_FOR: Duration = Duration::from_secs(60);

/// Where an agent's network lives. Agents that differ in all of it do not touch each other on one host.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The bridge's name, at most 15 bytes as of any link; also that of the nftables table, so letters, digits, `_` and `-`.
    pub bridge: String,
    /// The containers' addresses; the bridge has the first.
    pub subnet: Ipv4Subnet,
    /// A file for each instance's netns, as in `/run/chas/netns`. Must not outlive a reboot, and containerd must see
    /// what is mounted here: no private mount namespace.
    pub netns_dir: PathBuf,
    /// A directory for each instance, with its `resolv.conf`, `hosts` and `hostname`.
    pub files_dir: PathBuf,
}

/// What a container needs to be told of its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// For the OCI spec's network namespace.
    pub netns: PathBuf,
    /// To be mounted on `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// To be mounted on `/etc/hosts`.
    pub hosts: PathBuf,
    /// To be mounted on `/etc/hostname`.
    pub hostname: PathBuf,
}

/// The network of one agent. Shared by `Arc`; calls for different instances run side by side.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    ports: Ports,
    /// Held shared while one instance is changed, alone while the whole is compared, so that neither sees half of the other.
    gate: RwLock<()>,
    known: Mutex<Known>,
    /// The number of the last change of [`Known::peers`] that is in everybody's files. Whoever writes them holds it.
    pub(super) names_written: tokio::sync::Mutex<u64>,
}

/// What this process has seen. Written by every call, never across an await.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// `None`: not made or not looked at yet.
    bridge: Option<Bridge>,
    /// Who is on the network, for the `hosts` files.
    pub(super) peers: BTreeMap<InstanceName, (ContainerName, std::net::Ipv4Addr)>,
    /// Counts the changes of `peers`.
    pub(super) peers_changes: u64,
    /// When an instance was last attached here; forgotten after [`SPARED_FOR`].
    attached_at: BTreeMap<InstanceName, Instant>,
    /// The host's firewall was looked at, and lets the bridge's packets through.
    forward_open: bool,
}

impl Known {
    pub(super) fn by_name(&self) -> Peers {
        self.peers.values().cloned().collect()
    }
}

impl Network {
    /// A network that nothing has been done for yet.
    #[must_use]
    pub fn new(config: NetworkConfig) -> Self {
        let ports = Ports::new(config.bridge.clone(), config.subnet);
        Self {
            config,
            ports,
            gate: RwLock::default(),
            known: Mutex::default(),
            names_written: tokio::sync::Mutex::default(),
        }
    }

    /// Makes what all containers share: directories, bridge, the kernel's switches, the table of host ports. Idempotent.
    ///
    /// What an earlier process published stays published, and no connection is cut.
    ///
    /// # Errors
    /// [`NetworkError::Failed`].
    pub async fn prepare(&self) -> Result<(), NetworkError> {
        device::check_name(&self.config.bridge)?;
        for dir in [&self.config.netns_dir, &self.config.files_dir] {
            std::fs::create_dir_all(dir).map_err(|error| {
                NetworkError::failed(format!("cannot make {}", dir.display()), error)
            })?;
        }
        self.ensure_bridge().await?;
        self.ports.prepare().await?;
        forward::warn_of_obstacles(&self.config.bridge).await;
        Ok(())
    }

    /// Gives an instance its netns with `lo` and `eth0`, its files, and its host ports. What is already right is left alone.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`], else [`NetworkError::Failed`]. What was done before stays and is used the next time.
    pub async fn attach(
        &self,
        instance: InstanceName,
        hostname: &ContainerName,
        assignment: &Assignment,
    ) -> Result<Attached, NetworkError> {
        let _shared = self.gate.read().await;
        let (published, connected) = tokio::join!(
            self.open_ports(instance, assignment),
            self.connect_one(instance, hostname, assignment)
        );
        published.and(connected)
    }

    /// As [`Self::attach`], but for the host ports: they take the longest, and nothing needs them until the container runs.
    ///
    /// # Errors
    /// [`NetworkError::Failed`].
    pub async fn connect(
        &self,
        instance: InstanceName,
        hostname: &ContainerName,
        assignment: &Assignment,
    ) -> Result<Attached, NetworkError> {
        let _shared = self.gate.read().await;
        self.connect_one(instance, hostname, assignment).await
    }

    /// The rest of [`Self::attach`]: the host ports.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`], else [`NetworkError::Failed`].
    pub async fn publish(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        let _shared = self.gate.read().await;
        self.open_ports(instance, assignment).await
    }

    async fn connect_one(
        &self,
        instance: InstanceName,
        hostname: &ContainerName,
        assignment: &Assignment,
    ) -> Result<Attached, NetworkError> {
        {
            let mut known = self.known();
            known.attached_at.insert(instance, Instant::now());
            known
                .peers
                .insert(instance, (hostname.clone(), assignment.address));
            known.peers_changes += 1;
        }
        let (plugged, opened, written) = tokio::join!(
            self.plug(instance, hostname, assignment),
            self.open_forward(),
            self.write_names(instance)
        );
        plugged.and(opened).and(written)?;
        Ok(self.paths(instance))
    }

    /// What [`Self::attach`] answers, known before there is anything at these paths.
    #[must_use]
    pub fn paths(&self, instance: InstanceName) -> Attached {
        let files = self.files(instance);
        Attached {
            netns: self.netns(instance),
            resolv_conf: files.resolv_conf(),
            hosts: files.hosts(),
            hostname: files.hostname(),
        }
    }

    /// Takes an instance's host ports, netns and files away. Idempotent; the kernel ends the netns soon after.
    ///
    /// Nothing may run in it any more.
    ///
    /// # Errors
    /// [`NetworkError::Failed`]. As much as was possible is gone.
    pub async fn detach(&self, instance: InstanceName) -> Result<(), NetworkError> {
        let _shared = self.gate.read().await;
        {
            let mut known = self.known();
            known.attached_at.remove(&instance);
            known.peers.remove(&instance);
            known.peers_changes += 1;
        }
        let netns = self.netns(instance);
        let link = veth::name(&self.config.bridge, instance);
        let unplugged = netns::on_own_thread("netns", move || veth::unplug(&netns, &link));
        let (withdrawn, unplugged) = tokio::join!(self.ports.withdraw(instance), unplugged);
        withdrawn
            .and(unplugged)
            .and(self.remove_names(instance).await)
    }

    async fn open_ports(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        self.ports.prepare().await?;
        self.ports.publish(instance, assignment).await?;
        if assignment
            .ports
            .iter()
            .all(|binding| binding.protocol != Protocol::Udp)
        {
            return Ok(());
        }
        let published = ports::publications(instance, assignment);
        // A client that went on asking while nobody answered is, to the kernel, a flow that leads nowhere.
        blocking(move || {
            match conntrack::forget_stale(&published) {
                Ok(0) => {}
                Ok(flows) => tracing::debug!(%instance, flows, "the kernel forgot UDP flows that led elsewhere"),
                Err(error) => tracing::warn!(%instance, %error, "UDP clients that asked too early may go unanswered until they pause for 30 s"),
            }
            Ok(())
        })
        .await
    }

    async fn plug(
        &self,
        instance: InstanceName,
        hostname: &ContainerName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        let bridge = self.known().bridge.clone();
        let known = match bridge {
            Some(bridge) => bridge,
            None => self.ensure_bridge().await?.0,
        };
        let mut cable = self.cable(instance, hostname, assignment, known);
        let others = netns::instances_in(&self.config.netns_dir)
            .map_err(|error| netns_failed("cannot list the netns", error))?;
        let earlier = others
            .into_iter()
            .filter(|other| other.id == instance.id && other.generation < instance.generation);
        cable.rivals = earlier
            .map(|other| veth::name(&self.config.bridge, other))
            .collect();
        let Err(error) = plug(cable.clone()).await else {
            return Ok(());
        };
        // Somebody may have deleted the bridge since. If it is the same one, the error stands.
        let bridge = self.ensure_bridge().await?.0;
        if bridge.index == cable.bridge.index {
            Err(error)
        } else {
            plug(Cable { bridge, ..cable }).await
        }
    }

    async fn ensure_bridge(&self) -> Result<(Bridge, Vec<String>), NetworkError> {
        let NetworkConfig { bridge, subnet, .. } = self.config.clone();
        let (bridge, done) = netns::on_own_thread("bridge", move || {
            netns::block_on(async {
                let (host, connection) = links::open()?;
                links::drive(connection, device::ensure(&host, &bridge, subnet)).await
            })
        })
        .await
        .map_err(|error| error.of(Part::Bridge))?;
        self.known().bridge = Some(bridge.clone());
        Ok((bridge, done))
    }

    async fn open_forward(&self) -> Result<(), NetworkError> {
        if !self.known().forward_open {
            forward::settle(&self.config.bridge, true)
                .await
                .map_err(|error| error.of(Part::Firewall))?;
            self.known().forward_open = true;
        }
        Ok(())
    }

    fn cable(
        &self,
        instance: InstanceName,
        hostname: &ContainerName,
        assignment: &Assignment,
        bridge: Bridge,
    ) -> Cable {
        Cable {
            netns: self.netns(instance),
            name: veth::name(&self.config.bridge, instance),
            alias: veth::alias(instance, hostname),
            bridge,
            address: assignment.address,
            gateway: self.config.subnet.gateway(),
            prefix: self.config.subnet.prefix(),
            rivals: Vec::new(),
        }
    }

    fn netns(&self, instance: InstanceName) -> PathBuf {
        self.config.netns_dir.join(instance.to_string())
    }

    pub(super) fn files(&self, instance: InstanceName) -> Files {
        Files {
            dir: self.config.files_dir.join(instance.to_string()),
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// The instances that are not wanted, but may be younger than the list that does not name them.
    fn spared(&self, wanted: &BTreeSet<InstanceName>) -> BTreeSet<InstanceName> {
        let mut known = self.known();
        known.attached_at.retain(|_, at| at.elapsed() < SPARED_FOR);
        known
            .attached_at
            .keys()
            .filter(|instance| !wanted.contains(instance))
            .copied()
            .collect()
    }
}

fn netns_failed(what: impl Into<String>, source: std::io::Error) -> NetworkError {
    NetworkError::failed(what, source).of(Part::Netns)
}

async fn plug(cable: Cable) -> Result<(), NetworkError> {
    netns::on_own_thread("netns", move || veth::plug(&cable)).await
}

/// Runs file work where it may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| NetworkError::failed("the thread for file work ended early", error))?
}
