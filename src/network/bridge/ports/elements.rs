//! Elements of the table for the ports of an assignment, in each family of addresses that containers
//! have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use state::desired::{Assignment, PortBinding};
use state::id::InstanceName;

use crate::network::bridge::nftables::{HostPort, Publication, Published};

/// Host ports that a binding takes: without an address, one of each family.
pub(super) fn host_ports(
    binding: &PortBinding,
    has_ipv6: bool,
) -> impl Iterator<Item = HostPort> + use<> {
    let (protocol, port) = (binding.protocol, binding.host);
    let at = move |host_ip| HostPort {
        host_ip,
        protocol,
        port,
    };
    let is_all = |address: &IpAddr| address.is_unspecified() && address.is_ipv4();
    let named = binding.host_ip.filter(|address| !is_all(address));
    let both = has_ipv6 && binding.host_ip.is_none();
    let ipv6 = both.then(|| at(Some(Ipv6Addr::UNSPECIFIED.into())));
    [Some(at(named)), ipv6].into_iter().flatten()
}

/// Binding of one host port alone.
pub(super) fn binding_of(at: &HostPort, container: u16) -> PortBinding {
    PortBinding {
        host_ip: Some(at.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
        host: at.port,
        container,
        protocol: at.protocol,
    }
}

/// Elements that an instance's assignment asks for. Those of a family in which it has no address are
/// left out.
pub(super) fn publications(
    owner: InstanceName,
    assignment: &Assignment,
    has_ipv6: bool,
) -> Published {
    let address6 = assignment.address6.filter(|_| has_ipv6);
    let to = |at: &HostPort| -> Option<IpAddr> {
        if at.is_ipv6() {
            address6.map(IpAddr::from)
        } else {
            assignment.address.map(IpAddr::from)
        }
    };
    let mut published = Published::new();
    // A port of named addresses is one's own, whatever is published on all.
    let (named, all): (Vec<_>, Vec<_>) = assignment
        .ports
        .iter()
        .partition(|binding| binding.host_ip.is_some());
    for binding in all.into_iter().chain(named) {
        for at in host_ports(binding, has_ipv6) {
            let Some(address) = to(&at) else { continue };
            let publication = Publication {
                owner,
                address,
                port: binding.container,
            };
            published.insert(at, publication);
        }
    }
    published
}

#[cfg(test)]
mod tests {
    use state::spec::Protocol;

    use super::*;

    fn binding(host_ip: Option<&str>) -> PortBinding {
        PortBinding {
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host: 80,
            container: 8080,
            protocol: Protocol::Udp,
        }
    }

    #[test]
    fn no_address_means_all_of_the_families_that_there_are() {
        let ips = |host_ip, has_ipv6| {
            let all = host_ports(&binding(host_ip), has_ipv6);
            all.map(|at| at.host_ip.map(|ip| ip.to_string()))
                .collect::<Vec<_>>()
        };
        let one = |ip: &str| vec![Some(ip.to_owned())];
        for (host_ip, alone, both) in [
            (None, vec![None], vec![None, Some("::".to_owned())]),
            (Some("0.0.0.0"), vec![None], vec![None]),
            (Some("127.0.0.1"), one("127.0.0.1"), one("127.0.0.1")),
            (Some("::"), one("::"), one("::")),
            (Some("2001:db8::1"), one("2001:db8::1"), one("2001:db8::1")),
        ] {
            assert_eq!(ips(host_ip, false), alone, "{host_ip:?}");
            assert_eq!(ips(host_ip, true), both, "{host_ip:?}");
        }
    }

    #[test]
    fn each_family_leads_to_the_address_of_its_own_and_to_none_without() {
        let owner = "0123456789ab-1".parse().unwrap();
        let published = |address6: Option<&str>, has_ipv6| {
            let assignment = Assignment {
                address: Some([10, 231, 0, 2].into()),
                address6: address6.map(|text| text.parse().unwrap()),
                ports: [None, Some("::"), Some("192.0.2.1")].map(binding).into(),
            };
            let published = publications(owner, &assignment, has_ipv6);
            published
                .values()
                .map(|to| to.address.to_string())
                .collect::<Vec<_>>()
        };
        let ipv4 = ["10.231.0.2", "10.231.0.2"];
        assert_eq!(
            published(Some("fd00::2"), true),
            [&ipv4[..], &["fd00::2"]].concat()
        );
        assert_eq!(published(None, true), ipv4, "one that has none yet");
        assert_eq!(published(Some("fd00::2"), false), ipv4, "a host without");
    }
}
