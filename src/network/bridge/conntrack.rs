//! Deletes the kernel's UDP flows that would go on past a newly published port (ctnetlink,
//! `nfnetlink_conntrack.h`).
//!
//! The kernel decides the destination of a flow at its first packet. A UDP client that keeps its
//! port (a resolver, a game, a metrics sender) and asked while nobody answered, or while another
//! container did, would be led there for as long as it keeps asking. TCP needs none of this: a new
//! connection is a new flow.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use state::spec::Protocol;

use super::nftables::{HostPort, Publication, Published};

/// Longest wait for the kernel's answer. The kernel answers from RAM; a table of a million flows
/// takes half a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Buffer for one answer: the kernel sends at most 32 KiB at once.
const REPLY_BYTES_MAX: usize = 64 << 10;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;
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
        let socket = open()?;
        send(&socket, GET, NLM_F_DUMP, &flows_to(port.port))?;
        let mut stale = Vec::new();
        receive(&socket, |flow| {
            stale.extend(
                UdpFlow::read(flow)
                    .filter(|flow| flow.is_stale(port, to))
                    .map(|flow| flow.key),
            );
        })?;
        for key in stale {
            send(&socket, DELETE, NLM_F_ACK, &key)?;
            match receive(&socket, |_| ()) {
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
struct UdpFlow {
    /// Destination of the first packet as it was sent.
    sent_to: SocketAddrV4,
    /// Source of the answers, which is the real destination.
    answered_by: SocketAddrV4,
    /// Attributes by which the kernel finds the flow again.
    key: Vec<u8>,
}

impl UdpFlow {
    fn read(message: &[u8]) -> Option<Self> {
        let (mut sent_to, mut answered_by, mut key) = (None, None, Vec::new());
        for (kind, payload) in NetlinkAttributes(message) {
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
            && port
                .host_ip
                .is_none_or(|address| address == *self.sent_to.ip());
        // A flow to the same port of another host, which this host only forwards, is not the
        // agent's.
        this_port
            && self.answered_by != SocketAddrV4::new(to.address, to.port)
            && is_local(*self.sent_to.ip())
    }
}

fn is_local(address: Ipv4Addr) -> bool {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    socket.is_ok_and(|socket| bind(socket, &SocketAddrV4::new(address, 0)).is_ok())
}

/// Source and destination of a UDP tuple.
fn read_tuple(tuple: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let part = |kind| {
        NetlinkAttributes(tuple)
            .find(|(found, _)| *found == kind)
            .map(|(_, payload)| payload)
    };
    let (ip, proto) = (part(CTA_TUPLE_IP)?, part(CTA_TUPLE_PROTO)?);
    let address = |kind| {
        let (_, payload) = NetlinkAttributes(ip).find(|(found, _)| *found == kind)?;
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(payload).ok()?))
    };
    let port = |kind| {
        let (_, payload) = NetlinkAttributes(proto).find(|(found, _)| *found == kind)?;
        Some(u16::from_be_bytes(payload.try_into().ok()?))
    };
    let is_udp =
        NetlinkAttributes(proto).any(|(kind, payload)| kind == CTA_PROTO_NUM && payload == [UDP]);
    is_udp.then_some(())?;
    let from = SocketAddrV4::new(address(CTA_IP_V4_SRC)?, port(CTA_PROTO_SRC_PORT)?);
    Some((
        from,
        SocketAddrV4::new(address(CTA_IP_V4_DST)?, port(CTA_PROTO_DST_PORT)?),
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

/// Appends a netlink attribute: length, kind, payload, and zeros up to a multiple of four.
fn put(message: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(payload.len() + 4).expect("attributes are some ten bytes");
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(payload);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Iterator over netlink attributes; ends at the first malformed one.
#[derive(Clone, Copy)]
struct NetlinkAttributes<'a>(&'a [u8]);

impl<'a> Iterator for NetlinkAttributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & !NLA_F_NESTED;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// Sends one request: the netlink header (16 bytes), nfnetlink's (4), and attributes.
fn send(socket: &OwnedFd, kind: u16, flags: u16, attributes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(20 + attributes.len()).expect("a request is some hundred bytes");
    let mut message = Vec::with_capacity(20 + attributes.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([AF_INET, 0, 0, 0]);
    message.extend(attributes);
    sendto(
        socket,
        &message,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    Ok(())
}

/// Hands the attributes of each message of one answer to `each`, until the answer ends.
fn receive(socket: &OwnedFd, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; REPLY_BYTES_MAX];
    loop {
        let (_, length) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body)) = next_message(&mut rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body
                        .get(..4)
                        .and_then(|code| code.try_into().ok())
                        .map_or(0, i32::from_ne_bytes);
                    return if code == 0 {
                        Ok(())
                    } else {
                        Err(io::Error::from_raw_os_error(-code))
                    };
                }
                _ => each(body.get(4..).unwrap_or_default()),
            }
        }
    }
}

/// Kind and body of the next netlink message.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = usize::try_from(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
    let body = rest.get(16..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(from: SocketAddrV4, to: SocketAddrV4, protocol: u8) -> Vec<u8> {
        let (mut ip, mut proto, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        put(&mut ip, CTA_IP_V4_SRC, &from.ip().octets());
        put(&mut ip, CTA_IP_V4_DST, &to.ip().octets());
        put(&mut proto, CTA_PROTO_NUM, &[protocol]);
        put(&mut proto, CTA_PROTO_SRC_PORT, &from.port().to_be_bytes());
        put(&mut proto, CTA_PROTO_DST_PORT, &to.port().to_be_bytes());
        put(&mut tuple, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
        put(&mut tuple, CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
        tuple
    }

    fn flow(to: &str, by: &str, protocol: u8) -> Vec<u8> {
        let (client, to, by): (SocketAddrV4, SocketAddrV4, SocketAddrV4) = (
            "192.0.2.7:40000".parse().unwrap(),
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
            address: Ipv4Addr::new(10, 231, 0, 2),
            port: 53,
        };
        let check = |sent_to: &str, by: &str, host_ip: Option<Ipv4Addr>, stale: bool| {
            let port = HostPort {
                host_ip,
                protocol: Protocol::Udp,
                port: 5353,
            };
            let flow = UdpFlow::read(&flow(sent_to, by, UDP)).unwrap();
            assert_eq!(
                flow.is_stale(&port, &to),
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
            Some(Ipv4Addr::LOCALHOST),
            true,
        );
        check(
            "127.0.0.2:5353",
            "127.0.0.2:5353",
            Some(Ipv4Addr::LOCALHOST),
            false,
        );
        check("203.0.113.9:5353", "203.0.113.9:5353", None, false);
    }

    #[test]
    fn other_flows_and_torn_messages_are_passed_over() {
        assert_eq!(UdpFlow::read(&flow("127.0.0.1:1", "127.0.0.1:1", 6)), None);
        let whole = flow("127.0.0.1:1", "127.0.0.1:1", UDP);
        for length in 0..whole.len() - 12 {
            assert_eq!(
                UdpFlow::read(&whole[..length]),
                None,
                "cut after {length} bytes"
            );
        }
    }
}
