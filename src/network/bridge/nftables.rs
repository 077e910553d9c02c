//! The one nftables table: its rules as text, its state as read back, and `nft`, which carries
//! both.
//!
//! Only this room knows nft's language. `nft` is run as a program: it works beside container
//! creation, which takes ten times as long.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use state::id::InstanceName;
use state::spec::Protocol;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use state::reach::NodeReach;

use self::groups::RuledContainers;
use self::rules::ContainerReach;
use super::{routing, tools};

pub(super) mod groups;
pub(super) mod rules;

/// Longest run of `nft`. A run takes 5 to 40 ms; one that takes longer than this hangs.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);

/// Most attempts of one run. The kernel refuses a change with `EBUSY` or `EINTR` while somebody
/// else changes the rule set, for milliseconds. With doubled waits from 10 ms on, this many make
/// 0.6 s.
const ATTEMPTS_MAX: u32 = 7;

/// Host port: the destination of a packet as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPort {
    /// Address of the host. `None`: every one.
    pub(super) host_ip: Option<Ipv4Addr>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// Destination that a packet for a host port gets instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    /// Owner of the port; kept with the element as its comment.
    pub(super) owner: InstanceName,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
}

/// All published ports.
pub(super) type Published = BTreeMap<HostPort, Publication>;

/// Rules of the table beside the published ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableRules<'a> {
    /// Name of the table, and of the bridge.
    pub(super) table: &'a str,
    pub(super) reach: &'a ContainerReach,
    /// Links between which nothing is forwarded.
    pub(super) unrouted: &'a [String],
    pub(super) node: &'a NodeReach,
    pub(super) ruled: &'a RuledContainers,
}

/// Table as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableListing {
    /// Map elements of the table. An unreadable one is not among them, and is in `shape`.
    pub(super) published: Published,
    /// Chains, rules and types in `nft`'s own words. To be compared with a later one of the same
    /// `nft`.
    pub(super) shape: String,
}

/// Failure of `nft`.
#[derive(Debug, thiserror::Error)]
pub(super) enum NftError {
    /// The program could not be run, or hung.
    #[error("cannot run nft (package nftables)")]
    Run(#[source] io::Error),
    /// The kernel or `nft` refused.
    #[error("nft: {0}")]
    Refused(String),
    /// The output is not a listing.
    #[error("cannot read nft's listing")]
    Listing(#[source] serde_json::Error),
}

/// Transaction that makes the table what it should be, whatever it was.
///
/// Every packet sees either the old table or the new one; connections that were set up by the old
/// one go on.
pub(super) fn table(rules: TableRules<'_>, published: &Published) -> String {
    let TableRules {
        table,
        reach,
        unrouted,
        node,
        ruled,
    } = rules;
    let subnet = node.subnet;
    let groups = groups::text(table, node, ruled);
    let neighbours = if ruled.is_empty() {
        rules::neighbours(table, node.open)
    } else {
        groups.forward
    };
    // `delete` fails on a missing table, so the table is made first.
    format!(
        r#"table ip {table}
delete table ip {table}
table ip {table} {{
  map bound {{
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
{bound}  }}
  map ports {{
    type inet_proto . inet_service : ipv4_addr . inet_service
{ports}  }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{table}" ip saddr != {subnet} drop
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
  chain published {{
    dnat ip to ip daddr . meta l4proto . th dport map @bound
    dnat ip to meta l4proto . th dport map @ports
  }}
  chain prerouting {{
    type nat hook prerouting priority -110; policy accept;
    fib daddr type local jump published
  }}
  chain output {{
    type nat hook output priority -110; policy accept;
    fib daddr type local jump published
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname != "{table}" oifname "{table}" ct state new ct status ! dnat drop
{neighbours}{between}{link_local}  }}
{groups}{between_chain}{input}  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
    ip saddr 127.0.0.0/8 oifname "{table}" masquerade
    ip saddr {subnet} oifname "{table}" ct status dnat masquerade
    ip saddr {subnet} oifname != "{table}" masquerade
  }}
}}
"#,
        bound = elements(published, true),
        ports = elements(published, false),
        groups = groups.definitions,
        between = routing::between(unrouted),
        between_chain = routing::between_chain(unrouted),
        input = rules::input(table, &reach.host, &groups.input),
        link_local = rules::link_local(table, reach.link_local),
    )
}

fn elements(published: &Published, bound: bool) -> String {
    let those = published
        .iter()
        .filter(|(port, _)| port.host_ip.is_some() == bound);
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
pub(super) fn change(table: &str, delete: &[HostPort], add: &Published) -> String {
    let mut text = String::new();
    for port in delete {
        writeln!(
            text,
            "delete element ip {table} {} {{ {} }}",
            map(port),
            key(port)
        )
        .expect("writing to a string cannot fail");
    }
    for (port, to) in add {
        writeln!(
            text,
            "add element ip {table} {} {{ {} }}",
            map(port),
            element(port, to)
        )
        .expect("writing to a string cannot fail");
    }
    text
}

fn map(port: &HostPort) -> &'static str {
    if port.host_ip.is_some() {
        "bound"
    } else {
        "ports"
    }
}

fn key(port: &HostPort) -> String {
    let address = port
        .host_ip
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

/// Reads what `nft -j list table` printed.
pub(super) fn read_listing(json: &str) -> Result<TableListing, NftError> {
    let mut listed: Value = serde_json::from_str(json).map_err(NftError::Listing)?;
    let mut listing = TableListing::default();
    for object in listed
        .get_mut("nftables")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if object.get("metainfo").is_some() {
            continue;
        }
        for (_, part) in object.as_object_mut().into_iter().flatten() {
            let Some(part) = part.as_object_mut() else {
                continue;
            };
            // The kernel gives another handle at each replacement.
            part.remove("handle");
            let Some(Value::Array(elements)) = part.remove("elem") else {
                continue;
            };
            let unreadable: Vec<Value> = elements
                .into_iter()
                .filter(|element| match read_element(element) {
                    Some((port, to)) => listing.published.insert(port, to).is_some(),
                    None => true,
                })
                .collect();
            if !unreadable.is_empty() {
                // The kernel's order of a set changes when it grows.
                let mut unreadable = unreadable;
                unreadable.sort_by_cached_key(Value::to_string);
                part.insert("elem".to_owned(), unreadable.into());
            }
        }
        writeln!(listing.shape, "{object}").expect("writing to a string cannot fail");
    }
    Ok(listing)
}

/// Reads a map element:
/// `[{"elem":{"val":{"concat":[<address>,<protocol>,<port>]},"comment":<owner>}},
/// {"concat":[<address>,<port>]}]`
fn read_element(element: &Value) -> Option<(HostPort, Publication)> {
    let [from, to] = element.as_array()?.as_slice() else {
        return None;
    };
    let from = from.get("elem")?;
    let owner = from.get("comment")?.as_str()?.parse().ok()?;
    let (host_ip, protocol, port) = match from.get("val")?.get("concat")?.as_array()?.as_slice() {
        [protocol, port] => (None, protocol, port),
        [address, protocol, port] => (Some(read_address(address)?), protocol, port),
        _ => return None,
    };
    let protocol = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|known| Some(known.as_str()) == protocol.as_str())?;
    let [address, to_port] = to.get("concat")?.as_array()?.as_slice() else {
        return None;
    };
    let port = HostPort {
        host_ip,
        protocol,
        port: read_port(port)?,
    };
    Some((
        port,
        Publication {
            owner,
            address: read_address(address)?,
            port: read_port(to_port)?,
        },
    ))
}

