//! Containers with network sections of their own: their rules are in the table before they are on
//! the bridge, and all packets between containers come to the table while there are any.
//!
//! Packets from one container to another on one bridge pass no rule of the host, unless each link
//! lets them to the bridge alone. So while one container has rules all links do that, and the
//! kernel's routing brings the packets on. A running container knows its neighbours' hardware
//! addresses from before: it is told the bridge's in their place, and no talk is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use state::id::{ContainerId, ContainerName, InstanceName};
use state::spec::Network;

use super::links::{self, Netlink};
use super::nftables::groups::{GroupRules, RuledContainers};
use super::repair::on_links;
use super::{BridgeNetwork, veth};
use crate::lock::lock;
use crate::network::directory::Member;
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{NetworkError, Part, hosts_files, netns};

/// Rules in force, until the next reboot: a new agent puts them into its table before it knows any
/// record, and those of containers whose records it cannot read stay.
#[derive(Debug)]
pub(super) struct RuleMemory {
    file: PathBuf,
    remembered: Mutex<EarlierRules>,
    /// Held while rules are put in force, one after another.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct EarlierRules {
    /// Instances as an earlier agent knew them.
    members: BTreeMap<InstanceName, Member>,
    /// Whether there was something that cannot be read.
    is_lost: bool,
}

/// Entry of the file.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMember {
    id: ContainerId,
    generation: u64,
    name: ContainerName,
    address: Ipv4Addr,
    network: Network,
}

impl RuleMemory {
    /// Memory below the directory of what a reboot ends.
    pub(super) fn below(directory: &Path) -> Self {
        Self {
            file: directory.join("rules"),
            remembered: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Reads what an earlier agent wrote. What cannot be read closes containers to each other until
    /// the records are known.
    fn load(&self) {
        let read = match fs::read(&self.file) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let mut remembered = self.remembered();
        *remembered = match read {
            Ok(stored) => EarlierRules {
                members: stored.into_iter().map(StoredMember::split).collect(),
                is_lost: false,
            },
            Err(error) => {
                let file = self.file.display();
                tracing::warn!(%file, %error, "rules of an earlier agent not read");
                EarlierRules {
                    is_lost: true,
                    ..EarlierRules::default()
                }
            }
        };
    }

    fn keep(&self, members: &BTreeMap<InstanceName, Member>) -> Result<(), NetworkError> {
        let stored: Vec<_> = members.iter().map(StoredMember::of).collect();
        let written = serde_json::to_vec(&stored).map_err(io::Error::from);
        let new = self.file.with_extension("new");
        let written = written.and_then(|text| fs::write(&new, text));
        let written = written.and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|error| {
            let what = format!("cannot write to {}", self.file.display());
            NetworkError::failed(what, error)
        })
    }

    /// Forgets what an earlier agent knew of an instance.
    pub(super) fn forget(&self, instance: InstanceName) {
        self.remembered().members.remove(&instance);
    }

    /// Forgets what an earlier agent knew of all instances but these.
    pub(super) fn retain(&self, kept: &BTreeSet<InstanceName>) {
        let mut remembered = self.remembered();
        remembered.is_lost = false;
        remembered
            .members
            .retain(|instance, _| kept.contains(instance));
    }

    /// Forgets everything, the file too.
    pub(super) fn clear(&self) {
        *self.remembered() = EarlierRules::default();
        if let Err(error) = fs::remove_file(&self.file)
            && error.kind() != io::ErrorKind::NotFound
        {
            let file = self.file.display();
            tracing::warn!(%file, %error, "rules not forgotten");
        }
    }

    fn remembered(&self) -> MutexGuard<'_, EarlierRules> {
        lock(&self.remembered)
    }
}

impl StoredMember {
    fn of((instance, member): (&InstanceName, &Member)) -> Self {
        let Member {
            name,
            address,
            network,
        } = member.clone();
        Self {
            id: instance.id,
            generation: instance.generation,
            name,
            address,
            network,
        }
    }

    fn split(self) -> (InstanceName, Member) {
        let member = Member {
            name: self.name,
            address: self.address,
            network: self.network,
        };
        let instance = InstanceName {
            id: self.id,
            generation: self.generation,
        };
        (instance, member)
    }
}

