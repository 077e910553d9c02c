//! The spec: what was asked for one container. Values in here are valid: [`parse`] is the only door
//! for what comes from outside.
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

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::quantity::{ByteCount, CpuMillis};
use crate::reference::ImageReference;

mod fields;
pub mod parse;

/// Whether a field has its default, and so is left out of the stored form.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What was asked for one container, but for its name. Two specs with the same [`Spec::hash`] run the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The image to run.
    pub image: ImageReference,
    /// Whether to ask the registry although the image is there.
    pub image_pull: ImagePull,
    /// Ports reachable from outside; no container port twice for one protocol.
    pub ports: Vec<PortSpec>,
    /// What it may use at most.
    pub resources: Resources,
    /// Added to the image's environment, replacing the same keys.
    pub environment: BTreeMap<String, String>,
    /// Replaces the image's entrypoint, and with it the image's command. `None`: the image's.
    pub command: Option<Vec<String>>,
    /// Replaces the image's command. `None`: the image's, unless `command` is given.
    pub args: Option<Vec<String>>,
    /// Absolute. `None`: the image's.
    pub working_dir: Option<String>,
    /// `user[:group]`, each a name or a number. `None`: the image's.
    pub user: Option<String>,
    /// The operator's own labels.
    pub labels: BTreeMap<String, String>,
    /// What to do when its process ends.
    pub restart: Restart,
    /// How to ask it to end.
    pub stop: Stop,
    /// What it may do.
    pub security: Security,
    /// How much of its output is kept.
    pub logs: LogLimits,
}

/// When the registry is asked for the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePull {
    /// Only when the node lacks it.
    IfNotPresent,
    /// Once for each accepted change of the spec, so that a moved tag is followed then.
    Always,
    /// Never: the image must be on the node.
    Never,
}

/// A port of the container that the host publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// The port inside the container, 1 to 65535.
    pub container: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the host. `None`: one of the agent's range, chosen once and kept.
    pub host: Option<u16>,
    /// The host address it is published on. `None`: all of them.
    pub host_ip: Option<Ipv4Addr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Upper limits on what a container may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU time per second, at least 10 thousandths. `None`: as much as there is.
    pub cpu: Option<CpuMillis>,
    /// Memory without swap, at least 6 MiB. `None`: as much as there is.
    pub memory: Option<ByteCount>,
    /// Processes and threads at once, 1 to 4194304.
    pub pids: u32,
}

impl Default for Resources {
    /// Nothing but the number of processes is limited: enough for a busy server, far below the 32,768 of a small host.
    fn default() -> Self {
        Self {
            cpu: None,
            memory: None,
            pids: 4096,
        }
    }
}

/// What happens when the container's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// In which cases it is started again.
    pub policy: RestartPolicy,
    /// How often in a row at most. `None`: for ever, with growing waits.
    pub max_retries: Option<u32>,
}

impl Default for Restart {
    /// Whatever the exit code, for ever.
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Always,
            max_retries: None,
        }
    }
}

/// In which cases an ended process is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// When the exit code is not 0.
    OnFailure,
    /// Never.
    Never,
}

/// How a container is asked to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The signal's name, as in `SIGTERM`. `None`: the image's, or `SIGTERM`.
    pub signal: Option<Signal>,
    /// The grace between the signal and SIGKILL, 0 to 1 hour.
    pub timeout: Duration,
}

impl Default for Stop {
    /// The grace that docker and nerdctl give.
    fn default() -> Self {
        Self {
            signal: None,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A signal by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(u32);

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl Signal {
    /// 15, the default of POSIX `kill`.
    pub const TERM: Self = Self(15);
    /// 9, which cannot be caught.
    pub const KILL: Self = Self(9);

    /// The signal's number on Linux, 1 to 64.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl std::str::FromStr for Signal {
    type Err = String;

    /// Reads `SIGTERM`, `TERM`, `15`, and real-time signals as `SIGRTMIN+3` (34 + 3).
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = match name.strip_prefix("RTMIN") {
            Some("") => Some(34),
            Some(offset) => offset
                .strip_prefix('+')
                .and_then(|n| n.parse::<u32>().ok())
                .and_then(|n| n.checked_add(34)),
            None => (1..)
                .zip(SIGNALS)
                .find(|(_, known)| *known == name)
                .map(|(number, _)| number)
                .or_else(|| name.parse().ok()),
        };
        match number {
            Some(number @ 1..=64) => Ok(Self(number)),
            _ => Err(format!(
                "{text:?} is not a signal: write a name such as \"SIGTERM\", or a number from 1 to 64"
            )),
        }
    }
}

impl TryFrom<String> for Signal {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        let name = usize::try_from(signal.0)
            .ok()
            .and_then(|n| SIGNALS.get(n - 1));
        name.map_or_else(|| signal.0.to_string(), |name| format!("SIG{name}"))
    }
}

/// What a container may do beyond, or less than, the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Its root file system cannot be written.
    pub read_only_rootfs: bool,
    /// Capabilities it has, each as `CAP_…`; sorted. Computed from `add` and `drop`; never outside [`DEFAULT_CAPABILITIES`].
    pub capabilities: Capabilities,
}

/// The capabilities of a container's root user, by name (`CAP_…`), sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(pub Vec<String>);

/// What a container gets when nothing is asked: the set of docker and containerd.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

impl Default for Capabilities {
    fn default() -> Self {
        Self(
            DEFAULT_CAPABILITIES
                .iter()
                .map(|&name| name.to_owned())
                .collect(),
        )
    }
}

/// How much of a container's output is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A file that has grown to this is rotated; 64 KiB to 1 GiB.
    pub max_size: ByteCount,
    /// Files kept, the one being written among them; 1 to 100.
    pub max_files: u32,
}

impl Default for LogLimits {
    /// 50 MiB in all.
    fn default() -> Self {
        Self {
            max_size: ByteCount(10 << 20),
            max_files: 5,
        }
    }
}

impl Spec {
    /// Fingerprint of the spec: `sha256:` and 64 hex digits, the same on every node and in every
    /// version that knows the same fields.
    #[must_use]
    pub fn hash(&self) -> String {
        // Every map in a spec is sorted, so its JSON is canonical; and none of its types can fail
        // to serialise.
        crate::digest::sha256(&serde_json::to_vec(self).expect("a spec is plain data"))
    }
}
