//! Host ports and addresses that a rule permits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::spec::PortSpec;

/// Host ports that a rule permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortGrant {
    /// A port that the agent chooses, from its own range.
    Auto,
    /// Ports that a body may name.
    Range(RangeInclusive<u16>),
}

impl PortGrant {
    /// Whether the port, or `None` for one that the agent chooses, is among these.
    pub(super) fn holds(&self, host: Option<u16>) -> bool {
        match (self, host) {
            (Self::Auto, None) => true,
            (Self::Range(range), Some(port)) => range.contains(&port),
            (Self::Auto, Some(_)) | (Self::Range(_), None) => false,
        }
    }
}

impl FromStr for PortGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self::Range(first..=last)),
            _ => Err(format!(
                "{text:?} is neither a port, nor a range such as \"8000-8999\", nor auto (one \
                 that the agent chooses)"
            )),
        }
    }
}

impl fmt::Display for PortGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Range(range) if range.start() == range.end() => write!(f, "{}", range.start()),
            Self::Range(range) => write!(f, "{}-{}", range.start(), range.end()),
        }
    }
}

/// The fault of a published port by these grants of ports: field and message.
pub(super) fn host_fault(grants: &[PortGrant], port: &PortSpec) -> Option<(&'static str, String)> {
    if grants.iter().any(|grant| grant.holds(port.host)) {
        return None;
    }
    let asked = port.host.map_or_else(
        || "a port of the agent's choice".to_owned(),
        |p| p.to_string(),
    );
    Some(("host", format!("{asked} is not among {}", list(grants))))
}

/// The fault of a published port by these addresses: field and message.
pub(super) fn address_fault(
    addresses: &[IpAddr],
    port: &PortSpec,
) -> Option<(&'static str, String)> {
    let asked = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    (!addresses.contains(&asked)).then(|| {
        let message = format!("{asked} is not among {}", list(addresses));
        ("host_ip", message)
    })
}

/// A list for people; of nothing, the word for it.
pub(super) fn list<T: fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "the permitted, which are none".to_owned();
    }
    let texts: Vec<_> = items.iter().take(20).map(ToString::to_string).collect();
    let more = if items.len() > texts.len() {
        ", …"
    } else {
        ""
    };
    format!("the permitted {}{more}", texts.join(", "))
}
