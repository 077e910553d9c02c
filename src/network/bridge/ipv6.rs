//! IPv6 of the bridge, where a subnet of it is configured: the switches of the host, the bridge's address,
//! and the containers as neighbours. A host that cannot have it keeps nobody from IPv4.
//!
//! Nobody on the bridge asks or tells who is a neighbour, or where the way out is: hardware addresses
//! follow from the assigned ones, and both sides know them for good. So a container cannot stand in for
//! another, nor for a router, and packets between containers all come to the host's rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use state::alarm::Alarm;
use state::id::InstanceName;
use state::subnet::Ipv6Subnet;

use super::device::{BridgeDevice, find_own, is_managed, mac};
use super::links::ipv6::Neighbours;
use super::links::{self, Netlink};
use super::repair::on_links;
use super::{BridgeNetwork, forward};
use crate::cause;
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{NetworkError, NetworkFinding, netns};

use end::SWITCHES;

pub(super) mod end;
pub(super) mod switches;

impl BridgeNetwork {
    /// IPv6 subnet of the containers, where the host can have it.
    pub(super) fn subnet6(&self) -> Option<Ipv6Subnet> {
        self.ports.subnet6()
    }

    /// Address of a container in that subnet, beside its IPv4 one.
    pub(super) fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.subnet6()?.of(self.config.subnet, address)
    }

    /// Addresses of a container, of both families.
    pub(super) fn addresses_of(&self, address: Option<Ipv4Addr>) -> Vec<IpAddr> {
        let address6 = address.and_then(|address| self.address6(address));
        let address = address.map(IpAddr::V4);
        address
            .into_iter()
            .chain(address6.map(IpAddr::V6))
            .collect()
    }

    /// Gives the bridge IPv6 if it is configured, or finds that the host cannot have it; that is told by
    /// [`Self::ipv6_finding`], and tried again at each repair. A failure takes nothing away from who has it.
    pub(super) async fn ensure_ipv6(&self, device: &BridgeDevice) -> Vec<String> {
        let Some(subnet) = self.config.subnet6 else {
            return Vec::new();
        };
        let (done, refused) = match self.try_ipv6(subnet, device.index).await {
            Ok(done) => {
                self.ports.set_ipv6(true);
                (done, None)
            }
            Err(NoIpv6::Failed(error)) => (Vec::new(), Some(cause::all(&error))),
            Err(NoIpv6::Refused(error)) => {
                self.ports.set_ipv6(false);
                if let Err(error) = self.take_ipv6_away().await {
                    tracing::warn!(%error, "IPv6 of the bridge not taken away");
                }
                (Vec::new(), Some(cause::all(&error)))
            }
        };
        self.note_no_ipv6(refused);
        done
    }

    /// Notes the reason why the host cannot have IPv6, or that it can.
    fn note_no_ipv6(&self, refused: Option<String>) {
        let mut state = self.state();
        if let Some(reason) = refused.as_ref().filter(|_| state.no_ipv6 != refused) {
            tracing::warn!(reason, "containers get no IPv6");
        }
        state.no_ipv6 = refused;
    }

    async fn try_ipv6(&self, subnet: Ipv6Subnet, bridge: u32) -> Result<Vec<String>, NoIpv6> {
        let (name, works) = (self.config.bridge.clone(), self.subnet6().is_some());
        if !works {
            let has_ipv6 = Path::new(switches::LINKS).join(&name).exists();
            if !has_ipv6 {
                return Err(NoIpv6::Refused(NetworkError::failed(
                    format!("the kernel has no IPv6, and {subnet} (network.subnet6) cannot be had"),
                    "boot without ipv6.disable=1, or leave network.subnet6 out",
                )));
            }
            // Once is enough: the writing of the table tells of what changed since.
            let checked = self.ports.check_ipv6().await;
            checked.map_err(NoIpv6::Refused)?;
        }
        let done = on_links("bridge", async move |host: &Netlink| {
            Ok(ensure(host, (&name, bridge), subnet, works).await)
        });
        let done = done.await.map_err(NoIpv6::Failed)??;
        let memory = self.config.switch_memory();
        if !memory.exists() {
            // Before there is anything that is to be taken away again.
            memory.note(&[], &[]).map_err(NoIpv6::Failed)?;
        }
        Ok(done)
    }

    /// Makes the host forward from and for the bridge. Must come after the table is written, which keeps
    /// the host from connecting its networks.
    pub(super) async fn open_ipv6(&self) -> Vec<String> {
        if self.subnet6().is_none() {
            return Vec::new();
        }
        match self.try_to_forward().await {
            Ok(done) => done,
            Err(error) => {
                self.note_no_ipv6(Some(cause::all(&error)));
                Vec::new()
            }
        }
    }

    async fn try_to_forward(&self) -> Result<Vec<String>, NetworkError> {
        let (bridge, memory) = (self.config.bridge.clone(), self.config.switch_memory());
        let others = on_links("links", async move |host: &Netlink| {
            let names = host.all().await?.into_iter().map(|link| link.name);
            let is_other = |name: &String| *name != "lo" && *name != bridge && !is_managed(name);
            Ok(names.filter(is_other).collect::<Vec<_>>())
        });
        let others = others.await?;
        let switches = switches::missing(&memory, &self.config.bridge, &others);
        if switches.is_empty() && memory.exists() {
            return Ok(Vec::new());
        }
        if memory.note(&switches, &others)? {
            self.ports.rewrite().await?;
        }
        if switches.iter().any(switches::Switch::is_for_all) {
            tracing::warn!(
                "IPv6 forwarding of the whole host is switched on; links that take routes go on \
                 doing so (accept_ra=2)"
            );
        }
        let mut done = Vec::new();
        for switch in switches {
            done.extend(switch.set()?);
        }
        Ok(done)
    }

    /// Sets back and removes what is there of IPv6 since it was configured, if it was.
    pub(super) async fn forget_ipv6(&self) -> Result<(), NetworkError> {
        if !self.config.switch_memory().exists() {
            return Ok(());
        }
        // Before the rules go that keep the host from connecting its networks.
        self.take_ipv6_away().await?;
        forward::ensure_ipv6(&self.config.bridge, false)
            .await
            .map(drop)
    }

    async fn take_ipv6_away(&self) -> Result<(), NetworkError> {
        self.config.switch_memory().set_back()?;
        let (bridge, gateway) = (self.config.bridge.clone(), self.config.subnet.gateway());
        let own = on_links("bridge", async move |host: &Netlink| {
            find_own(host, &bridge, gateway).await
        });
        // A bridge of that name may be somebody else's by now.
        if let Ok(Some(own)) = own.await {
            switches::set(&own.name, "disable_ipv6", "1")?;
        }
        self.ports.delete_ipv6().await
    }

    /// Whether a running instance has this address, of which no record tells: an agent that was killed
    /// had no time to store it. It is looked once.
    pub(super) async fn has_address6(&self, instance: InstanceName, address: Ipv6Addr) -> bool {
        if !self.state().looked_for_ipv6.insert(instance) {
            return false;
        }
        let file = self.netns(instance);
        let looked = on_own_thread("netns", move || {
            let entered = netns::enter_existing(&file);
            entered.map_err(|error| netns::failed("cannot enter a netns", error))?;
            block_on(async {
                let (inside, connection) = links::open()?;
                let looking = async {
                    let Some(eth0) = inside.find("eth0").await? else {
                        return Ok(false);
                    };
                    inside.has_address6(eth0.index, address).await
                };
                links::drive(connection, looking).await
            })
        });
        looked.await.unwrap_or_else(|error| {
            tracing::debug!(%instance, %error, "container not looked into for IPv6");
            false
        })
    }

    /// Containers with IPv6, and the hardware addresses that they have.
    fn neighbours(&self) -> impl Iterator<Item = (Ipv6Addr, [u8; 6])> + use<> {
        let all = self.hosts.dual().into_iter();
        all.map(|(address, address6)| (address6, mac(address)))
    }

    /// Makes the containers the bridge's neighbours for good, and nobody else.
    pub(super) async fn repair_neighbours(&self, bridge: u32) -> Result<Vec<String>, NetworkError> {
        if self.subnet6().is_none() {
            return Ok(Vec::new());
        }
        let wanted: Neighbours = self.neighbours().collect();
        let set = on_links("links", async move |host: &Netlink| {
            host.set_neighbours(bridge, &wanted).await
        });
        let lines = set.await?.into_iter();
        Ok(lines
            .map(|address| format!("neighbour {address}"))
            .collect())
    }

    /// Finding about a host that cannot have IPv6.
    pub(super) fn ipv6_finding(&self) -> Option<NetworkFinding> {
        let state = self.state();
        state.no_ipv6.as_ref().map(|reason| NetworkFinding {
            alarm: Alarm::Ipv6Unavailable,
            subject: String::new(),
            message: reason.clone(),
        })
    }

    /// Finding about others who have addresses of the subnet.
    pub(super) async fn strays6(&self, bridge: u32) -> Result<Vec<NetworkFinding>, NetworkError> {
        let Some(subnet) = self.subnet6() else {
            return Ok(Vec::new());
        };
        let one = self.neighbours().next();
        let found = on_links("links", async move |host: &Netlink| {
            let shared = host.collision6(Some(bridge), subnet).await?;
            let Some((address, _)) = one.filter(|_| shared.is_none()) else {
                return Ok(shared);
            };
            let goes_astray = host.link_towards6(address).await != Some(bridge);
            Ok(goes_astray.then(|| "a rule for routes (ip -6 rule)".to_owned()))
        });
        let told = found.await?.into_iter().map(|shared| NetworkFinding {
            alarm: Alarm::SubnetShared,
            subject: "IPv6".to_owned(),
            message: format!(
                "the containers' subnet {subnet} (network.subnet6) is shared with {shared}"
            ),
        });
        Ok(told.collect())
    }
}

