//! Links, addresses and routes of the kernel over rtnetlink. One connection for each netns.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use rustix::io::Errno;

use crate::network::NetworkError;

pub(super) mod belt;
pub(super) mod ipv6;
mod neighbours;
mod port;
pub(super) mod routes;

/// Longest exchange with the kernel, of some ten messages. Each needs some ten microseconds, but
/// waits while others (deleted links, 20 ms each) hold the kernel's one lock for all links.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Netlink connection to one netns: the one its thread was in when the connection was opened.
#[derive(Clone, Debug)]
pub(super) struct Netlink(Handle);

/// Link as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelLink {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) mtu: u32,
    /// Index of the bridge that the link is a port of.
    pub(super) bridge: Option<u32>,
    pub(super) is_bridge: bool,
    /// Whether a packet may go back through the port it came from.
    pub(super) hairpin: bool,
    /// Whether the port gets what others send to everybody.
    pub(super) hears_all: bool,
    pub(super) mac: Vec<u8>,
}

/// Opens a connection to the calling thread's netns.
///
/// # Errors
/// The kernel gives no socket.
pub(super) fn open() -> Result<(Netlink, impl Future<Output = ()> + Send), NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|error| NetworkError::failed("cannot open a netlink socket", error))?;
    Ok((Netlink(handle), connection))
}

/// Runs `work` while `connections`, the second halves of [`open`]'s answers, carry its messages.
///
/// # Errors
/// The error of `work`, or the kernel timed out.
pub(super) async fn drive<T>(
    connections: impl Future<Output = ()>,
    work: impl Future<Output = Result<T, NetworkError>>,
) -> Result<T, NetworkError> {
    tokio::select! {
        result = tokio::time::timeout(EXCHANGE_TIMEOUT, work) => result.unwrap_or_else(|timeout| {
            Err(NetworkError::failed("the kernel did not answer over netlink in time", timeout))
        }),
        () = connections => Err(NetworkError::failed(
            "the netlink connection was closed",
            io::Error::from(io::ErrorKind::ConnectionAborted),
        )),
    }
}

/// Error number of the kernel's answer.
fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    let rtnetlink::Error::NetlinkError(message) = error else {
        return None;
    };
    Errno::from_io_error(&message.to_io())
}

impl Netlink {
    /// All links.
    pub(super) async fn all(&self) -> Result<Vec<KernelLink>, NetworkError> {
        let links = self
            .0
            .link()
            .get()
            .execute()
            .map_ok(KernelLink::read)
            .try_collect();
        links
            .await
            .map_err(|error| NetworkError::failed("cannot list the links", error))
    }

    /// Link of that name, if there is one.
    pub(super) async fn find(&self, name: &str) -> Result<Option<KernelLink>, NetworkError> {
        match self
            .0
            .link()
            .get()
            .match_name(name)
            .execute()
            .try_next()
            .await
        {
            Ok(link) => Ok(link.map(KernelLink::read)),
            Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(NetworkError::failed(
                format!("cannot look for the link {name}"),
                error,
            )),
        }
    }

    /// Makes a bridge, down. An existing one is no error.
    pub(super) async fn add_bridge(
        &self,
        name: &str,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), NetworkError> {
        let bridge = LinkBridge::new(name)
            .down()
            .address(mac.to_vec())
            .mtu(mtu)
            .build();
        match self.0.link().add(bridge).execute().await {
            Err(error) if errno(&error) != Some(Errno::EXIST) => Err(NetworkError::failed(
                format!("cannot make the bridge {name}"),
                error,
            )),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes a veth pair: `host_end` here, a port of `bridge`, and `inner_end` in the netns of the
    /// open file `netns`.
    ///
    /// Answers `false` if there already is a link of either name.
    pub(super) async fn add_veth(
        &self,
        host_end: &VethEnd<'_>,
        bridge: u32,
        inner_end: &VethEnd<'_>,
        netns: RawFd,
    ) -> Result<bool, NetworkError> {
        let there = LinkMessageBuilder::<LinkUnspec>::new()
            .name(inner_end.name)
            .address(inner_end.mac.to_vec())
            .mtu(inner_end.mtu)
            .setns_by_fd(netns)
            .build();
        let pair = LinkVeth::new(host_end.name, inner_end.name)
            .address(host_end.mac.to_vec())
            .mtu(host_end.mtu)
            .controller(bridge)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(there)))
            .build();
        match self.0.link().add(pair).execute().await {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(Errno::EXIST) => Ok(false),
            Err(error) => Err(NetworkError::failed(
                format!("cannot make the veth {}", host_end.name),
                error,
            )),
        }
    }

