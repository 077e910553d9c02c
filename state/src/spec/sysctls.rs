//! Sysctls section: switches of the kernel that a container has of its own.

use std::collections::BTreeMap;

use super::fields::Fields;

/// Sysctls of a container, by name (`a.b.c`): only such as its own namespaces have.
pub type Sysctls = BTreeMap<String, String>;

const ENTRIES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 256;
/// Beginning of those of the network namespace.
const NETWORK: &str = "net.";
/// Beginnings of those that a network namespace has of its own on every kernel, and that leave alone
/// what keeps neighbours apart. IPv6 is none of them: the network has rules for IPv4 only.
const OWN_NETWORK: [&str; 5] = [
    "net.core.somaxconn",
    "net.ipv4.",
    "net.netfilter.nf_conntrack_tcp_",
    "net.netfilter.nf_conntrack_udp_timeout",
    "net.unix.",
];
/// Exceptions: what is one variable of the whole host before Linux 5.13, or by which a
/// container would answer for others' addresses.
const NOT_OWN: [&str; 2] = [
    "net.ipv4.tcp_allowed_congestion_control",
    "net.ipv4.ip_nonlocal_bind",
];
/// Beginnings of those of a link, with the links that are no link's own: what is set at one link is
/// lost with it.
const OF_LINKS: [&str; 2] = ["net.ipv4.conf.", "net.ipv4.neigh."];
const ALL_LINKS: [&str; 2] = ["all.", "default."];
/// Beginning of those by which a link answers for others' addresses.
const PROXIES: &str = "proxy_arp";
/// Beginning of those of the namespace of message queues.
const QUEUES: &str = "fs.mqueue.";
/// Names of those of the namespace of shared memory, semaphores and messages.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Whether a sysctl is one of the network namespace; the others are of the one of IPC.
#[must_use]
pub fn is_of_network(name: &str) -> bool {
    name.starts_with(NETWORK)
}

/// Whether a sysctl of the network is the container's to set.
fn is_own_network(name: &str) -> bool {
    let begins = |beginnings: &[&str]| beginnings.iter().any(|begin| name.starts_with(begin));
    let of_link = OF_LINKS.iter().find_map(|begin| name.strip_prefix(begin));
    let is_of_all = |rest: &str| {
        let mut all = ALL_LINKS.iter();
        let value = all.find_map(|link| rest.strip_prefix(link));
        value.is_some_and(|value| !value.starts_with(PROXIES))
    };
    begins(&OWN_NETWORK) && !NOT_OWN.contains(&name) && of_link.is_none_or(is_of_all)
}

pub(super) fn read(top: &mut Fields<'_>) -> Option<Sysctls> {
    let sysctls = top.text_map("sysctls")?;
    for (name, value) in &sysctls {
        if let Some(fault) = fault(name, value) {
            top.fault(&format!("sysctls.{name}"), &fault);
        }
    }
    if sysctls.len() > ENTRIES_MAX {
        top.fault("sysctls", "must not be more than 64");
    }
    Some(sysctls)
}

fn fault(name: &str, value: &str) -> Option<String> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(is_letter);
    let is_name = name.len() <= NAME_BYTES_MAX && name.split('.').all(is_part);
    let is_own = is_own_network(name) || name.starts_with(QUEUES) || IPC.contains(&name);
    let is_value = (1..=VALUE_BYTES_MAX).contains(&value.len())
        && !value.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    if !is_name {
        Some("is no name such as \"net.core.somaxconn\"".to_owned())
    } else if !is_own {
        Some(format!(
            "is the whole host's, or keeps neighbours apart; a container may set its own of {}*, \
             fs.mqueue.*, {}, and of links those of \"all\" and \"default\"",
            OWN_NETWORK.join("*, "),
            IPC.join(", ")
        ))
    } else if !is_value {
        Some("must be a value of 1 to 256 bytes in one line".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_container_has_of_its_own_is_taken() {
        for (name, value) in [
            ("net.core.somaxconn", "1024"),
            ("net.ipv4.tcp_rmem", "4096 87380 6291456"),
            ("fs.mqueue.msg_max", "100"),
            ("net.ipv4.conf.all.src_valid_mark", "1"),
            ("net.netfilter.nf_conntrack_tcp_timeout_established", "600"),
            ("kernel.shm_rmid_forced", "1"),
            ("kernel.sem", "250\t32000\t32\t128"),
        ] {
            assert_eq!(fault(name, value), None, "{name}");
        }
        for (name, value, part) in [
            ("kernel.panic", "1", "whole host's"),
            ("vm.swappiness", "1", "whole host's"),
            ("kernel.hostname", "x", "whole host's"),
            ("fs.file-max", "1", "whole host's"),
            ("network.x", "1", "whole host's"),
            ("net.netfilter.nf_conntrack_max", "1", "whole host's"),
            ("net.nf_conntrack_max", "1", "whole host's"),
            (
                "net.ipv4.tcp_allowed_congestion_control",
                "x",
                "whole host's",
            ),
            ("net.ipv6.conf.all.disable_ipv6", "0", "apart"),
            ("net.ipv4.ip_nonlocal_bind", "1", "apart"),
            ("net.ipv4.conf.all.proxy_arp", "1", "apart"),
            ("net.ipv4.conf.default.proxy_arp_pvlan", "1", "apart"),
            ("net.ipv4.conf.eth0.rp_filter", "0", "\"default\""),
            ("net.ipv4.neigh.eth0.gc_stale_time", "9", "\"default\""),
            ("net..x", "1", "no name"),
            ("net.ipv4/../../kernel.panic", "1", "no name"),
            ("", "1", "no name"),
            ("net.core.somaxconn", "", "1 to 256"),
            ("net.core.somaxconn", "1\n2", "1 to 256"),
        ] {
            assert!(fault(name, value).unwrap().contains(part), "{name}");
        }
    }
}
