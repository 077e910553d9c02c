//! Matches of iptables, which the kernel hands over in the form that iptables gave them.

use std::ops::RangeInclusive;

/// Destination ports of a match of iptables (`linux/netfilter/xt_tcpudp.h`, `xt_multiport.h`), in
/// the order of bytes of this reader.
pub(super) fn match_ports(name: &str, info: &[u8]) -> Vec<RangeInclusive<u16>> {
    let number = |at: usize| {
        let bytes = info.get(at..at + 2)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    };
    let inverted_at = match name {
        "tcp" => 11,
        "udp" => 8,
        "multiport" => return multiport(info, number).unwrap_or_default(),
        _ => return Vec::new(),
    };
    let inverted = info.get(inverted_at).is_some_and(|flags| flags & 2 != 0);
    match (number(4), number(6)) {
        (Some(0), Some(u16::MAX)) => Vec::new(),
        (Some(first), Some(last)) if !inverted => vec![first..=last],
        _ => Vec::new(),
    }
}

fn multiport(
    info: &[u8],
    number: impl Fn(usize) -> Option<u16>,
) -> Option<Vec<RangeInclusive<u16>>> {
    const PORTS: usize = 15;
    let (flags, count) = (*info.first()?, usize::from(*info.get(1)?).min(PORTS));
    let inverted = info
        .get(2 + 3 * PORTS)
        .is_some_and(|inverted| *inverted != 0);
    if flags == 0 || inverted {
        return Some(Vec::new());
    }
    let mut ports = Vec::new();
    let mut i = 0;
    while i < count {
        let first = number(2 + 2 * i)?;
        let is_range = info.get(2 + 2 * PORTS + i).is_some_and(|range| *range != 0);
        let last = if is_range { number(4 + 2 * i)? } else { first };
        ports.push(first..=last);
        i += if is_range { 2 } else { 1 };
    }
    Some(ports)
}
