//! The virtual cable between a container's netns and the bridge.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use state::digest::hex;
use state::id::{ContainerName, InstanceName};

use super::bridge::{Bridge, mac, set_switch};
use super::links::{self, Links, VethEnd};
use super::{NetworkError, Part, netns, netns_failed};

/// How the host's ends are called, before the fingerprint.
pub(super) const PREFIX: &str = "chv";

/// Everything one container's cable needs. Two of one value lead to the same result.
#[derive(Clone, Debug)]
pub(super) struct Cable {
    /// The file that names the netns.
    pub(super) netns: PathBuf,
    /// The name of the host's end.
    pub(super) name: String,
    /// What `ip link` shows beside the name.
    pub(super) alias: String,
    pub(super) bridge: Bridge,
    pub(super) address: Ipv4Addr,
    pub(super) gateway: Ipv4Addr,
    pub(super) prefix: u8,
    /// Links of earlier generations, which have the same address.
    pub(super) rivals: Vec<String>,
}

/// The name of an instance's link on the host.
///
/// An instance's own name is too long for a link (15 bytes), and agents with other bridges may use the same one.
pub(super) fn name(bridge: &str, instance: InstanceName) -> String {
    let hash = Sha256::digest(format!("{bridge}/{instance}"));
    format!("{PREFIX}{}", hex(&hash[..6]))
}

/// What the link says about itself, for a person who looks at the host.
pub(super) fn alias(instance: InstanceName, container: &ContainerName) -> String {
    format!("{container} {instance}")
}

/// Makes netns and cable, or what is missing of them. Idempotent; only for a thread of its own.
pub(super) fn plug(cable: &Cable) -> Result<(), NetworkError> {
    netns::block_on(async {
        // The socket stays in the netns it was opened in: this one speaks for the host for as long as it lives.
        let (host, host_connection) = links::open()?;
        netns::enter(&cable.netns).map_err(|error| netns_failed(entering(&cable.netns), error))?;
        // What comes into being here from now on has no IPv6: half of it (no address, no route) would be worse than none.
        set_switch("net/ipv6/conf/default/disable_ipv6", "1")?;
        let (inside, inside_connection) = links::open()?;
        let connections = async {
            tokio::select! { () = host_connection => {}, () = inside_connection => {} }
        };
        links::drive(connections, connect(&host, &inside, cable))
            .await
            .map_err(|error| error.of(Part::Bridge))
    })
}

/// Makes netns and cable go: the address answers no more when this ends, and the kernel clears up by itself.
///
/// A netns without processes still answers for its address, for as long as the kernel needs: some 50 ms, under load
/// seconds. By then the address may be another container's, or the next generation's.
pub(super) fn unplug(netns: &Path, link: &str) -> Result<(), NetworkError> {
    let muted = netns::block_on(async {
        let (host, connection) = links::open()?;
        links::drive(connection, host.mute_port(link)).await
    });
    let removed = netns::remove(netns)
        .map_err(|error| netns_failed(format!("cannot remove {}", netns.display()), error));
    muted.and(removed.map(drop))
}

fn entering(netns: &Path) -> String {
    format!("cannot enter or make the netns {}", netns.display())
}

async fn connect(host: &Links, inside: &Links, cable: &Cable) -> Result<(), NetworkError> {
    if let Some(lo) = inside.find("lo").await?.filter(|lo| !lo.up) {
        inside.set_up(lo.index, None).await?;
    }
    let (ours, eth0) = match (host.find(&cable.name).await?, inside.find("eth0").await?) {
        (Some(ours), Some(eth0)) => (ours, eth0),
        (ours, eth0) => {
            // Half of a pair belongs to a netns of the same name that is just ending, or to somebody's hand.
            if let Some(half) = ours {
                host.delete(&half).await?;
            }
            if let Some(half) = eth0 {
                inside.delete(&half).await?;
            }
            make(host, inside, cable).await?
        }
    };
    for rival in &cable.rivals {
        host.mute_port(rival).await?;
    }
    host.set_port(ours.index, cable.bridge.index, &cable.alias)
        .await?;
    inside
        .set_address(eth0.index, cable.address, cable.prefix)
        .await?;
    inside.set_up(eth0.index, None).await?;
    inside.set_default_route(cable.gateway).await
}

async fn make(
    host: &Links,
    inside: &Links,
    cable: &Cable,
) -> Result<(links::Link, links::Link), NetworkError> {
    let lost = || {
        NetworkError::failed(
            format!("the veth {} was deleted while it was made", cable.name),
            not_found(),
        )
    };
    let netns = File::open(netns::OWN)
        .map_err(|error| NetworkError::failed(entering(&cable.netns), error))?;
    // The host's end has an address of its own, other than a random one, so that nothing on the host (udev) sets it later.
    let [_, _, a, b, c, d] = mac(cable.address);
    let ours = VethEnd {
        name: &cable.name,
        mac: [0x0a, 0x59, a, b, c, d],
        mtu: cable.bridge.mtu,
    };
    let peer = VethEnd {
        name: "eth0",
        mac: mac(cable.address),
        mtu: cable.bridge.mtu,
    };
    if !host
        .add_veth(&ours, cable.bridge.index, &peer, netns.as_raw_fd())
        .await?
    {
        return Err(NetworkError::failed(
            format!("cannot make the veth {}", cable.name),
            rustix::io::Errno::EXIST,
        ));
    }
    let ours = host.find(&cable.name).await?.ok_or_else(lost)?;
    let eth0 = inside.find("eth0").await?.ok_or_else(lost)?;
    Ok((ours, eth0))
}

fn not_found() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(one.len() <= 15 && one.starts_with(PREFIX), "{one}");
            assert!(names[i + 1..].iter().all(|other| other != one), "{names:?}");
        }
        assert_eq!(name("chas0", instance), names[0]);
    }
}