    /// Brings a link up, with this hardware address if one is given.
    pub(super) async fn set_up(
        &self,
        index: u32,
        mac: Option<[u8; 6]>,
    ) -> Result<(), NetworkError> {
        let mut link = LinkUnspec::new_with_index(index).up();
        if let Some(mac) = mac {
            link = link.address(mac.to_vec());
        }
        let result = self.0.link().set(link.build()).execute().await;
        result.map_err(|error| NetworkError::failed(format!("cannot bring link {index} up"), error))
    }

    /// Whether a link has an address.
    pub(super) async fn has_address(
        &self,
        index: u32,
        address: Ipv4Addr,
    ) -> Result<bool, NetworkError> {
        let found = self
            .0
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(address.into())
            .execute()
            .try_next()
            .await;
        let found = found.map_err(|error| {
            NetworkError::failed(format!("cannot list the addresses of link {index}"), error)
        })?;
        Ok(found.is_some())
    }

    /// Gives a link an address. An address that it has already is no error.
    pub(super) async fn set_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetworkError> {
        let result = self
            .0
            .address()
            .add(index, address.into(), prefix)
            .replace()
            .execute()
            .await;
        result.map_err(|error| {
            NetworkError::failed(
                format!("cannot give the address {address}/{prefix} to link {index}"),
                error,
            )
        })
    }

    /// Sets the one default route.
    pub(super) async fn set_default_route(&self, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build();
        let result = self.0.route().add(route).replace().execute().await;
        result.map_err(|error| {
            NetworkError::failed(
                format!("cannot set the default route through {gateway}"),
                error,
            )
        })
    }

    /// Deletes a link. A missing one is no error.
    pub(super) async fn delete(&self, link: &KernelLink) -> Result<(), NetworkError> {
        match self.0.link().del(link.index).execute().await {
            Err(error) if errno(&error) != Some(Errno::NODEV) => Err(NetworkError::failed(
                format!("cannot delete the link {}", link.name),
                error,
            )),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// End of a veth pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct VethEnd<'a> {
    pub(super) name: &'a str,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
}

impl KernelLink {
    fn read(message: LinkMessage) -> Self {
        debug_assert_eq!(message.header.interface_family, AddressFamily::Unspec);
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            bridge: None,
            is_bridge: false,
            hairpin: false,
            hears_all: false,
            mac: Vec::new(),
        };
        for attribute in message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                link.name = name;
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                link.mtu = mtu;
            } else if let LinkAttribute::Controller(index) = attribute {
                link.bridge = Some(index);
            } else if let LinkAttribute::Address(mac) = attribute {
                link.mac = mac;
            } else if let LinkAttribute::LinkInfo(parts) = attribute {
                link.hairpin = has_flag(&parts, &InfoBridgePort::HairpinMode(true));
                link.hears_all = has_flag(&parts, &InfoBridgePort::BroadcastFlood(true));
                link.is_bridge = parts.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
        }
        link
    }
}

fn has_flag(parts: &[LinkInfo], flag: &InfoBridgePort) -> bool {
    parts.iter().any(|part| {
        let LinkInfo::PortData(InfoPortData::BridgePort(port)) = part else {
            return false;
        };
        port.contains(flag)
    })
}
