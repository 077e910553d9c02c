//! The desired state, as the store keeps it: one [`Record`] a container, and marks beside them.
//!
//! Every type here is stored, in the store's files and (the record) in containerd's labels, and
//! stored forms live for ever: see the rule in [`crate::spec`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, ContainerName, InstanceName};
use crate::reason::Reason;
use crate::reference::ImageReference;
use crate::spec::{ImagePull, Protocol, Spec, is_default};
use job::Job;
use rolled_back::RolledBack;
use tag_check::TagCheck;
use update::Update;

pub mod answer;
pub mod applied;
pub mod chronicle;
pub mod job;
pub mod marks;
pub mod rolled_back;
pub mod set;
pub mod tag_check;
pub mod uncertain;
pub mod update;

/// The stored entries, as names and JSON: the content of every copy of the desired state, whatever
/// its form.
pub type Entries = BTreeMap<String, serde_json::Value>;

/// Desired entry of a container: the spec as asked, and all that was decided when it was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Id, given at the first deploy and kept for the life of the name.
    pub id: ContainerId,
    /// Name that the operator gave.
    pub name: ContainerName,
    /// Spec as it was asked for.
    pub spec: Spec,
    /// [`Spec::hash`] of the spec, as the version that accepted it computed it.
    pub spec_hash: String,
    /// Owner of the container.
    pub owner: Owner,
    /// Number of accepted changes of the spec, from 1.
    pub generation: u64,
    /// Generation that the record's instance was made as, and is named by. `None`: this one. It is
    /// an earlier one where only live parts of the spec have changed since (see
    /// [`Spec::can_become`]): then the instance goes on, and is brought up to this generation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub made_at: Option<u64>,
    /// The caller's own number for this spec, if it gave one.
    pub revision: Option<u64>,
    /// [`Desired::seq`](set::Desired::seq) of the last accepted change: orders changes where no
    /// clock can.
    pub seq: u64,
    /// Whether the container should run.
    pub run: RunState,
    /// Priority, 0 to 100; higher starts first.
    pub priority: u8,
    /// Whether the container is to be stopped, removed and forgotten.
    pub removing: bool,
    /// Whether a restart was asked for and has not been done.
    pub restart_pending: bool,
    /// Number of restarts that were asked for of this instance. The instance is told it with its start,
    /// and shows by it that the restart was done, whoever could not note that any more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restarts_asked: u64,
    /// End of the container, where its restart policy leaves it so until it is started,
    /// restarted or changed.
    pub finished: Option<Finished>,
    /// Address and host ports.
    pub assignment: Assignment,
    /// Whether the container came while the node was cordoned, and waits for the end of that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cordoned: bool,
    /// Fingerprint of the body by which CHaS lists the container, where it does. By it the guard
    /// tells a change that CHaS asks for from one that only this agent makes of the same body.
    #[serde(default, skip_serializing_if = "is_default")]
    pub listed_hash: Option<String>,
    /// Digest that the image reference was resolved to for this generation. `None`: not yet.
    pub image_digest: Option<String>,
    /// Whether this generation ran long enough to be worth going back to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_proven: bool,
    /// Image to go back to, which stays on the node: that of the last proven generation with another
    /// one. `None`: there was none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub former_image: Option<FormerImage>,
    /// Last question to the registry what the image's tag stands for. `None`: none since this
    /// generation was resolved.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tag_check: Option<TagCheck>,
    /// Update by which this generation takes the place of the one before, while it is under way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: Option<Update>,
    /// Generation that was given up, so that this one is that before it. `None`: none since another
    /// body was asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rolled_back: Option<RolledBack>,
    /// Whether a generation before is ended without waiting for others: somebody may wait for a host
    /// port of it, or it was to be removed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replaces_at_once: bool,
    /// Runs, of a container with a schedule. `None`: it has none, or nobody has looked at it yet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub job: Option<Job>,
    /// First deploy of the name, milliseconds since 1970. For showing.
    pub created_ms: u64,
    /// Whether a later change of it may be lost: see [`uncertain::LostChanges`]. Not stored here.
    #[serde(skip)]
    pub is_uncertain: bool,
}

/// Image that a container ran before its present one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerImage {
    /// Reference, as it was asked for.
    pub reference: ImageReference,
    /// Digest that it was resolved to.
    pub digest: String,
}

impl Record {
    /// Asks for a restart, apart from any that was asked for before. The number is above `floor`,
    /// which grows with every change or with time: an older agent, which knows no numbers, stores a
    /// record without the last one, and the container's label keeps it.
    pub fn ask_restart(&mut self, floor: u64) {
        self.restart_pending = true;
        self.restarts_asked = self.restarts_asked.max(floor).saturating_add(1);
    }

    /// Notes that the restart with this number was done. One that was asked for since is still to be.
    pub const fn note_restarted(&mut self, number: u64) {
        if self.restarts_asked == number {
            self.restart_pending = false;
        }
    }

