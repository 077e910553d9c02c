//! Rules of `iptables-legacy`, which live beside nftables in the kernel and are seen by none of its
//! tools; read as `iptables-legacy-save` prints them.

use std::fs;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::super::tools;
use super::rules::{AddressRange, BaseChain, ChainName, Hook, PortMatch, Rule, RuleSet};

/// Kind of packets that `iptables-legacy` has tables for.
#[derive(Clone, Copy, Debug)]
pub(in crate::network::bridge) enum Kind {
    Ipv4,
    Ipv6,
}

impl Kind {
    /// Tables that are in use in this netns, a name in each line.
    const fn tables(self) -> &'static str {
        match self {
            Self::Ipv4 => "/proc/thread-self/net/ip_tables_names",
            Self::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
        }
    }
}

/// Whether `iptables-legacy` has this table. To ask the program would make it.
pub(in crate::network::bridge) fn has_table(kind: Kind, name: &str) -> bool {
    fs::read_to_string(kind.tables()).is_ok_and(|names| names.lines().any(|line| line == name))
}

/// Longest run of `iptables-legacy-save`. A run takes some 5 ms.
const RUN_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the rules that change destinations. Blocks, for [`RUN_TIMEOUT`] at most.
///
/// # Errors
/// The program is missing, fails, or does not end.
pub(super) fn read() -> io::Result<RuleSet> {
    if !has_table(Kind::Ipv4, "nat") {
        return Ok(RuleSet::default());
    }
    let mut command = tools::command("iptables-legacy-save");
    command.args(["-t", "nat"]);
    output(command, RUN_TIMEOUT).map(|saved| parse(&saved))
}

/// Output of a program, which is killed if it runs longer.
fn output(mut command: Command, longest: Duration) -> io::Result<String> {
    let command = command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let (send, receive) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.read_to_end(&mut bytes);
            let _ = send.send(read.map(|_| bytes));
        });
    }
    let read = receive.recv_timeout(longest);
    if read.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let bytes = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if status.success() {
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}

fn parse(saved: &str) -> RuleSet {
    let base = |chain: &str| BaseChain {
        name: chain_name(chain),
        hook: Hook::Destination,
        drops: false,
    };
    RuleSet {
        base_chains: ["PREROUTING", "OUTPUT"].map(base).into(),
        rules: saved.lines().filter_map(rule).collect(),
    }
}

fn chain_name(chain: &str) -> ChainName {
    ChainName {
        family: "legacy",
        table: "nat".to_owned(),
        chain: chain.to_owned(),
    }
}

/// Rule of a line such as `-A DOCKER -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT …`.
fn rule(line: &str) -> Option<Rule> {
    let mut words = line.split_whitespace();
    (words.next()? == "-A").then_some(())?;
    let mut rule = Rule::new(chain_name(words.next()?));
    let (mut ports, mut negated) = (Vec::new(), false);
    while let Some(word) = words.next() {
        let value = match word {
            "-p" | "-d" | "--dport" | "--dports" | "-j" | "-g" => words.next()?,
            other => {
                negated = other == "!";
                continue;
            }
        };
        match word {
            _ if std::mem::take(&mut negated) => {}
            "-p" => rule.protocol = protocol_number(value),
            "-d" => rule.to = address_range(value),
            "--dport" | "--dports" => ports.extend(value.split(',').filter_map(port_range)),
            _ => match value {
                "DNAT" | "REDIRECT" => rule.redirects = true,
                chain => rule.jumps.push(chain.to_owned()),
            },
        }
    }
    let protocol = rule.protocol;
    let ports = ports.into_iter().map(|ports| PortMatch {
        protocol,
        ports,
        to: None,
    });
    rule.ports.extend(ports);
    Some(rule)
}

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(17),
        other => other.parse().ok(),
    }
}

fn port_range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn address_range(text: &str) -> Option<AddressRange> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let (address, prefix): (Ipv4Addr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
    let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
    Some(AddressRange {
        network: address.to_bits() & mask,
        mask,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_rule_tells_ports_address_and_target() {
        let read = |line: &str| rule(line).unwrap();
        let docker = read(
            "-A DOCKER -d 192.0.2.1/32 ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
        );
        assert_eq!(docker.chain, chain_name("DOCKER"));
        assert!(docker.redirects && docker.jumps.is_empty());
        let one = AddressRange {
            network: 0xc000_0201,
            mask: u32::MAX,
        };
        assert_eq!(docker.to, Some(one));
        let tcp = |ports| PortMatch {
            protocol: Some(6),
            ports,
            to: None,
        };
        assert_eq!(docker.ports, [tcp(80..=80)]);
        let portmap =
            read("-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8080,9000:9010 -j CNI-DN-1");
        assert_eq!(portmap.ports, [tcp(8080..=8080), tcp(9000..=9010)]);
        assert_eq!(portmap.jumps, ["CNI-DN-1"]);
        assert_eq!(read("-A X ! -d 10.0.0.0/8 -j DNAT --to 10.0.0.1").to, None);
        assert_eq!(rule(":PREROUTING ACCEPT [0:0]"), None);
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_and_one_that_fails_tells_nothing() {
        let run = |line: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            output(command, Duration::from_millis(300))
        };
        assert_eq!(run("echo rule").unwrap(), "rule\n");
        let hung = run("exec sleep 60").unwrap_err();
        assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
        assert!(run("echo half a rule; exit 1").is_err());
    }
}
