//! Veth pair between a container's netns and the bridge.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use state::id::{ContainerName, InstanceName};

use state::subnet::{Ipv4Subnet, Ipv6Subnet};

use super::device::{BridgeDevice, PORT_PREFIX, is_managed, mac};
use super::ipv6::end::{VethEnd6, macs};
use super::links::belt::program::FrameSource;
use super::links::{self, KernelLink, Netlink, VethEnd};
use super::sysctl;
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{NetworkError, Part, netns};

/// Veth pair as it should be. Two equal ones lead to the same result.
#[derive(Clone, Debug)]
pub(super) struct VethPair {
    /// File that names the netns.
    pub(super) netns: PathBuf,
    /// Name of the host's end.
    pub(super) name: String,
    /// Text that `ip link` shows beside the name.
    pub(super) alias: String,
    pub(super) device: BridgeDevice,
    pub(super) address: Ipv4Addr,
    /// IPv6 of the container, if it has any.
    pub(super) end6: Option<VethEnd6>,
    pub(super) gateway: Ipv4Addr,
    pub(super) prefix: u8,
    /// Names of the links of earlier generations, which may have the same address.
    pub(super) rivals: Vec<String>,
    /// Guard of what the container sends.
    pub(super) guard: LinkGuard,
}

/// First bytes of the hardware address of a pair's end on the host; the container's address follows.
const HOST_END_PREFIX: [u8; 2] = [0x0a, 0x59];

/// Guard of what containers send, the same at each link.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkGuard {
    /// Whether each sends from its own addresses only.
    pub(super) source: bool,
    /// Subnet of IPv6 addresses, if there is one, and that from which they follow.
    pub(super) subnet6: Option<(Ipv6Subnet, Ipv4Subnet)>,
    /// Hardware address of the bridge, if containers send IPv4 packets to it alone. Each sends from
    /// its own addresses then.
    pub(super) only_to: Option<[u8; 6]>,
}

impl LinkGuard {
    /// Place from which the container with this address sends; `None`: from everywhere.
    fn of(self, address: Ipv4Addr) -> Option<FrameSource> {
        (self.source || self.only_to.is_some()).then_some(FrameSource {
            mac: mac(address),
            address,
            ipv6: self.subnet6.and_then(|(subnet6, subnet)| {
                let own = subnet6.of(subnet, address)?;
                Some((mac(subnet.gateway()), own))
            }),
            only_to: self.only_to,
        })
    }

    /// The same for the container behind a link of the agent: at the address that it was assigned,
    /// else at the one that the link was made for.
    ///
    /// # Errors
    /// No address is known, so that its guard could only be a wider one. In words.
    pub(super) fn behind(
        self,
        link: &KernelLink,
        assigned: Option<Ipv4Addr>,
    ) -> Result<Option<FrameSource>, &'static str> {
        match assigned.or_else(|| made_for(link)) {
            Some(address) => Ok(self.of(address)),
            None if self.source || self.only_to.is_some() => {
                Err("the address of the container behind a link is not known")
            }
            None => Ok(None),
        }
    }
}

