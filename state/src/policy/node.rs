//! Privileges that the node's configuration gives to containers, whatever the policy's file says.

use std::collections::BTreeSet;

use super::Denial;
use super::host_paths::{self, HostPathGrant};
use super::patterns::TextPattern;
use crate::spec::network::NetworkMode;
use crate::spec::{DEFAULT_CAPABILITIES, RuntimeClass, Spec};

pub(super) const NEW_PRIVILEGES: &str = "new-privileges";
pub(super) const NODE_CAPABILITIES: &str = "node-capabilities";
pub(super) const HOST_NETWORK: &str = "host-network";
pub(super) const NODE_DEVICES: &str = "node-devices";
pub(super) const NODE_HOST_PATHS: &str = "node-host-paths";
pub(super) const NODE_RUNTIMES: &str = "node-runtimes";

/// The configured part of the policy, which is in force whatever the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePrivileges {
    /// Whether a container may ask for `security.no_new_privileges: false`.
    pub new_privileges: bool,
    /// Whether a container may have the host's network.
    pub host_network: bool,
    /// Devices that the node gives.
    pub devices: Vec<TextPattern>,
    /// Paths of the host that the node gives as volumes.
    pub host_paths: Vec<HostPathGrant>,
    /// Names of the node's runtimes besides its own choice.
    pub runtimes: BTreeSet<String>,
    /// Capabilities that the node gives, as `CAP_…`; others that a spec names are withheld anyway.
    pub capabilities: BTreeSet<String>,
}

impl Default for NodePrivileges {
    fn default() -> Self {
        Self {
            new_privileges: false,
            host_network: false,
            devices: Vec::new(),
            host_paths: Vec::new(),
            runtimes: BTreeSet::new(),
            capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).into(),
        }
    }
}

impl NodePrivileges {
    /// Denials of what the node does not permit.
    pub(super) fn denials(&self, spec: &Spec) -> Vec<Denial> {
        let mut denials = Vec::new();
        if !spec.security.no_new_privileges && !self.new_privileges {
            denials.push(Denial::new(
                NEW_PRIVILEGES,
                "security.no_new_privileges",
                "false is not permitted on this node; leave it out, or set \
                 containers.allow_new_privileges to true in the node's configuration",
            ));
        }
        if spec.network.mode == NetworkMode::Host && !self.host_network {
            denials.push(Denial::new(
                HOST_NETWORK,
                "network",
                "\"host\" is not permitted on this node; leave it out, or set \
                 containers.allow_host_network to true in the node's configuration",
            ));
        }
        denials.extend(self.ungranted(spec));
        denials.extend(self.other_devices(spec));
        denials.extend(self.other_host_paths(spec));
        let other = spec.runtime.iter();
        denials.extend(other.filter_map(|class| self.other_runtime(class)));
        denials
    }

    fn other_devices(&self, spec: &Spec) -> impl Iterator<Item = Denial> {
        let devices = spec.devices.iter().enumerate();
        devices.filter_map(|(index, device)| {
            let name = device.permitted_as();
            let is_given = self.devices.iter().any(|given| given.fits(&name));
            let message = format!(
                "{name} is no device that this node gives to containers; leave it out, or add it to \
                 containers.devices in the node's configuration"
            );
            (!is_given).then(|| Denial::new(NODE_DEVICES, format!("devices[{index}]"), message))
        })
    }

    fn other_host_paths(&self, spec: &Spec) -> impl Iterator<Item = Denial> {
        let faults = host_paths::faults(&self.host_paths, spec).into_iter();
        faults.map(|(field, fault)| {
            let message = format!(
                "{fault}; or add it to containers.host_paths in the node's configuration, which \
                 says what this node gives"
            );
            Denial::new(NODE_HOST_PATHS, field, message)
        })
    }

    fn other_runtime(&self, class: &RuntimeClass) -> Option<Denial> {
        if self.runtimes.contains(class.as_str()) {
            return None;
        }
        let known: Vec<&str> = self.runtimes.iter().map(String::as_str).collect();
        let known = if known.is_empty() {
            "it has no other than the default".to_owned()
        } else {
            format!("it has default, {}", known.join(", "))
        };
        let message = format!(
            "{class} is no runtime of this node: {known}; leave it out, or add it to \
             containers.runtimes in the node's configuration"
        );
        Some(Denial::new(NODE_RUNTIMES, "runtime", message))
    }

    /// Denials of what needs a capability that the node does not give.
    fn ungranted(&self, spec: &Spec) -> Vec<Denial> {
        let limits = spec.ulimits.iter();
        let needed = limits.filter_map(|(name, limit)| {
            let capability = name.required_capability(*limit)?;
            Some((format!("ulimits.{}", name.as_str()), capability))
        });
        let lacking = needed.filter(|(_, capability)| !self.capabilities.contains(*capability));
        // Docker's own are left out in silence: who asks for nothing has them in the spec.
        let is_refused = |name: &&String| {
            !DEFAULT_CAPABILITIES.contains(&name.as_str()) && !self.capabilities.contains(*name)
        };
        let added = spec.security.capabilities.0.iter().filter(is_refused);
        let added = added.map(|name| ("security.capabilities.add".to_owned(), name.as_str()));
        lacking
            .chain(added)
            .map(|(field, capability)| {
                let message = format!(
                    "needs {capability}, which this node does not give; leave it out, or add the \
                     capability to containers.capabilities in the node's configuration"
                );
                Denial::new(NODE_CAPABILITIES, field, message)
            })
            .collect()
    }
}
