//! The one nftables table, in each family of addresses that containers have: its rules as text (`text`),
//! its state as read back, and `nft`, which carries both.
//!
//! Only this room knows nft's language. `nft` is run as a program: it works beside container
//! creation, which takes ten times as long.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use state::id::InstanceName;
use state::spec::Protocol;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use state::reach::NodeReach;
use state::subnet::Ipv6Subnet;

use self::groups::RuledContainers;
use self::rules::ContainerReach;
use super::tools;

pub(super) mod groups;
pub(super) mod rules;
mod side;
mod text;

pub(super) use text::{change, probe, table};

/// Longest run of `nft`. A run takes 5 to 40 ms; one that takes longer than this hangs.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);

/// Most attempts of one run. The kernel refuses a change with `EBUSY` or `EINTR` while somebody
/// else changes the rule set, for milliseconds. With doubled waits from 10 ms on, this many make
/// 0.6 s.
const ATTEMPTS_MAX: u32 = 7;

/// Host port: the destination of a packet as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPort {
    /// Address of the host. `None`: every IPv4 one; `::`: every IPv6 one.
    pub(super) host_ip: Option<IpAddr>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

impl HostPort {
    /// Address of the host, if it is not every one of its family.
    pub(super) fn bound(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }

    /// Whether packets for it are IPv6's.
    pub(super) fn is_ipv6(&self) -> bool {
        self.host_ip.is_some_and(|address| address.is_ipv6())
    }
}

/// Destination that a packet for a host port gets instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    /// Owner of the port; kept with the element as its comment.
    pub(super) owner: InstanceName,
    /// Address of the container, of the same family.
    pub(super) address: IpAddr,
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
    /// Links between which nothing is forwarded, and those between which nothing of IPv6 is.
    pub(super) unrouted: [&'a [String]; 2],
    /// IPv6 subnet of the containers, if they have one.
    pub(super) subnet6: Option<Ipv6Subnet>,
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

impl TableListing {
    /// Whether the agent made the table: each has had this chain and this map ever since.
    fn is_own(&self) -> bool {
        let has = |kind: &str, name: &str| {
            let begin = format!("{{\"{kind}\":{{");
            let name = format!("\"name\":\"{name}\"");
            let mut lines = self.shape.lines();
            lines.any(|line| line.starts_with(&begin) && line.contains(&name))
        };
        has("chain", "published") && has("map", "ports")
    }
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
    /// Table of somebody else, by its family and name.
    #[error(
        "table {0} was not made by this agent, and stays; if it is of no use, nft delete table {0}"
    )]
    Foreign(String),
    /// The output is not a listing.
    #[error("cannot read nft's listing")]
    Listing(#[source] serde_json::Error),
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
    let [address, to_port] = to.get("concat")?.as_array()?.as_slice() else {
        return None;
    };
    let address = read_address(address)?;
    // An element of all addresses names none: the family is that of the destination.
    let all = address.is_ipv6().then_some(Ipv6Addr::UNSPECIFIED.into());
    let (host_ip, protocol, port) = match from.get("val")?.get("concat")?.as_array()?.as_slice() {
        [protocol, port] => (all, protocol, port),
        [address, protocol, port] => (Some(read_address(address)?), protocol, port),
        _ => return None,
    };
    let protocol = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|known| Some(known.as_str()) == protocol.as_str())?;
    let port = HostPort {
        host_ip,
        protocol,
        port: read_port(port)?,
    };
    Some((
        port,
        Publication {
            owner,
            address,
            port: read_port(to_port)?,
        },
    ))
}

fn read_address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn read_port(value: &Value) -> Option<u16> {
    value.as_u64()?.try_into().ok()
}

/// Reads the table, also its half for IPv6 where that is asked for. `None`: there is none.
pub(super) async fn list(table: &str, ipv6: bool) -> Result<Option<TableListing>, NftError> {
    let Some(mut listing) = list_one("ip", table).await? else {
        return Ok(None);
    };
    if ipv6 {
        let other = list_one("ip6", table).await?.unwrap_or_default();
        listing.published.extend(other.published);
        listing.shape += &other.shape;
    }
    Ok(Some(listing))
}

async fn list_one(family: &str, table: &str) -> Result<Option<TableListing>, NftError> {
    match run(&["-j", "list", "table", family, table], "").await {
        Ok(json) => read_listing(&json).map(Some),
        Err(NftError::Refused(message)) if message.contains("No such file or directory") => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Asks the kernel whether it would carry out a transaction; it is not carried out.
pub(super) async fn check(transaction: &str) -> Result<(), NftError> {
    run(&["-c", "-f", "-"], transaction).await.map(drop)
}

/// Deletes the table's half in a family (`ip`, `ip6`), if there is one.
///
/// # Errors
/// [`NftError::Foreign`]: somebody else made a table of that name.
pub(super) async fn delete(family: &str, table: &str) -> Result<(), NftError> {
    match list_one(family, table).await? {
        None => Ok(()),
        Some(listing) if listing.is_own() => {
            let text = format!("table {family} {table}\ndelete table {family} {table}\n");
            apply(&text).await
        }
        Some(_) => Err(NftError::Foreign(format!("{family} {table}"))),
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
            Err(NftError::Refused(error)) if is_passing(&error) => {
                tracing::debug!(error, "nft run repeated: rule set busy");
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
