//! Survey of the host's network for `doctor`: the agent's own looks, beside an agent that runs or in place
//! of one that does not. Nothing is changed.

use std::fs;

use state::desired::PortBinding;
use state::spec::Protocol;

use super::{BridgeNetwork, connections, name_servers};
use crate::network::bridge::links::Netlink;
use crate::network::bridge::links::routes::OccupiedRange;
use crate::network::bridge::repair::on_links;
use crate::network::bridge::{forward, routing};
use crate::network::finding::HostSurvey;
use crate::network::threads::blocking;
use crate::network::{NetworkError, hosts_files, listeners};

impl BridgeNetwork {
    /// Survey of the host's network.
    pub(crate) async fn survey(&self) -> HostSurvey {
        let (of_links, closed, lacking) = tokio::join!(
            self.look_at_links(),
            self.closed_chains(),
            forward::lacking(&self.config.bridge)
        );
        let told = |error: NetworkError| error.to_string();
        let (bridge, shared) = match of_links {
            Ok((bridge, shared)) => (Ok(bridge), Ok(shared)),
            Err(error) => (Err(error.to_string()), Err(error.to_string())),
        };
        let (lists, api) = (self.config.resolv_conf.clone(), self.config.api);
        let looked = blocking(move || {
            let servers = hosts_files::host_resolv_conf(&lists).servers.len();
            let findings = name_servers(servers).into_iter().chain(connections());
            let door = PortBinding {
                container: api.port(),
                host: api.port(),
                host_ip: Some(api.ip()).filter(|address| !address.is_unspecified()),
                protocol: Protocol::Tcp,
            };
            let taken = listeners::listener_on(&door).unwrap_or(false);
            Ok((findings.collect(), taken))
        });
        let (findings, api_taken) = looked.await.unwrap_or_default();
        let forwards = fs::read_to_string(routing::IP_FORWARD);
        HostSurvey {
            bridge,
            shared,
            closed: closed.map_err(told),
            lacking,
            forwards: forwards.ok().map(|text| text.trim() != "0"),
            findings,
            netns: self.with_any_netns().map_err(told),
            api_taken,
        }
    }

    /// Whether the bridge is there, and who else has addresses of the subnet.
    async fn look_at_links(&self) -> Result<(bool, Vec<String>), NetworkError> {
        let (name, subnet) = (self.config.bridge.clone(), self.config.subnet);
        on_links("links", async move |host: &Netlink| {
            let own = host.find(&name).await?.map(|link| link.index);
            let ranges = host.ranges_of_links(own.unwrap_or(0)).await?;
            let collides = |range: &&OccupiedRange| range.collision(subnet).is_some();
            let mut shared: Vec<String> = ranges
                .iter()
                .filter(collides)
                .map(OccupiedRange::to_string)
                .collect();
            let routes = host.ranges_of_routes(own).await?;
            let route = host.first_collision(routes, subnet, |_| true).await;
            shared.extend(route.map(|range| range.to_string()));
            shared.sort();
            shared.dedup();
            Ok((own.is_some(), shared))
        })
        .await
    }
}
