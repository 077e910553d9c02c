//! Bridge device: the kernel's bridge that all containers of the agent are on, and its switches.

use std::io;
use std::net::Ipv4Addr;

use state::subnet::{Ipv4Subnet, Ipv6Subnet};

use super::links::routes::Collision;
use super::links::{KernelLink, Netlink};
use super::routing::RoutingMemory;
use super::sysctl;
use crate::network::NetworkError;

/// Largest packet in bytes where nothing is known about the way out: Ethernet's.
const MTU_DEFAULT: u32 = 1500;

/// First bytes of the hardware addresses that [`mac`] answers.
const MAC_PREFIX: [u8; 2] = [0x0a, 0x58];

/// Beginning of the names of the bridge's ports, which are the host's ends of veth pairs.
pub(super) const PORT_PREFIX: &str = "chv";

/// Bridge device after [`ensure`].
#[derive(Clone, Debug)]
pub(super) struct BridgeDevice {
    /// Index of the link. A bridge that was deleted and made again has another.
    pub(super) index: u32,
    /// Largest packet in bytes: that of the link towards the outside, so that no packet has to be
    /// cut or dropped on the way out.
    pub(super) mtu: u32,
}

/// Whether a link has the name of a port that the agent made.
pub(super) fn is_managed(link: &str) -> bool {
    link.starts_with(PORT_PREFIX)
}

/// Hardware address that goes with an IPv4 address: locally administered, and the same whenever the
/// address is the same, so that no neighbour's ARP cache is ever wrong.
pub(super) const fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
}

/// Makes or repairs the bridge, and answers one line for each difference. Idempotent.
///
/// A bridge that has its address has had the subnet first, and keeps it; else the subnet must not
/// be anybody else's.
pub(super) async fn ensure(
    links: &Netlink,
    name: &str,
    (subnet, subnet6): (Ipv4Subnet, Option<Ipv6Subnet>),
    isolated: bool,
    memory: &RoutingMemory,
) -> Result<(BridgeDevice, Vec<String>), NetworkError> {
    let mut done = Vec::new();
    let mac = mac(subnet.gateway());
    let before = links.find(name).await?;
    let has_address = match &before {
        Some(link) => links.has_address(link.index, subnet.gateway()).await?,
        None => false,
    };
    if !has_address {
        if let Some(link) = &before {
            check_is_own(links, link).await?;
        }
        let own = before.as_ref().map(|link| link.index);
        check_subnet(links, own, subnet).await?;
    }
    let is_new = before.is_none();
    if is_new {
        let mtu = links.uplink_mtu().await?.unwrap_or(MTU_DEFAULT);
        links.add_bridge(name, mac, mtu).await?;
        done.push(format!("bridge {name}"));
    }
    let link = match before {
        Some(link) => link,
        None => links.find(name).await?.ok_or_else(|| {
            NetworkError::failed("the bridge was deleted while it was made", gone())
        })?,
    };
    note_networks(links, memory, name).await?;
    // Before the bridge comes up: an IPv6 address that was made up on the way would stay.
    done.extend(set_switches(name, isolated)?);
    let ipv6 = if subnet6.is_some() {
        Ipv6Switch::Later { is_new }
    } else {
        Ipv6Switch::Off
    };
    done.extend(set_ipv6_switches(name, ipv6)?);
    // A bridge without a fixed hardware address takes the lowest of its ports', and changes it with
    // them.
    let wrong_mac = link.mac != mac;
    if !link.up || wrong_mac {
        links.set_up(link.index, wrong_mac.then_some(mac)).await?;
        done.push(format!("bridge {name}: up, hardware address"));
    }
    if !has_address {
        links
            .set_address(link.index, subnet.gateway(), subnet.prefix())
            .await?;
        done.push(format!("bridge {name}: address {}", subnet.gateway()));
    }
    Ok((
        BridgeDevice {
            index: link.index,
            mtu: link.mtu,
        },
        done,
    ))
}

/// Refuses a subnet that an interface or a route of the host has: its packets, or the containers',
/// would go astray.
async fn check_subnet(
    links: &Netlink,
    own: Option<u32>,
    subnet: Ipv4Subnet,
) -> Result<(), NetworkError> {
    let ranges = links.ranges_of_routes(own).await?;
    let cuts_off = |collision| collision == Collision::CutsOff;
    match links.first_collision(ranges, subnet, cuts_off).await {
        None => Ok(()),
        Some(range) => Err(NetworkError::failed(
            format!("cannot give {subnet} (network.subnet) to containers"),
            format!(
                "{range} is on this host already; set network.subnet to a free one, or remove \
                 the other"
            ),
        )),
    }
}

/// Bridge of this name, if there is one.
///
/// # Errors
/// Somebody else made it, as is asked before it is used.
pub(super) async fn find_own(
    links: &Netlink,
    name: &str,
    gateway: Ipv4Addr,
) -> Result<Option<KernelLink>, NetworkError> {
    let Some(bridge) = links.find(name).await? else {
        return Ok(None);
    };
    if !links.has_address(bridge.index, gateway).await? {
        check_is_own(links, &bridge).await?;
    }
    Ok(Some(bridge))
}

