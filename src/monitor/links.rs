//! Traffic of the node's network links, ends of containers among them: one file for all.

use std::collections::HashMap;
use std::io;

/// Counts of a link since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkUsage {
    /// Traffic that came in.
    pub(crate) received: Traffic,
    /// Traffic that went out.
    pub(crate) sent: Traffic,
}

impl LinkUsage {
    /// The same at the other end of a pair: what the one end receives the other has sent.
    pub(crate) const fn other_end(self) -> Self {
        Self {
            received: self.sent,
            sent: self.received,
        }
    }
}

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// Every link of the node, by name. Blocks for some ten microseconds, and one more a link.
///
/// # Errors
/// The kernel's list cannot be read.
pub(crate) fn link_usage() -> io::Result<HashMap<String, LinkUsage>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/net/dev")?))
}

/// Lines `NAME: ` with eight counts of each direction, after two of headings (proc(5)).
fn parse(text: &str) -> HashMap<String, LinkUsage> {
    let links = text.lines().filter_map(|line| {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts
            .split_whitespace()
            .map_while(|count| count.parse().ok())
            .collect();
        let direction = |at: usize| {
            Some(Traffic {
                bytes: *counts.get(at)?,
                packets: *counts.get(at + 1)?,
                errors: *counts.get(at + 2)?,
                dropped: *counts.get(at + 3)?,
            })
        };
        let usage = LinkUsage {
            received: direction(0)?,
            sent: direction(8)?,
        };
        Some((name.trim().to_owned(), usage))
    });
    links.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_both_directions() {
        let text = concat!(
            "Inter-|   Receive                            |  Transmit\n",
            " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n",
            "    lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n",
            "chvab12:100 5 1 2 0 0 0 0 200 6 3 4 0 0 0 0\n",
            "broken: 1 2 3\n",
        );
        let links = parse(text);
        assert_eq!(links.len(), 2, "{links:?}");
        let seen = links["chvab12"].other_end();
        let traffic = |bytes, packets, errors, dropped| Traffic {
            bytes,
            packets,
            errors,
            dropped,
        };
        assert_eq!(seen.received, traffic(200, 6, 3, 4));
        assert_eq!(seen.sent, traffic(100, 5, 1, 2));
        assert!(link_usage().unwrap().contains_key("lo"));
    }
}
