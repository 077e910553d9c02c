//! Compares everything the network consists of with what is wanted, repairs it, and takes away what belongs to nobody.

use std::collections::BTreeSet;

use state::desired::Assignment;
use state::id::{ContainerName, InstanceName};

use super::device::{self, Bridge};
use super::links::{self, Link};
use super::veth::{self, Cable};
use super::{Network, NetworkError, forward, netns, netns_failed, plug, ports};

/// What was found and done so far, and the first thing that did not work; what comes after it is tried all the same.
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
            tracing::info!(repaired = line, "the network was not as it should be");
        }
        self.error.map_or(Ok(self.lines), Err)
    }
}

impl Network {
    /// Compares bridge, netns, cables, table, firewall and files with what is wanted, repairs what differs, and takes
    /// away what belongs to nobody. `wanted` is every assigned instance; those without a netns get nothing published.
    ///
    /// Answers a line for each thing repaired or removed; nothing on a network that is as it should be. What does not
    /// bear an instance's name, our link prefix on our bridge, or our comment is never touched. An instance that was
    /// attached within the last minute counts as wanted: the caller's list may be older.
    ///
    /// # Errors
    /// [`NetworkError::Failed`], the first of them. Everything else was done.
    pub async fn settle(
        &self,
        wanted: &[(InstanceName, ContainerName, Assignment)],
    ) -> Result<Vec<String>, NetworkError> {
        let _alone = self.gate.write().await;
        let mut repairs = Repairs::default();
        let named: BTreeSet<InstanceName> = wanted.iter().map(|(instance, ..)| *instance).collect();
        let spared = self.spared(&named);
        let ours = |instance: &InstanceName| named.contains(instance) || spared.contains(instance);

        let (bridge, done) = self.ensure_bridge().await?;
        repairs.note(Ok(done));
        repairs.note(self.remove_leftovers(ours));
        let live = self.with_netns(wanted)?;
        repairs.note(self.settle_cables(bridge, &live, &spared).await);

        let mut published = self.ports.of(|instance| spared.contains(&instance)).await;
        for (instance, _, assignment) in &live {
            for (port, to) in ports::publications(*instance, assignment) {
                published.entry(port).or_insert(to);
            }
        }
        repairs.note(self.ports.settle(published).await);

        let occupied = !(named.is_empty() && spared.is_empty());
        let forward = forward::settle(&self.config.bridge, occupied).await;
        self.known().forward_open = occupied && forward.is_ok();
        repairs.note(forward);

        {
            let mut known = self.known();
            known.peers.retain(|instance, _| spared.contains(instance));
            known.peers.extend(
                live.iter()
                    .map(|(instance, name, to)| (*instance, (name.clone(), to.address))),
            );
        }
        let rewritten = self
            .rewrite_names(&mut *self.names_written.lock().await)
            .await?;
        repairs.note(Ok(rewritten
            .changed
            .into_iter()
            .map(|instance| format!("names of {instance}"))));
        rewritten
            .failed
            .into_iter()
            .for_each(|(_, error)| repairs.note(Err::<Option<String>, _>(error)));
        repairs.finish()
    }

