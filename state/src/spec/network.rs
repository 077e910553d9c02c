//! Network section: the groups that a container is in, and whom else it reaches and is reached by.
//! What follows of it for two ends is [`crate::reach`]'s matter.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, each, list_of, parsed, text};
use super::sysctls::is_of_network;
use super::{Protocol, Spec, is_default};
use crate::id::{ContainerName, InvalidName};

mod mode;

pub use mode::NetworkMode;

/// Groups of one container. Each is a set of the kernel, and a rule for each container in it.
const GROUPS_MAX: usize = 8;
/// Entries of one list of what is allowed. Each is a rule of the kernel, looked at by packets.
const ENTRIES_MAX: usize = 16;
/// Ports of one entry.
const PORTS_MAX: usize = 32;

/// Most [rules](Network::rules) of the network sections of one node. The kernel's table is written as
/// a whole: at this many in about a second, and the time grows faster than their number.
pub const NODE_RULES_MAX: usize = 4096;

/// Place of a container among its neighbours. The default is that of the node: `"bridge"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Network {
    /// Attachment to a network. One without an address has no groups, and no lists.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: NetworkMode,
    /// Groups; who is in one of them reaches the container, and is reached by it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub groups: BTreeSet<GroupName>,
    /// Others who reach the container, by its own address and by its published ports. `None`: the
    /// published ports answer everybody; its own address answers its groups, and without any
    /// whom the node lets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress: Option<Vec<AllowEntry>>,
    /// Others whom the container reaches, containers and addresses elsewhere. `None`: everybody
    /// who lets it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: Option<Vec<AllowEntry>>,
}

/// Others who are allowed, all of their ports or some.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AllowEntry {
    /// The others.
    pub peer: AllowedPeer,
    /// Ports of the end that is called. Empty: all, and every other protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: BTreeSet<(Protocol, u16)>,
}

/// Others of an [`AllowEntry`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllowedPeer {
    /// Containers of this node that are in the group.
    Group(GroupName),
    /// Addresses that are no container's of this node.
    Cidr(AddressRange),
}

/// Name of a group: a DNS label, as a container's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(ContainerName);

impl GroupName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for GroupName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

stored_as_text!(GroupName);

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Range of IPv4 addresses in CIDR notation (RFC 4632), of any prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: Ipv4Addr,
    prefix: u8,
}

/// Error of a text that is no range; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRange(&'static str);

impl AddressRange {
    /// Whether the address is in the range.
    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first.to_bits()
    }
}

/// Bits of the network part; a prefix of 0 has none.
const fn mask(prefix: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

impl FromStr for AddressRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        const WRONG: InvalidRange =
            InvalidRange("must be a range of IPv4 addresses such as \"192.0.2.0/24\"");
        let (first, prefix) = text.split_once('/').ok_or(WRONG)?;
        let first: Ipv4Addr = first.parse().map_err(|_| WRONG)?;
        let is_plain =
            (1..=2).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix
            .parse()
            .ok()
            .filter(|prefix| is_plain && *prefix <= 32);
        let prefix: u8 = prefix.ok_or(WRONG)?;
        if first.to_bits() & !mask(prefix) != 0 {
            return Err(InvalidRange(
                "has bits set beyond its prefix: write the range's first address, as in \
                 \"192.0.2.0/24\"",
            ));
        }
        Ok(Self { first, prefix })
    }
}

stored_as_text!(AddressRange);

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// Reads the section: a word, or an object about a place on the bridge.
pub(super) fn read(top: &mut Fields<'_>) -> Option<Network> {
    if top.may_be_text("network") {
        let words = NetworkMode::ALL.map(|mode| (mode.as_str(), mode));
        let read = top.choice("network", &words).map(Network::of_mode);
        if !top.is_sketched() {
            return read;
        }
    }
    top.object("network", Network::read)
}

/// Notes what a body asks for that its network cannot have.
pub(super) fn check(spec: &Spec, top: &mut Fields<'_>) {
    let mode = spec.network.mode;
    if !mode.has_address() && !spec.ports.is_empty() {
        let why = if mode == NetworkMode::Host {
            "the ports of its program are the host's own"
        } else {
            "nobody reaches it"
        };
        let message = format!("must be empty for a container of network \"{mode}\": {why}");
        top.fault("exposed_ports", &message);
    }
    let of_network = spec.sysctls.keys().filter(|name| is_of_network(name));
    for name in of_network.filter(|_| mode == NetworkMode::Host) {
        let message = "would be the host's own with network \"host\"; leave it out";
        top.fault(&format!("sysctls.{name}"), message);
    }
}