fn read_address(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

fn read_port(value: &Value) -> Option<u16> {
    value.as_u64()?.try_into().ok()
}

/// Reads the table. `None`: there is none.
pub(super) async fn list(table: &str) -> Result<Option<TableListing>, NftError> {
    match run(&["-j", "list", "table", "ip", table], "").await {
        Ok(json) => read_listing(&json).map(Some),
        Err(NftError::Refused(message)) if message.contains("No such file or directory") => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Carries out a transaction, whole or not at all.
pub(super) async fn apply(transaction: &str) -> Result<(), NftError> {
    run(&["-f", "-"], transaction).await.map(drop)
}

async fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut wait = Duration::from_millis(10);
    for _ in 1..ATTEMPTS_MAX {
        match run_once(arguments, input).await {
            Err(NftError::Refused(message)) if is_passing(&message) => {
                tracing::debug!(message, "nft run repeated: rule set busy");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            result => return result,
        }
    }
    run_once(arguments, input).await
}

fn is_passing(message: &str) -> bool {
    [
        "Device or resource busy",
        "Interrupted system call",
        "Resource temporarily unavailable",
    ]
    .iter()
    .any(|text| message.contains(text))
}

async fn run_once(arguments: &[&str], input: &str) -> Result<String, NftError> {
    tokio::time::timeout(RUN_TIMEOUT, exchange(arguments, input))
        .await
        .map_err(|_| NftError::Run(io::ErrorKind::TimedOut.into()))?
}

async fn exchange(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut child = Command::from(tools::command("nft"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Run)?;
    let mut stdin = child.stdin.take().expect("it was just piped");
    // A child that ends without reading everything says why on stderr; the broken pipe says nothing
    // more.
    let written = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(NftError::Run)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        // The first line names the error; the others draw its place.
        return Err(NftError::Refused(
            message
                .lines()
                .next()
                .unwrap_or("failed without a word")
                .to_owned(),
        ));
    }
    written.map_err(NftError::Run)?;
    String::from_utf8(output.stdout)
        .map_err(|error| NftError::Run(io::Error::new(io::ErrorKind::InvalidData, error)))
}

#[cfg(test)]
mod tests;