    /// Takes everything of this network away: netns, cables, bridge, table, firewall rules, files. For good, or for tests.
    ///
    /// Nothing may run in it any more. The kernel's forwarding switch stays on: others may rely on it by now.
    ///
    /// # Errors
    /// [`NetworkError::Failed`], the first of them. Everything else was done.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        let _alone = self.gate.write().await;
        {
            let mut known = self.known();
            known.peers_changes += 1;
            *known = super::Known {
                peers_changes: known.peers_changes,
                ..Default::default()
            };
        }
        let mut repairs = Repairs::default();
        repairs.note(self.remove_leftovers(|_| false));
        repairs.note(self.ports.teardown().await.map(|()| None));
        repairs.note(forward::settle(&self.config.bridge, false).await);
        let name = self.config.bridge.clone();
        let links = on_links("bridge", async move |host: &links::Links| {
            let Some(bridge) = host.find(&name).await? else {
                return Ok(None);
            };
            for port in device::our_ports(host.all().await?, bridge.index) {
                host.delete(&port).await?;
            }
            host.delete(&bridge).await.map(|()| None)
        });
        repairs.note(links.await);
        for dir in [&self.config.netns_dir, &self.config.files_dir] {
            // Only if it is empty: what else is in it is not ours.
            if let Err(error) = std::fs::remove_dir(dir) {
                tracing::debug!(dir = %dir.display(), %error, "the directory stays");
            }
        }
        repairs.finish().map(drop)
    }

    fn with_netns(
        &self,
        wanted: &[(InstanceName, ContainerName, Assignment)],
    ) -> Result<Vec<(InstanceName, ContainerName, Assignment)>, NetworkError> {
        let mut live = Vec::new();
        for entry in wanted {
            let file = self.netns(entry.0);
            if netns::exists(&file).map_err(|error| {
                netns_failed(format!("cannot look at {}", file.display()), error)
            })? {
                live.push(entry.clone());
            }
        }
        Ok(live)
    }

    fn remove_leftovers(
        &self,
        keep: impl Fn(&InstanceName) -> bool,
    ) -> Result<Vec<String>, NetworkError> {
        let mut lines = Vec::new();
        let look = |dir: &std::path::Path| {
            let found = netns::instances_in(dir).map_err(|error| {
                NetworkError::failed(format!("cannot look into {}", dir.display()), error)
            });
            found.map(|found| {
                found
                    .into_iter()
                    .filter(|instance| !keep(instance))
                    .collect::<Vec<_>>()
            })
        };
        for instance in look(&self.config.netns_dir)? {
            let file = self.netns(instance);
            netns::remove(&file).map_err(|error| {
                netns_failed(format!("cannot remove {}", file.display()), error)
            })?;
            lines.push(format!("netns {instance}"));
        }
        for instance in look(&self.config.files_dir)? {
            let files = self.files(instance);
            files.remove().map_err(|error| {
                NetworkError::failed(format!("cannot remove {}", files.dir.display()), error)
            })?;
            lines.push(format!("names of {instance}"));
        }
        Ok(lines)
    }

    /// Plugs in what is not, and deletes the cables of nobody.
    async fn settle_cables(
        &self,
        bridge: Bridge,
        live: &[(InstanceName, ContainerName, Assignment)],
        spared: &BTreeSet<InstanceName>,
    ) -> Result<Vec<String>, NetworkError> {
        let index = bridge.index;
        let all = on_links("links", async |host: &links::Links| host.all().await).await?;
        let is_plugged = |cable: &Cable| {
            all.iter()
                .any(|link| link.name == cable.name && is_right(link, index))
        };
        let mut lines = Vec::new();
        let mut result = Ok(());
        for (instance, name, assignment) in live {
            let cable = self.cable(*instance, name, assignment, bridge.clone());
            if !is_plugged(&cable) {
                lines.push(format!("veth of {instance}"));
                result = result.and(plug(cable).await);
            }
        }
        let known = live.iter().map(|(instance, ..)| instance).chain(spared);
        let known: BTreeSet<String> = known
            .map(|instance| veth::name(&self.config.bridge, *instance))
            .collect();
        let nobodys: Vec<Link> = device::our_ports(all, index)
            .filter(|link| !known.contains(&link.name))
            .collect();
        lines.extend(nobodys.iter().map(|link| format!("veth {}", link.name)));
        let deleted = on_links("links", async move |host: &links::Links| {
            for link in &nobodys {
                host.delete(link).await?;
            }
            Ok(())
        });
        result.and(deleted.await).map(|()| lines)
    }
}

fn is_right(link: &Link, bridge: u32) -> bool {
    link.bridge == Some(bridge) && link.up && link.hairpin
}

/// Runs `work` with a connection to the host's links, on a thread of its own.
async fn on_links<T, W>(thread: &str, work: W) -> Result<T, NetworkError>
where
    T: Send + 'static,
    W: AsyncFnOnce(&links::Links) -> Result<T, NetworkError> + Send + 'static,
{
    netns::on_own_thread(thread, move || {
        netns::block_on(async {
            let (host, connection) = links::open()?;
            links::drive(connection, work(&host)).await
        })
    })
    .await
}
