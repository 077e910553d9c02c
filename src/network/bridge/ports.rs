//! Host ports: the owner of each, and the elements of the table that say so. Which port a container
//! gets is decided elsewhere.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use state::assign::PortHolder;
use state::desired::{Assignment, PortBinding};
use state::id::InstanceName;
use state::spec::Protocol;
use state::subnet::{Ipv4Subnet, Ipv6Subnet};
use tokio::sync::Mutex;

use self::elements::binding_of;
use self::restore::SeenRight;
use super::BridgeConfig;
use super::firewall::HostFirewall;
use super::holders::{self, ContestedPort, HolderLook};
use super::ipv6::switches::SwitchMemory;
use super::nftables::groups::GroupRules;
use super::nftables::rules::ContainerReach;
use super::nftables::{self, HostPort, NftError, Publication, Published};
use super::routing::RoutingMemory;
use crate::network::{NetworkError, Part};

mod contested;
mod differences;
mod elements;
mod restore;

/// Published ports of one agent. All changes of its table pass through here, one after another.
#[derive(Debug)]
pub(super) struct HostPorts {
    table: String,
    subnet: Ipv4Subnet,
    subnet6: Option<Ipv6Subnet>,
    /// Whether the host can have the table's half for IPv6.
    ipv6_works: AtomicBool,
    api: SocketAddr,
    reach: ContainerReach,
    /// Links between which nothing is forwarded, as they were written down, by family; `None` where the
    /// node is to be a router.
    unrouted: Option<(RoutingMemory, SwitchMemory)>,
    book: Mutex<PortTable>,
    firewall: Arc<HostFirewall>,
}

/// Table as it should be.
#[derive(Debug, Default)]
struct PortTable {
    published: Published,
    /// Ports that were not published at the last repair, since others had them first.
    denied: Vec<ContestedPort>,
    groups: GroupRules,
    /// Whether this agent has written the table, and not taken it away since.
    is_written: bool,
    /// [Shape](nftables::TableListing::shape) right after this agent wrote the table. `None`:
    /// others changed the rules meanwhile, so that it is not known to be the written one's.
    shape: Option<String>,
    seen_right: SeenRight,
}

/// Outcome of a repair of the table.
#[derive(Debug)]
pub(super) struct PortRepair {
    /// Line for each difference that there was.
    pub(super) lines: Vec<String>,
    /// The reason why a port is not published yet although nobody is known to hold it.
    pub(super) unknown: Option<NetworkError>,
}

impl HostPorts {
    pub(super) fn new(config: &BridgeConfig) -> Self {
        let table = config.bridge.clone();
        Self {
            firewall: Arc::new(HostFirewall::new(table.clone(), config.subnet6.is_some())),
            table,
            subnet: config.subnet,
            subnet6: config.subnet6,
            ipv6_works: AtomicBool::new(false),
            api: config.api,
            reach: config.reach.clone(),
            unrouted: (!config.routes_between_networks)
                .then(|| (config.routing_memory(), config.switch_memory())),
            book: Mutex::default(),
        }
    }

    /// Rewrites the table once, and keeps the ports that an earlier agent published in it.
    pub(super) async fn prepare(&self) -> Result<(), NetworkError> {
        self.prepare_table(&mut *self.book.lock().await).await
    }

    async fn prepare_table(&self, book: &mut PortTable) -> Result<(), NetworkError> {
        if !book.is_written {
            let found = nftables::list(&self.table, self.subnet6().is_some())
                .await
                .map_err(failed)?
                .unwrap_or_default();
            book.published = found.published;
            book.denied = self.take_the_agents(&mut book.published);
            self.replace(book).await?;
        }
        Ok(())
    }

    /// Checks that all ports of an instance could be published now.
    ///
    /// # Errors
    /// As of [`publish`](Self::publish).
    pub(super) async fn check(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        let (new, _) = self.not_published(&*self.book.lock().await, instance, assignment)?;
        holders::check_free(&self.firewall, new).await
    }

