//! Rules of a policy: for whom each is, and its bounds.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::host_paths::{self, HostPathGrant};
use super::images::ImagePattern;
use super::names::NamePattern;
use super::patterns::TextPattern;
use super::ports::{self, PortGrant};
use super::signers::Signers;
use super::{Denial, NodePrivileges};
use crate::desired::Owner;
use crate::id::ContainerName;
use crate::quantity::{ByteCount, CpuMillis};
use crate::reference::ImageReference;
use crate::spec::network::{GroupName, NetworkMode};
use crate::spec::{RuntimeClass, Spec, SwapLimit, UserNamespace};

/// Rule of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// Name, by which denials are told apart.
    pub name: String,
    /// Containers that the rule is for.
    pub scope: RuleScope,
    /// Bounds on each of these containers.
    pub bounds: Bounds,
    /// Bounds on all of them together.
    pub totals: Totals,
}

/// Containers that a rule is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleScope {
    /// Owner of the containers. `None`: either.
    pub owner: Option<Owner>,
    /// Names of the containers. `None`: every name.
    pub containers: Option<Vec<NamePattern>>,
}

impl RuleScope {
    /// Whether a container of this name and owner is meant.
    #[must_use]
    pub fn holds(&self, name: &ContainerName, owner: Owner) -> bool {
        let named = |patterns: &Vec<NamePattern>| patterns.iter().any(|p| p.fits(name.as_str()));
        self.owner.is_none_or(|only| only == owner) && self.containers.as_ref().is_none_or(named)
    }
}

/// Bounds on one container. `None` or false: no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Images that may run.
    pub images: Option<Vec<ImagePattern>>,
    /// Whether an image is to be named by its digest.
    pub digest: bool,
    /// Signers of images. Signatures are looked at where an image is fetched, not here.
    pub signers: Signers,
    /// Host ports that may be published.
    pub host_ports: Option<Vec<PortGrant>>,
    /// Host addresses that ports may be published on; unspecified: all of the host.
    pub host_ips: Option<Vec<IpAddr>>,
    /// Networks that a container may have.
    pub networks: Option<Vec<NetworkMode>>,
    /// Groups of the network that a container may be in.
    pub groups: Option<Vec<NamePattern>>,
    /// Capabilities that a container may have at most, as `CAP_…`.
    pub capabilities: Option<BTreeSet<String>>,
    /// Sysctls that a container may set.
    pub sysctls: Option<Vec<TextPattern>>,
    /// Devices that a container may have.
    pub devices: Option<Vec<TextPattern>>,
    /// Paths of the host that a container may mount.
    pub host_paths: Option<Vec<HostPathGrant>>,
    /// Runtimes that a container may be run by; `default` is the node's own choice.
    pub runtimes: Option<Vec<TextPattern>>,
    /// Whether the user is to be another than root.
    pub non_root: bool,
    /// Whether the root file system is to be read-only.
    pub read_only_rootfs: bool,
    /// Whether no program may gain privileges.
    pub no_new_privileges: bool,
    /// Whether no container may ask for the host's ids.
    pub user_namespace: bool,
    /// Most memory; a limit is required then.
    pub memory: Option<ByteCount>,
    /// Most swap; a limit on memory is required then, beside which there is none by default.
    pub swap: Option<ByteCount>,
    /// Most CPU time; a limit is required then.
    pub cpu: Option<CpuMillis>,
    /// Most processes.
    pub pids: Option<u32>,
    /// Most disk for logs: size of a file times their number.
    pub logs: Option<ByteCount>,
}

/// Bounds on all containers of a rule together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Most memory; each container needs a limit then.
    pub memory: Option<ByteCount>,
    /// Most CPU time; each container needs a limit then.
    pub cpu: Option<CpuMillis>,
    /// Most containers.
    pub count: Option<u64>,
}