/// Reason why the bridge has no IPv6.
#[derive(Debug)]
enum NoIpv6 {
    /// The host cannot have it as things are.
    Refused(NetworkError),
    /// Failure that does not tell whether it could.
    Failed(NetworkError),
}

/// Gives the bridge IPv6, and answers one line for each difference. Idempotent. What `works` already is
/// taken from nobody for who comes later with the same addresses.
async fn ensure(
    links: &Netlink,
    (bridge, index): (&str, u32),
    subnet: Ipv6Subnet,
    works: bool,
) -> Result<Vec<String>, NoIpv6> {
    let failed = NoIpv6::Failed;
    let gateway = subnet.gateway();
    let has_address = links.has_address6(index, gateway).await.map_err(failed)?;
    if !has_address && !works {
        let range = links
            .collision6(Some(index), subnet)
            .await
            .map_err(failed)?;
        if let Some(range) = range {
            return Err(NoIpv6::Refused(NetworkError::failed(
                format!("cannot give {subnet} (network.subnet6) to containers"),
                format!(
                    "{range} is on this host already; set network.subnet6 to a free one, or remove the \
                     other"
                ),
            )));
        }
    }
    let set = async {
        let mut done = Vec::new();
        for (key, value) in SWITCHES.into_iter().chain([KEEPS_ADDRESSES]) {
            done.extend(switches::set(bridge, key, value)?);
        }
        if !has_address {
            links.set_address6(index, gateway, subnet.prefix()).await?;
            done.push(format!("bridge {bridge}: address {gateway}"));
        }
        let others = links
            .remove_other_addresses6(index, gateway)
            .await?
            .into_iter();
        done.extend(others.map(|other| format!("bridge {bridge}: without {other}")));
        Ok(done)
    };
    set.await.map_err(failed)
}

/// Addresses stay while a person sets the link down and up.
const KEEPS_ADDRESSES: (&str, &str) = ("keep_addr_on_down", "1");
