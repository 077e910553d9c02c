//! Assignment of an address and host ports to a container. Pure; the node's network is asked
//! through [`HostNetwork`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use crate::desired::{Assignment, PortBinding, Record};
use crate::id::{ContainerId, ContainerName};
use crate::spec::{PortSpec, Protocol, Spec};

/// The node's network, as the store asks it while it accepts a container.
///
/// Its answers are given inside of the transaction that stores them, one container after another,
/// so the desired state is the only ledger of addresses and ports.
pub trait HostNetwork: std::fmt::Debug + Send + Sync {
    /// Looks at the host before such a transaction, so that [`holder`](Self::holder) has only to look
    /// again where something changed since. It may block for longer.
    fn look(&self) {}

    /// Holder of the host port where the binding would go. `None`: it is free, as far as the host
    /// tells.
    fn holder(&self, binding: &PortBinding) -> Option<PortHolder>;

    /// Whether containers have IPv6 addresses, so that their ports can be published on the host's.
    fn has_ipv6(&self) -> bool {
        false
    }

    /// Address for a container. `before`, its earlier address, is kept if it still fits; no answer
    /// is among those `taken` by others, which are collected only if asked for. `None`: the network
    /// answers it only when it connects the container, and the address is stored then.
    ///
    /// # Errors
    /// [`AssignError::NoAddress`].
    fn address(
        &self,
        before: Option<Ipv4Addr>,
        taken: &dyn Fn() -> BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Ipv4Addr>, AssignError>;
}

/// Holder of a host port that is no container of this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortHolder {
    /// The agent itself, whose API has this port on whatever address: who calls the node there must
    /// not reach a container, and hand it the token.
    Agent,
    /// An OS process of the host listens on it.
    Process,
    /// A rule in the host's firewall leads its packets elsewhere: another program publishes it.
    Rule(
        /// The rule's place, as in `table ip nat, chain DOCKER`.
        String,
    ),
}

impl std::fmt::Display for PortHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent => {
                f.write_str("the agent's own API (api.port), whose port no container gets on any address; name another port")
            }
            Self::Process => f.write_str("a process on this host; end it, or name another port"),
            Self::Rule(place) => write!(
                f,
                "a rule of another program ({place}); remove what it publishes there, or name \
                 another port"
            ),
        }
    }
}

/// A host network with a range of addresses, on which nobody else holds a port: for simulations,
/// tests and benchmarks.
#[derive(Clone, Debug)]
pub struct QuietNetwork(pub RangeInclusive<Ipv4Addr>);

impl HostNetwork for QuietNetwork {
    fn holder(&self, _: &PortBinding) -> Option<PortHolder> {
        None
    }

    fn address(
        &self,
        before: Option<Ipv4Addr>,
        taken: &dyn Fn() -> BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Ipv4Addr>, AssignError> {
        let (first, last) = (*self.0.start(), *self.0.end());
        let before = before.filter(|address| self.0.contains(address));
        let mut range = (first.to_bits()..=last.to_bits()).map(Ipv4Addr::from_bits);
        let mut lowest = || {
            let taken = taken();
            range.find(|address| !taken.contains(address))
        };
        before
            .or_else(&mut lowest)
            .map(Some)
            .ok_or(AssignError::NoAddress { first, last })
    }
}

/// Failure to assign an address or a host port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// Another container publishes the host port.
    #[error("host port {host}/{} is taken by container {by}", .protocol.as_str())]
    TakenByContainer {
        /// Host port that was asked for.
        host: u16,
        /// Protocol of the port.
        protocol: Protocol,
        /// Container that publishes it.
        by: ContainerName,
    },
    /// Something else on the host has the host port.
    #[error("host port {host}/{} is taken by {by}", .protocol.as_str())]
    TakenOnHost {
        /// Host port that was asked for.
        host: u16,
        /// Protocol of the port.
        protocol: Protocol,
        /// Holder of the port.
        by: PortHolder,
    },
    /// Every port of the agent's range is taken.
    #[error(
        "no host port is free from {} to {}; widen network.port_range, or name a host port",
        .0.start(), .0.end()
    )]
    NoPort(RangeInclusive<u16>),
    /// Every address of the subnet is taken.
    #[error("no container address is free from {first} to {last}; widen network.subnet")]
    NoAddress {
        /// First address for containers.
        first: Ipv4Addr,
        /// Last address for containers.
        last: Ipv4Addr,
    },
    /// Ports, by their places in the spec, are to be published on IPv6 addresses, and containers have
    /// no IPv6.
    #[error(
        "no port can be published on an IPv6 address, since containers of this node have no IPv6; leave \
         host_ip out, or have network.subnet6 set"
    )]
    NoIpv6(Vec<usize>),
}

