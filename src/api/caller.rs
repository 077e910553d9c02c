//! The caller of a request, for whoever logs it, counts it or decides by it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use crate::audit::AuditCall;

tokio::task_local! {
    /// The call that this task answers.
    pub(super) static CALL: AuditCall;
}

/// The call that this task answers, for the audit.
pub(crate) fn current_call() -> AuditCall {
    CALL.try_with(Clone::clone)
        .unwrap_or_else(|_| AuditCall::of("agent"))
}

/// Caller of a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Other end of the connection.
    pub(super) peer: CallerPeer,
    /// Certificate that it has shown.
    pub(super) shown: Arc<ShownCertificate>,
}

/// Certificate that a caller has shown, having its key.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShownCertificate {
    /// Names in it, as they are compared.
    pub(super) names: Vec<String>,
    /// The last moment at which it counts.
    pub(super) last: Option<SystemTime>,
    /// End of the belief in its authorities.
    pub(super) distrusted: CancellationToken,
}

#[cfg(test)]
impl Caller {
    /// A caller that has shown no certificate.
    pub(super) fn of(peer: CallerPeer) -> Self {
        let shown = Arc::default();
        Self { peer, shown }
    }
}

/// Other end of a caller's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallerPeer {
    /// Address that the connection came from.
    Tcp(IpAddr),
    /// Process of this host, on the socket; the kernel vouches for it.
    Socket {
        /// User that it runs as.
        uid: u32,
        /// Number of the process. `None`: it is of another namespace.
        pid: Option<i32>,
    },
}

/// Caller as limits count it: one host, or everybody on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CallerKey {
    /// Address of a host; of IPv6 the network of 64 bits, all of which one host may use. This
    /// host is one caller, whichever of its loopback addresses it calls from.
    Host(IpAddr),
    /// Everybody on the socket.
    Socket,
}

impl CallerPeer {
    /// Whether it is root on the socket, whose places nobody on the network takes.
    pub(super) const fn is_local(self) -> bool {
        matches!(self, Self::Socket { .. })
    }

    /// The caller as limits count it.
    pub(super) fn key(self) -> CallerKey {
        let address = match self {
            Self::Socket { .. } => return CallerKey::Socket,
            Self::Tcp(address) => address.to_canonical(),
        };
        CallerKey::Host(match address {
            address if address.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
        })
    }
}

impl fmt::Display for CallerPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Socket {
                uid,
                pid: Some(pid),
            } => write!(f, "uid {uid} pid {pid}"),
            Self::Socket { uid, pid: None } => write!(f, "uid {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_an_address_or_the_network_of_a_host_and_this_host_is_one() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("127.0.0.1", "127.9.9.9", true),
            ("127.0.0.1", "::1", true),
            ("::1", "::2", false),
        ] {
            let key = |text: &str| CallerPeer::Tcp(text.parse().unwrap()).key();
            assert_eq!(key(one) == key(other), same, "{one} {other}");
        }
    }
}
