//! Repair of the whole bridge network: compares it with the wanted instances, mends each
//! difference, and removes leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use state::id::{ContainerId, InstanceName};

use super::device::{BridgeDevice, find_own};
use super::groups::applied::AppliedRules;
use super::links::belt::BeltState;
use super::links::{self, KernelLink, Netlink};
use super::nftables::Published;
use super::ports::PortRepair;
use super::veth;
use super::{BridgeNetwork, BridgeState, forward};
use crate::network::directory::Member;
use crate::network::hosts_place::MEMORY_DIR;
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{AssignedInstance, NetworkError, netns};

/// Lines of finished repairs, and the first error; the steps after an error are tried all the same.
#[derive(Debug, Default)]
struct Repairs {
    lines: Vec<String>,
    error: Option<NetworkError>,
}

impl Repairs {
    fn note(&mut self, result: Result<impl IntoIterator<Item = String>, NetworkError>) {
        match result {
            Ok(lines) => self.lines.extend(lines),
            Err(error) => drop(self.error.get_or_insert(error)),
        }
    }

    fn finish(self) -> Result<Vec<String>, NetworkError> {
        for line in &self.lines {
            tracing::info!(repaired = line, "network repaired");
        }
        self.error.map_or(Ok(self.lines), Err)
    }
}

impl BridgeNetwork {
    /// Repairs bridge, netns, veth pairs, table, firewall and hosts files.
    ///
    /// Never touched: files without an instance's name, links without the agent's prefix or on
    /// another bridge, rules without the agent's comment.
    pub(super) async fn repair_all(
        &self,
        wanted: &[AssignedInstance],
        untouched: &BTreeSet<ContainerId>,
    ) -> Result<Vec<String>, NetworkError> {
        let _alone = self.gate.write().await;
        let mut repairs = Repairs::default();
        let wanted = &self.as_published(wanted);
        let named: BTreeSet<InstanceName> = wanted.iter().map(|(instance, ..)| *instance).collect();
        let mut spared = self.spared(&named);
        spared.extend(self.instances_of(untouched)?.difference(&named));

        let live = self.with_netns(wanted)?;
        let apart = wanted
            .iter()
            .filter_map(|entry| self.apart(entry))
            .collect();
        let live = self.with_address6(live).await;
        self.note_members(&spared, live.iter().filter_map(member), apart);
        let (device, done) = self.ensure_device().await?;
        repairs.note(Ok(done));
        let in_use =
            |instance: &InstanceName| named.contains(instance) || spared.contains(instance);
        repairs.note(self.remove_leftovers(in_use));
        let mut rules = self.apply_rules(true).await;
        repairs.note(Ok(std::mem::take(&mut rules.lines)));
        repairs.note(rules.fault.take().map_or(Ok(None), Err));
        let pairs = self.repair_veth_pairs(device.clone(), &live, &spared, &rules);
        repairs.note(pairs.await);
        repairs.note(self.repair_neighbours(device.index).await);
        let published = self.wanted_ports(&live, &spared).await;
        match self.ports.repair(published).await {
            Ok(PortRepair { lines, unknown }) => {
                repairs.note(Ok(lines));
                repairs.note(unknown.map_or(Ok(None), Err));
            }
            Err(error) => repairs.note(Err::<Option<String>, _>(error)),
        }

        repairs.note(Ok(self.open_ipv6().await));
        let occupied = !(named.is_empty() && spared.is_empty());
        let forward = self.ensure_forward(occupied).await;
        self.state().forward_open = occupied && forward.is_ok();
        repairs.note(forward);
        self.keep_findings(self.look_around(&device, &live, occupied).await);

        let rewritten = self.hosts.write_all().await?;
        let changed = rewritten.changed.into_iter();
        repairs.note(Ok(
            changed.map(|instance| format!("hosts files of {instance}"))
        ));
        for (_, error) in rewritten.failed {
            repairs.note(Err::<Option<String>, _>(error));
        }
        repairs.finish()
    }

    /// Removes netns, veth pairs, bridge, table, firewall rules and hosts files.
    pub(super) async fn remove_all(&self) -> Result<(), NetworkError> {
        let _alone = self.gate.write().await;
        self.hosts.clear();
        self.memory.clear();
        *self.state() = BridgeState::default();
        let mut repairs = Repairs::default();
        repairs.note(self.remove_leftovers(|_| false));
        repairs.note(self.forget_ipv6().await.map(|()| None));
        repairs.note(self.ports.teardown().await.map(|()| None));
        let forward = forward::ensure(&self.config.bridge, false).await;
        repairs.note(forward);
        repairs.note(self.remove_device().await.map(|()| None));
        let memory = self.config.files_dir.join(MEMORY_DIR);
        for dir in [&self.config.netns_dir, &memory, &self.config.files_dir] {
            // Only an empty one: other files in it are not the agent's.
            if let Err(error) = std::fs::remove_dir(dir) {
                tracing::debug!(dir = %dir.display(), %error, "network directory not removed");
            }
        }
        repairs.finish().map(drop)
    }

