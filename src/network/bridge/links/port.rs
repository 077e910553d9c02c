//! Ports of the bridge: links that are its own, and what passes them.

use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec};
use rustix::io::Errno;

use super::belt::BeltState;
use super::belt::program::FrameSource;
use super::{Netlink, errno};
use crate::network::NetworkError;

/// Sets whether a port gets packets for unknown receivers, and whether the bridge learns from it;
/// and whether it gets what other ports send to everybody. The bridge's own it gets in any case.
fn set_flooding(
    port: LinkMessageBuilder<LinkBridgePort>,
    on: bool,
    hears_all: bool,
) -> LinkMessageBuilder<LinkBridgePort> {
    let port = port.flood(on).learning(on);
    port.bcast_flood(hears_all).mcast_flood(hears_all)
}

impl Netlink {
    /// Makes a link a port of `bridge`, up, with hairpin on and no IPv6 of its own; `ip link` shows
    /// `alias`. Given a `source`, nothing passes that is not from there.
    ///
    /// # Errors
    /// The kernel refuses, or cannot have the guard that keeps a container from its neighbours:
    /// without it the container is not connected. Of another guard the repair tells.
    pub(in crate::network::bridge) async fn set_port(
        &self,
        index: u32,
        bridge: u32,
        alias: &str,
        source: Option<FrameSource>,
    ) -> Result<(), NetworkError> {
        let no_ipv6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        // In this order: an address would be made up at the moment the link comes up; hairpin is
        // the port's, not the link's.
        let quiet = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_ipv6]))
            .build();
        if let Err(error) = self.0.link().set(quiet).execute().await {
            tracing::trace!(%error, "kernel has no IPv6 to turn off");
        }
        // Before it comes up.
        let belt = self.ensure_belt(index, source).await;
        let is_closed = source.is_some_and(|source| source.only_to.is_some());
        if let BeltState::Missing(reason) = belt
            && is_closed
        {
            return Err(NetworkError::failed(
                format!(
                    "cannot keep the container behind link {index} from its neighbours, and it is \
                     not connected without that"
                ),
                format!("{reason}; mend that, or set network.isolation to open"),
            ));
        }
        let up = LinkUnspec::new_with_index(index)
            .controller(bridge)
            .alias(alias)
            .up()
            .build();
        let hairpin = LinkBridgePort::new(index).hairpin(true);
        let hairpin = set_flooding(hairpin, true, !is_closed).build();
        let result = async {
            self.0.link().set(up).execute().await?;
            self.0.link().set_port(hairpin).execute().await
        };
        result.await.map_err(|error| {
            NetworkError::failed(
                format!("cannot make link {index} a port of the bridge"),
                error,
            )
        })
    }

    /// Sets whether a port gets what other ports send to everybody. Where containers send to the
    /// bridge alone it must not: from a neighbour's question by ARP a container learns a way past the
    /// bridge, which leads nowhere. A missing link is no error.
    pub(in crate::network::bridge) async fn set_hears_all(
        &self,
        index: u32,
        hears_all: bool,
    ) -> Result<(), NetworkError> {
        let port = LinkBridgePort::new(index);
        let port = port.bcast_flood(hears_all).mcast_flood(hears_all).build();
        match self.0.link().set_port(port).execute().await {
            Err(error) if !matches!(errno(&error), Some(Errno::NODEV | Errno::OPNOTSUPP)) => {
                let what = format!("cannot set what link {index} hears of its neighbours");
                Err(NetworkError::failed(what, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Cuts a port off from its bridge: no packet is sent to it any more, and the bridge drops the
    /// addresses behind it and does not learn them again. Costs microseconds, where deleting the
    /// link waits some 20 ms for all processors.
    ///
    /// Not by the port's state, which the kernel sets back at the next change of carrier. A missing
    /// link is no error.
    pub(in crate::network::bridge) async fn mute_port(
        &self,
        name: &str,
    ) -> Result<(), NetworkError> {
        let Some(link) = self.find(name).await?.filter(|link| link.bridge.is_some()) else {
            return Ok(());
        };
        let muted = set_flooding(LinkBridgePort::new(link.index), false, false)
            .fdb_flush()
            .build();
        match self.0.link().set_port(muted).execute().await {
            // A link that is no port (any more) is refused as not supported.
            Err(error) if !matches!(errno(&error), Some(Errno::NODEV | Errno::OPNOTSUPP)) => Err(
                NetworkError::failed(format!("cannot cut off the link {name}"), error),
            ),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