impl Network {
    /// Network of this mode, with nothing said of neighbours.
    #[must_use]
    pub fn of_mode(mode: NetworkMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    /// Every group that is named: those that the container is in, and those that it allows.
    pub fn named(&self) -> impl Iterator<Item = &GroupName> {
        let allowed = self.entries().filter_map(|entry| match &entry.peer {
            AllowedPeer::Group(group) => Some(group),
            AllowedPeer::Cidr(_) => None,
        });
        self.groups.iter().chain(allowed)
    }

    /// Entries of both lists.
    pub fn entries(&self) -> impl Iterator<Item = &AllowEntry> {
        let lists = [&self.ingress, &self.egress];
        lists.into_iter().flatten().flatten()
    }

    /// Whether it says something of neighbours, for which the kernel needs rules.
    #[must_use]
    pub fn is_ruled(&self) -> bool {
        *self != Self::of_mode(self.mode)
    }

    /// Number of all groups and entries of these sections together, with one for each section; equal
    /// ones count once, since they share the kernel's rules, and the default has none.
    pub fn rules<'a>(sections: impl Iterator<Item = &'a Self>) -> usize {
        let different: BTreeSet<&Self> = sections.filter(|one| one.is_ruled()).collect();
        let rules = |one: &&Self| 1 + one.groups.len() + one.entries().count();
        different.iter().map(rules).sum()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let groups = fields.read("groups", |value| {
            Ok(each(value, GROUPS_MAX, parsed)?.into_iter().collect())
        });
        let allow = fields.object("allow", |allow| {
            Some([entries(allow, "ingress"), entries(allow, "egress")])
        });
        let [ingress, egress] = allow.unwrap_or_default();
        Some(Self {
            mode: NetworkMode::Bridge,
            groups: groups.unwrap_or_default(),
            ingress,
            egress,
        })
    }

    pub(super) fn to_json(&self) -> Value {
        if !self.is_ruled() {
            return json!(self.mode.as_str());
        }
        let shown = |entries: &Option<Vec<AllowEntry>>| {
            let entries = entries.as_ref()?.iter();
            Some(entries.map(AllowEntry::to_json).collect::<Vec<_>>())
        };
        json!({
            "groups": self.groups,
            "allow": {"ingress": shown(&self.ingress), "egress": shown(&self.egress)},
        })
    }
}

fn entries(allow: &mut Fields<'_>, key: &'static str) -> Option<Vec<AllowEntry>> {
    let items = allow.objects(key, ENTRIES_MAX, AllowEntry::read)?;
    let items = items.iter().enumerate();
    let read = items.filter_map(|(index, item)| allow.item(key, index, item, AllowEntry::read));
    Some(read.collect())
}

impl AllowEntry {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let group = fields.read("group", parsed);
        let cidr = fields.read("cidr", parsed);
        let ports = fields.read("ports", ports);
        let peer = match (group, cidr) {
            (Some(group), None) => AllowedPeer::Group(group),
            (None, Some(cidr)) => AllowedPeer::Cidr(cidr),
            (None, None) => {
                if !fields.has("group") && !fields.has("cidr") {
                    fields.fault("group", "is required, or cidr in its place");
                }
                return None;
            }
            (Some(_), Some(_)) => {
                fields.fault("cidr", "stands beside group; write an entry for each");
                return None;
            }
        };
        Some(Self {
            peer,
            ports: ports.unwrap_or_default(),
        })
    }

    fn to_json(&self) -> Value {
        let (key, peer) = match &self.peer {
            AllowedPeer::Group(group) => ("group", group.to_string()),
            AllowedPeer::Cidr(range) => ("cidr", range.to_string()),
        };
        let mut shown = json!({ key: peer });
        if !self.ports.is_empty() {
            let ports = self.ports.iter();
            let ports = ports.map(|(protocol, port)| format!("{}/{port}", protocol.as_str()));
            shown["ports"] = ports.collect();
        }
        shown
    }
}

/// Ports as `tcp/80`. None at all would look as if nothing were allowed, or everything.
fn ports(value: &Value) -> Result<BTreeSet<(Protocol, u16)>, String> {
    let items = list_of(value, PORTS_MAX, |item| text(item).map(drop))?;
    if items.is_empty() {
        return Err("must not be empty; leave it out for every port".to_owned());
    }
    let port = |text: &str| {
        let (protocol, port) = text.split_once('/')?;
        let mut known = [Protocol::Tcp, Protocol::Udp].into_iter();
        let protocol = known.find(|known| known.as_str() == protocol)?;
        let is_plain = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_plain && *port > 0)?;
        Some((protocol, port))
    };
    let fault = || "must be ports such as \"tcp/80\" or \"udp/53\"".to_owned();
    let read = |item| port(text(item)?).ok_or_else(fault);
    items.iter().map(read).collect()
}

#[cfg(test)]
mod tests;
