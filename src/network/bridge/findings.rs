//! Looks around on the host: what others own and do that keeps containers from the network.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;

use state::alarm::Alarm;
use state::id::{ContainerId, ContainerName, InstanceName};

use super::device::BridgeDevice;
use super::links::Netlink;
use super::links::routes::OccupiedRange;
use super::repair::on_links;
use super::{BridgeNetwork, others};
use crate::network::finding::NetworkFinding;
use crate::network::{AssignedInstance, NetworkError, hosts_files};

/// Counter and limit of the kernel's connections. Beyond the limit it drops new ones.
const CONNECTIONS: [&str; 2] = [
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/netfilter/nf_conntrack_max",
];

/// Share of the limit of connections, in percent, from which the table counts as full.
const CONNECTIONS_FULL_PERCENT: u64 = 95;

impl BridgeNetwork {
    /// Findings at this moment, for instances that are live. What cannot be looked at counts as
    /// before. Without containers (`occupied`) nothing is dropped that is theirs.
    pub(super) async fn look_around(
        &self,
        device: &BridgeDevice,
        live: &[AssignedInstance],
        occupied: bool,
    ) -> Vec<NetworkFinding> {
        let mut found = self.contested_ports(live).await;
        match self.strays(device.index, live).await {
            Ok(strays) => found.extend(strays),
            Err(error) => {
                tracing::debug!(%error, "routes of containers not looked at");
                let before = self.findings.borrow().clone().into_iter();
                found.extend(before.filter(|finding| finding.alarm == Alarm::SubnetShared));
            }
        }
        if occupied {
            found.extend(self.closed_chains());
        }
        found.extend(name_servers());
        found.extend(connections());
        found.sort();
        found
    }

    /// Host ports of containers that others publish or listen on as well. Who came first keeps the
    /// port.
    async fn contested_ports(&self, live: &[AssignedInstance]) -> Vec<NetworkFinding> {
        let names: BTreeMap<ContainerId, &ContainerName> = live
            .iter()
            .map(|(instance, name, _)| (instance.id, name))
            .collect();
        let name = |owner: InstanceName| {
            let name = names.get(&owner.id).map(ToString::to_string);
            name.unwrap_or_else(|| owner.id.to_string())
        };
        let contested = self.ports.contested().await.into_iter();
        let told = contested.map(|contest| {
            let (port, container) = (contest.port, name(contest.owner));
            let (number, protocol) = (port.port, port.protocol.as_str());
            let outcome = if contest.published {
                "since the container has it; packets go to the container, and the other gets none"
            } else {
                "as well, and had it first; the container gets no packets"
            };
            NetworkFinding {
                alarm: Alarm::PortContested,
                subject: format!("host port {number}/{protocol} of container {container}"),
                message: format!("another holds it {outcome}. The other is {}", contest.by),
            }
        });
        told.collect()
    }

    /// Containers whose packets leave by another link, and interfaces with addresses of the subnet.
    async fn strays(
        &self,
        bridge: u32,
        live: &[AssignedInstance],
    ) -> Result<Vec<NetworkFinding>, NetworkError> {
        let subnet = self.config.subnet;
        let addresses: Vec<(ContainerName, Ipv4Addr)> = live
            .iter()
            .filter_map(|(_, name, assignment)| Some((name.clone(), assignment.address?)))
            .collect();
        let lines = on_links("links", async move |host: &Netlink| {
            let mut lines = Vec::new();
            let ranges = host.ranges_of_links(bridge).await?;
            let others = ranges
                .iter()
                .filter(|range| range.collision(subnet).is_some());
            lines.extend(others.map(OccupiedRange::to_string));
            for (name, address) in addresses {
                if host.link_towards(address).await != Some(bridge) {
                    let routes = host.ranges_of_routes(Some(bridge)).await?;
                    let cause = host.first_collision(routes, subnet, |_| true).await;
                    let cause = cause.map_or_else(
                        || "a rule for routes (ip rule)".to_owned(),
                        |range| range.to_string(),
                    );
                    lines.push(format!(
                        "{cause}, so that packets for container {name} ({address}) go elsewhere"
                    ));
                    break;
                }
            }
            Ok(lines)
        });
        let told = lines.await?.into_iter().map(|line| NetworkFinding {
            alarm: Alarm::SubnetShared,
            subject: String::new(),
            message: format!("the containers' subnet {subnet} is shared with {line}"),
        });
        Ok(told.collect())
    }

    fn closed_chains(&self) -> Vec<NetworkFinding> {
        let bridge = &self.config.bridge;
        let rules = match self.ports.firewall().nftables() {
            Ok(rules) => rules,
            Err(error) => {
                tracing::debug!(%error, "rules of other programs not read");
                return Vec::new();
            }
        };
        let closed = others::closed_chains(&rules.rules, bridge, self.config.subnet);
        let told = closed.into_iter().map(|chain| {
            let remedy = if chain.table == "firewalld" {
                format!(
                    "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && \
                     firewall-cmd --reload"
                )
            } else {
                let place = format!("{} {} {}", chain.family, chain.table, chain.chain);
                format!(
                    "nft insert rule {place} oifname {bridge} accept; nft insert rule {place} \
                     iifname {bridge} accept"
                )
            };
            NetworkFinding {
                alarm: Alarm::ForwardingBlocked,
                subject: chain.to_string(),
                message: format!(
                    "drops the packets from and to containers; let them pass: {remedy}"
                ),
            }
        });
        told.collect()
    }

    /// Keeps the findings for those who watch them.
    pub(super) fn keep_findings(&self, found: Vec<NetworkFinding>) {
        self.findings.send_if_modified(|kept| {
            let changed = *kept != found;
            *kept = found;
            changed
        });
    }
}

fn name_servers() -> Option<NetworkFinding> {
    let made = hosts_files::host_resolv_conf();
    (made.servers == 0).then(|| NetworkFinding {
        alarm: Alarm::NoNameServer,
        subject: String::new(),
        message: "the host's resolv.conf names no server that a container can reach; loopback and \
                  IPv6 addresses are none"
            .to_owned(),
    })
}

fn connections() -> Option<NetworkFinding> {
    let [count, limit] = CONNECTIONS
        .map(|path| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() });
    connections_found(count?, limit?)
}

fn connections_found(count: u64, limit: u64) -> Option<NetworkFinding> {
    let is_full = limit > 0 && count.saturating_mul(100) >= limit * CONNECTIONS_FULL_PERCENT;
    is_full.then(|| NetworkFinding {
        alarm: Alarm::ConnectionsFull,
        subject: String::new(),
        // Without the count: a finding that changes at each look would be told at each look.
        message: format!("nearly {limit} connections are tracked, which is the limit"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearly_full_table_of_connections_is_a_finding() {
        assert_eq!(connections_found(94, 100), None);
        assert_eq!(connections_found(5, 0), None);
        let full = connections_found(95, 100).unwrap();
        assert_eq!(full.alarm, Alarm::ConnectionsFull);
        assert!(full.message.contains("nearly 100"), "{full:?}");
    }
}
