//! Containers with network sections of their own: their rules are in the table before they are on
//! the bridge, and all packets between containers come to the table while there are any.
//!
//! Packets from one container to another on one bridge pass no rule of the host, unless each link
//! lets them to the bridge alone. So while one container has rules all links do that, and the
//! kernel's routing brings the packets on. A running container knows its neighbours' hardware
//! addresses from before: it is told the bridge's in their place, and no talk is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use state::id::InstanceName;

use self::applied::AppliedRules;
use super::links::{self, Netlink};
use super::nftables::groups::{GroupRules, RuledContainers};
use super::repair::on_links;
use super::{BridgeNetwork, veth};
use crate::network::directory::{Apart, Member};
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{NetworkError, Part, hosts_files, netns};

pub(super) mod applied;
pub(super) mod memory;

impl BridgeNetwork {
    /// Instances with rules: those of this agent, and those that only an earlier one knew.
    fn ruled(&self) -> (BTreeMap<InstanceName, Member>, bool) {
        let earlier = self.memory.earlier();
        let mut members = earlier.members;
        members.retain(|instance, member| !self.hosts.knows_since(*instance, member.address));
        members.extend(self.hosts.ruled());
        (members, earlier.is_lost)
    }

    /// Whether packets between containers have to come to the rules of the table.
    fn needs_rules(&self) -> bool {
        let (ruled, is_lost) = self.ruled();
        !self.config.reach.neighbours || is_lost || !ruled.is_empty()
    }

    /// Learns what an earlier agent had put in force.
    pub(super) async fn remember_rules(&self) -> Result<(), NetworkError> {
        self.memory.load();
        let is_routed = self.needs_rules();
        {
            let mut state = self.state();
            state.is_routed = is_routed;
            // The earlier one may have ended when the links were closed, and no container knew.
            state.is_way_new = is_routed;
        }
        let (members, is_closed) = self.ruled();
        self.ports.set_groups(self.rules(members, is_closed)).await
    }

    /// Notes at a repair which instances there are, and whether packets between them have to come
    /// to the table. Until the next repair it may only turn from no to yes.
    pub(super) fn note_members(
        &self,
        kept: &BTreeSet<InstanceName>,
        live: impl IntoIterator<Item = (InstanceName, Member)>,
        apart: Vec<(InstanceName, Apart)>,
    ) {
        self.hosts.replace(kept, live, apart);
        let is_unknown = |instance| self.hosts.address(instance).is_none();
        self.memory.retain(kept, is_unknown);
        let is_routed = self.needs_rules();
        let mut state = self.state();
        state.is_routed_everywhere &= is_routed;
        state.is_routed = is_routed;
    }

    /// Puts the rules of all instances in force, as far as they are not; must end before a new
    /// instance is on the bridge. For one that has rules (`is_strict`), and at a repair, the table
    /// and all links are looked at too.
    pub(super) async fn apply_rules(&self, is_strict: bool) -> AppliedRules {
        let _turn = self.memory.turn.lock().await;
        let (members, is_closed) = self.ruled();
        let is_needed = !members.is_empty() || is_closed;
        let mut applied = AppliedRules::default();
        // A full disk under the file ends no rule.
        let mut sure = self.memory.keep(&members);
        let written = self.write_rules(self.rules(members, is_closed)).await;
        if is_needed && is_strict {
            let looked = self.ports.prepare().await;
            let restored = match looked {
                Ok(()) => self.ports.restore().await,
                Err(error) => Err(error),
            };
            let restored = restored.map(|restored| {
                let lines = restored.map(|restored| restored.lines);
                applied.lines.extend(lines.into_iter().flatten());
            });
            sure = sure.and(restored);
            applied.open_link = self.close_links().await.err();
        }
        applied.in_force = self.ports.groups().await.ruled;
        applied.are_sure = sure.is_ok() && applied.open_link.is_none();
        applied.fault = written.and(sure).err();
        applied
    }

    /// Rules for these instances. Of two with one address the later generation has it.
    fn rules(&self, members: BTreeMap<InstanceName, Member>, is_closed: bool) -> GroupRules {
        let members = members.into_values();
        let ruled: RuledContainers = members
            .map(|member| (member.address, (member.name, member.network)))
            .collect();
        GroupRules {
            name_servers: self.servers(&ruled),
            ruled,
            is_closed,
        }
    }

