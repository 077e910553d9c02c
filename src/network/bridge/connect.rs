//! Connecting of an instance: its veth pair, the bridge, and the way through the host's firewall.

use std::net::Ipv4Addr;

use state::id::{ContainerName, InstanceName};

use super::device::BridgeDevice;
use super::veth::{LinkGuard, VethPair};
use super::{BridgeConfig, BridgeNetwork, device, forward, links, veth};
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{NetworkError, Part};

impl BridgeNetwork {
    /// Makes an instance's netns and veth pair, and the bridge if it is not there.
    pub(super) async fn connect_veth(
        &self,
        instance: InstanceName,
        hostname: &ContainerName,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        // All links are closed before or after this one is made, and it never has the guard of before.
        let _shared = self.wiring.read().await;
        let device = self.state().device.clone();
        let device = match device {
            Some(device) => device,
            None => self.ensure_device().await?.0,
        };
        let mut pair = self.veth_pair(instance, hostname, address, device);
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
        let BridgeConfig { bridge, subnet, .. } = self.config.clone();
        let (memory, isolated) = (self.config.routing_memory(), self.state().is_routed);
        let (device, done) = on_own_thread("bridge", move || {
            block_on(async {
                let (host, connection) = links::open()?;
                links::drive(
                    connection,
                    device::ensure(&host, &bridge, subnet, isolated, &memory),
                )
                .await
            })
        })
        .await
        .map_err(|error| error.of(Part::Bridge))?;
        self.state().device = Some(device.clone());
        Ok((device, done))
    }

    pub(super) async fn open_forward(&self) -> Result<(), NetworkError> {
        if !self.state().forward_open {
            forward::ensure(&self.config.bridge, true)
                .await
                .map_err(|error| error.of(Part::Firewall))?;
            self.state().forward_open = true;
        }
        Ok(())
    }

    pub(super) fn veth_pair(
        &self,
        instance: InstanceName,
        hostname: &ContainerName,
        address: Ipv4Addr,
        device: BridgeDevice,
    ) -> VethPair {
        VethPair {
            netns: self.netns(instance),
            name: veth::name(&self.config.bridge, instance),
            alias: veth::alias(instance, hostname),
            device,
            address,
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
            only_to: self
                .state()
                .is_routed
                .then(|| device::mac(self.config.subnet.gateway())),
        }
    }
}
