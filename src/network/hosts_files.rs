//! Hosts files of a container: `resolv.conf`, `hosts` and `hostname`, bind-mounted into it.
//!
//! The files are rewritten in place: a bind mount shows the file, not its path, and would go on
//! showing a replaced one. Where they are a container's own to write, `hosts_place` keeps it from
//! harming others by them, and `marked_block` its lines from being lost.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use state::desired::Addresses;
use state::id::ContainerName;
use state::spec::Names;
use state::spec::names::{DnsSettings, HostAddress, HostName};

use super::hosts_place::{self, HostsWriter};
use super::marked_block::{self, WithoutBlock};

/// Lists of a host's name servers; the second is systemd-resolved's, behind its stub on 127.0.0.53.
pub const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Hosts files of one instance.
#[derive(Clone, Debug)]
pub(super) struct HostsFiles {
    pub(super) dir: PathBuf,
}

/// Outcome of [`HostsFiles::write`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything was right before.
    Same,
    /// Something was written.
    Changed,
    /// The container has made a file such that it cannot be kept current.
    Spoilt(
        /// The file, and what is wrong with it.
        String,
    ),
}

impl HostsFiles {
    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    pub(super) fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    pub(super) fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }

    /// Directory beside the files, on their file system: the kernel takes away with that one what is
    /// mounted there.
    pub(super) fn sysfs(&self) -> PathBuf {
        self.dir.join("sys")
    }

    /// Whether a container that is made now may write to its files: not to those in a plain
    /// directory, which is as large as the host's memory.
    pub(super) fn writable(&self) -> bool {
        hosts_place::writer(&self.dir).is_ok_and(|writer| writer == HostsWriter::Container)
    }

    /// Writes each of the three that differs.
    ///
    /// # Errors
    /// A file that the container has not touched cannot be written.
    pub(super) fn write(
        &self,
        owner: HostsOwner<'_>,
        peers: &Peers,
        resolv_conf: &str,
    ) -> io::Result<Written> {
        let place = hosts_place::ensure(&self.dir)?;
        let hosts = hosts(owner, peers);
        let hostname = format!("{}\n", owner.hostname());
        let resolv_conf = &*own_resolv_conf(resolv_conf, &owner.asked.dns);
        let files = [
            (self.hostname(), hostname.as_str(), None),
            (self.hosts(), hosts.as_str(), Some(WithoutBlock::Append)),
            (self.resolv_conf(), resolv_conf, Some(WithoutBlock::Leave)),
        ];
        let (mut changed, mut spoilt) = (false, None);
        for (path, text, without) in files {
            let content = |old: Option<&[u8]>| match (place, without, old) {
                (HostsWriter::Agent, ..) => Some(text.as_bytes().to_vec()),
                (HostsWriter::Container, Some(without), old) => {
                    marked_block::put(old, text, without)
                }
                // The name does not change, and what the container writes there is its own.
                (HostsWriter::Container, None, None) => Some(text.as_bytes().to_vec()),
                (HostsWriter::Container, None, Some(_)) => None,
            };
            match hosts_place::rewrite(&path, content) {
                Ok(written) => changed |= written,
                Err(error) if place == HostsWriter::Container && path.exists() => {
                    spoilt = Some(format!("{}: {error}", path.display()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(match spoilt {
            Some(fault) => Written::Spoilt(fault),
            None if changed => Written::Changed,
            None => Written::Same,
        })
    }

    /// Removes the files. Answers whether there were any.
    pub(super) fn remove(&self) -> io::Result<bool> {
        hosts_place::remove(&self.dir)
    }
}

/// Owner of hosts files.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostsOwner<'a> {
    pub(super) name: &'a ContainerName,
    /// `None`: it has none of its own.
    pub(super) addresses: Option<Addresses>,
    pub(super) asked: &'a Names,
    /// Address at which it reaches the host.
    pub(super) gateway: Ipv4Addr,
}

impl HostsOwner<'_> {
    fn hostname(&self) -> &str {
        let asked = self.asked.hostname.as_ref();
        asked.map_or(self.name.as_str(), HostName::as_str)
    }
}

/// Name and addresses of every container.
pub(super) type Peers = BTreeMap<ContainerName, Addresses>;

/// Content of a container's `hosts` (hosts(5)): the container itself, the hosts that it asks for, and
/// all others by their names. Of several lines for a name the first counts.
fn hosts(owner: HostsOwner<'_>, peers: &Peers) -> String {
    let mut text =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let mut line = |address: &dyn fmt::Display, names: &str| {
        writeln!(text, "{address}\t{names}").expect("writing to a string cannot fail");
    };
    let (own, hostname) = (owner.name.as_str(), owner.hostname());
    // Programs look their own host name up, and fail without an answer.
    let addresses = owner.addresses;
    let addresses = addresses.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let own = if hostname == own {
        own.to_owned()
    } else {
        format!("{hostname} {own}")
    };
    line(&addresses.address, &own);
    if let Some(address) = addresses.address6 {
        line(&address, &own);
    }
    for (name, address) in &owner.asked.hosts {
        match address {
            HostAddress::At(address) => line(address, name.as_str()),
            HostAddress::Gateway => line(&owner.gateway, name.as_str()),
        }
    }
    for (name, their) in peers.iter().filter(|(name, _)| *name != owner.name) {
        line(&their.address, name.as_str());
        // Who has no IPv6 is told of nobody's.
        if let Some(address) = their.address6.filter(|_| addresses.address6.is_some()) {
            line(&address, name.as_str());
        }
    }
    text
}

/// Content of one container's `resolv.conf`: of every container's, with what it asks for instead.
fn own_resolv_conf<'a>(common: &'a str, asked: &DnsSettings) -> Cow<'a, str> {
    if *asked == DnsSettings::default() {
        return Cow::Borrowed(common);
    }
    let is_replaced = |line: &&str| match line.split_whitespace().next() {
        Some("nameserver" | "#") => !asked.servers.is_empty(),
        Some("search" | "domain") => !asked.search.is_empty(),
        Some("options") => !asked.options.is_empty(),
        Some(_) | None => false,
    };
    let kept = common.lines().filter(|line| !is_replaced(line));
    let mut lines: Vec<_> = kept.map(str::to_owned).collect();
    let servers = asked.servers.iter();
    lines.extend(servers.map(|server| format!("nameserver {server}")));
    if !asked.search.is_empty() && asked.search != ["."] {
        lines.push(format!("search {}", asked.search.join(" ")));
    }
    if !asked.options.is_empty() {
        lines.push(format!("options {}", asked.options.join(" ")));
    }
    lines.push(String::new());
    Cow::Owned(lines.join("\n"))
}