/// Address of a generation, beside that of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressWish {
    /// The container's own, over its generations.
    Kept,
    /// Another than that of the generation that serves; this one, which an earlier one had that goes, or
    /// any.
    Beside(Option<Ipv4Addr>),
}

/// Assigns an address and host ports for `spec` to the container `id`, which keeps those it has where
/// they still fit; no address to one that has none in its network. `range` is for ports whose choice is left to the agent. Nothing of the
/// `unreadable` assignments, whose records cannot be read, is given out.
///
/// # Errors
/// The first port or address that cannot be given.
pub fn assign<'a>(
    id: ContainerId,
    spec: &Spec,
    records: impl Iterator<Item = &'a Record> + Clone,
    unreadable: &[Assignment],
    range: &RangeInclusive<u16>,
    network: &dyn HostNetwork,
    wish: AddressWish,
) -> Result<Assignment, AssignError> {
    let mut owned = records.clone().filter(|record| record.id == id);
    let prior = owned.next().map(|record| &record.assignment);
    let others = records.clone().filter(|record| record.id != id);
    let before = match wish {
        AddressWish::Kept => prior.and_then(|prior| prior.address),
        AddressWish::Beside(spare) => spare,
    };
    // The place of the generation before is another's only once it is gone.
    let places = |record: &'a Record| record.with_former().map(|record| &record.assignment);
    let own = records.filter(|record| record.id == id).flat_map(places);
    let own: Vec<_> = own.filter(|_| wish != AddressWish::Kept).collect();
    let taken = || {
        let others = others.clone().flat_map(places).chain(own.iter().copied());
        let addresses = others.chain(unreadable).map(|other| other.address);
        addresses.flatten().collect()
    };
    let others_ports = others
        .clone()
        .flat_map(places)
        .chain(unreadable)
        .flat_map(|assignment| assignment.ports.iter());
    let address = if spec.network.mode.has_address() {
        network.address(before, &taken)?.or(before)
    } else {
        None
    };
    let address6 = prior.and_then(|prior| prior.address6);
    let ports = &spec.ports;
    let asks_ipv6 = |port: &PortSpec| port.host_ip.is_some_and(|host_ip| host_ip.is_ipv6());
    let places = ports.iter().enumerate();
    let on_ipv6: Vec<usize> = places
        .filter(|(_, port)| asks_ipv6(port))
        .map(|(place, _)| place)
        .collect();
    if !on_ipv6.is_empty() && !network.has_ipv6() {
        return Err(AssignError::NoIpv6(on_ipv6));
    }
    let mut assigned: Vec<PortBinding> = Vec::new();
    let kept = kept(prior.map_or(&[], |prior| &prior.ports), ports);
    for (port, had) in ports.iter().zip(kept) {
        let binding = match (had, port.host) {
            (Some(had), _) => had.clone(),
            (None, Some(host)) => named(port, host, others.clone(), network)?,
            (None, None) => chosen(port, &assigned, ports, others_ports.clone(), range, network)?,
        };
        assigned.push(binding);
    }
    Ok(Assignment {
        address,
        address6: address6
            .filter(|_| wish == AddressWish::Kept && address.is_some() && address == before),
        ports: assigned,
    })
}

