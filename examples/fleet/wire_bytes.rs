//! What went over the network, as the kernel counts it for this network namespace.

use std::fs;

use anyhow::Context as _;

/// An IPv4 header and a TCP header with its timestamps: what a packet has besides what it carries.
const HEADERS: u64 = 20 + 32;

/// Bytes since the namespace exists, or between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    /// IP packets, acknowledgements among them.
    pub(crate) ip: u64,
    /// What TCP carried, to within the few bytes of options by which some packets differ.
    pub(crate) http: u64,
}

impl Bytes {
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            ip: self.ip - before.ip,
            http: self.http.saturating_sub(before.http),
        }
    }
}

/// All bytes sent so far. Both ends are here, so that what is sent is all there is.
pub(crate) fn now() -> anyhow::Result<Bytes> {
    let ip = counter("/proc/net/netstat", "IpExt:", "OutOctets")?;
    let packets = counter("/proc/net/snmp", "Tcp:", "OutSegs")?;
    Ok(Bytes {
        ip,
        http: ip.saturating_sub(packets * HEADERS),
    })
}

/// A number of a table that has its names in one line and its values in the next.
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
