//! Connecting of an instance: its veth pair, the bridge, and the way through the host's firewall.

use state::id::InstanceName;

use super::device::BridgeDevice;
use super::ipv6::end::VethEnd6;
use super::veth::{LinkGuard, VethPair};
use super::{BridgeConfig, BridgeNetwork, device, forward, links, veth};
use crate::network::directory::Member;
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{NetworkError, Part};

impl BridgeNetwork {
    /// Makes an instance's netns and veth pair, and the bridge if it is not there.
    pub(super) async fn connect_veth(
        &self,
        instance: InstanceName,
        member: &Member,
    ) -> Result<(), NetworkError> {
        // All links are closed before or after this one is made, and it never has the guard of before.
        let _shared = self.wiring.read().await;
        let device = self.state().device.clone();
        let device = match device {
            Some(device) => device,
            None => self.ensure_device().await?.0,
        };
        let mut pair = self.veth_pair(instance, member, device);
        pair.rivals = self
            .with_any_netns()?
            .into_iter()
            .filter(|other| other.id == instance.id && other.generation < instance.generation)
            .map(|other| veth::name(&self.config.bridge, other))
            .collect();
        let Err(error) = veth::connect(pair.clone()).await else {
            return Ok(());
        };
        // The bridge may have been deleted since. If it is the same one, the error stands.
        let device = self.ensure_device().await?.0;
        if device.index == pair.device.index {
            Err(error)
        } else {
            veth::connect(VethPair { device, ..pair }).await
        }
    }

    pub(super) async fn ensure_device(&self) -> Result<(BridgeDevice, Vec<String>), NetworkError> {
        let BridgeConfig {
            bridge,
            subnet,
            subnet6,
            ..
        } = self.config.clone();
        let (memory, isolated) = (self.config.routing_memory(), self.state().is_routed);
        let (device, mut done) = on_own_thread("bridge", move || {
            block_on(async {
                let (host, connection) = links::open()?;
                links::drive(
                    connection,
                    device::ensure(&host, &bridge, (subnet, subnet6), isolated, &memory),
                )
                .await
            })
        })
        .await
        .map_err(|error| error.of(Part::Bridge))?;
        done.extend(self.ensure_ipv6(&device).await);
        self.state().device = Some(device.clone());
        Ok((device, done))
    }

    pub(super) async fn open_forward(&self) -> Result<(), NetworkError> {
        if !self.state().forward_open {
            self.ensure_forward(true)
                .await
                .map_err(|error| error.of(Part::Firewall))?;
            self.state().forward_open = true;
        }
        Ok(())
    }

    /// Ensures that the host's firewall lets the bridge's packets of both families pass, or that none of
    /// the agent's rules is in it.
    pub(super) async fn ensure_forward(&self, wanted: bool) -> Result<Vec<String>, NetworkError> {
        let mut done = forward::ensure(&self.config.bridge, wanted).await?;
        if self.subnet6().is_some() {
            done.extend(forward::ensure_ipv6(&self.config.bridge, wanted).await?);
        }
        Ok(done)
    }

    pub(super) fn veth_pair(
        &self,
        instance: InstanceName,
        member: &Member,
        device: BridgeDevice,
    ) -> VethPair {
        let end6 = member.address6.zip(self.subnet6());
        VethPair {
            netns: self.netns(instance),
            name: veth::name(&self.config.bridge, instance),
            alias: veth::alias(instance, &member.name),
            device,
            address: member.address,
            end6: end6.map(|(address, subnet)| VethEnd6 {
                address,
                gateway: subnet.gateway(),
            }),
            gateway: self.config.subnet.gateway(),
            prefix: self.config.subnet.prefix(),
            rivals: Vec::new(),
            guard: self.guard(),
        }
    }

    /// Guard of each link.
    pub(super) fn guard(&self) -> LinkGuard {
        LinkGuard {
            source: self.config.source_guard,
            subnet6: self.subnet6().map(|subnet6| (subnet6, self.config.subnet)),
            only_to: self
                .state()
                .is_routed
                .then(|| device::mac(self.config.subnet.gateway())),
        }
    }
}
