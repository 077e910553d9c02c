//! Ends of a link between a container and the bridge, as far as they are IPv6's.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::switches;
use crate::network::NetworkError;
use crate::network::bridge::device::mac;
use crate::network::bridge::links::Netlink;

/// Switches of a link of the bridge, at either end: no address is made up, no router is heard, and the one
/// that is given is asked of nobody. The last one switches IPv6 on.
pub(super) const SWITCHES: [(&str, &str); 5] = [
    ("addr_gen_mode", "1"),
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    ("accept_dad", "0"),
    ("disable_ipv6", "0"),
];

/// IPv6 end of a veth pair, as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) struct VethEnd6 {
    pub(in crate::network::bridge) address: Ipv6Addr,
    pub(in crate::network::bridge) gateway: Ipv6Addr,
}

impl VethEnd6 {
    /// Gives a container's link its address and the way out, in the netns of the calling thread, and
    /// makes it known to the bridge. It hears no router.
    pub(in crate::network::bridge) async fn wire(
        self,
        host: &Netlink,
        inside: &Netlink,
        [bridge, eth0]: [u32; 2],
        macs: [[u8; 6]; 2],
    ) -> Result<(), NetworkError> {
        for (key, value) in SWITCHES {
            switches::set("eth0", key, value)?;
        }
        let [gateway_mac, own_mac] = macs;
        inside.set_address6(eth0, self.address, 128).await?;
        inside
            .set_default_route6(eth0, self.gateway, gateway_mac)
            .await?;
        host.set_neighbour(bridge, self.address, own_mac).await
    }
}

/// Hardware addresses of the bridge and of a container.
pub(in crate::network::bridge) const fn macs(gateway: Ipv4Addr, address: Ipv4Addr) -> [[u8; 6]; 2] {
    [mac(gateway), mac(address)]
}
