//! Holders of host ports besides the agent's own containers: processes that listen, and rules of other
//! programs. A look at them may block, and is made where that disturbs nobody.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use state::assign::PortHolder;
use state::desired::PortBinding;
use state::id::InstanceName;

use super::firewall::HostFirewall;
use super::nftables::{HostPort, Published};
use super::others::RuledPort;
use crate::network::listeners::{is_local, listener_on};
use crate::network::threads::blocking;
use crate::network::{NetworkError, Part};

/// Host port that a container and somebody else have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContestedPort {
    pub(super) port: HostPort,
    pub(super) owner: InstanceName,
    pub(super) by: PortHolder,
    /// Whether the container gets the packets.
    pub(super) published: bool,
}

/// Contests for several host ports.
#[derive(Debug, Default)]
pub(super) struct PortContests {
    /// Ports that somebody else holds as well.
    pub(super) held: Vec<ContestedPort>,
    /// Ports of which the kernel does not tell, which is not to say that they are free.
    pub(super) unknown: Vec<(HostPort, NetworkError)>,
}

/// Look at who holds host ports, in which the kernel tells once of an address whether it is the
/// host's.
pub(super) struct HolderLook {
    ruled: [Arc<[RuledPort]>; 2],
    local: RefCell<BTreeMap<IpAddr, bool>>,
    listens: fn(&PortBinding) -> io::Result<bool>,
}

impl HolderLook {
    /// Look at this moment. Blocks for some ten microseconds, and for the reading of all rules if
    /// they changed.
    pub(super) fn now(firewall: &HostFirewall) -> Self {
        let nftables = firewall.nftables().map(|known| known.published);
        if let Err(error) = &nftables {
            tracing::debug!(%error, "rules of other programs not read");
        }
        Self {
            ruled: [firewall.legacy().published, nftables.unwrap_or_default()],
            local: RefCell::default(),
            listens: listener_on,
        }
    }

    /// Holder of a host port.
    ///
    /// # Errors
    /// The kernel does not tell who listens. Rules that were never read count as none.
    pub(super) fn holder(&self, binding: &PortBinding) -> io::Result<Option<PortHolder>> {
        if (self.listens)(binding)? {
            return Ok(Some(PortHolder::Process));
        }
        let is_local_here = |address| {
            let mut known = self.local.borrow_mut();
            *known.entry(address).or_insert_with(|| is_local(address))
        };
        let mut rules = self.ruled.iter().flat_map(|ports| ports.iter());
        let taker = rules.find(|port| port.takes(binding, is_local_here));
        Ok(taker.map(|port| PortHolder::Rule(port.by.to_string())))
    }

    fn contests(&self, published: &Published) -> PortContests {
        let mut contests = PortContests::default();
        for (&port, to) in published {
            let binding = PortBinding {
                host_ip: Some(port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
                host: port.port,
                container: to.port,
                protocol: port.protocol,
            };
            match self.holder(&binding) {
                Ok(None) => {}
                Ok(Some(by)) => contests.held.push(ContestedPort {
                    port,
                    owner: to.owner,
                    by,
                    published: false,
                }),
                Err(error) => contests.unknown.push((port, unknown(port.port, error))),
            }
        }
        contests
    }
}

/// Contests for these ports at this moment.
///
/// # Errors
/// There was no thread to look on.
pub(super) async fn contests(
    firewall: &Arc<HostFirewall>,
    published: Published,
) -> Result<PortContests, NetworkError> {
    if published.is_empty() {
        return Ok(PortContests::default());
    }
    let firewall = Arc::clone(firewall);
    blocking(move || Ok(HolderLook::now(&firewall).contests(&published))).await
}

/// Checks that nobody else holds these ports.
///
/// # Errors
/// [`NetworkError::PortTaken`], or [`NetworkError::Failed`] where the kernel does not tell.
pub(super) async fn check_free(
    firewall: &Arc<HostFirewall>,
    bindings: Vec<PortBinding>,
) -> Result<(), NetworkError> {
    if bindings.is_empty() {
        return Ok(());
    }
    let firewall = Arc::clone(firewall);
    blocking(move || {
        let look = HolderLook::now(&firewall);
        let check = |binding: PortBinding| match look.holder(&binding) {
            Ok(None) => Ok(()),
            Ok(Some(holder)) => Err(NetworkError::PortTaken {
                by: holder.to_string(),
                binding,
            }),
            Err(error) => Err(unknown(binding.host, error)),
        };
        bindings.into_iter().try_for_each(check)
    })
    .await
}

fn unknown(port: u16, error: io::Error) -> NetworkError {
    let what = format!("cannot see whether host port {port} is free");
    NetworkError::failed(what, error).of(Part::Firewall)
}

#[cfg(test)]
mod tests {
    use state::spec::Protocol;

    use super::super::nftables::Publication;
    use super::*;

    /// Kernel that tells of port 1 that somebody listens, of port 2 that nobody does, and of no other.
    fn listens(binding: &PortBinding) -> io::Result<bool> {
        match binding.host {
            1 => Ok(true),
            2 => Ok(false),
            _ => Err(io::Error::other("no file descriptor is left")),
        }
    }

    #[test]
    fn a_look_that_fails_is_unknown_and_not_free() {
        let look = HolderLook {
            ruled: Default::default(),
            local: RefCell::default(),
            listens,
        };
        let to = Publication {
            owner: "0123456789ab-1".parse().unwrap(),
            address: [10, 231, 0, 2].into(),
            port: 80,
        };
        let port = |port| HostPort {
            host_ip: None,
            protocol: Protocol::Tcp,
            port,
        };
        let contests = look.contests(&[1, 2, 3].map(|number| (port(number), to)).into());
        let held: Vec<_> = contests.held.iter().map(|held| held.port).collect();
        assert_eq!(held, [port(1)]);
        let [(unknown, error)] = &contests.unknown[..] else {
            panic!("{:?}", contests.unknown);
        };
        assert_eq!(*unknown, port(3));
        assert!(error.to_string().contains("host port 3"), "{error}");
    }
}
