//! Confinement of a node's containers: what the node withholds, whatever their records ask for.

use std::ops::RangeInclusive;

use state::spec::{Capabilities, DEFAULT_CAPABILITIES, OWN_IDS};

use super::host::Host;
use super::host_ids;
use super::lsm::{AppArmor, PROFILE, Selinux};
use crate::cgroup::Cgroup;

/// Reason why no container has a user namespace where none is to have one.
const OFF: &str = "off by containers.user_namespaces, as by default on a node from before 0.2";

/// Limits that the node sets to every container. They take effect when its OCI spec is made: a
/// record keeps what was asked for, and a running container what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Capabilities that a container may have (`CAP_…`), if its record has them too.
    pub capabilities: Vec<String>,
    /// Whether 32 bit programs on x86 may make sockets by `socketcall`, where a filter cannot see
    /// their family.
    pub socketcall: bool,
    /// Ids of the host that containers may have for their own users and groups, a range each, where
    /// they can be mapped. `None`: every container has the host's ids.
    pub user_ids: Option<RangeInclusive<u32>>,
}

/// Ability of containerd and the kernel to map the ids of a container's users and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdMapping {
    /// containerd has not been asked yet.
    #[default]
    Unknown,
    /// The question failed, and is asked again with the next container. The fault in words.
    Unanswered(String),
    /// Both can.
    Able,
    /// Inability of one of them, and its reason.
    Unable(String),
}

/// Layer of the confinement of containers, as it is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfinementLayer {
    /// Name of the layer.
    pub name: &'static str,
    /// Whether it holds for containers that are created now.
    pub in_force: bool,
    /// Effect of the layer, or the reason why there is none.
    pub detail: String,
}

impl Confinement {
    /// Capabilities of docker's list that no container of this node has.
    #[must_use]
    pub fn withheld(&self) -> Vec<String> {
        let all = DEFAULT_CAPABILITIES.iter();
        let withheld = all.filter(|name| !self.capabilities.iter().any(|has| has == *name));
        withheld.map(|&name| name.to_owned()).collect()
    }

    /// Layers of the confinement on this host, besides the capabilities and the user namespaces.
    pub(crate) fn layers(&self, host: &Host) -> Vec<ConfinementLayer> {
        let layer = |name, in_force, detail: &str| ConfinementLayer {
            name,
            in_force,
            detail: detail.to_owned(),
        };
        let socketcall = if self.socketcall {
            "allowed"
        } else {
            "refused"
        };
        let seccomp = format!("moby's list; socketcall is {socketcall}");
        let apparmor = match host.modules.apparmor {
            AppArmor::Off => "AppArmor is not on in this kernel".to_owned(),
            AppArmor::NoProfile => format!("the profile {PROFILE} is not loaded"),
            AppArmor::Complaining => format!("the profile {PROFILE} only complains"),
            AppArmor::Enforcing => format!("the profile {PROFILE}"),
        };
        let selinux = match host.modules.selinux {
            Selinux::Off => "SELinux is not on in this kernel",
            Selinux::Permissive => "SELinux is permissive; containers get no label of their own",
            Selinux::Enforcing => "SELinux is enforcing; containers get no label of their own",
        };
        let is_enforced = host.modules.apparmor == AppArmor::Enforcing;
        let tunnels = match host.cgroup {
            Cgroup::V1 { .. } => layer("tunnels", true, "/dev/net/tun is withheld by the cgroup"),
            Cgroup::V2 if is_enforced => {
                layer("tunnels", true, "/dev/net/tun is withheld by AppArmor")
            }
            Cgroup::V2 => layer(
                "tunnels",
                false,
                "the OCI runtime grants /dev/net/tun on cgroup v2; an interface needs NET_ADMIN, \
                 which no container has",
            ),
        };
        vec![
            layer("seccomp", true, &seccomp),
            layer("apparmor", is_enforced, &apparmor),
            layer("selinux", false, selinux),
            tunnels,
        ]
    }

    /// Layer of the user namespaces, of which containerd has to tell.
    #[must_use]
    pub fn user_namespaces(&self, mapping: &IdMapping) -> ConfinementLayer {
        let hosts = host_ids::for_hosts_ids(&self.capabilities);
        let (in_force, detail) = match (&self.user_ids, mapping) {
            (None, _) => (false, OFF.to_owned()),
            (Some(_), IdMapping::Unknown) => {
                (false, "containerd has not been asked yet".to_owned())
            }
            (Some(_), IdMapping::Unable(reason) | IdMapping::Unanswered(reason)) => {
                (false, reason.clone())
            }
            (Some(_), IdMapping::Able) if !hosts.is_empty() => {
                let hosts = hosts.join(" and ");
                let detail = format!(
                    "only of containers that drop {hosts}, which this node grants and which count \
                     for the host's ids alone"
                );
                (false, detail)
            }
            (Some(ids), IdMapping::Able) => {
                let (number, first, last) = (OWN_IDS, ids.start(), ids.end());
                let detail =
                    format!("each container has {number} ids of its own out of {first}-{last}");
                (true, detail)
            }
        };
        ConfinementLayer {
            name: "user_namespaces",
            in_force,
            detail,
        }
    }

    /// Capabilities of those asked for that the node grants.
    pub(crate) fn granted(&self, asked: &Capabilities) -> Vec<String> {
        let is_granted = |name: &&String| self.capabilities.contains(name);
        asked.0.iter().filter(is_granted).cloned().collect()
    }
}
