//! Deletes the kernel's flows to one container that is gone: what is sent on them then is answered by
//! whoever has the port now, and does not get lost.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;

use super::{
    CTA_FILTER, CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS, CTA_ID, CTA_IP_V4_SRC,
    CTA_IP_V6_SRC, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE, DELETE, GET,
};
use crate::network::bridge::nfnetlink::{
    AF_INET, AF_INET6, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NetfilterSocket, NetlinkAttributes, put,
};

/// Filter by the source of one direction. Kernels before 5.8 answer everything, so the answer is
/// filtered again here.
const FILTER_SOURCE: u32 = 1;

/// Deletes every flow of which this address is an end: those whose answers come from it, and those
/// that it began, whose answers would come to the next one that has it. Answers their number.
///
/// # Errors
/// The kernel refuses to list or to delete.
pub(in crate::network::bridge) fn delete_of(address: IpAddr) -> io::Result<usize> {
    let family = if address.is_ipv6() { AF_INET6 } else { AF_INET };
    let mut deleted = 0;
    for direction in [CTA_TUPLE_REPLY, CTA_TUPLE_ORIG] {
        let socket = NetfilterSocket::open()?;
        let mut keys = Vec::new();
        let asked = sent_by(direction, address);
        socket.ask(GET, NLM_F_DUMP, family, &asked, |flow| {
            keys.extend(key_of(flow.attributes, direction, address));
        })?;
        for key in &keys {
            match socket.ask(DELETE, NLM_F_ACK, family, key, |_| ()) {
                Err(error) if error.raw_os_error() != Some(Errno::NOENT.raw_os_error()) => {
                    return Err(error);
                }
                Ok(()) | Err(_) => {}
            }
        }
        deleted += keys.len();
    }
    Ok(deleted)
}

/// Attributes by which the kernel finds a flow again, if the address sends in this direction of it.
fn key_of(flow: NetlinkAttributes<'_>, direction: u16, address: IpAddr) -> Option<Vec<u8>> {
    let (kind, octets) = source(address);
    let sender = flow.nested(direction).nested(CTA_TUPLE_IP);
    if sender.get(kind)? != octets {
        return None;
    }
    let mut key = Vec::new();
    put(
        &mut key,
        CTA_TUPLE_ORIG | NLA_F_NESTED,
        flow.get(CTA_TUPLE_ORIG)?,
    );
    for kind in [CTA_ID, CTA_ZONE] {
        if let Some(value) = flow.get(kind) {
            put(&mut key, kind, value);
        }
    }
    Some(key)
}

/// Attribute of a source, and its value.
fn source(address: IpAddr) -> (u16, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (CTA_IP_V4_SRC, address.octets().to_vec()),
        IpAddr::V6(address) => (CTA_IP_V6_SRC, address.octets().to_vec()),
    }
}

/// Attributes that ask for the flows in one direction of which the address sends.
fn sent_by(direction: u16, address: IpAddr) -> Vec<u8> {
    let (kind, octets) = source(address);
    let (mut ip, mut tuple, mut filter, mut message) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put(&mut ip, kind, &octets);
    put(&mut tuple, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
    for (flags, of) in [
        (CTA_FILTER_ORIG_FLAGS, CTA_TUPLE_ORIG),
        (CTA_FILTER_REPLY_FLAGS, CTA_TUPLE_REPLY),
    ] {
        let asked = if of == direction { FILTER_SOURCE } else { 0 };
        put(&mut filter, flags, &asked.to_ne_bytes());
    }
    put(&mut message, direction | NLA_F_NESTED, &tuple);
    put(&mut message, CTA_FILTER | NLA_F_NESTED, &filter);
    message
}
