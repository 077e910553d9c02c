//! Rules of the table as text, and changes of its maps.

use std::fmt::Write as _;

use super::side::Side;
use super::{HostPort, Publication, Published, TableRules, groups, rules};
use crate::network::bridge::routing;

/// Transaction that makes the table what it should be, whatever it was.
///
/// Every packet sees either the old table or the new one; connections that were set up by the old
/// one go on.
pub(in crate::network::bridge) fn table(rules: TableRules<'_>, published: &Published) -> String {
    let subnet = rules.node.subnet;
    let ipv4 = half(Side::Ipv4(subnet), rules, published);
    let ipv6 = rules
        .subnet6
        .map(|subnet6| half(Side::Ipv6(subnet6, subnet), rules, published));
    ipv4 + &ipv6.unwrap_or_default()
}

/// Transaction that makes the half for IPv6 alone, to ask the kernel whether it could.
pub(in crate::network::bridge) fn probe(rules: TableRules<'_>) -> String {
    let side = rules
        .subnet6
        .map(|subnet6| Side::Ipv6(subnet6, rules.node.subnet));
    side.map(|side| half(side, rules, &Published::new()))
        .unwrap_or_default()
}

/// The part of [`table`] for one family of addresses.
fn half(side: Side, rules: TableRules<'_>, published: &Published) -> String {
    let TableRules {
        table,
        reach,
        unrouted,
        node,
        ruled,
        subnet6: _,
    } = rules;
    let unrouted = unrouted[usize::from(side.is_ipv6())];
    let (ip, kind, subnet) = (side.word(), side.kind(), side.subnet());
    let groups = groups::text(table, side, node, ruled);
    let neighbours = if ruled.is_empty() {
        rules::neighbours(table, side, node.open)
    } else {
        groups.forward
    };
    let first = rules::neighbour_discovery(table, side) + &groups.input;
    // `delete` fails on a missing table, so the table is made first.
    format!(
        r#"table {ip} {table}
delete table {ip} {table}
table {ip} {table} {{
  map bound {{
    type {kind} . inet_proto . inet_service : {kind} . inet_service
{bound}  }}
  map ports {{
    type inet_proto . inet_service : {kind} . inet_service
{ports}  }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{table}" {ip} saddr != {subnet} drop
    iifname != "lo" {ip} daddr {loopback} drop
  }}
  chain published {{
    dnat {ip} to {ip} daddr . meta l4proto . th dport map @bound
    dnat {ip} to meta l4proto . th dport map @ports
  }}
  chain prerouting {{
    type nat hook prerouting priority -110; policy accept;
    fib daddr type local {led}jump published
  }}
  chain output {{
    type nat hook output priority -110; policy accept;
    fib daddr type local {led}jump published
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname != "{table}" oifname "{table}" ct state new ct status ! dnat drop
{neighbours}{between}{link_local}  }}
{groups}{between_chain}{input}  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
{masquerade}  }}
}}
"#,
        loopback = side.loopback(),
        bound = elements(published, side, true),
        ports = elements(published, side, false),
        led = side.led(),
        groups = groups.definitions,
        between = routing::between(unrouted),
        between_chain = routing::between_chain(unrouted),
        input = rules::input(table, side, &reach.host, &first),
        link_local = rules::link_local(table, side, reach.link_local),
        masquerade = masquerade(table, side),
    )
}

/// Rules by which packets get another source: those whose answers would not come back. A container's
/// global IPv6 address is known outside.
fn masquerade(table: &str, side: Side) -> String {
    let (ip, subnet) = (side.word(), side.subnet());
    let loopback = match side {
        Side::Ipv4(_) => format!("    ip saddr 127.0.0.0/8 oifname \"{table}\" masquerade\n"),
        Side::Ipv6(..) => String::new(),
    };
    let outside = if side.is_hidden() {
        format!("    {ip} saddr {subnet} oifname != \"{table}\" masquerade\n")
    } else {
        String::new()
    };
    format!(
        "{loopback}    {ip} saddr {subnet} oifname \"{table}\" ct status dnat masquerade\n{outside}"
    )
}

fn elements(published: &Published, side: Side, bound: bool) -> String {
    let those = published
        .iter()
        .filter(|(port, _)| port.is_ipv6() == side.is_ipv6() && port.bound().is_some() == bound);
    let lines: Vec<_> = those
        .map(|(port, to)| format!("      {}", element(port, to)))
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("    elements = {{\n{}\n    }}\n", lines.join(",\n"))
    }
}

/// Transaction that deletes some elements and then adds others.
///
/// Adding an element that is there with the same destination changes nothing. Adding one with
/// another destination, or deleting a missing one, makes the whole transaction fail.
pub(in crate::network::bridge) fn change(
    table: &str,
    delete: &[HostPort],
    add: &Published,
) -> String {
    let mut text = String::new();
    for port in delete {
        writeln!(
            text,
            "delete element {} {table} {} {{ {} }}",
            family(port),
            map(port),
            key(port)
        )
        .expect("writing to a string cannot fail");
    }
    for (port, to) in add {
        writeln!(
            text,
            "add element {} {table} {} {{ {} }}",
            family(port),
            map(port),
            element(port, to)
        )
        .expect("writing to a string cannot fail");
    }
    text
}

fn family(port: &HostPort) -> &'static str {
    if port.is_ipv6() { "ip6" } else { "ip" }
}

fn map(port: &HostPort) -> &'static str {
    if port.bound().is_some() {
        "bound"
    } else {
        "ports"
    }
}

fn key(port: &HostPort) -> String {
    let address = port
        .bound()
        .map(|address| format!("{address} . "))
        .unwrap_or_default();
    format!("{address}{} . {}", port.protocol.as_str(), port.port)
}

fn element(port: &HostPort, to: &Publication) -> String {
    format!(
        "{} comment \"{}\" : {} . {}",
        key(port),
        to.owner,
        to.address,
        to.port
    )
}
