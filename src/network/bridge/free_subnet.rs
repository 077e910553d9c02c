//! Choice of a subnet that nobody else on the host has.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use state::subnet::Ipv4Subnet;

use super::links::routes::OccupiedRange;
use super::repair::on_links;
use crate::network::{NetworkError, hosts_files};

/// Subnet for containers that collides with no address, route or name server of this host. A bridge of
/// this name that is there keeps its own.
///
/// # Errors
/// [`NetworkError::Failed`]: the host cannot be looked at, or every private subnet is somebody's.
pub async fn free_subnet(
    bridge: &str,
    resolv_conf: &[PathBuf],
) -> Result<Ipv4Subnet, NetworkError> {
    let name = bridge.to_owned();
    let (own, others) = on_links("links", async move |host| {
        let index = host.find(&name).await?.map(|link| link.index);
        let ranges = host.ranges_of_links(0).await?.into_iter();
        let is_own = |range: &OccupiedRange| index.is_some() && range.link == index;
        let (own, mut others): (Vec<_>, Vec<_>) = ranges.partition(is_own);
        others.extend(host.ranges_of_routes(index).await?);
        Ok((own, others))
    })
    .await?;
    if let Some(own) = own.iter().find_map(subnet_of) {
        return Ok(own);
    }
    let servers = hosts_files::host_resolv_conf(resolv_conf).servers;
    choose(&others, &servers).ok_or_else(|| {
        NetworkError::failed(
            "no subnet for containers is free on this host",
            "every private one overlaps an address, a route or a name server; name one by network.subnet",
        )
    })
}

fn subnet_of(range: &OccupiedRange) -> Option<Ipv4Subnet> {
    format!("{}/{}", range.network, range.prefix).parse().ok()
}

/// Private subnets, the default first.
fn candidates() -> impl Iterator<Item = Ipv4Subnet> {
    let large = (231..=254)
        .chain(100..=230)
        .map(|second| [10, second, 0, 0]);
    let large = large.chain((16..=31).map(|second| [172, second, 0, 0]));
    let large = large.map(|first| (first, 16));
    let small = (0..=255).rev().map(|third| ([192, 168, third, 0], 24));
    large
        .chain(small)
        .filter_map(|(first, prefix)| format!("{}/{prefix}", Ipv4Addr::from(first)).parse().ok())
}

/// First candidate that nothing overlaps, not even a larger network behind a gateway; else the first
/// that harms nobody.
fn choose(others: &[OccupiedRange], servers: &[Ipv4Addr]) -> Option<Ipv4Subnet> {
    let is_asked = |subnet: Ipv4Subnet| servers.iter().any(|server| subnet.contains(*server));
    let is_apart = |subnet: &Ipv4Subnet| {
        !is_asked(*subnet) && !others.iter().any(|range| range.overlaps(*subnet))
    };
    let is_harmless = |subnet: &Ipv4Subnet| {
        !is_asked(*subnet)
            && !others
                .iter()
                .any(|range| range.collision(*subnet).is_some())
    };
    candidates()
        .find(is_apart)
        .or_else(|| candidates().find(is_harmless))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_subnet_is_taken_that_nobody_has() {
        let range = |text: &str, on_link: bool| OccupiedRange::of(text, on_link);
        let server = Ipv4Addr::new(10, 232, 7, 1);
        for (others, servers, expected) in [
            (vec![], vec![], "10.231.0.0/16"),
            (vec![range("10.231.4.0/24", true)], vec![], "10.232.0.0/16"),
            (
                vec![range("10.231.4.0/24", true)],
                vec![server],
                "10.233.0.0/16",
            ),
            (vec![range("10.231.4.7/32", false)], vec![], "10.232.0.0/16"),
            (vec![range("10.0.0.0/8", false)], vec![], "172.16.0.0/16"),
            (
                vec![
                    range("10.0.0.0/8", false),
                    range("172.16.0.0/12", false),
                    range("192.168.0.0/16", false),
                ],
                vec![],
                "10.231.0.0/16",
            ),
            (
                vec![
                    range("10.0.0.0/8", true),
                    range("172.16.0.0/12", true),
                    range("192.168.255.0/24", true),
                ],
                vec![],
                "192.168.254.0/24",
            ),
        ] {
            let chosen = choose(&others, &servers).map(|subnet| subnet.to_string());
            assert_eq!(chosen.as_deref(), Some(expected), "{others:?} {servers:?}");
        }
        let all = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"].map(|text| range(text, true));
        assert_eq!(choose(&all, &[]), None);
    }
}