/// Address for which a link of the agent was made. `None`: it does not tell.
fn made_for(link: &KernelLink) -> Option<Ipv4Addr> {
    let octets = link.mac.strip_prefix(&HOST_END_PREFIX)?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

/// Name of an instance's link on the host.
///
/// An instance's own name is too long for a link (15 bytes), and agents with other bridges may use
/// the same one.
pub(crate) fn name(bridge: &str, instance: InstanceName) -> String {
    let digest = Sha256::digest(format!("{bridge}/{instance}"));
    let short: Vec<u8> = digest.iter().take(6).copied().collect();
    format!("{PORT_PREFIX}{}", state::digest::hex(&short))
}

/// Alias of an instance's link, for a person who looks at the host.
pub(super) fn alias(instance: InstanceName, container: &ContainerName) -> String {
    format!("{container} {instance}")
}

/// Links of the bridge with index `bridge` that this room made, by their names.
pub(super) fn managed_ports(
    links: Vec<KernelLink>,
    bridge: u32,
) -> impl Iterator<Item = KernelLink> {
    links
        .into_iter()
        .filter(move |link| link.bridge == Some(bridge) && is_managed(&link.name))
}

/// Makes the netns and the veth pair, or the missing part of them. Idempotent.
pub(super) async fn connect(pair: VethPair) -> Result<(), NetworkError> {
    on_own_thread("netns", move || enter_and_connect(&pair)).await
}

/// Removes the netns and the veth pair: the address answers no more when this ends, and the kernel
/// clears up by itself.
///
/// A netns without OS processes still answers for its address, for as long as the kernel needs:
/// some 50 ms, under load seconds. By then the address may be another container's, or the next
/// generation's.
pub(super) async fn disconnect(netns: PathBuf, link: String) -> Result<(), NetworkError> {
    on_own_thread("netns", move || mute_and_remove(&netns, &link)).await
}

/// Moves the calling thread into the pair's netns, and connects it.
fn enter_and_connect(pair: &VethPair) -> Result<(), NetworkError> {
    block_on(async {
        // A socket stays in the netns it was opened in: this one speaks for the host for as long as
        // it lives.
        let (host, host_connection) = links::open()?;
        enter(&pair.netns)?;
        // Links made here from now on have no IPv6: half of it (no address, no route) would be
        // worse than none.
        sysctl::set("net/ipv6/conf/default/disable_ipv6", "1")?;
        let (inside, inside_connection) = links::open()?;
        let connections = async {
            tokio::select! { () = host_connection => {}, () = inside_connection => {} }
        };
        links::drive(connections, wire(&host, &inside, pair))
            .await
            .map_err(|error| error.of(Part::Bridge))
    })
}

fn mute_and_remove(netns: &Path, link: &str) -> Result<(), NetworkError> {
    let muted = block_on(async {
        let (host, connection) = links::open()?;
        links::drive(connection, host.mute_port(link)).await
    });
    let removed = netns::remove(netns)
        .map_err(|error| netns::failed(format!("cannot remove {}", netns.display()), error));
    muted.and(removed.map(drop))
}

/// Moves the calling thread into a netns, which is made if there is none.
pub(super) fn enter(netns: &Path) -> Result<(), NetworkError> {
    netns::enter(netns).map_err(|error| netns::failed(entering(netns), error))
}

fn entering(netns: &Path) -> String {
    format!("cannot enter or make the netns {}", netns.display())
}

/// Sets the loopback of a netns up.
pub(super) async fn raise_loopback(inside: &Netlink) -> Result<(), NetworkError> {
    match inside.find("lo").await?.filter(|lo| !lo.up) {
        Some(lo) => inside.set_up(lo.index, None).await,
        None => Ok(()),
    }
}

/// Brings both ends to what `pair` says, and cuts its rivals off.
async fn wire(host: &Netlink, inside: &Netlink, pair: &VethPair) -> Result<(), NetworkError> {
    raise_loopback(inside).await?;
    let (host_end, eth0) = match (host.find(&pair.name).await?, inside.find("eth0").await?) {
        (Some(host_end), Some(eth0)) => (host_end, eth0),
        (host_end, eth0) => {
            // Half of a pair is left of a netns of the same name that is just ending, or of a
            // person's hand.
            if let Some(half) = host_end {
                host.delete(&half).await?;
            }
            if let Some(half) = eth0 {
                inside.delete(&half).await?;
            }
            make(host, inside, pair).await?
        }
    };
    for rival in &pair.rivals {
        // One that goes on beside this one has another.
        let link = host.find(rival).await?;
        let address = link.as_ref().and_then(made_for);
        if address.is_none_or(|address| address == pair.address) {
            host.mute_port(rival).await?;
        }
    }
    let source = pair.guard.of(pair.address);
    host.set_port(host_end.index, pair.device.index, &pair.alias, source)
        .await?;
    inside
        .set_address(eth0.index, pair.address, pair.prefix)
        .await?;
    inside.set_up(eth0.index, None).await?;
    inside.set_default_route(pair.gateway).await?;
    let Some(end6) = pair.end6 else {
        return Ok(());
    };
    let (links, macs) = (
        [pair.device.index, eth0.index],
        macs(pair.gateway, pair.address),
    );
    end6.wire(host, inside, links, macs).await
}

async fn make(
    host: &Netlink,
    inside: &Netlink,
    pair: &VethPair,
) -> Result<(KernelLink, KernelLink), NetworkError> {
    let netns = File::open(netns::OWN)
        .map_err(|error| NetworkError::failed(entering(&pair.netns), error))?;
    // The host's end has a fixed hardware address, so that nothing on the host (udev) sets one
    // later.
    let [a, b, c, d] = pair.address.octets();
    let [first, second] = HOST_END_PREFIX;
    let host_end = VethEnd {
        name: &pair.name,
        mac: [first, second, a, b, c, d],
        mtu: pair.device.mtu,
    };
    let inner_end = VethEnd {
        name: "eth0",
        mac: mac(pair.address),
        mtu: pair.device.mtu,
    };
    if !host
        .add_veth(&host_end, pair.device.index, &inner_end, netns.as_raw_fd())
        .await?
    {
        return Err(NetworkError::failed(
            format!("cannot make the veth {}", pair.name),
            rustix::io::Errno::EXIST,
        ));
    }
    let host_end = host
        .find(&pair.name)
        .await?
        .ok_or_else(|| deleted_meanwhile(pair))?;
    let eth0 = inside
        .find("eth0")
        .await?
        .ok_or_else(|| deleted_meanwhile(pair))?;
    Ok((host_end, eth0))
}

fn deleted_meanwhile(pair: &VethPair) -> NetworkError {
    NetworkError::failed(
        format!("the veth {} was deleted while it was made", pair.name),
        std::io::Error::from(std::io::ErrorKind::NotFound),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_guarded_by_the_address_assigned_and_never_by_a_wider_guard() {
        let made_for = |mac: &[u8]| KernelLink {
            mac: mac.to_vec(),
            ..KernelLink::default()
        };
        let link = made_for(&[0x0a, 0x59, 10, 231, 0, 2]);
        let changed = made_for(&[2, 0, 0, 0, 0, 1]);
        let assigned = Ipv4Addr::new(10, 231, 0, 9);
        let guard = |source, isolated: bool| LinkGuard {
            source,
            subnet6: None,
            only_to: isolated.then_some([0x0a, 0x58, 10, 231, 0, 1]),
        };
        for guard in [guard(true, false), guard(false, true), guard(true, true)] {
            for link in [&link, &changed] {
                let source = guard.behind(link, Some(assigned)).unwrap().unwrap();
                assert_eq!((source.address, source.mac), (assigned, mac(assigned)));
            }
            let source = guard.behind(&link, None).unwrap().unwrap();
            assert_eq!(source.address, Ipv4Addr::new(10, 231, 0, 2));
            assert!(guard.behind(&changed, None).is_err());
        }
        assert_eq!(guard(false, false).behind(&changed, None), Ok(None));
    }

    #[test]
    fn the_name_of_a_link_fits_the_kernel_and_differs_by_bridge_and_generation() {
        let instance: InstanceName = "0123456789ab-1".parse().unwrap();
        let next = InstanceName {
            generation: 2,
            ..instance
        };
        let names = [
            name("chas0", instance),
            name("chas0", next),
            name("chas1", instance),
        ];
        for (i, one) in names.iter().enumerate() {
            assert!(one.len() <= 15 && one.starts_with(PORT_PREFIX), "{one}");
            assert!(names[i + 1..].iter().all(|other| other != one), "{names:?}");
        }
        assert_eq!(name("chas0", instance), names[0]);
    }
}
