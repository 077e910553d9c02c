//! Names section: what a container is called inside, and the names that it is told besides those of
//! its neighbours (`hostname`, `hosts`, `dns`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, each, parsed, text};
use super::is_default;

/// Longest name of a host in the kernel (`__NEW_UTS_LEN`, less one for those who write 64 bytes).
const HOSTNAME_BYTES_MAX: usize = 63;
/// Entries of `hosts`, and bytes of their lines: a container's file holds its neighbours as well.
const HOSTS_MAX: usize = 256;
const HOSTS_BYTES_MAX: usize = 16 << 10;
/// Servers of `dns`: the C libraries ask no more.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 32;
/// Bytes of all domains: those of Kubernetes.
const SEARCH_BYTES_MAX: usize = 2048;
const OPTIONS_MAX: usize = 16;
/// Address of the host, as docker writes it.
const GATEWAY: &str = "host-gateway";

/// Names of a container's own, besides the one that it is deployed by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Name of the host inside. `None`: the container's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hostname: Option<HostName>,
    /// Hosts that it knows by name; they go before its neighbours.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hosts: BTreeMap<HostName, HostAddress>,
    /// Servers that it asks for names, and how.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dns: DnsSettings,
}

/// Name servers, and how they are asked. What is empty is the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSettings {
    /// Servers, in the order in which they are asked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: Vec<Ipv4Addr>,
    /// Domains in which a short name is looked for; `.` alone: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: Vec<String>,
}

/// Name of a host: labels with dots between, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Error of a text that is no name of a host; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a name of 1 to 253 letters, digits, '-', '_' and '.', such as \"db.internal\"")]
pub struct InvalidHostName;

impl HostName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, InvalidHostName> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(is_letter)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidHostName)
        }
    }
}

stored_as_text!(HostName);

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Address of a host that a container knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostAddress {
    /// The address itself.
    At(IpAddr),
    /// The host's address on the containers' network.
    Gateway,
}

/// Error of a text that is no address of a host; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an address such as \"10.0.0.5\", or \"host-gateway\" for the node")]
pub struct InvalidHostAddress;

impl FromStr for HostAddress {
    type Err = InvalidHostAddress;

    fn from_str(text: &str) -> Result<Self, InvalidHostAddress> {
        if text == GATEWAY {
            return Ok(Self::Gateway);
        }
        text.parse().map(Self::At).map_err(|_| InvalidHostAddress)
    }
}

stored_as_text!(HostAddress);

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Gateway => f.write_str(GATEWAY),
        }
    }
}

impl Names {
    /// Reads the three members of a body.
    pub(super) fn read(top: &mut Fields<'_>) -> Self {
        let hostname = top.read("hostname", |value| {
            let name: HostName = parsed(value)?;
            if name.0.len() <= HOSTNAME_BYTES_MAX {
                Ok(name)
            } else {
                Err("must not be longer than 63 characters, as the kernel holds it".to_owned())
            }
        });
        let dns = top.object("dns", DnsSettings::read);
        let hosts = read_hosts(top);
        Self {
            hostname,
            hosts: hosts.unwrap_or_default(),
            dns: dns.unwrap_or_default(),
        }
    }
}

fn read_hosts(top: &mut Fields<'_>) -> Option<BTreeMap<HostName, HostAddress>> {
    let texts = top.text_map("hosts")?;
    let bytes = texts
        .iter()
        .map(|(name, address)| name.len() + address.len() + 2);
    if texts.len() > HOSTS_MAX || bytes.sum::<usize>() > HOSTS_BYTES_MAX {
        top.fault("hosts", "must not be more than 256, and 16 KiB in all");
        return None;
    }
    let mut hosts = BTreeMap::new();
    for (key, address) in texts {
        let name = key.parse::<HostName>().map_err(|error| error.to_string());
        let address = address
            .parse()
            .map_err(|error: InvalidHostAddress| error.to_string());
        match (name, address) {
            (Ok(name), Ok(_)) if name.as_str() == "localhost" => {
                top.fault(&format!("hosts.{key}"), "is always the container itself");
            }
            (Ok(name), Ok(address)) => {
                if hosts.insert(name, address).is_some() {
                    top.fault(
                        &format!("hosts.{key}"),
                        "is already listed, in other letters",
                    );
                }
            }
            (Err(fault), _) | (_, Err(fault)) => top.fault(&format!("hosts.{key}"), &fault),
        }
    }
    Some(hosts)
}

impl DnsSettings {
    #[allow(clippy::unnecessary_wraps, reason = "every section is read so")]
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let servers = fields.read("servers", |value| each(value, SERVERS_MAX, server));
        let search = fields.read("search", |value| {
            let all = each(value, SEARCH_MAX, domain)?;
            if all.iter().map(|domain| domain.len() + 1).sum::<usize>() > SEARCH_BYTES_MAX {
                return Err("must not exceed 2 KiB in all".to_owned());
            }
            Ok(all)
        });
        let options = fields.read("options", |value| each(value, OPTIONS_MAX, option));
        Some(Self {
            servers: servers.unwrap_or_default(),
            search: search.unwrap_or_default(),
            options: options.unwrap_or_default(),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({"servers": self.servers, "search": self.search, "options": self.options})
    }
}

fn server(value: &Value) -> Result<Ipv4Addr, String> {
    let address: Option<Ipv4Addr> = text(value)?.parse().ok();
    address
        .filter(|address| {
            !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
        })
        .ok_or_else(|| "must be IPv4 addresses of servers, such as \"192.0.2.53\"".to_owned())
}

fn domain(value: &Value) -> Result<String, String> {
    match text(value)? {
        "." => Ok(".".to_owned()),
        domain => Ok(domain
            .parse::<HostName>()
            .map_err(|error| error.to_string())?
            .0),
    }
}

fn option(value: &Value) -> Result<String, String> {
    let option = text(value)?;
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':');
    if (1..=64).contains(&option.len()) && option.bytes().all(is_letter) {
        Ok(option.to_owned())
    } else {
        Err("must be options of resolv.conf, such as \"ndots:2\"".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_by_labels_in_any_case() {
        for (text, name) in [("DB.Internal", "db.internal"), ("a_b", "a_b"), ("1", "1")] {
            assert_eq!(text.parse::<HostName>().unwrap().as_str(), name);
        }
        let long = format!("{}a", "a.".repeat(127));
        for text in [
            "",
            ".",
            "a.",
            "-a",
            "a-",
            "a b",
            "a\n",
            "a#",
            &"a".repeat(64),
            &long,
        ] {
            assert_eq!(text.parse::<HostName>(), Err(InvalidHostName), "{text}");
        }
    }

    #[test]
    fn an_address_is_any_or_that_of_the_node() {
        for text in ["10.0.0.5", "2001:db8::5", "host-gateway"] {
            let address: HostAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "10.0.0", "gateway", "10.0.0.5 ", "db"] {
            assert_eq!(
                text.parse::<HostAddress>(),
                Err(InvalidHostAddress),
                "{text}"
            );
        }
    }
}
