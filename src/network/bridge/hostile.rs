//! Answers of the kernel and of `nft` that are nothing of the kind. For fuzzing and its kept inputs.

use super::nfnetlink::NetlinkAttributes;
use super::{conntrack, firewall, nftables};

/// Reads a listing of `nft`, which must be shown the same way twice.
pub(crate) fn listing(json: &str) {
    if let Ok(listing) = nftables::read_listing(json) {
        let again = nftables::read_listing(json).expect("it was read before");
        assert_eq!(listing.shape, again.shape);
        assert_eq!(listing.published, again.published);
    }
}

/// Reads attributes of netlink as a rule, as elements of a set, and as a flow.
pub(crate) fn attributes(bytes: &[u8]) {
    firewall::read_any(bytes);
    drop(conntrack::UdpFlow::read(NetlinkAttributes(bytes)));
}
