//! Looks around on the host: what others own and do that keeps containers from the network.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use state::alarm::Alarm;
use state::assign::PortHolder;
use state::id::{ContainerId, ContainerName, InstanceName};

use super::device::BridgeDevice;
use super::groups::memory::EarlierRules;
use super::links::Netlink;
use super::links::routes::OccupiedRange;
use super::nftables::HostPort;
use super::repair::on_links;
use super::{BridgeNetwork, others};
use crate::network::finding::NetworkFinding;
use crate::network::threads::blocking;
use crate::network::{AssignedInstance, NetworkError, hosts_files};

mod survey;

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
        let mut found = Vec::new();
        let mut take = |alarm, looked: Result<Vec<NetworkFinding>, NetworkError>| match looked {
            Ok(now) => found.extend(now),
            Err(error) => {
                tracing::debug!(%error, %alarm, "host not looked at");
                found.extend(self.before(alarm));
            }
        };
        take(Alarm::PortContested, self.contested_ports(live).await);
        let (strays, strays6) = (
            self.strays(device.index, live).await,
            self.strays6(device.index).await,
        );
        let strays = strays.and_then(|strays| Ok([strays, strays6?].concat()));
        take(Alarm::SubnetShared, strays);
        if occupied {
            take(Alarm::ForwardingBlocked, self.closed_chains().await);
        }
        let resolv_conf = hosts_files::host_resolv_conf(&self.config.resolv_conf);
        found.extend(name_servers(resolv_conf.servers.len()));
        found.extend(connections());
        let is_closed = self.state().is_routed;
        found.extend(
            self.state()
                .unguarded
                .as_deref()
                .map(|reason| unguarded(reason, is_closed)),
        );
        found.extend(self.ipv6_finding());
        found.extend(lost_rules(&self.memory.earlier()));
        found.sort();
        // A port of both families is contested twice.
        found.dedup();
        found
    }

    /// Host ports of containers that others publish or listen on as well. Who came first keeps the
    /// port.
    async fn contested_ports(
        &self,
        live: &[AssignedInstance],
    ) -> Result<Vec<NetworkFinding>, NetworkError> {
        let names: BTreeMap<ContainerId, &ContainerName> = live
            .iter()
            .map(|(instance, names, ..)| (instance.id, &names.container))
            .collect();
        let name = |owner: InstanceName| {
            let name = names.get(&owner.id).map(ToString::to_string);
            name.unwrap_or_else(|| owner.id.to_string())
        };
        let at_risk = self.ports.contested().await?;
        let told = at_risk.contested.into_iter().map(|contest| {
            let (port, container) = (port_subject(contest.port), name(contest.owner));
            let message = match (contest.published, &contest.by) {
                (true, PortHolder::Agent) => {
                    "callers of this node's API who use this address reach \
                                              the container, and hand it their token"
                        .to_owned()
                }
                (true, by) => format!(
                    "another holds it since the container has it; packets go to the container, \
                     and the other gets none. The other is {by}"
                ),
                (false, by) => format!(
                    "another holds it as well, and had it first; the container gets no packets. \
                     The other is {by}"
                ),
            };
            NetworkFinding {
                alarm: Alarm::PortContested,
                subject: format!("{port}{container}"),
                message,
            }
        });
        let unknown: Vec<_> = at_risk.unknown.into_iter().map(port_subject).collect();
        let before = self.before(Alarm::PortContested).into_iter();
        let stay = before.filter(|finding| {
            let is_of = |port: &String| finding.subject.starts_with(port);
            unknown.iter().any(is_of)
        });
        Ok(told.chain(stay).collect())
    }

    /// Findings of an alarm at the look before.
    fn before(&self, alarm: Alarm) -> Vec<NetworkFinding> {
        let before = self.findings.borrow();
        let before = before.iter().filter(|finding| finding.alarm == alarm);
        before.cloned().collect()
    }

    /// Name servers of the host with addresses of the subnet that are no container's: they are behind
    /// the bridge now, where nobody answers.
    async fn hidden_name_servers(&self, live: &[(ContainerName, Ipv4Addr)]) -> Vec<String> {
        let (lists, subnet) = (self.config.resolv_conf.clone(), self.config.subnet);
        let read = blocking(move || Ok(hosts_files::host_resolv_conf(&lists).servers)).await;
        let is_own = |server: &Ipv4Addr| {
            *server == subnet.gateway() || live.iter().any(|(_, address)| address == server)
        };
        let hidden = read.unwrap_or_default().into_iter();
        let hidden = hidden.filter(|server| subnet.contains(*server) && !is_own(server));
        hidden
            .map(|server| format!("the host's name server {server}, which it no longer reaches"))
            .collect()
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
            .filter_map(|(_, names, assignment, _)| {
                Some((names.container.clone(), assignment.address?))
            })
            .collect();
        let mut lines = self.hidden_name_servers(&addresses).await;
        let found = on_links("links", async move |host: &Netlink| {
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
        lines.extend(found.await?);
        let told = lines.into_iter().map(|line| NetworkFinding {
            alarm: Alarm::SubnetShared,
            subject: String::new(),
            message: format!("the containers' subnet {subnet} is shared with {line}"),
        });
        Ok(told.collect())
    }

    async fn closed_chains(&self) -> Result<Vec<NetworkFinding>, NetworkError> {
        let bridge = &self.config.bridge;
        let (own, subnet) = (bridge.clone(), self.config.subnet);
        let firewall = Arc::clone(self.ports.firewall());
        let closed = blocking(move || {
            let known = firewall.nftables().map_err(|error| {
                NetworkError::failed("cannot read the rules of other programs", error)
            })?;
            Ok(others::closed_chains(&known.rules, &own, subnet))
        })
        .await?;
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
        Ok(told.collect())
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

/// Beginning of a finding's subject about a host port.
fn port_subject(port: HostPort) -> String {
    format!(
        "host port {}/{} of container ",
        port.port,
        port.protocol.as_str()
    )
}

fn name_servers(servers: usize) -> Option<NetworkFinding> {
    (servers == 0).then(|| NetworkFinding {
        alarm: Alarm::NoNameServer,
        subject: String::new(),
        message: "the host's resolv.conf names no server that a container can reach; loopback and \
                  IPv6 addresses are none"
            .to_owned(),
    })
}

/// Finding about a link without its guard, which may be all that closes neighbours to each other.
fn unguarded(reason: &str, is_closed: bool) -> NetworkFinding {
    let (alarm, consequence) = if is_closed {
        let consequence = "a container there reaches its neighbours, and is reached by them, although \
                           they are to be closed to each other; the next one is not connected";
        (Alarm::NeighboursNotClosed, consequence)
    } else {
        let consequence = "containers that have raw sockets can send as their neighbours, and reach \
                           what listens on the host's 127.0.0.1 while another program has flushed \
                           all rules";
        (Alarm::LinksUnguarded, consequence)
    };
    NetworkFinding {
        alarm,
        subject: String::new(),
        message: format!("{reason}; {consequence}"),
    }
}

fn lost_rules(earlier: &EarlierRules) -> Option<NetworkFinding> {
    let unknown: Vec<_> = earlier.unknown.iter().map(ToString::to_string).collect();
    earlier.is_lost.then(|| NetworkFinding {
        alarm: Alarm::NetworkRulesLost,
        subject: String::new(),
        message: format!("the rules of {} are not known", unknown.join(", ")),
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
    fn a_host_without_a_name_server_for_containers_is_a_finding() {
        for (host, is_found) in [
            ("nameserver 10.0.0.53\n", false),
            ("nameserver ::1\nnameserver 10.0.0.53\n", false),
            (
                "nameserver 127.0.0.53\nnameserver fd00::53\nsearch x\n",
                true,
            ),
            ("", true),
        ] {
            let finding = name_servers(hosts_files::resolv_conf(host).servers.len());
            let found = finding.map(|finding| finding.alarm);
            assert_eq!(found, is_found.then_some(Alarm::NoNameServer), "{host:?}");
        }
    }

    #[test]
    fn a_nearly_full_table_of_connections_is_a_finding() {
        assert_eq!(connections_found(94, 100), None);
        assert_eq!(connections_found(5, 0), None);
        let full = connections_found(95, 100).unwrap();
        assert_eq!(full.alarm, Alarm::ConnectionsFull);
        assert!(full.message.contains("nearly 100"), "{full:?}");
    }
}
