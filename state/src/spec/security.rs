//! Security section: what a container may do beyond, or less than, the default.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, boolean, each, text};

/// Capabilities of a container by default: the set of docker and containerd.
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

/// Every capability of Linux, in the order of their numbers (linux/capability.h).
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Number of ids of the host that a container has for its own users and groups: all that the accounts
/// of an image have, `nobody` among them.
pub const OWN_IDS: u32 = 1 << 16;

/// Privileges of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Whether the container's root file system is read-only.
    pub read_only_rootfs: bool,
    /// Capabilities that the container has, computed from `add` and `drop`.
    pub capabilities: Capabilities,
    /// Whether no program may gain what its caller has not, as setuid programs do (`no_new_privs`
    /// of prctl(2)). A node has to permit `false`.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub no_new_privileges: bool,
    /// Ids of the container's users and groups on the host.
    #[serde(default, skip_serializing_if = "UserNamespace::is_auto")]
    pub user_namespace: UserNamespace,
}

/// Ids that the users and groups of a container have on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserNamespace {
    /// Ids of the container's own, where the node can map them.
    #[default]
    Auto,
    /// The same ids as in the container.
    Host,
}

impl UserNamespace {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    const fn is_auto(&self) -> bool {
        matches!(self, Self::Auto)
    }
}

const fn yes() -> bool {
    true
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_true(value: &bool) -> bool {
    *value
}

impl Default for Security {
    fn default() -> Self {
        Self {
            read_only_rootfs: false,
            capabilities: Capabilities::default(),
            no_new_privileges: true,
            user_namespace: UserNamespace::Auto,
        }
    }
}

/// Capabilities of a container's root user, by name (`CAP_…`); sorted, and never outside
/// [`CAPABILITIES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(pub Vec<String>);

impl Default for Capabilities {
    fn default() -> Self {
        Self::of_default(|_| true)
    }
}

impl Security {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let read_only_rootfs = fields.read("read_only_rootfs", boolean);
        let capabilities = fields.object("capabilities", Capabilities::read);
        let no_new_privileges = fields.read("no_new_privileges", boolean);
        let namespaces = [("auto", UserNamespace::Auto), ("host", UserNamespace::Host)];
        let user_namespace = fields.choice("user_namespace", &namespaces);
        Some(Self {
            read_only_rootfs: read_only_rootfs.unwrap_or_default(),
            capabilities: capabilities.unwrap_or_default(),
            no_new_privileges: no_new_privileges.unwrap_or(true),
            user_namespace: user_namespace.unwrap_or_default(),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "read_only_rootfs": self.read_only_rootfs,
            "capabilities": {"add": self.capabilities.0, "drop": ["ALL"]},
            "no_new_privileges": self.no_new_privileges,
            "user_namespace": self.user_namespace,
        })
    }
}

impl Capabilities {
    /// The default capabilities that `keep` lets pass.
    fn of_default(keep: impl Fn(&str) -> bool) -> Self {
        let names = DEFAULT_CAPABILITIES.iter().filter(|name| keep(name));
        Self(names.map(|&name| name.to_owned()).collect())
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let add = names(fields, "add");
        let drop = names(fields, "drop");
        for (index, name) in add.iter().enumerate() {
            if name == "CAP_ALL" {
                let message = "is more than any container may have; name each that it needs";
                fields.fault(&format!("add[{index}]"), message);
            } else if is_word(name) && !CAPABILITIES.contains(&name.as_str()) {
                let message = format!("{name} is not a capability of Linux, such as \"NET_ADMIN\"");
                fields.fault(&format!("add[{index}]"), &message);
            }
        }
        let lists = |names: &[String], name: &str| names.iter().any(|listed| listed == name);
        let drops_all = lists(&drop, "CAP_ALL");
        let kept = Self::of_default(|name| lists(&add, name) || !(drops_all || lists(&drop, name)));
        let all: BTreeSet<_> = kept.0.into_iter().chain(add).collect();
        Some(Self(all.into_iter().collect()))
    }
}

/// Capability names with or without `CAP_`, in any case, as `CAP_…`.
fn names(fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
    let names = fields.read(key, upper_case_names).unwrap_or_default();
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !is_word(name)) {
        fields.fault(
            &format!("{key}[{index}]"),
            &format!("{name:?} is not the name of a capability, such as \"NET_RAW\" or \"ALL\""),
        );
    }
    names.into_iter().map(with_prefix).collect()
}

fn upper_case_names(value: &Value) -> Result<Vec<String>, String> {
    each(value, 64, |item| text(item).map(str::to_ascii_uppercase))
}

fn is_word(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn with_prefix(name: String) -> String {
    if name.starts_with("CAP_") {
        name
    } else {
        format!("CAP_{name}")
    }
}