/// Content of every container's `resolv.conf`, made from the host's as it is now: of the first of
/// these files that names a server.
pub(super) fn host_resolv_conf(files: &[PathBuf]) -> ResolvConf {
    let mut first = None;
    for path in files {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let made = resolv_conf(&text);
        if !made.servers.is_empty() {
            return made;
        }
        first.get_or_insert(made);
    }
    first.unwrap_or_else(|| resolv_conf(""))
}

/// Content of a `resolv.conf`.
#[derive(Debug)]
pub(super) struct ResolvConf {
    pub(super) text: String,
    /// Name servers in it.
    pub(super) servers: Vec<Ipv4Addr>,
}

/// Content of a container's `resolv.conf` (resolv.conf(5)) from the host's.
///
/// Left out: servers on a loopback address (the container's own loopback is another), and IPv6
/// ones, which a container cannot reach. If none is left the list stays empty: containers ask no
/// server that the host does not ask.
pub(super) fn resolv_conf(host: &str) -> ResolvConf {
    let mut text = String::new();
    let mut servers = Vec::new();
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let keep = match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse().ok());
                let server = server.and_then(reachable);
                servers.extend(server);
                server.is_some()
            }
            Some("search" | "domain" | "options") => true,
            _ => false,
        };
        if keep {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    if servers.is_empty() {
        text.push_str("# The host has no name server that a container could reach.\n");
    }
    ResolvConf { text, servers }
}