/// Refuses a link of the bridge's name that somebody else has: one that is no bridge, or a bridge
/// that connects others.
async fn check_is_own(links: &Netlink, link: &KernelLink) -> Result<(), NetworkError> {
    let ports = links.all().await?;
    let mut ports = ports
        .iter()
        .filter(|port| port.bridge == Some(link.index))
        .map(|port| &port.name);
    let what = if !link.is_bridge {
        "is no bridge".to_owned()
    } else if let Some(port) = ports.find(|name| !is_managed(name)) {
        format!("connects {port}, which is not a container of this agent")
    } else if !link.mac.starts_with(&MAC_PREFIX) && links.has_any_address(link.index).await? {
        "has another program's address".to_owned()
    } else {
        return Ok(());
    };
    Err(NetworkError::failed(
        format!("cannot use {} for containers (network.bridge)", link.name),
        format!(
            "an interface of this name is there already and {what}; set network.bridge to another \
             name, or remove that interface"
        ),
    ))
}

/// Writes down the links of the host before it begins to forward.
async fn note_networks(
    links: &Netlink,
    memory: &RoutingMemory,
    bridge: &str,
) -> Result<(), NetworkError> {
    let all = links.all().await?;
    let names = all.iter().map(|link| link.name.as_str());
    memory.note(names.filter(|name| !["lo", bridge].contains(name) && !is_managed(name)))
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// Sets the kernel's switches for the bridge, and answers one line for each that was wrong.
fn set_switches(bridge: &str, isolated: bool) -> Result<Vec<String>, NetworkError> {
    let ipv4 = |key: &str| format!("net/ipv4/conf/{bridge}/{key}");
    let mut done = Vec::new();
    let switches = [
        ("net/ipv4/ip_forward".to_owned(), "1"),
        (ipv4("forwarding"), "1"),
        // A packet for 127.0.0.1:<published port> leaves through the bridge; without this the
        // kernel drops it there. The rules of the table drop what comes in that way.
        (ipv4("route_localnet"), "1"),
        // Where containers send to the bridge alone, it answers for all of them: packets between
        // containers come to the rules of the table.
        (ipv4("proxy_arp_pvlan"), if isolated { "1" } else { "0" }),
    ];
    // Its answers wait for up to 0.8 s otherwise, for those of the neighbours, which send none then.
    let at_once = isolated.then(|| (format!("net/ipv4/neigh/{bridge}/proxy_delay"), "0"));
    for (key, value) in switches.into_iter().chain(at_once) {
        if sysctl::set(&key, value)? {
            done.push(format!("sysctl {key}"));
        }
    }
    Ok(done)
}

/// IPv6 of a bridge before it comes up.
#[derive(Clone, Copy, Debug)]
enum Ipv6Switch {
    /// Bridge without it.
    Off,
    /// Bridge that has what it has; a new one gets its own once that is seen to be possible.
    Later {
        /// Whether it was made just now.
        is_new: bool,
    },
}

/// Sets the switches for IPv6. A link-local address of the bridge would be a way around the rules, and a
/// router that it hears could be a container.
fn set_ipv6_switches(bridge: &str, ipv6: Ipv6Switch) -> Result<Vec<String>, NetworkError> {
    let off = [("disable_ipv6", "1")];
    let quiet = [("addr_gen_mode", "1"), ("accept_ra", "0")];
    let switches = match ipv6 {
        Ipv6Switch::Off => off.to_vec(),
        Ipv6Switch::Later { is_new: false } => quiet.to_vec(),
        Ipv6Switch::Later { is_new: true } => [&quiet[..], &off].concat(),
    };
    let mut done = Vec::new();
    for (key, value) in switches {
        let key = format!("net/ipv6/conf/{bridge}/{key}");
        if sysctl::set(&key, value)? {
            done.push(format!("sysctl {key}"));
        }
    }
    Ok(done)
}

/// Refuses a name that cannot be part of paths, of nft's text, and of a link's name.
pub(super) fn check_name(name: &str) -> Result<(), NetworkError> {
    let letter_first = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if letter_first && plain && name.len() <= 15 {
        return Ok(());
    }
    let what = format!(
        "{name:?} cannot be a bridge: write a letter, and at most 14 letters, digits, '_' and '-' \
         after it"
    );
    Err(NetworkError::failed(
        what,
        io::Error::from(io::ErrorKind::InvalidInput),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_unicast_local_and_follow_the_address() {
        let one = mac(Ipv4Addr::new(10, 231, 0, 2));
        assert_eq!(one, [0x0a, 0x58, 10, 231, 0, 2]);
        assert_eq!(one[0] & 0b11, 0b10, "locally administered, to one receiver");
        assert_ne!(one, mac(Ipv4Addr::new(10, 231, 0, 3)));
    }

    #[test]
    fn only_names_that_a_link_and_a_table_can_have_are_bridges() {
        for good in ["chas0", "c", "br-test_1", "a23456789012345"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "0a",
            "a/b",
            "a b",
            "a.b",
            "a\"",
            "a234567890123456",
            "-a",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