impl PolicyRule {
    /// Whether the rule bounds nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.bounds == Bounds::default() && self.totals == Totals::default()
    }

    /// Every denial of an image, whatever container it is for.
    pub(super) fn image_denials(&self, image: &ImageReference) -> Vec<Denial> {
        let mut faults = Vec::new();
        self.bounds.image(image, &mut faults);
        let faults = faults.into_iter();
        faults
            .map(|(field, message)| Denial::new(&self.name, field, message))
            .collect()
    }

    /// Every denial of a spec by the bounds on one container.
    pub(super) fn denials(&self, spec: &Spec, node: &NodePrivileges) -> Vec<Denial> {
        let mut faults = Vec::new();
        self.bounds.image(&spec.image, &mut faults);
        self.bounds.ports(spec, &mut faults);
        self.bounds.network(spec, &mut faults);
        self.bounds.privileges(spec, node, &mut faults);
        self.bounds.resources(spec, &mut faults);
        faults
            .into_iter()
            .map(|(field, message)| Denial::new(&self.name, field, message))
            .collect()
    }
}

/// A field and its fault.
type BoundFault = (String, String);

fn fault(faults: &mut Vec<BoundFault>, field: &str, message: impl Into<String>) {
    faults.push((field.to_owned(), message.into()));
}

impl Bounds {
    fn image(&self, image: &ImageReference, faults: &mut Vec<BoundFault>) {
        if let Some(images) = &self.images
            && !images.iter().any(|pattern| pattern.fits(image))
        {
            let message = format!("{} is not among {}", image, ports::list(images));
            fault(faults, "image", message);
        }
        if self.digest && image.digest().is_none() {
            let message = "must be named by its digest, as in \"REPOSITORY@sha256:DIGEST\"";
            fault(faults, "image", message);
        }
    }

    fn ports(&self, spec: &Spec, faults: &mut Vec<BoundFault>) {
        for (index, port) in spec.ports.iter().enumerate() {
            let grants = self.host_ports.as_deref();
            let host = grants.and_then(|grants| ports::host_fault(grants, port));
            let addresses = self.host_ips.as_deref();
            let address = addresses.and_then(|permitted| ports::address_fault(permitted, port));
            for (field, message) in host.into_iter().chain(address) {
                fault(faults, &format!("exposed_ports[{index}].{field}"), message);
            }
        }
    }

    fn network(&self, spec: &Spec, faults: &mut Vec<BoundFault>) {
        let mode = spec.network.mode;
        if let Some(permitted) = self.networks.as_ref().filter(|list| !list.contains(&mode)) {
            let message = format!("{mode} is not among {}", ports::list(permitted));
            fault(faults, "network", message);
        }
        let Some(permitted) = &self.groups else {
            return;
        };
        let fits = |group: &GroupName| permitted.iter().any(|p| p.fits(group.as_str()));
        for group in spec.network.groups.iter().filter(|group| !fits(group)) {
            let message = format!("{group} is not among {}", ports::list(permitted));
            fault(faults, "network.groups", message);
        }
    }

    fn privileges(&self, spec: &Spec, node: &NodePrivileges, faults: &mut Vec<BoundFault>) {
        let asked = spec.security.capabilities.0.iter();
        let given = asked.filter(|name| node.capabilities.contains(*name));
        if let Some(permitted) = &self.capabilities {
            let more: Vec<_> = given.filter(|name| !permitted.contains(*name)).collect();
            if !more.is_empty() {
                let more: Vec<_> = more.iter().map(|name| name.as_str()).collect();
                let permitted: Vec<_> = permitted.iter().collect();
                let message = format!(
                    "{} {} not among {}; drop ALL, and add what the program needs of these",
                    more.join(", "),
                    if more.len() == 1 { "is" } else { "are" },
                    ports::list(&permitted)
                );
                fault(faults, "security.capabilities", message);
            }
            for (name, limit) in &spec.ulimits {
                let needed = name.required_capability(*limit);
                if let Some(needed) = needed.filter(|needed| !permitted.contains(*needed)) {
                    let message = format!("needs {needed}, which is not among those permitted");
                    fault(faults, &format!("ulimits.{}", name.as_str()), message);
                }
            }
        }
        if self.non_root && !is_other_than_root(spec.user.as_deref()) {
            let message = "must be given, as a number other than 0: a name, and what an image \
                           says, may turn out to be root";
            fault(faults, "user", message);
        }
        let is_root = |group: &&String| *group == "root" || group.parse() == Ok(0_u32);
        if let Some(group) = spec.groups.iter().find(is_root).filter(|_| self.non_root) {
            fault(faults, "groups", format!("{group} is root's"));
        }
        if let Some(permitted) = &self.sysctls {
            let names = spec.sysctls.keys();
            for name in names.filter(|name| !permitted.iter().any(|p| p.fits(name))) {
                let message = format!("is not among {}", ports::list(permitted));
                fault(faults, &format!("sysctls.{name}"), message);
            }
        }
        self.devices(spec, faults);
        if self.read_only_rootfs && !spec.security.read_only_rootfs {
            fault(faults, "security.read_only_rootfs", "must be true");
        }
        if self.no_new_privileges && !spec.security.no_new_privileges {
            fault(faults, "security.no_new_privileges", "must be true");
        }
        if self.user_namespace && spec.security.user_namespace == UserNamespace::Host {
            fault(faults, "security.user_namespace", "must be \"auto\"");
        }
    }

