//! Errors of the network, and the failure that each is shown as.

use std::error::Error;

use state::desired::PortBinding;
use state::failure::Failure;
use state::reason::Reason;

use crate::cause;

/// Error of the network, cut by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another process, rule or container has the host port: wait until it is free, or for a spec
    /// with another one.
    #[error("host port {}/{} is in use by {by}", binding.host, binding.protocol.as_str())]
    PortTaken {
        /// Binding of the assignment that is taken.
        binding: PortBinding,
        /// Holder of the port, in words.
        by: String,
    },
    /// The kernel, `nft` or the file system refused: try again later.
    #[error("{what}")]
    Failed {
        /// Part of the network that failed.
        part: Part,
        /// Action that was tried, in words.
        what: String,
        /// Cause.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Part of the network that failed: where a person has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Netns, or the file that names it.
    Netns,
    /// Bridge, or the veth pair between a container and it.
    Bridge,
    /// Table of host ports, or the rules for forwarding.
    Firewall,
    /// Hosts files.
    Names,
    /// Sysctls that a container asks for.
    Sysctls,
    /// No part alone: threads, sockets.
    Whole,
}

impl NetworkError {
    pub(super) fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            part: Part::Whole,
            what: what.into(),
            source: source.into(),
        }
    }

    /// Same error, as one of `part` unless it is known to be another's.
    #[must_use]
    pub(super) fn of(self, part: Part) -> Self {
        match self {
            Self::Failed {
                part: Part::Whole,
                what,
                source,
            } => Self::Failed { part, what, source },
            other @ (Self::Failed { .. } | Self::PortTaken { .. }) => other,
        }
    }

    const fn reason(&self) -> Reason {
        match self {
            Self::PortTaken { .. } => Reason::PortTaken,
            Self::Failed {
                part: Part::Netns, ..
            } => Reason::NetnsFailed,
            Self::Failed {
                part: Part::Bridge, ..
            } => Reason::BridgeFailed,
            Self::Failed {
                part: Part::Firewall,
                ..
            } => Reason::FirewallFailed,
            Self::Failed {
                part: Part::Names, ..
            } => Reason::NameFilesFailed,
            Self::Failed {
                part: Part::Sysctls,
                ..
            } => Reason::SysctlRefused,
            Self::Failed {
                part: Part::Whole, ..
            } => Reason::NetworkError,
        }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        Self::new(error.reason(), cause::all(&error))
    }
}

#[cfg(test)]
mod tests {
    use state::spec::Protocol;

    use super::*;

    #[test]
    fn an_error_tells_the_whole_chain_and_its_reason() {
        let error =
            NetworkError::failed("cannot do it", std::io::Error::other("the kernel is tired"));
        assert_eq!(
            Failure::from(error),
            Failure::new(Reason::NetworkError, "cannot do it: the kernel is tired")
        );

        for (part, expected) in [
            (Part::Netns, Reason::NetnsFailed),
            (Part::Bridge, Reason::BridgeFailed),
            (Part::Firewall, Reason::FirewallFailed),
            (Part::Names, Reason::NameFilesFailed),
            (Part::Sysctls, Reason::SysctlRefused),
            (Part::Whole, Reason::NetworkError),
        ] {
            let error =
                NetworkError::failed("cannot do it", std::io::Error::other("the kernel is tired"))
                    .of(part);
            assert_eq!(
                error.of(Part::Bridge).reason(),
                if part == Part::Whole {
                    Reason::BridgeFailed
                } else {
                    expected
                }
            );
        }

        let binding = PortBinding {
            host_ip: None,
            host: 8080,
            container: 80,
            protocol: Protocol::Udp,
        };
        let Failure {
            reason, message, ..
        } = NetworkError::PortTaken {
            binding,
            by: "container 0123456789ab".to_owned(),
        }
        .into();
        assert_eq!(reason, Reason::PortTaken);
        assert!(
            message.starts_with("host port 8080/udp is in use by container 0123"),
            "{message}"
        );
    }
}
