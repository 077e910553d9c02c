//! Differences between the table as it is and as it should be, in lines for the log.

use crate::network::bridge::nftables::{Published, TableListing};

/// Line for each difference. `shape`: the table's right after this agent wrote it, if it did.
pub(super) fn differences(
    table: &str,
    found: Option<&TableListing>,
    wanted: &Published,
    shape: Option<&str>,
) -> Vec<String> {
    let Some(found) = found else {
        return vec![format!("nftables table {table}: missing")];
    };
    let mut lines = Vec::new();
    if shape.is_some_and(|shape| shape != found.shape) {
        lines.push(format!("nftables table {table}: rules changed externally"));
    }
    for (port, to) in wanted
        .iter()
        .filter(|(port, to)| found.published.get(port) != Some(to))
    {
        lines.push(format!(
            "host port {}/{} published for {}",
            port.port,
            port.protocol.as_str(),
            to.owner
        ));
    }
    for (port, to) in found
        .published
        .iter()
        .filter(|(port, _)| !wanted.contains_key(port))
    {
        lines.push(format!(
            "host port {}/{} withdrawn from {}",
            port.port,
            port.protocol.as_str(),
            to.owner
        ));
    }
    lines
}
