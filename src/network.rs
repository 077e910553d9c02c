//! Container network: the trait [`NetworkDriver`], and [`bridge`] as its first driver.
//!
//! Each call of a driver compares with the kernel's state and does only the missing part. The
//! memory is the caller's (address and host ports of an instance, [`Assignment`]), and nothing
//! about the kernel's state is believed for longer than until the next [`NetworkDriver::repair`].
//!
//! Rooms for any driver: `netns` makes and removes network namespaces, `hosts_files` holds the
//! files by which containers know each other, `directory` keeps them current, `hosts_place` and
//! `marked_block` let containers write to them, `sysfs` lends a netns to a user namespace, `listeners` finds out
//! whether a host port is free, `threads` runs work that blocks or changes its netns.
//!
//! This room knows no containerd. Containers have IPv4, and IPv6 where a subnet of it is configured;
//! published ports answer on the host's addresses, 127.0.0.1 among them, not on `::1`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;

use state::assign::HostNetwork;
use state::desired::{Addresses, Assignment};
use state::id::{ContainerId, ContainerName, InstanceName};
use state::spec::{Names, Network};

pub(crate) mod bridge;
mod directory;
mod fault;
mod finding;
mod hosts_files;
mod hosts_place;
mod listeners;
mod marked_block;
mod netns;
mod sysfs;
mod threads;

pub use bridge::{BridgeConfig, BridgeNetwork, ContainerReach, HostReach, free_subnet};
pub use fault::{NetworkError, Part};
pub(crate) use finding::HostSurvey;
pub use finding::{NetworkFaults, NetworkFinding};
pub use hosts_files::RESOLV_CONF;

