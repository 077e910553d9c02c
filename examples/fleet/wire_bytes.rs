//! Bytes sent over the network, as the kernel counts them for this network namespace.

use std::fs;

use anyhow::Context as _;

/// Bytes of a packet's headers: an IPv4 header, and a TCP header with timestamps.
const HEADERS: u64 = 20 + 32;

/// Bytes since the namespace was created, or between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireBytes {
    /// Bytes of IP packets, with acknowledgements.
    pub(crate) ip: u64,
    /// Bytes that TCP carried, up to a few bytes of TCP options.
    pub(crate) http: u64,
}

impl WireBytes {
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            ip: self.ip - before.ip,
            http: self.http.saturating_sub(before.http),
        }
    }
}

/// All bytes sent so far. Both ends of each connection are in this namespace, so that sent bytes
/// are all bytes.
pub(crate) fn now() -> anyhow::Result<WireBytes> {
    let ip = counter("/proc/net/netstat", "IpExt:", "OutOctets")?;
    let packets = counter("/proc/net/snmp", "Tcp:", "OutSegs")?;
    Ok(WireBytes {
        ip,
        http: ip.saturating_sub(packets * HEADERS),
    })
}

/// A counter in a table that has its names in one line and its values in the next.
fn counter(file: &str, table: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let mut lines = text.lines().filter(|line| line.starts_with(table));
    let (names, values) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let value = names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(found, _)| *found == name);
    value
        .and_then(|(_, value)| value.parse().ok())
        .with_context(|| format!("{file} has no {table} {name}"))
}
