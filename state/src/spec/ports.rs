//! Ports section: the container's ports that the host publishes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, integer, text};

/// Ports a container may publish. More than any service needs; the limit bounds the rule set and
/// the check for listeners.
const PORTS_MAX: usize = 128;

/// A port of the container that the host publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// The port inside the container, 1 to 65535.
    pub container: u16,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// The port on the host. `None`: one of the agent's range, chosen once and kept.
    pub host: Option<u16>,
    /// The host address that the port is published on; `::` is every IPv6 one. `None`: all of them.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl Protocol {
    /// The protocol's word in JSON and in logs: `tcp` or `udp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Reads all ports. A host port is published once for each protocol and address; a container port
/// may be published on several.
pub(super) fn read(top: &mut Fields<'_>) -> Option<Vec<PortSpec>> {
    let items = top.objects("exposed_ports", PORTS_MAX, PortSpec::read)?;
    let mut ports = Vec::new();
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let Some(port) = top.item("exposed_ports", index, item, PortSpec::read) else {
            continue;
        };
        if !inside.insert((port.protocol, port.container, port.host, port.host_ip)) {
            let field = format!("exposed_ports[{index}].container");
            top.fault(&field, "this port is already listed; on another host port or address it may be listed again");
        }
        let host = port.host.map(|host| (port.protocol, host, port.host_ip));
        if host.is_some_and(|host| !outside.insert(host)) {
            let field = format!("exposed_ports[{index}].host");
            top.fault(&field, "this host port is already listed");
        }
        ports.push(port);
    }
    Some(ports)
}

pub(super) fn to_json(ports: &[PortSpec]) -> Value {
    ports.iter().map(PortSpec::to_json).collect()
}

impl PortSpec {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let container = fields.required("container", number);
        let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
        let protocol = fields.choice("protocol", &protocols);
        let host = fields.read("host", number);
        let host_ip = fields.read("host_ip", address);
        Some(Self {
            container: container?,
            protocol: protocol.unwrap_or(Protocol::Tcp),
            host,
            host_ip: host_ip.filter(|address| !address.is_unspecified() || address.is_ipv6()),
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "container": self.container,
            "protocol": self.protocol,
            "host": self.host,
            "host_ip": self.host_ip,
        })
    }
}

fn number(value: &Value) -> Result<u16, String> {
    let number = integer(value, 1..=65535)?;
    u16::try_from(number).map_err(|error| error.to_string())
}

fn address(value: &Value) -> Result<IpAddr, String> {
    let address = text(value)?.parse();
    let address = address.map_err(|_| "must be an IP address of this host".to_owned())?;
    let IpAddr::V6(ipv6) = address else {
        return Ok(address);
    };
    if ipv6.is_loopback() {
        return Err(
            "cannot be ::1, from which the kernel leads nothing to a container: write 127.0.0.1, or \
             another IPv6 address of this host"
                .to_owned(),
        );
    }
    if ipv6.is_unicast_link_local() || ipv6.to_ipv4_mapped().is_some() || ipv6.is_multicast() {
        return Err(
            "must be an IPv4 or a global or unique local IPv6 address of this host".to_owned(),
        );
    }
    Ok(address)
}
