//! Deletes the kernel's UDP flows that would go on past a newly published port (ctnetlink,
//! `nfnetlink_conntrack.h`).
//!
//! The kernel decides the destination of a flow at its first packet. A UDP client that keeps its
//! port (a resolver, a game, a metrics sender) and asked while nobody answered, or while another
//! container did, would be led there for as long as it keeps asking. TCP needs none of this: a new
//! connection is a new flow.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use state::spec::Protocol;

use super::nfnetlink::{
    AF_INET, AF_INET6, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NetfilterSocket, NetlinkAttributes, put,
};
use super::nftables::{HostPort, Publication, Published};
use crate::network::listeners::is_local;

mod of_address;

pub(super) use of_address::delete_of;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const UDP: u8 = 17;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Filter by protocol and destination port. Kernels before 5.8 know no filter and answer
/// everything, so the answer is filtered again here.
const FILTER_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// Deletes every UDP flow to a published host port that does not end at its container. Answers
/// their number.
///
/// # Errors
/// The kernel refuses to list or to delete; flows then end 30 s after their last packet.
pub(super) fn delete_stale(published: &Published) -> io::Result<usize> {
    let mut deleted = 0;
    let udp = published
        .iter()
        .filter(|(port, _)| port.protocol == Protocol::Udp);
    for (port, to) in udp {
        let socket = NetfilterSocket::open()?;
        let family = if port.is_ipv6() { AF_INET6 } else { AF_INET };
        let mut stale = Vec::new();
        socket.ask(GET, NLM_F_DUMP, family, &flows_to(port.port), |flow| {
            stale.extend(
                UdpFlow::read(flow.attributes)
                    .filter(|flow| flow.is_stale(port, to))
                    .map(|flow| flow.key),
            );
        })?;
        for key in stale {
            match socket.ask(DELETE, NLM_F_ACK, family, &key, |_| ()) {
                Err(error) if error.raw_os_error() != Some(Errno::NOENT.raw_os_error()) => {
                    return Err(error);
                }
                Ok(()) | Err(_) => deleted += 1,
            }
        }
    }
    Ok(deleted)
}

/// UDP flow as the kernel knows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UdpFlow {
    /// Destination of the first packet as it was sent.
    sent_to: SocketAddr,
    /// Source of the answers, which is the real destination.
    answered_by: SocketAddr,
    /// Attributes by which the kernel finds the flow again.
    key: Vec<u8>,
}

impl UdpFlow {
    pub(super) fn read(message: NetlinkAttributes<'_>) -> Option<Self> {
        let (mut sent_to, mut answered_by, mut key) = (None, None, Vec::new());
        for (kind, payload) in message {
            match kind {
                CTA_TUPLE_ORIG => sent_to = Some(read_tuple(payload)?.1),
                CTA_TUPLE_REPLY => answered_by = Some(read_tuple(payload)?.0),
                CTA_ID | CTA_ZONE => {}
                _ => continue,
            }
            if kind != CTA_TUPLE_REPLY {
                let nested = if kind == CTA_TUPLE_ORIG {
                    NLA_F_NESTED
                } else {
                    0
                };
                put(&mut key, kind | nested, payload);
            }
        }
        Some(Self {
            sent_to: sent_to?,
            answered_by: answered_by?,
            key,
        })
    }

    fn is_stale(&self, port: &HostPort, to: &Publication) -> bool {
        let this_port = self.sent_to.port() == port.port
            && port.is_ipv6() == self.sent_to.is_ipv6()
            && port
                .bound()
                .is_none_or(|address| address == self.sent_to.ip());
        // A flow to the same port of another host, which this host only forwards, is not the
        // agent's.
        this_port
            && self.answered_by != SocketAddr::new(to.address, to.port)
            && is_local(self.sent_to.ip())
    }
}

/// Source and destination of a UDP tuple.
fn read_tuple(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let tuple = NetlinkAttributes(tuple);
    let (ip, proto) = (tuple.nested(CTA_TUPLE_IP), tuple.nested(CTA_TUPLE_PROTO));
    let address = |ipv4, ipv6| match ip.get(ipv4) {
        Some(bytes) => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        None => Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(ipv6)?).ok()?)),
    };
    let port = |kind| Some(u16::from_be_bytes(proto.get(kind)?.try_into().ok()?));
    (proto.get(CTA_PROTO_NUM)? == [UDP]).then_some(())?;
    let from = address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?;
    let to = address(CTA_IP_V4_DST, CTA_IP_V6_DST)?;
    Some((
        SocketAddr::new(from, port(CTA_PROTO_SRC_PORT)?),
        SocketAddr::new(to, port(CTA_PROTO_DST_PORT)?),
    ))
}