impl BridgeNetwork {
    /// Instances with rules: those of this agent, and those that only an earlier one knew.
    fn ruled(&self) -> (BTreeMap<InstanceName, Member>, bool) {
        let remembered = self.memory.remembered();
        let mut members = remembered.members.clone();
        members.retain(|instance, _| self.hosts.address(*instance).is_none());
        members.extend(self.hosts.ruled());
        (members, remembered.is_lost)
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
        self.state().is_routed = is_routed;
        let (members, is_closed) = self.ruled();
        self.ports.set_groups(rules(members, is_closed)).await
    }

    /// Notes at a repair which instances there are, and whether packets between them have to come
    /// to the table. Until the next repair it may only turn from no to yes.
    pub(super) fn note_members(
        &self,
        kept: &BTreeSet<InstanceName>,
        live: impl IntoIterator<Item = (InstanceName, Member)>,
    ) {
        self.hosts.replace(kept, live);
        self.memory.retain(kept);
        let is_routed = self.needs_rules();
        let mut state = self.state();
        state.is_routed_everywhere &= is_routed;
        state.is_routed = is_routed;
    }

    /// Puts the rules of all instances in force, if they are not. Must end before a new instance is
    /// on the bridge.
    pub(super) async fn apply_rules(&self) -> Result<(), NetworkError> {
        let _turn = self.memory.turn.lock().await;
        let (members, is_closed) = self.ruled();
        let is_needed = !members.is_empty() || is_closed;
        let new = rules(members.clone(), is_closed);
        if self.ports.groups().await != new {
            let containers = new.ruled.len();
            // A full disk under the file ends no rule.
            let kept = self.memory.keep(&members);
            self.ports.set_groups(new).await?;
            kept?;
            tracing::info!(containers, "network rules written");
        }
        if is_needed && !self.state().is_routed_everywhere {
            self.state().is_routed = true;
            self.route_all()
                .await
                .map_err(|error| error.of(Part::Bridge))?;
        }
        Ok(())
    }

    /// Leads all packets between containers to the rules of the table.
    ///
    /// # Errors
    /// A link cannot be closed; then the others would be open by it.
    async fn route_all(&self) -> Result<(), NetworkError> {
        let (device, _) = self.ensure_device().await?;
        let all = on_links("links", async |host: &Netlink| host.all().await).await?;
        let links = veth::managed_ports(all, device.index).collect();
        self.repair_belts(links).await?;
        let missing = self.state().unguarded.clone();
        match missing {
            None => self.tell_way().await,
            Some(reason) => Err(NetworkError::failed(
                "cannot close containers to each other, which network.groups and network.allow need",
                format!("{reason}; mend that, or leave them out"),
            )),
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

/// Rules for these instances. Of two with one address the later generation has it.
fn rules(members: BTreeMap<InstanceName, Member>, is_closed: bool) -> GroupRules {
    let members = members.into_values();
    let ruled: RuledContainers = members
        .map(|member| (member.address, (member.name, member.network)))
        .collect();
    let asks = ruled.values().any(|(_, network)| network.egress.is_some());
    let name_servers = asks.then(|| hosts_files::host_resolv_conf().servers);
    GroupRules {
        ruled,
        name_servers: name_servers.into_iter().flatten().collect(),
        is_closed,
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use state::spec::parse;

    use super::*;

    #[test]
    fn rules_outlast_the_agent_and_what_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let memory = RuleMemory::below(dir.path());
        memory.load();
        assert!(!memory.remembered().is_lost && memory.remembered().members.is_empty());
        let network = json!({"groups": ["db"], "allow": {"ingress": [
            {"cidr": "192.0.2.0/24", "ports": ["tcp/80"]},
        ]}});
        let body = json!({"name": "web", "image": "nginx", "network": network});
        let member = Member {
            name: "web".parse().unwrap(),
            address: Ipv4Addr::new(10, 231, 0, 2),
            network: parse::deploy(&body).unwrap().spec.network,
        };
        let [one, other] = ["0123456789ab-1", "0123456789ac-1"].map(|name| name.parse().unwrap());
        let members = BTreeMap::from([(one, member.clone()), (other, member)]);
        memory.keep(&members).unwrap();
        let again = RuleMemory::below(dir.path());
        again.load();
        assert_eq!(again.remembered().members, members);
        again.retain(&BTreeSet::from([one]));
        assert_eq!(again.remembered().members.keys().next(), Some(&one));

        fs::write(dir.path().join("rules"), "[{").unwrap();
        again.load();
        assert!(again.remembered().is_lost);
        again.retain(&BTreeSet::new());
        assert!(!again.remembered().is_lost, "the records are known");
    }
}
