//! The caller of a request, for whoever logs it or decides by it.

use std::fmt;
use std::net::IpAddr;

/// Caller of a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Other end of the connection.
    pub(super) peer: CallerPeer,
}

/// Other end of a caller's connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallerPeer {
    /// Address that the connection came from.
    Tcp(IpAddr),
}

impl fmt::Display for CallerPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
        }
    }
}
