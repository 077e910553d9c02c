//! Parsers of what containers reach.

use std::collections::BTreeSet;

use state::spec::Protocol;

use state::subnet::{InvalidSubnet, Ipv4Subnet, Ipv6Subnet};

use super::{Parsed, subnet};

/// Subnet where none is named.
const DEFAULT_SUBNET: &str = "10.231.0.0/16";

/// Services of the host: `open` is every one (`None`), `closed` none, else ports as `tcp/8080`,
/// separated by commas.
pub(in crate::config) fn host_access(text: &str) -> Parsed<Option<BTreeSet<(Protocol, u16)>>> {
    let port = |part: &str| {
        let (protocol, port) = part.split_once('/')?;
        let known = [Protocol::Tcp, Protocol::Udp].into_iter();
        let protocol = known
            .into_iter()
            .find(|one| one.as_str().eq_ignore_ascii_case(protocol))?;
        Some((protocol, port.parse().ok().filter(|port| *port > 0)?))
    };
    let ports = text.split(',').map(str::trim).map(|part| {
        port(part).ok_or_else(|| {
            format!(
                "{part:?} is no service of this host: write open, closed, or ports such as tcp/8080"
            )
        })
    });
    match text {
        "open" => Ok(None),
        // An empty list in the file.
        "closed" | "" => Ok(Some(BTreeSet::new())),
        _ => ports.collect::<Parsed<_>>().map(Some),
    }
}

/// Subnet of the containers; for `auto` the default one, in place of which the agent chooses.
pub(in crate::config) fn subnet_or_auto(text: &str) -> Parsed<Ipv4Subnet> {
    let is_auto = is_auto(text)?;
    subnet(if is_auto { DEFAULT_SUBNET } else { text })
}

/// IPv6 subnet of the containers; none for `auto`, in place of which the agent draws one.
pub(in crate::config) fn subnet6_or_auto(text: &str) -> Parsed<Option<Ipv6Subnet>> {
    if is_auto(text)? {
        return Ok(None);
    }
    let subnet = text.parse();
    subnet
        .map(Some)
        .map_err(|wrong: InvalidSubnet| format!("{text:?} {wrong}"))
}

/// Whether the agent chooses the subnet.
pub(in crate::config) fn is_auto(text: &str) -> Parsed<bool> {
    Ok(text.eq_ignore_ascii_case("auto"))
}

/// Whether containers reach each other.
pub(in crate::config) fn isolation(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "open" => Ok(true),
        "isolated" => Ok(false),
        _ => Err(format!(
            "{text:?} is not an isolation: write open or isolated"
        )),
    }
}