    async fn remove_device(&self) -> Result<(), NetworkError> {
        let (name, gateway) = (self.config.bridge.clone(), self.config.subnet.gateway());
        on_links("bridge", async move |host: &Netlink| {
            let own = find_own(host, &name, gateway).await.map_err(|error| {
                NetworkError::failed(format!("the bridge {name} is not removed"), error)
            })?;
            let Some(bridge) = own else { return Ok(()) };
            for port in veth::managed_ports(host.all().await?, bridge.index) {
                host.delete(&port).await?;
            }
            host.delete(&bridge).await
        })
        .await
    }

    /// Instances of these containers that have a netns.
    fn instances_of(
        &self,
        containers: &BTreeSet<ContainerId>,
    ) -> Result<BTreeSet<InstanceName>, NetworkError> {
        let is_theirs = |instance: &InstanceName| containers.contains(&instance.id);
        Ok(self
            .with_any_netns()?
            .into_iter()
            .filter(is_theirs)
            .collect())
    }

    /// Wanted instances that have a netns.
    fn with_netns(
        &self,
        wanted: &[AssignedInstance],
    ) -> Result<Vec<AssignedInstance>, NetworkError> {
        let mut live = Vec::new();
        for entry in wanted {
            let file = self.netns(entry.0);
            if netns::exists(&file).map_err(|error| {
                netns::failed(format!("cannot look at {}", file.display()), error)
            })? {
                live.push(entry.clone());
            }
        }
        Ok(live)
    }

    /// Live instances with the IPv6 addresses that they have: those of the subnet that is configured
    /// now, and those that this agent gave before they were stored.
    async fn with_address6(&self, mut live: Vec<AssignedInstance>) -> Vec<AssignedInstance> {
        for (instance, _, assignment, _) in &mut live {
            let now = assignment
                .address
                .and_then(|address| self.address6(address));
            let had = self.hosts.address6(*instance).or(assignment.address6);
            let had = match (had, now) {
                (None, Some(now)) if self.has_address6(*instance, now).await => Some(now),
                (had, _) => had,
            };
            assignment.address6 = now.filter(|now| had == Some(*now));
        }
        live
    }

    /// Ports to be published: those of spared instances as they are, and those assigned to live
    /// ones.
    async fn wanted_ports(
        &self,
        live: &[AssignedInstance],
        spared: &BTreeSet<InstanceName>,
    ) -> Published {
        let last = self.last_published(live);
        let keep = |instance| spared.contains(&instance) || last.contains(&instance);
        let mut published = self.ports.of(keep).await;
        for (instance, _, assignment, _) in live {
            for (port, to) in self.ports.publications(*instance, assignment) {
                published.entry(port).or_insert(to);
            }
        }
        published
    }

    fn remove_leftovers(
        &self,
        in_use: impl Fn(&InstanceName) -> bool,
    ) -> Result<Vec<String>, NetworkError> {
        let mut lines = Vec::new();
        for instance in leftovers_in(&self.config.netns_dir, &in_use)? {
            let file = self.netns(instance);
            netns::remove(&file).map_err(|error| {
                netns::failed(format!("cannot remove {}", file.display()), error)
            })?;
            lines.push(format!("netns {instance}"));
        }
        let mut places = leftovers_in(&self.config.files_dir, &in_use)?;
        // Those that the version before removed without their memory.
        places.extend(leftovers_in(
            &self.config.files_dir.join(MEMORY_DIR),
            &in_use,
        )?);
        places.sort_unstable();
        places.dedup();
        for instance in places {
            let files = self.hosts.files(instance);
            files.remove().map_err(|error| {
                NetworkError::failed(format!("cannot remove {}", files.dir.display()), error)
            })?;
            lines.push(format!("hosts files of {instance}"));
        }
        Ok(lines)
    }