    fn devices(&self, spec: &Spec, faults: &mut Vec<BoundFault>) {
        for (index, device) in spec.devices.iter().enumerate() {
            let name = device.permitted_as();
            let is_bound = |list: &&Vec<TextPattern>| !list.iter().any(|given| given.fits(&name));
            if let Some(permitted) = self.devices.as_ref().filter(is_bound) {
                let message = format!("{name} is not among {}", ports::list(permitted));
                fault(faults, &format!("devices[{index}]"), message);
            }
        }
        if let Some(permitted) = &self.host_paths {
            faults.extend(host_paths::faults(permitted, spec));
        }
        let runtime = spec
            .runtime
            .as_ref()
            .map_or("default", RuntimeClass::as_str);
        let is_bound = |list: &&Vec<TextPattern>| !list.iter().any(|given| given.fits(runtime));
        if let Some(permitted) = self.runtimes.as_ref().filter(is_bound) {
            let message = format!("{runtime} is not among {}", ports::list(permitted));
            fault(faults, "runtime", message);
        }
    }

    fn resources(&self, spec: &Spec, faults: &mut Vec<BoundFault>) {
        let resources = &spec.resources;
        if let Some(most) = &self.memory {
            at_most(resources.memory, most, "resources.memory", faults);
        }
        if let Some(most) = &self.swap {
            match (resources.memory, resources.swap) {
                (None, _) => fault(faults, "resources.memory", "is required, to limit swap by"),
                (Some(_), Some(SwapLimit::Unlimited)) => {
                    let message = format!("unlimited is more than the {most} permitted");
                    fault(faults, "resources.swap", message);
                }
                (Some(_), Some(SwapLimit::Bytes(asked))) => {
                    at_most(Some(asked), most, "resources.swap", faults);
                }
                (Some(_), None) => {}
            }
        }
        if let Some(most) = &self.cpu {
            at_most(resources.cpu, most, "resources.cpu", faults);
            // Where all want more than there is, weight counts and no limit.
            let weights = [
                (
                    resources.cpu_reservation.map(|cpu| cpu.0),
                    "cpu_reservation",
                    most.0,
                ),
                (
                    resources.cpu_shares.map(u64::from),
                    "cpu_shares",
                    most.shares(),
                ),
            ];
            for (asked, field, most) in weights {
                if let Some(asked) = asked.filter(|asked| *asked > most) {
                    let message =
                        format!("{asked} is more than the {most} that the permitted cpu has");
                    fault(faults, &format!("resources.{field}"), message);
                }
            }
        }
        if let Some(most) = &self.pids {
            at_most(Some(resources.pids), most, "resources.pids", faults);
        }
        if let Some(most) = &self.logs {
            let files = u64::from(spec.logs.max_files);
            let all = ByteCount(spec.logs.max_size.0.saturating_mul(files));
            at_most(Some(all), most, "logs", faults);
        }
    }
}

fn at_most<T: PartialOrd + std::fmt::Display>(
    asked: Option<T>,
    most: &T,
    field: &str,
    faults: &mut Vec<BoundFault>,
) {
    match asked {
        None => fault(faults, field, format!("is required, {most} at most")),
        Some(asked) if asked > *most => {
            fault(
                faults,
                field,
                format!("{asked} is more than the {most} permitted"),
            );
        }
        Some(_) => {}
    }
}

/// Whether the user is certainly not root: a number above 0, as far as the kernel counts.
fn is_other_than_root(user: Option<&str>) -> bool {
    let user = user.map(|user| user.split_once(':').map_or(user, |(user, _)| user));
    let id = user.and_then(|user| user.parse::<u32>().ok());
    id.is_some_and(|id| id > 0 && id < u32::MAX)
}
