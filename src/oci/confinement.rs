//! Confinement of a node's containers: what the node withholds, whatever their records ask for.

use state::spec::{Capabilities, DEFAULT_CAPABILITIES};

use super::host::{Cgroup, Host};
use super::lsm::{AppArmor, PROFILE, Selinux};

/// Limits that the node sets to every container. They take effect when its OCI spec is made: a
/// record keeps what was asked for, and a running container what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Capabilities that a container may have (`CAP_…`), if its record has them too.
    pub capabilities: Vec<String>,
    /// Whether 32 bit programs on x86 may make sockets by `socketcall`, where a filter cannot see
    /// their family.
    pub socketcall: bool,
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

    /// Layers of the confinement on this host, besides the capabilities.
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
            layer(
                "user_namespaces",
                false,
                "containers have the host's ids: containerd before 2.0 maps none",
            ),
        ]
    }

    /// Capabilities of those asked for that the node grants.
    pub(super) fn granted(&self, asked: &Capabilities) -> Vec<String> {
        let is_granted = |name: &&String| self.capabilities.contains(name);
        asked.0.iter().filter(is_granted).cloned().collect()
    }
}