    /// Connects live instances whose veth pair is not right, if the rules admit them, and deletes
    /// leftover links.
    async fn repair_veth_pairs(
        &self,
        device: BridgeDevice,
        live: &[AssignedInstance],
        spared: &BTreeSet<InstanceName>,
        rules: &AppliedRules,
    ) -> Result<Vec<String>, NetworkError> {
        let bridge = device.index;
        let all = on_links("links", async |host: &Netlink| host.all().await).await?;
        let mut lines = Vec::new();
        let mut result = Ok(());
        for (instance, member) in live.iter().filter_map(member) {
            let pair = self.veth_pair(instance, &member, device.clone());
            let mut named = all.iter().filter(|link| link.name == pair.name);
            let is_wanted = !named.any(|link| is_right(link, bridge));
            if is_wanted && !rules.admits(&member) {
                tracing::warn!(%instance, "instance not connected without its network rules");
            } else if is_wanted {
                lines.push(format!("veth pair of {instance}"));
                result = result.and(veth::connect(pair).await);
            }
        }
        let in_use: BTreeSet<String> = live
            .iter()
            .map(|(instance, ..)| instance)
            .chain(spared)
            .map(|instance| veth::name(&self.config.bridge, *instance))
            .collect();
        let (used, leftovers): (Vec<_>, Vec<_>) =
            veth::managed_ports(all, bridge).partition(|link| in_use.contains(&link.name));
        lines.extend(leftovers.iter().map(|link| format!("veth {}", link.name)));
        let deleted = on_links("links", async move |host: &Netlink| {
            for link in &leftovers {
                host.delete(link).await?;
            }
            Ok(())
        });
        result = result.and(deleted.await);
        let belted = self.repair_belts(used).await;
        let told = self.tell_way().await;
        result.and(told).and(belted).map(|belted| {
            lines.extend(belted);
            lines
        })
    }

    /// Puts the guard at every link in use, also at those of containers that are left alone: it is
    /// the host's.
    pub(super) async fn repair_belts(
        &self,
        links: Vec<KernelLink>,
    ) -> Result<Vec<String>, NetworkError> {
        let guard = self.guard();
        let addresses = self.hosts.addresses().into_iter();
        let addresses: BTreeMap<String, Ipv4Addr> = addresses
            .map(|(instance, address)| (veth::name(&self.config.bridge, instance), address))
            .collect();
        let looked = on_links("links", async move |host: &Netlink| {
            let (mut put, mut missing) = (Vec::new(), None);
            for link in links {
                let belt = match guard.behind(&link, addresses.get(&link.name).copied()) {
                    Ok(source) => host.ensure_belt(link.index, source).await,
                    Err(reason) => BeltState::Missing(reason.to_owned()),
                };
                let hears_all = guard.only_to.is_none();
                let hears_right = link.hears_all == hears_all;
                if !hears_right {
                    host.set_hears_all(link.index, hears_all).await?;
                }
                let is_put = belt == BeltState::Put;
                if let BeltState::Missing(reason) = belt {
                    missing = Some(format!("{reason} ({})", link.name));
                }
                if is_put || !hears_right {
                    put.push(format!("guard at {}", link.name));
                }
            }
            Ok((put, missing))
        });
        let (put, missing) = looked.await?;
        let mut state = self.state();
        state.unguarded = missing;
        state.is_way_new |= !put.is_empty() && guard.only_to.is_some();
        Ok(put)
    }
}

/// A live instance as the hosts files need it; none without an address.
fn member(
    (instance, names, assignment, network): &AssignedInstance,
) -> Option<(InstanceName, Member)> {
    if !network.mode.has_address() {
        return None;
    }
    let member = Member {
        name: names.container.clone(),
        address: assignment.address?,
        address6: assignment.address6,
        network: network.clone(),
        asked: names.asked.clone(),
        stands_back: names.stands_back,
    };
    Some((*instance, member))
}

/// Instances with an entry in `dir` that are not in use.
fn leftovers_in(
    dir: &Path,
    in_use: impl Fn(&InstanceName) -> bool,
) -> Result<Vec<InstanceName>, NetworkError> {
    let mut found = netns::instances_in(dir).map_err(|error| {
        NetworkError::failed(format!("cannot look into {}", dir.display()), error)
    })?;
    found.retain(|instance| !in_use(instance));
    Ok(found)
}

fn is_right(link: &KernelLink, bridge: u32) -> bool {
    link.bridge == Some(bridge) && link.up && link.hairpin
}

/// Runs `work` with a connection to the host's links, on a thread of its own.
pub(super) async fn on_links<T, W>(thread: &str, work: W) -> Result<T, NetworkError>
where
    T: Send + 'static,
    W: AsyncFnOnce(&Netlink) -> Result<T, NetworkError> + Send + 'static,
{
    on_own_thread(thread, move || {
        block_on(async {
            let (host, connection) = links::open()?;
            links::drive(connection, work(&host)).await
        })
    })
    .await
}
