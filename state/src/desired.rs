//! What the node is asked to run: one [`Record`] a container, as the store keeps it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, ContainerName, InstanceName};
use crate::reason::Reason;
use crate::spec::{Protocol, Spec};

pub mod marks;
pub mod pulled;
pub mod set;

/// One container that was asked for, with all that was decided about it when it was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Given at the first deploy, kept for the life of the name.
    pub id: ContainerId,
    /// The operator's name.
    pub name: ContainerName,
    /// What was asked.
    pub spec: Spec,
    /// [`Spec::hash`] of it.
    pub spec_hash: String,
    /// Whose word it is.
    pub owner: Owner,
    /// Counts accepted changes of the spec, from 1.
    pub generation: u64,
    /// The caller's own number for this spec, if it gave one.
    pub revision: Option<u64>,
    /// The store's counter at the last accepted change: orders changes where no clock can.
    pub seq: u64,
    /// Whether it should run.
    pub run: RunState,
    /// 0 to 100; higher starts first.
    pub priority: u8,
    /// It is to be stopped, taken away and forgotten.
    pub removing: bool,
    /// A restart was asked for and has not been done.
    pub restart_pending: bool,
    /// It ended and its restart policy leaves it so, until it is started, restarted or changed.
    pub finished: Option<Finished>,
    /// Its place on the network.
    pub assignment: Assignment,
    /// It came to the node while that took nothing new, and is not started until it does again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// What the image reference meant when it was resolved for this generation. `None`: not resolved yet.
    pub image_digest: Option<String>,
    /// When the name was first deployed, milliseconds since 1970. For showing.
    pub created_ms: u64,
}

impl Record {
    /// The name of this record's generation in the runtime.
    #[must_use]
    pub const fn instance(&self) -> InstanceName {
        InstanceName {
            id: self.id,
            generation: self.generation,
        }
    }
}

/// How a container ended that is not to be started again. On disk, so that no restart of agent or node forgets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The exit code.
    pub code: u32,
    /// Why it stays ended: `Completed`, `RetriesExhausted`, or what [`crate::observed::Exit::reason`] calls it.
    pub reason: Reason,
    /// When it ended, milliseconds since 1970. For showing.
    pub at_ms: u64,
}

/// Who wrote a record, and so who may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// It was pushed over HTTP.
    Push,
    /// It was pulled from the CHaS API.
    Chas,
}

/// Whether a container should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It should.
    Running,
    /// It should not, though its network and files are kept.
    Stopped,
}

/// A container's place on the network, given when it is accepted and kept for its life, over restarts and reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its address on the bridge.
    pub address: Ipv4Addr,
    /// Its published ports, each with a host port.
    pub ports: Vec<PortBinding>,
}

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortBinding {
    /// The host address it is published on. `None`: all of them.
    pub host_ip: Option<Ipv4Addr>,
    /// The port on the host.
    pub host: u16,
    /// The port inside the container.
    pub container: u16,
    /// Their protocol.
    pub protocol: Protocol,
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A record of a plain container, at generation 1, its image resolved.
    pub(crate) fn record(name: &str, bits: u64) -> Record {
        let deploy = crate::spec::parse::deploy(&json!({"name": name, "image": "nginx"})).unwrap();
        Record {
            id: ContainerId::from_bits(bits),
            name: deploy.name,
            spec_hash: deploy.spec.hash(),
            spec: deploy.spec,
            owner: Owner::Push,
            generation: 1,
            revision: None,
            seq: 1,
            run: RunState::Running,
            priority: 50,
            removing: false,
            restart_pending: false,
            finished: None,
            cordoned: false,
            assignment: Assignment {
                address: Ipv4Addr::new(10, 0, 0, 2),
                ports: Vec::new(),
            },
            image_digest: Some("sha256:00".to_owned()),
            created_ms: 0,
        }
    }
}