/// The binding of the `prior` ones that each port keeps. A binding is kept once: one container port
/// may be published on several host ports, and those that the spec names come first.
fn kept<'a>(prior: &'a [PortBinding], ports: &[PortSpec]) -> Vec<Option<&'a PortBinding>> {
    let mut left: Vec<_> = prior.iter().collect();
    let mut kept = vec![None; ports.len()];
    for is_named in [true, false] {
        let round = ports.iter().zip(&mut kept);
        for (port, kept) in round.filter(|(port, _)| port.host.is_some() == is_named) {
            let place = left.iter().position(|had| continues(had, port));
            *kept = place.map(|place| left.remove(place));
        }
    }
    kept
}

/// Whether a binding given earlier still fits.
fn continues(had: &PortBinding, asked: &PortSpec) -> bool {
    had.container == asked.container
        && had.protocol == asked.protocol
        && had.host_ip == asked.host_ip
        && asked.host.is_none_or(|host| host == had.host)
}

fn bind(port: &PortSpec, host: u16) -> PortBinding {
    PortBinding {
        host_ip: port.host_ip,
        host,
        container: port.container,
        protocol: port.protocol,
    }
}

/// Whether two bindings would answer on the same address and port.
fn collide(a: &PortBinding, b: &PortBinding) -> bool {
    a.host == b.host
        && a.protocol == b.protocol
        && (a.host_ip.is_none()
            || b.host_ip.is_none()
            || a.host_ip == b.host_ip
            || both_are_of_all_ipv6(a.host_ip, b.host_ip))
}

/// Whether both are IPv6 addresses, and one stands for all of them.
fn both_are_of_all_ipv6(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let both = [a, b].into_iter().flatten();
    both.clone().filter(IpAddr::is_ipv6).count() == 2
        && both.into_iter().any(|address| address.is_unspecified())
}

/// The host port that the spec names.
fn named<'a>(
    port: &PortSpec,
    host: u16,
    mut others: impl Iterator<Item = &'a Record>,
    network: &dyn HostNetwork,
) -> Result<PortBinding, AssignError> {
    let binding = bind(port, host);
    if let Some(other) = others.find(|other| {
        let mut places = other.with_former().map(|record| &record.assignment);
        places.any(|place| place.ports.iter().any(|taken| collide(taken, &binding)))
    }) {
        return Err(AssignError::TakenByContainer {
            host,
            protocol: port.protocol,
            by: other.name.clone(),
        });
    }
    match network.holder(&binding) {
        Some(by) => Err(AssignError::TakenOnHost {
            host,
            protocol: port.protocol,
            by,
        }),
        None => Ok(binding),
    }
}

/// The first free host port of the pool that no other port of the spec names.
fn chosen<'a>(
    port: &PortSpec,
    assigned: &[PortBinding],
    siblings: &[PortSpec],
    others: impl Iterator<Item = &'a PortBinding>,
    range: &RangeInclusive<u16>,
    network: &dyn HostNetwork,
) -> Result<PortBinding, AssignError> {
    let reserved = siblings
        .iter()
        .filter_map(|sibling| sibling.host.map(|host| (sibling.protocol, host)));
    let theirs = others.map(|binding| (binding.protocol, binding.host));
    let own = assigned
        .iter()
        .map(|binding| (binding.protocol, binding.host));
    let taken: BTreeSet<_> = theirs.chain(own).chain(reserved).collect();
    let free = range
        .clone()
        .filter(|host| !taken.contains(&(port.protocol, *host)));
    let mut bindings = free.map(|host| bind(port, host));
    bindings
        .find(|binding| network.holder(binding).is_none())
        .ok_or_else(|| AssignError::NoPort(range.clone()))
}

#[cfg(test)]
pub(crate) mod tests;