    /// Name servers that containers are told of, if one of these may ask nobody else.
    fn servers(&self, ruled: &RuledContainers) -> BTreeSet<Ipv4Addr> {
        let asks = ruled.values().any(|(_, network)| network.egress.is_some());
        let servers = asks.then(|| hosts_files::host_resolv_conf(&self.config.resolv_conf).servers);
        servers.into_iter().flatten().collect()
    }

    async fn write_rules(&self, new: GroupRules) -> Result<(), NetworkError> {
        if self.ports.groups().await == new {
            return Ok(());
        }
        let containers = new.ruled.len();
        self.ports.set_groups(new).await?;
        tracing::info!(containers, "network rules written");
        Ok(())
    }

    /// Leads all packets between containers to the rules of the table, if they are not led there.
    ///
    /// # Errors
    /// A link cannot be closed; then the others would be open by it.
    async fn close_links(&self) -> Result<(), NetworkError> {
        let is_done = {
            let state = self.state();
            state.is_routed_everywhere && state.unguarded.is_none()
        };
        if is_done {
            return Ok(());
        }
        // A link that is being made has the guard of before.
        let _alone = self.wiring.write().await;
        let was_routed = std::mem::replace(&mut self.state().is_routed, true);
        let closed = self.guard_links().await;
        if closed.is_err() && !was_routed {
            // Nobody with rules is connected, and nobody else must wait for that.
            self.state().is_routed = false;
            if let Err(error) = self.guard_links().await {
                tracing::warn!(%error, "links not opened again, left to their repair");
            }
        }
        closed.map_err(|error| error.of(Part::Bridge))?;
        self.tell_way()
            .await
            .map_err(|error| error.of(Part::Bridge))
    }

    /// Puts the guard at every link.
    ///
    /// # Errors
    /// One is to be closed and cannot be.
    async fn guard_links(&self) -> Result<(), NetworkError> {
        let (device, _) = self.ensure_device().await?;
        let all = on_links("links", async |host: &Netlink| host.all().await).await?;
        let links = veth::managed_ports(all, device.index).collect();
        self.repair_belts(links).await?;
        let state = self.state();
        match &state.unguarded {
            Some(reason) if state.is_routed => Err(NetworkError::failed(
                "cannot close containers to each other, which network.groups and network.allow need",
                format!("{reason}; mend that, or leave them out"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Tells running containers the way to their neighbours, once all links are closed.
    pub(super) async fn tell_way(&self) -> Result<(), NetworkError> {
        let is_due = {
            let mut state = self.state();
            if !state.is_routed || state.is_routed_everywhere || state.unguarded.is_some() {
                return Ok(());
            }
            state.is_routed_everywhere = !state.is_way_new;
            state.is_way_new
        };
        if !is_due {
            return Ok(());
        }
        let instances = self.with_any_netns()?;
        let files: Vec<_> = instances.into_iter().map(|one| self.netns(one)).collect();
        let gateway = self.config.subnet.gateway();
        on_own_thread("netns", move || {
            for file in files {
                if let Err(error) = lead_neighbours(&file, gateway) {
                    let netns = file.display();
                    tracing::debug!(%netns, %error, "way to neighbours not told, left to ARP");
                }
            }
            Ok(())
        })
        .await?;
        let mut state = self.state();
        (state.is_routed_everywhere, state.is_way_new) = (true, false);
        Ok(())
    }
}

/// Tells the container in a netns that its neighbours are behind the bridge. Moves the thread.
fn lead_neighbours(file: &Path, gateway: Ipv4Addr) -> Result<(), NetworkError> {
    netns::enter_existing(file).map_err(|error| netns::failed("cannot enter a netns", error))?;
    block_on(async {
        let (inside, connection) = links::open()?;
        let leading = async {
            let Some(eth0) = inside.find("eth0").await? else {
                return Ok(());
            };
            let mac = super::device::mac(gateway);
            inside.lead_neighbours(eth0.index, gateway, mac).await
        };
        links::drive(connection, leading).await
    })
}
