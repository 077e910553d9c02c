//! Sysctls section: switches of the kernel that a container has of its own.

use std::collections::BTreeMap;

use super::fields::Fields;

/// Sysctls of a container, by name (`a.b.c`): only such as its own namespaces have.
pub type Sysctls = BTreeMap<String, String>;

const ENTRIES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 256;
/// Those of the network namespace, by their beginning.
const NETWORK: &str = "net.";
/// Those of the namespace of message queues, by their beginning.
const QUEUES: &str = "fs.mqueue.";
/// Those of the namespace of shared memory, semaphores and messages.
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
    let is_own = is_of_network(name) || name.starts_with(QUEUES) || IPC.contains(&name);
    let is_value = (1..=VALUE_BYTES_MAX).contains(&value.len())
        && !value.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    if !is_name {
        Some("is no name such as \"net.core.somaxconn\"".to_owned())
    } else if !is_own {
        Some(format!(
            "is the whole host's; a container has its own of net.*, fs.mqueue.*, {}",
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