/// The address of a name server of the host, if a container can reach it there.
const fn reachable(server: IpAddr) -> Option<Ipv4Addr> {
    match server {
        IpAddr::V4(server) if !server.is_loopback() && !server.is_unspecified() => Some(server),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use serde_json::{Value, json};
    use state::spec::parse;

    use super::*;

    fn name(text: &str) -> ContainerName {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_lists_oneself_first_and_everybody_once() {
        let address = |last| Ipv4Addr::new(10, 231, 0, last);
        let at = |last| Addresses::from(address(last));
        let dual = |last| Addresses {
            address6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)),
            ..at(u8::try_from(last).unwrap())
        };
        let peers = Peers::from([
            (name("a"), at(4)),
            (name("db"), dual(3)),
            (name("web"), dual(2)),
        ]);
        let of = |asked: &Value, own: Addresses| {
            let mut body = json!({"name": "web", "image": "x"});
            body.as_object_mut()
                .unwrap()
                .extend(asked.as_object().unwrap().clone());
            let owner = HostsOwner {
                name: &name("web"),
                addresses: Some(own),
                asked: &parse::deploy(&body).unwrap().spec.names,
                gateway: address(1),
            };
            let text = hosts(owner, &peers);
            assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
            text.lines().skip(2).map(str::to_owned).collect::<Vec<_>>()
        };
        let lines = |asked: &Value| of(asked, at(2));
        let others = ["10.231.0.4\ta", "10.231.0.3\tdb"];
        let plain = lines(&json!({}));
        assert_eq!(plain, [&["10.231.0.2\tweb"][..], &others].concat());
        let asked =
            json!({"hostname": "w.example", "hosts": {"db": "192.0.2.1", "node": "host-gateway"}});
        let first = [
            "10.231.0.2\tw.example web",
            "192.0.2.1\tdb",
            "10.231.0.1\tnode",
        ];
        assert_eq!(lines(&asked), [&first[..], &others].concat());
        let both = [
            "10.231.0.2\tweb",
            "fd00::2\tweb",
            "10.231.0.4\ta",
            "10.231.0.3\tdb",
            "fd00::3\tdb",
        ];
        assert_eq!(of(&json!({}), dual(2)), both, "one with IPv6");
    }

    #[test]
    fn what_a_container_asks_of_names_replaces_the_hosts_line_by_line() {
        #[track_caller]
        fn check(dns: &Value, common: &str, expected: &str) {
            let body = json!({"name": "web", "image": "x", "dns": dns});
            let names = parse::deploy(&body).unwrap().spec.names;
            assert_eq!(own_resolv_conf(common, &names.dns), expected, "{dns}");
        }
        const COMMON: &str = "search lan\nnameserver 10.0.0.53\noptions edns0\n";
        check(&json!({}), COMMON, COMMON);
        check(
            &json!({"servers": ["192.0.2.53", "192.0.2.54"]}),
            COMMON,
            "search lan\noptions edns0\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n",
        );
        check(
            &json!({"search": ["a.example", "b.example"], "options": ["ndots:2", "rotate"]}),
            COMMON,
            "nameserver 10.0.0.53\nsearch a.example b.example\noptions ndots:2 rotate\n",
        );
        check(
            &json!({"search": ["."]}),
            COMMON,
            "nameserver 10.0.0.53\noptions edns0\n",
        );
        check(
            &json!({"servers": ["192.0.2.53"]}),
            "# The host has no name server that a container could reach.\n",
            "nameserver 192.0.2.53\n",
        );
    }

    #[test]
    fn only_name_servers_that_a_container_can_reach_are_kept() {
        #[track_caller]
        fn check(host: &str, servers: usize, expected: &str) {
            let made = resolv_conf(host);
            assert_eq!(
                (made.servers.len(), made.text.as_str()),
                (servers, expected)
            );
        }
        const NONE: &str = "# The host has no name server that a container could reach.\n";
        check("nameserver 10.0.0.53\n", 1, "nameserver 10.0.0.53\n");
        check(
            "# note\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n",
            0,
            &format!("options edns0\nsearch lan\n{NONE}"),
        );
        check(
            "nameserver ::1\nnameserver fe80::1%eth0\nnameserver 8.8.8.8 \n",
            1,
            "nameserver 8.8.8.8\n",
        );
        check("", 0, NONE);
        check("nameserver\nnameserver x\nsortlist 1.2.3.4\n", 0, NONE);
    }
}