/// Attributes that ask for the UDP flows to one port.
fn flows_to(port: u16) -> Vec<u8> {
    let (mut proto, mut tuple, mut filter, mut message) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put(&mut proto, CTA_PROTO_NUM, &[UDP]);
    put(&mut proto, CTA_PROTO_DST_PORT, &port.to_be_bytes());
    put(&mut tuple, CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
    put(
        &mut filter,
        CTA_FILTER_ORIG_FLAGS,
        &FILTER_PROTOCOL_AND_PORT.to_ne_bytes(),
    );
    put(&mut filter, CTA_FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes());
    put(&mut message, CTA_TUPLE_ORIG | NLA_F_NESTED, &tuple);
    put(&mut message, CTA_FILTER | NLA_F_NESTED, &filter);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Option<UdpFlow> {
        UdpFlow::read(NetlinkAttributes(message))
    }

    fn tuple(from: SocketAddr, to: SocketAddr, protocol: u8) -> Vec<u8> {
        let (mut ip, mut proto, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                put(&mut ip, CTA_IP_V4_SRC, &from.octets());
                put(&mut ip, CTA_IP_V4_DST, &to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                put(&mut ip, CTA_IP_V6_SRC, &from.octets());
                put(&mut ip, CTA_IP_V6_DST, &to.octets());
            }
            _ => panic!("two families"),
        }
        put(&mut proto, CTA_PROTO_NUM, &[protocol]);
        put(&mut proto, CTA_PROTO_SRC_PORT, &from.port().to_be_bytes());
        put(&mut proto, CTA_PROTO_DST_PORT, &to.port().to_be_bytes());
        put(&mut tuple, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
        put(&mut tuple, CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
        tuple
    }

    fn flow(to: &str, by: &str, protocol: u8) -> Vec<u8> {
        let (client, to, by): (SocketAddr, SocketAddr, SocketAddr) = (
            if to.starts_with('[') {
                "[2001:db8::7]:40000"
            } else {
                "192.0.2.7:40000"
            }
            .parse()
            .unwrap(),
            to.parse().unwrap(),
            by.parse().unwrap(),
        );
        let mut message = Vec::new();
        put(
            &mut message,
            CTA_TUPLE_ORIG | NLA_F_NESTED,
            &tuple(client, to, protocol),
        );
        put(
            &mut message,
            CTA_TUPLE_REPLY | NLA_F_NESTED,
            &tuple(by, client, protocol),
        );
        put(&mut message, CTA_ID, &[1, 2, 3, 4]);
        message
    }

    #[test]
    fn a_flow_is_stale_if_it_was_sent_to_the_port_and_went_elsewhere() {
        let owner = "0123456789ab-1".parse().unwrap();
        let to = Publication {
            owner,
            address: [10, 231, 0, 2].into(),
            port: 53,
        };
        let to6 = Publication {
            address: "fd00::2".parse().unwrap(),
            ..to
        };
        let check = |sent_to: &str, by: &str, host_ip: Option<IpAddr>, stale: bool| {
            let port = HostPort {
                host_ip,
                protocol: Protocol::Udp,
                port: 5353,
            };
            let flow = read(&flow(sent_to, by, UDP)).unwrap();
            assert_eq!(
                flow.is_stale(&port, if port.is_ipv6() { &to6 } else { &to }),
                stale,
                "{sent_to} answered by {by}, {host_ip:?}"
            );
        };
        check("127.0.0.1:5353", "127.0.0.1:5353", None, true);
        check("127.0.0.1:5353", "10.231.0.9:53", None, true);
        check("127.0.0.1:5353", "10.231.0.2:54", None, true);
        check("127.0.0.1:5353", "10.231.0.2:53", None, false);
        check("127.0.0.1:5354", "127.0.0.1:5354", None, false);
        check(
            "127.0.0.1:5353",
            "127.0.0.1:5353",
            Some([127, 0, 0, 1].into()),
            true,
        );
        check(
            "127.0.0.2:5353",
            "127.0.0.2:5353",
            Some([127, 0, 0, 1].into()),
            false,
        );
        check("203.0.113.9:5353", "203.0.113.9:5353", None, false);
        let all = Some(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED));
        check("[::1]:5353", "[::1]:5353", all, true);
        check("[::1]:5353", "[fd00::2]:53", all, false);
        check("[::1]:5353", "[::1]:5353", None, false);
        check("127.0.0.1:5353", "127.0.0.1:5353", all, false);
    }

    #[test]
    fn other_flows_and_torn_messages_are_passed_over() {
        assert_eq!(read(&flow("127.0.0.1:1", "127.0.0.1:1", 6)), None);
        let whole = flow("127.0.0.1:1", "127.0.0.1:1", UDP);
        for length in 0..whole.len() - 12 {
            assert_eq!(read(&whole[..length]), None, "cut after {length} bytes");
        }
    }
}
