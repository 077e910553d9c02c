//! Neighbours of a link: the hardware addresses behind which the kernel takes them to be.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::Netlink;
use crate::network::NetworkError;

impl Netlink {
    /// Makes all neighbours that are known at a link, but for the gateway, ones behind `mac`. What
    /// somebody set for good stays.
    pub(in crate::network::bridge) async fn lead_neighbours(
        &self,
        link: u32,
        gateway: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetworkError> {
        let failed = |error| NetworkError::failed("cannot change the neighbours of a link", error);
        let known = self.0.neighbours().get();
        let known = known.set_address_family(AddressFamily::Inet).execute();
        let known: Vec<NeighbourMessage> = known.try_collect().await.map_err(failed)?;
        for neighbour in known.iter().filter(|one| one.header.ifindex == link) {
            let state = neighbour.header.state;
            if matches!(state, NeighbourState::Permanent | NeighbourState::Noarp) {
                continue;
            }
            let Some(address) = address(neighbour).filter(|address| *address != gateway) else {
                continue;
            };
            let led = self.0.neighbours().add(link, address.into());
            let led = led.link_layer_address(&mac).state(NeighbourState::Stale);
            led.replace().execute().await.map_err(failed)?;
        }
        Ok(())
    }
}

fn address(neighbour: &NeighbourMessage) -> Option<Ipv4Addr> {
    neighbour.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) = attribute else {
            return None;
        };
        Some(*address)
    })
}
