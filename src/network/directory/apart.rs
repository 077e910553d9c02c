//! Instances that are not on the network: they have hosts files all the same.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use state::id::ContainerName;
use state::spec::Names;
use state::spec::network::NetworkMode;

use crate::network::hosts_files::{HostsFiles, HostsOwner, Peers, Written};

/// Instance without an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network) struct Apart {
    pub(in crate::network) name: ContainerName,
    pub(in crate::network) mode: NetworkMode,
    pub(in crate::network) asked: Names,
}

impl Apart {
    /// Writes those of its files that differ: with the host's network it asks the name servers that the
    /// host asks, those on loopback among them, and reaches the host there. Blocks.
    pub(super) fn write(
        &self,
        files: &HostsFiles,
        lists: &[PathBuf],
        (gateway, resolv_conf): (Ipv4Addr, &str),
    ) -> io::Result<Written> {
        let is_host = self.mode == NetworkMode::Host;
        let hosts = lists.first().filter(|_| is_host);
        let hosts = hosts.and_then(|list| fs::read_to_string(list).ok());
        let owner = HostsOwner {
            name: &self.name,
            addresses: None,
            asked: &self.asked,
            gateway: if is_host {
                Ipv4Addr::LOCALHOST
            } else {
                gateway
            },
        };
        files.write(
            owner,
            &Peers::new(),
            hosts.as_deref().unwrap_or(resolv_conf),
        )
    }
}
