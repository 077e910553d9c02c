//! Findings: states of the host that keep the network of containers from working although every
//! part that the agent made is right. The agent does not mend what others own; it tells.

/// State of the host that a person has to change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkFinding {
    /// Kind of state.
    pub kind: FindingKind,
    /// What was found, with names; and what would help.
    pub message: String,
}

/// Kind of a state of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// A host port of a container is published or listened on by another program as well.
    PortContested,
    /// An interface or a route has addresses of the containers' subnet.
    SubnetShared,
    /// A firewall drops the packets from and to containers.
    ForwardingBlocked,
    /// Containers have no name server.
    NoNameServer,
    /// The kernel's table of connections is full.
    ConnectionsFull,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::PortContested,
        Self::SubnetShared,
        Self::ForwardingBlocked,
        Self::NoNameServer,
        Self::ConnectionsFull,
    ];

    /// Name of the kind, as it appears in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PortContested => "PortContested",
            Self::SubnetShared => "SubnetShared",
            Self::ForwardingBlocked => "ForwardingBlocked",
            Self::NoNameServer => "NoNameServer",
            Self::ConnectionsFull => "ConnectionsFull",
        }
    }
}
