//! The spec: what was asked for one container. Values in here are valid: [`parse`] is the only door
//! for what comes from outside.
//!
//! Each section stands in a file of its own: its type, its default, how it is read from a deploy
//! body and how it is shown in one. A new section is such a file, a member of [`Spec`], and a line
//! in each half of `spec/body.rs`.
//!
//! # Stored forms live for ever
//!
//! A spec is stored with its record, stands in containerd's labels, and is hashed ([`Spec::hash`]).
//! A node is upgraded with its containers running, and may be downgraded again. So a field that is
//! added to any stored type ([`Spec`] and its sections, [`Record`](crate::desired::Record), the
//! marks, [`StoredHistory`](crate::history::StoredHistory)) has a default and is left out of the
//! stored form while it has it:
//!
//! ```text
//! #[serde(default, skip_serializing_if = "is_default")]
//! ```
//!
//! Without the first half an older record cannot be read, and its container is frozen; without the
//! second every spec gets another fingerprint. `state/tests/formats.rs` holds both, with files that
//! each past version wrote.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::reference::ImageReference;
use crate::seal::Sealed;

mod after;
pub mod body;
mod content;
pub mod devices;
mod disconnect;
mod elsewhere;
mod environment;
pub mod exec;
pub(crate) mod fields;
mod files;
mod health;
mod image;
mod interactive;
mod labels;
mod live;
mod logs;
pub mod names;
pub mod network;
pub mod parse;
mod ports;
mod process;
mod resources;
mod restart;
mod runtime;
mod schedule;
pub mod schema;
pub mod secrets;
mod security;
mod shm;
mod signal;
mod sketch;
mod stop;
pub mod sysctls;
mod ulimits;
mod update;
mod volumes;

pub use after::{After, AfterCondition};
pub use content::{Content, ContentTag};
pub use devices::Device;
pub use disconnect::OnDisconnect;
pub use files::FileSpec;
pub use health::{Health, HealthCheck, HttpProbe, OnFailure, Probe, StatusRange};
pub use image::ImagePull;
pub use logs::LogLimits;
pub use names::Names;
pub use network::Network;
pub use ports::{PortSpec, Protocol};
pub use resources::{CpuList, DiskLimits, Resources, SwapLimit};
pub use restart::{Restart, RestartPolicy};
pub use runtime::RuntimeClass;
pub use schedule::{Concurrency, MissedRuns, Schedule};
pub use secrets::{OnChange, SecretName, SecretUse};
pub use security::{
    CAPABILITIES, Capabilities, DEFAULT_CAPABILITIES, OWN_IDS, Security, UserNamespace,
};
pub use shm::ShmSize;
pub use signal::Signal;
pub use stop::Stop;
pub use sysctls::Sysctls;
pub use ulimits::{Ulimit, UlimitName, Ulimits};
pub use update::{Strategy, UpdateRules};
pub use volumes::{Propagation, VolumeMount, VolumeName, VolumeSource, host_path};

/// Whether a field has its default, and is therefore left out of the stored form.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Spec of one container, without its name. Two containers whose specs have one [`Spec::hash`] run
/// the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The image to run.
    pub image: ImageReference,
    /// Whether the registry is asked although the image is on the node.
    pub image_pull: ImagePull,
    /// Ports reachable from outside; no container port twice for one protocol.
    pub ports: Vec<PortSpec>,
    /// Limits on what the container may use.
    pub resources: Resources,
    /// Variables added to the image's environment, readable: as they come in, and in records of
    /// older versions. The store seals them. `None`: it has values that an older version would drop in
    /// silence; without this member that one cannot read the record, and leaves the container alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<BTreeMap<String, String>>,
    /// Command in place of the image's entrypoint and command. `None`: the image's.
    pub command: Option<Vec<String>>,
    /// Arguments in place of the image's command. `None`: the image's, unless `command` is given.
    pub args: Option<Vec<String>>,
    /// Working directory, absolute. `None`: the image's.
    pub working_dir: Option<String>,
    /// User as `user[:group]`, each a name or a number. `None`: the image's.
    pub user: Option<String>,
    /// The operator's own labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the container is started again when its task ends.
    pub restart: Restart,
    /// Signal and grace by which the container is stopped.
    pub stop: Stop,
    /// Privileges of the container.
    pub security: Security,
    /// Limits on the container's log files.
    pub logs: LogLimits,
    /// Groups of the container, and whom else it reaches and is reached by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// Limits of the kernel on each process.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: Ulimits,
    /// Size of the shared memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shm_size: ShmSize,
    /// Likelihood that the kernel kills it where the host lacks memory, 0 to 1000
    /// (`oom_score_adj`). `None`: the least that the node gives.
    #[serde(default, skip_serializing_if = "is_default")]
    pub oom_score: Option<u16>,
    /// Whether a program of the agent is its first process, which hands signals on to its own and reaps
    /// what ends in it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub init: bool,
    /// Whether its first process waits for a caller who runs its program in a session, with an input and
    /// a terminal of the caller's own, and ends with it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interactive: bool,
    /// Names inside, and names that it is told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub names: Names,
    /// Groups of its process besides those of its user, each a name or a number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub groups: BTreeSet<String>,
    /// Switches of the kernel in the container's own namespaces.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sysctls: Sysctls,
    /// Runtime of the node that runs it. `None`: the node's own choice.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime: Option<RuntimeClass>,
    /// Devices of the host, of which no two are at one path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub devices: Vec<Device>,
    /// Volumes, of which no two are at one path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volumes: Vec<VolumeMount>,
    /// Variables added to the image's environment, sealed; they replace those of the same name. No
    /// name is in [`environment`](Self::environment) as well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sealed_environment: BTreeMap<String, Sealed>,
    /// Files whose contents the deploy body gives.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: Vec<FileSpec>,
    /// Secrets of the node that it uses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets: Vec<SecretUse>,
    /// Containers that it waits for at its first start, of which no two have one name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: Vec<After>,
    /// The probe by which it shows that it works. `None`: the image's own HEALTHCHECK, if it has one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: Option<Health>,
    /// Manner in which it takes the place of the generation before.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: UpdateRules,
    /// Times at which it runs, and ends. `None`: it runs as long as it is to run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Option<Schedule>,
    /// Conduct while CHaS does not answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_disconnect: OnDisconnect,
}

impl Spec {
    /// Fingerprint of the spec: `sha256:` and 64 hex digits, the same in every version that knows the
    /// same fields; and on every node, but for a spec with values that are sealed with a node's key.
    #[must_use]
    pub fn hash(&self) -> String {
        // Every map in a spec is sorted, so its JSON is canonical; and none of its types can fail
        // to serialise.
        crate::digest::sha256(&serde_json::to_vec(self).expect("a spec is plain data"))
    }
}