    /// Image to go back to from a successor that asks for `next`: this one, if it was proven, or
    /// there is no better one. A tag that is asked for anew may stand for another image by now.
    #[must_use]
    pub fn former_image_for(&self, next: &Spec) -> Option<FormerImage> {
        let is_asked_anew = next.image_pull == ImagePull::Always && next.image.digest().is_none();
        self.former_image_if(is_asked_anew || self.spec.image != next.image)
    }

    /// Image to go back to once the tag stands for the digest `next`; chosen in the same way.
    #[must_use]
    pub fn former_image_before(&self, next: &str) -> Option<FormerImage> {
        self.former_image_if(self.image_digest.as_deref() != Some(next))
    }

    fn former_image_if(&self, is_another: bool) -> Option<FormerImage> {
        let former = self.former_image.as_ref();
        let own = self
            .image_digest
            .as_ref()
            .filter(|_| is_another && (self.is_proven || former.is_none()));
        match own {
            Some(digest) => Some(FormerImage {
                reference: self.spec.image.clone(),
                digest: digest.clone(),
            }),
            None => former.cloned(),
        }
    }

    /// Whether the tag of the image is asked for anew without a change. An image that is not
    /// resolved is asked for anyway; one that was gone back to stays until somebody asks for another:
    /// the tag may stand for the one that was given up.
    #[must_use]
    pub fn follows_tag(&self) -> bool {
        self.rolled_back.is_none()
            && self.spec.image_pull == ImagePull::Always
            && self.spec.image.digest().is_none()
            && self.image_digest.is_some()
    }

    /// Whether the registry is still to be asked what the image's tag stands for now.
    #[must_use]
    pub fn is_tag_unchecked(&self) -> bool {
        self.tag_check.as_ref().is_some_and(TagCheck::is_open)
    }

    /// Whether the instance of this record can carry `next` on its network place, so that it goes
    /// on. A container that is being removed is not taken back: its successor is another one.
    #[must_use]
    pub fn can_become(&self, next: &Spec, assignment: &Assignment) -> bool {
        !self.removing && self.assignment == *assignment && self.spec.can_become(next)
    }

    /// `ETag` of the container (RFC 9110, 8.8.3) without its quotes: another one after each accepted
    /// change and order, and none by what the agent does of itself.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{}-{}-{}", self.id, self.generation, self.seq)
    }

    /// The name of this record's instance in the runtime.
    #[must_use]
    pub const fn instance(&self) -> InstanceName {
        let generation = match self.made_at {
            Some(earlier) => earlier,
            None => self.generation,
        };
        InstanceName {
            id: self.id,
            generation,
        }
    }
}

/// End of a container that is not started again. Stored, so that no restart of agent or node loses
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: u32,
    /// Reason why it stays ended: `Completed`, `RetriesExhausted`, or
    /// [`Exit::reason`](crate::observed::Exit::reason).
    pub reason: Reason,
    /// Time of the end, milliseconds since 1970. For showing.
    pub at_ms: u64,
}

/// Owner of a container: the one who may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The callers that push over HTTP.
    Push,
    /// The CHaS API.
    Chas,
}

/// Whether a container should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// The container should run.
    Running,
    /// The container should not run; its network and files are kept.
    Stopped,
}

/// A container's place on the network, kept for its life, over restarts and reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Address of the container, as the node's network answered it. `None`: it answers when the
    /// container is connected for the first time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: Option<Ipv4Addr>,
    /// Address in the IPv6 subnet, if the container has had one since its last start.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address6: Option<Ipv6Addr>,
    /// Published ports, each with a host port.
    pub ports: Vec<PortBinding>,
}

impl Assignment {
    /// The same place at another address.
    #[must_use]
    pub fn at(&self, addresses: Addresses) -> Self {
        Self {
            address: Some(addresses.address),
            address6: addresses.address6,
            ports: self.ports.clone(),
        }
    }
}

/// Addresses of a container, as the node's network answers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Address in the IPv4 subnet.
    pub address: Ipv4Addr,
    /// Address in the IPv6 subnet. `None`: it has none.
    pub address6: Option<Ipv6Addr>,
}

impl From<Ipv4Addr> for Addresses {
    fn from(address: Ipv4Addr) -> Self {
        Self {
            address,
            address6: None,
        }
    }
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortBinding {
    /// Host address that the port is published on; `::` is every IPv6 one. `None`: all of them.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host: u16,
    /// Port inside the container.
    pub container: u16,
    /// Protocol of both.
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
            made_at: None,
            revision: None,
            seq: 1,
            run: RunState::Running,
            priority: 50,
            removing: false,
            restart_pending: false,
            restarts_asked: 0,
            finished: None,
            cordoned: false,
            listed_hash: None,
            assignment: Assignment {
                address: Some(Ipv4Addr::new(10, 0, 0, 2)),
                address6: None,
                ports: Vec::new(),
            },
            image_digest: Some("sha256:00".to_owned()),
            is_proven: false,
            former_image: None,
            tag_check: None,
            update: None,
            rolled_back: None,
            replaces_at_once: false,
            job: None,
            created_ms: 0,
            is_uncertain: false,
        }
    }
}