/// Network of one agent, as a container runtime uses it. Every call is idempotent, and calls for
/// different instances run side by side.
///
/// The life of an instance: [`HostNetwork::address`] once per container, then for each launch
/// [`connect`](Self::connect) and [`publish`](Self::publish), and [`detach`](Self::detach) when the
/// instance is removed.
pub trait NetworkDriver: HostNetwork + 'static {
    /// Makes everything that all containers share. Idempotent.
    ///
    /// Ports that an earlier agent published stay published, and no connection is cut.
    ///
    /// # Errors
    /// [`NetworkError::Failed`].
    fn prepare(&self) -> impl Future<Output = Result<(), NetworkError>> + Send;

    /// Gives an instance what its network has: on the bridge a netns with `lo` and `eth0`, with none a
    /// netns with `lo`, with the host's no netns; and its hosts files. No host ports. Parts that are
    /// right already stay as they are. The rules of `network` are in force before.
    ///
    /// # Errors
    /// [`NetworkError::Failed`]. Finished parts stay and are used by the next call.
    fn connect(
        &self,
        instance: InstanceName,
        names: &InstanceNames,
        assignment: &Assignment,
        network: &Network,
    ) -> impl Future<Output = Result<Attached, NetworkError>> + Send;

    /// Opens an instance's host ports. Apart from [`connect`](Self::connect) because host ports
    /// take the longest, and nothing needs them until the container runs.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`], else [`NetworkError::Failed`].
    fn publish(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send;

    /// Checks that an instance's host ports could be opened now, beside those that its container has.
    ///
    /// # Errors
    /// As of [`publish`](Self::publish).
    fn check_ports(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send;

    /// Connects an instance and publishes its host ports.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`], else [`NetworkError::Failed`].
    fn attach(
        &self,
        instance: InstanceName,
        names: &InstanceNames,
        assignment: &Assignment,
        network: &Network,
    ) -> impl Future<Output = Result<Attached, NetworkError>> + Send {
        async move {
            let connecting = self.connect(instance, names, assignment, network);
            let attached = connecting.await?;
            if let Some(addresses) = attached.addresses {
                self.publish(instance, &assignment.at(addresses)).await?;
            }
            Ok(attached)
        }
    }

    /// Sets sysctls in an instance's netns, and makes what one with a user namespace of its own cannot
    /// make itself. After [`connect`](Self::connect), which makes the netns.
    ///
    /// # Errors
    /// [`NetworkError::Failed`].
    fn lend(
        &self,
        instance: InstanceName,
        loan: NetnsLoan,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send {
        let paths = self.paths(instance);
        let netns = (!loan.is_host).then_some(paths.netns);
        sysfs::lend(netns, paths.sysfs, loan)
    }

    /// Paths of [`connect`](Self::connect)'s answer, known before there is anything at them.
    fn paths(&self, instance: InstanceName) -> NetworkPaths;

    /// Connections that came in to an instance and are not over.
    ///
    /// # Errors
    /// [`NetworkError::Failed`].
    fn connections(
        &self,
        instance: InstanceName,
    ) -> impl Future<Output = Result<usize, NetworkError>> + Send;

    /// Removes an instance's host ports, netns and files. Idempotent; the kernel ends the netns
    /// soon after.
    ///
    /// No OS process may run in the netns any more.
    ///
    /// # Errors
    /// [`NetworkError::Failed`]. As much as possible is removed.
    fn detach(
        &self,
        instance: InstanceName,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send;

    /// Compares the whole network with `wanted`, repairs every difference, and removes leftovers.
    /// `wanted` is every assigned instance; those without a netns get no host ports.
    ///
    /// Nothing of the containers in `untouched` is changed, made or removed: their place is not known.
    ///
    /// Answers one line for each repaired or removed thing. Things that are not the agent's are
    /// never touched. An instance that was connected within the last minute counts as wanted: the
    /// caller's list may be older than the instance.
    ///
    /// # Errors
    /// [`NetworkError::Failed`], the first one. Everything else was done.
    fn repair(
        &self,
        wanted: &[AssignedInstance],
        untouched: &BTreeSet<ContainerId>,
    ) -> impl Future<Output = Result<Vec<String>, NetworkError>> + Send;

    /// Removes the whole network of this agent. For good, or for tests.
    ///
    /// No OS process may run in any netns any more. The kernel's forwarding switch stays on: others
    /// may rely on it by now.
    ///
    /// # Errors
    /// [`NetworkError::Failed`], the first one. Everything else was done.
    fn teardown(&self) -> impl Future<Output = Result<(), NetworkError>> + Send;
}

/// Preparations in the netns of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetnsLoan {
    /// Sysctls that are set in it, by name (`a.b.c`) and value.
    pub sysctls: BTreeMap<String, String>,
    /// Whether it is shown at [`NetworkPaths::sysfs`].
    pub shows_sysfs: bool,
    /// Whether it is the host's own netns, and not the instance's.
    pub is_host: bool,
}

/// Names of an instance on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceNames {
    /// Name of its container, by which its neighbours know it.
    pub container: ContainerName,
    /// Names inside, and names that it is told.
    pub asked: Names,
    /// Whether its neighbours know another instance by the name of its container.
    pub stands_back: bool,
}

impl From<ContainerName> for InstanceNames {
    fn from(container: ContainerName) -> Self {
        Self {
            container,
            asked: Names::default(),
            stands_back: false,
        }
    }
}

/// Instance with the names of its container, its place on the network, and whom it reaches.
pub type AssignedInstance = (InstanceName, InstanceNames, Assignment, Network);

/// Instance's place on the network, as its driver answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Addresses of the container, which the caller stores if they are others than before. `None`: it has
    /// none of its own ([`NetworkMode`](state::spec::network::NetworkMode)).
    pub addresses: Option<Addresses>,
    /// Paths for the container.
    pub paths: NetworkPaths,
}

/// Paths that a container needs from its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPaths {
    /// File for the OCI spec's network namespace.
    pub netns: PathBuf,
    /// File to mount on `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// File to mount on `/etc/hosts`.
    pub hosts: PathBuf,
    /// File to mount on `/etc/hostname`.
    pub hostname: PathBuf,
    /// Whether the container may write to these three.
    pub writable: bool,
    /// Directory at which [`lend`](NetworkDriver::lend) shows the kernel's objects (sysfs) of the
    /// netns.
    pub sysfs: PathBuf,
}
