//! Deletes the kernel's flows to one container that is gone: what is sent on them then is answered by
//! whoever has the port now, and does not get lost.

use std::io;
use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::{
    CTA_FILTER, CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS, CTA_ID, CTA_IP_V4_SRC, CTA_TUPLE_IP,
    CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE, DELETE, GET,
};
use crate::network::bridge::nfnetlink::{
    AF_INET, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NetfilterSocket, NetlinkAttributes, put,
};

/// Filter by the source of the answers. Kernels before 5.8 answer everything, so the answer is
/// filtered again here.
const FILTER_SOURCE: u32 = 1;

/// Deletes every flow whose answers come from this address. Answers their number.
///
/// # Errors
/// The kernel refuses to list or to delete.
pub(in crate::network::bridge) fn delete_of(address: Ipv4Addr) -> io::Result<usize> {
    let socket = NetfilterSocket::open()?;
    let mut keys = Vec::new();
    socket.ask(GET, NLM_F_DUMP, AF_INET, &answered_by(address), |flow| {
        keys.extend(key_of(flow.attributes, address));
    })?;
    for key in &keys {
        match socket.ask(DELETE, NLM_F_ACK, AF_INET, key, |_| ()) {
            Err(error) if error.raw_os_error() != Some(Errno::NOENT.raw_os_error()) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(keys.len())
}

/// Attributes by which the kernel finds a flow again, if its answers come from the address.
fn key_of(flow: NetlinkAttributes<'_>, address: Ipv4Addr) -> Option<Vec<u8>> {
    let reply = flow.nested(CTA_TUPLE_REPLY);
    if reply.nested(CTA_TUPLE_IP).get(CTA_IP_V4_SRC)? != address.octets() {
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

/// Attributes that ask for the flows whose answers come from an address.
fn answered_by(address: Ipv4Addr) -> Vec<u8> {
    let (mut ip, mut tuple, mut filter, mut message) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put(&mut ip, CTA_IP_V4_SRC, &address.octets());
    put(&mut tuple, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
    put(&mut filter, CTA_FILTER_ORIG_FLAGS, &0_u32.to_ne_bytes());
    put(
        &mut filter,
        CTA_FILTER_REPLY_FLAGS,
        &FILTER_SOURCE.to_ne_bytes(),
    );
    put(&mut message, CTA_TUPLE_REPLY | NLA_F_NESTED, &tuple);
    put(&mut message, CTA_FILTER | NLA_F_NESTED, &filter);
    message
}