    /// Host ports of an instance that its container does not have yet: those that it must get, and
    /// those over IPv6 that it gets where nobody has them.
    fn not_published(
        &self,
        book: &PortTable,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(Vec<PortBinding>, BTreeSet<HostPort>), NetworkError> {
        let (mut new, mut beside) = (Vec::new(), BTreeSet::new());
        let asked = assignment.ports.iter();
        let asked = asked.flat_map(|binding| self.host_ports(binding).map(move |at| (binding, at)));
        for (binding, at) in asked {
            match book.published.get(&at) {
                Some(taken) if taken.owner.id != instance.id => {
                    return Err(NetworkError::PortTaken {
                        binding: binding.clone(),
                        by: format!("container {}", taken.owner.id),
                    });
                }
                // The port was free when it was published. Who has come since gets no packets, and
                // is told of by the repair.
                Some(_) => {}
                None if self.stands_before_the_agent(&at) => {
                    return Err(NetworkError::PortTaken {
                        binding: binding.clone(),
                        by: PortHolder::Agent.to_string(),
                    });
                }
                // Who named no address has the port over IPv4 at least.
                None if at.is_ipv6() && binding.host_ip.is_none() => drop(beside.insert(at)),
                None => new.push(binding_of(&at, binding.container)),
            }
        }
        Ok((new, beside))
    }

    /// Publishes all ports of an instance in one transaction. Ports of its earlier generations
    /// become its own.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`] if another container has one of them, the agent's API or another
    /// OS process of the host listens on it, or a rule of another program publishes it.
    pub(super) async fn publish(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        if assignment.ports.is_empty() {
            return Ok(());
        }
        let mut book = self.book.lock().await;
        let (new, beside) = self.not_published(&book, instance, assignment)?;
        holders::check_free(&self.firewall, new).await?;
        let mut add = self.publications(instance, assignment);
        self.leave_out_taken(&mut book, &mut add, &beside).await?;
        let other = |port: &HostPort, to: &Publication| {
            (to.owner == instance || add.contains_key(port)) && add.get(port) != Some(to)
        };
        let delete: Vec<HostPort> = book
            .published
            .iter()
            .filter(|(port, to)| other(port, to))
            .map(|(port, _)| *port)
            .collect();
        self.change(&mut book, &delete, add).await
    }

    /// Withdraws all ports of an instance.
    pub(super) async fn withdraw(&self, instance: InstanceName) -> Result<(), NetworkError> {
        let mut book = self.book.lock().await;
        let delete: Vec<HostPort> = book
            .published
            .iter()
            .filter(|(_, to)| to.owner == instance)
            .map(|(port, _)| *port)
            .collect();
        if delete.is_empty() {
            Ok(())
        } else {
            self.change(&mut book, &delete, Published::new()).await
        }
    }

    /// Holder of a host port besides the containers of this agent. Blocks for some ten
    /// microseconds, and for the reading of all rules if they changed.
    ///
    /// # Errors
    /// The kernel does not tell who listens. Rules that were never read count as none.
    pub(super) fn holder(&self, binding: &PortBinding) -> io::Result<Option<PortHolder>> {
        let look = HolderLook::now(&self.firewall);
        for at in self.host_ports(binding) {
            if self.is_the_agents(&at) {
                return Ok(Some(PortHolder::Agent));
            }
            let holder = look.holder(&binding_of(&at, binding.container))?;
            if holder.is_some() {
                return Ok(holder);
            }
        }
        Ok(None)
    }

    /// IPv6 subnet of the containers, where the host can have the table's half for it.
    pub(super) fn subnet6(&self) -> Option<Ipv6Subnet> {
        self.subnet6
            .filter(|_| self.ipv6_works.load(Ordering::Relaxed))
    }

    /// Notes whether the host can have the table's half for IPv6. It is written when the whole is
    /// compared next.
    pub(super) fn set_ipv6(&self, works: bool) {
        self.ipv6_works.store(works, Ordering::Relaxed);
    }

    /// Host ports that a binding takes.
    fn host_ports(&self, binding: &PortBinding) -> impl Iterator<Item = HostPort> + use<> {
        elements::host_ports(binding, self.subnet6().is_some())
    }

    /// Elements of the table that an instance's assignment asks for.
    pub(super) fn publications(&self, owner: InstanceName, assignment: &Assignment) -> Published {
        elements::publications(owner, assignment, self.subnet6().is_some())
    }

    /// Whether a port is that of the agent's own API: it listens on one address, and on the others
    /// of the host a container could stand in for it. A container that has such another address
    /// from before this rule keeps it with an alarm.
    fn is_the_agents(&self, port: &HostPort) -> bool {
        port.protocol == Protocol::Tcp && port.port == self.api.port()
    }

    /// Whether a port would take packets from the agent's own API, which then nobody could call.
    fn stands_before_the_agent(&self, port: &HostPort) -> bool {
        let api = self.api.ip();
        let everywhere = api.is_unspecified() || port.bound().is_none();
        self.is_the_agents(port) && (everywhere || port.host_ip.is_some_and(|ip| api == ip))
    }

    /// Takes the ports out of `published` that stand before the agent's own API, and answers them.
    fn take_the_agents(&self, published: &mut Published) -> Vec<ContestedPort> {
        let taken = published.extract_if(.., |port, _| self.stands_before_the_agent(port));
        let taken = taken.map(|(port, to)| ContestedPort {
            port,
            owner: to.owner,
            by: PortHolder::Agent,
            published: false,
        });
        taken.collect()
    }

    /// Reads the rules of other programs if they changed. Blocks for as long as that takes.
    pub(super) fn look(&self) {
        drop(HolderLook::now(&self.firewall));
    }

    /// The host's firewall without the agent's own table.
    pub(super) const fn firewall(&self) -> &Arc<HostFirewall> {
        &self.firewall
    }

    async fn change(
        &self,
        book: &mut PortTable,
        delete: &[HostPort],
        add: Published,
    ) -> Result<(), NetworkError> {
        let mut next = book.published.clone();
        next.retain(|port, _| !delete.contains(port));
        next.extend(add.iter().map(|(port, to)| (*port, *to)));
        let script = nftables::change(&self.table, delete, &add);
        let changed = self.write(book, &script, false).await;
        let before = std::mem::replace(&mut book.published, next);
        if let Err(error) = changed {
            // The table, or a part of it, was deleted or changed by somebody else.
            tracing::warn!(
                table = self.table, %error,
                "nftables table was changed externally; rewriting it"
            );
            if let Err(error) = self.replace(book).await {
                book.published = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Compares the whole table with the wanted ports, and rewrites it if it differs.
    ///
    /// A port that is not published yet stays so while others have it, or nobody tells.
    pub(super) async fn repair(&self, mut wanted: Published) -> Result<PortRepair, NetworkError> {
        let mut book = self.book.lock().await;
        let unknown = self.deny_taken(&mut book, &mut wanted).await?;
        book.published = wanted;
        let restored = self.compare(&mut book).await?;
        let lines = restored.map(|restored| restored.lines).unwrap_or_default();
        Ok(PortRepair { lines, unknown })
    }

    /// Published ports of the instances that `keep` names.
    pub(super) async fn of(&self, keep: impl Fn(InstanceName) -> bool) -> Published {
        let book = self.book.lock().await;
        book.published
            .iter()
            .filter(|(_, to)| keep(to.owner))
            .map(|(port, to)| (*port, *to))
            .collect()
    }

    /// Deletes the table's half for IPv6, if there is one.
    pub(super) async fn delete_ipv6(&self) -> Result<(), NetworkError> {
        let _book = self.book.lock().await;
        match nftables::delete("ip6", &self.table).await {
            // It is not in the way of the agent's own.
            Err(NftError::Foreign(_)) => Ok(()),
            deleted => deleted.map_err(failed),
        }
    }

    /// Deletes the whole table, but for its half for IPv6.
    pub(super) async fn teardown(&self) -> Result<(), NetworkError> {
        let mut book = self.book.lock().await;
        *book = PortTable::default();
        nftables::delete("ip", &self.table).await.map_err(failed)
    }
}

fn failed(error: NftError) -> NetworkError {
    NetworkError::failed("cannot read or write the table of host ports", error).of(Part::Firewall)
}

#[cfg(test)]
mod tests;
