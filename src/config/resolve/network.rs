//! Section `network`: the containers' network.

use super::super::*;
use super::Layers;

impl Layers {
    pub(super) fn network(&mut self) -> NetworkSection {
        let mut section = NetworkSection {
            bridge: self.value("network.bridge", parse::interface),
            subnet: self.value("network.subnet", parse::subnet_or_auto),
            subnet_auto: self.value("network.subnet", parse::is_auto),
            subnet6: None,
            subnet6_fault: None,
            subnet6_auto: self
                .optional("network.subnet6", parse::is_auto)
                .unwrap_or_default(),
            port_range: self.value("network.port_range", parse::port_range),
            host_access: self
                .by_age(
                    "network.host_access",
                    ["open", "closed"],
                    parse::host_access,
                )
                .flatten(),
            link_local: self
                .by_age("network.link_local", ["true", "false"], parse::flag)
                .unwrap_or_default(),
            neighbours: self.value("network.isolation", parse::isolation),
            source_guard: self.value("network.source_guard", parse::flag),
            route_between_networks: self
                .by_age(
                    "network.route_between_networks",
                    ["true", "false"],
                    parse::flag,
                )
                .unwrap_or_default(),
        };
        section.subnet6 = self.subnet6(section.subnet);
        section
    }

    /// The IPv6 subnet, which has an address for each one of the other.
    fn subnet6(&mut self, subnet: Ipv4Subnet) -> Option<Ipv6Subnet> {
        let subnet6 = self.optional("network.subnet6", parse::subnet6_or_auto)??;
        if !subnet6.is_as_large_as(subnet) {
            let message = format!(
                "{subnet6} has fewer addresses than network.subnet ({subnet}): write a prefix of {} at most",
                96 + subnet.prefix()
            );
            self.error("network.subnet6", message);
        }
        Some(subnet6)
    }
}
