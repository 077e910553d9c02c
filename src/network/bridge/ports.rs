//! Host ports: the owner of each, and the elements of the table that say so. Which port a container
//! gets is decided elsewhere.

use state::desired::{Assignment, PortBinding};
use state::id::InstanceName;
use state::subnet::Ipv4Subnet;
use tokio::sync::Mutex;

use super::nftables::{self, HostPort, NftError, Publication, Published, TableListing};
use crate::network::listeners::listener_on;
use crate::network::{NetworkError, Part};

/// Published ports of one agent. All changes of its table pass through here, one after another.
#[derive(Debug)]
pub(super) struct HostPorts {
    table: String,
    subnet: Ipv4Subnet,
    book: Mutex<PortTable>,
}

/// Table as it should be.
#[derive(Debug, Default)]
struct PortTable {
    published: Published,
    /// [`TableListing::shape`] right after this agent wrote the table. `None`: not written yet, so
    /// nothing is known of it.
    shape: Option<String>,
}

impl HostPorts {
    pub(super) fn new(table: String, subnet: Ipv4Subnet) -> Self {
        Self {
            table,
            subnet,
            book: Mutex::default(),
        }
    }

    /// Rewrites the table once, and keeps the ports that an earlier agent published in it.
    pub(super) async fn prepare(&self) -> Result<(), NetworkError> {
        let mut book = self.book.lock().await;
        if book.shape.is_none() {
            let found = nftables::list(&self.table)
                .await
                .map_err(failed)?
                .unwrap_or_default();
            book.published = found.published;
            self.replace(&mut book).await?;
        }
        Ok(())
    }

    /// Publishes all ports of an instance in one transaction. Ports of its earlier generations
    /// become its own.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`] if another container has one of them, or an OS process of the
    /// host listens on it.
    pub(super) async fn publish(
        &self,
        instance: InstanceName,
        assignment: &Assignment,
    ) -> Result<(), NetworkError> {
        if assignment.ports.is_empty() {
            return Ok(());
        }
        let mut book = self.book.lock().await;
        for binding in &assignment.ports {
            match book.published.get(&host_port(binding)) {
                Some(taken) if taken.owner.id != instance.id => {
                    return Err(NetworkError::PortTaken {
                        binding: binding.clone(),
                    });
                }
                // The port was free when it was published. A listener that has come since gets no
                // packets, and is not looked for.
                Some(_) => {}
                None => check_free(binding)?,
            }
        }
        let add = publications(instance, assignment);
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

    async fn change(
        &self,
        book: &mut PortTable,
        delete: &[HostPort],
        add: Published,
    ) -> Result<(), NetworkError> {
        let mut next = book.published.clone();
        next.retain(|port, _| !delete.contains(port));
        next.extend(add.iter().map(|(port, to)| (*port, *to)));
        let changed = nftables::apply(&nftables::change(&self.table, delete, &add)).await;
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

    /// Compares the whole table with the wanted ports, and rewrites it if it differs. Answers one
    /// line for each difference.
    pub(super) async fn repair(&self, wanted: Published) -> Result<Vec<String>, NetworkError> {
        let mut book = self.book.lock().await;
        let found = nftables::list(&self.table).await.map_err(failed)?;
        let lines = differences(&self.table, found.as_ref(), &wanted, book.shape.as_deref());
        book.published = wanted;
        if !lines.is_empty() || book.shape.is_none() {
            self.replace(&mut book).await?;
        }
        Ok(lines)
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

    /// Deletes the whole table.
    pub(super) async fn teardown(&self) -> Result<(), NetworkError> {
        let mut book = self.book.lock().await;
        *book = PortTable::default();
        nftables::apply(&format!("table ip {0}\ndelete table ip {0}\n", self.table))
            .await
            .map_err(failed)
    }

    async fn replace(&self, book: &mut PortTable) -> Result<(), NetworkError> {
        book.shape = None;
        nftables::apply(&nftables::table(&self.table, self.subnet, &book.published))
            .await
            .map_err(failed)?;
        book.shape = nftables::list(&self.table)
            .await
            .map_err(failed)?
            .map(|listing| listing.shape);
        Ok(())
    }
}

fn failed(error: NftError) -> NetworkError {
    NetworkError::failed("cannot read or write the table of host ports", error).of(Part::Firewall)
}

fn differences(
    table: &str,
    found: Option<&TableListing>,
    wanted: &Published,
    shape: Option<&str>,
) -> Vec<String> {
    let Some(found) = found else {
        return vec![format!("nftables table {table}: missing")];
    };
    let mut lines = Vec::new();
    if shape.is_some_and(|shape| shape != found.shape) {
        lines.push(format!("nftables table {table}: rules changed externally"));
    }
    for (port, to) in wanted
        .iter()
        .filter(|(port, to)| found.published.get(port) != Some(to))
    {
        lines.push(format!(
            "host port {}/{} published for {}",
            port.port,
            port.protocol.as_str(),
            to.owner
        ));
    }
    for (port, to) in found
        .published
        .iter()
        .filter(|(port, _)| !wanted.contains_key(port))
    {
        lines.push(format!(
            "host port {}/{} withdrawn from {}",
            port.port,
            port.protocol.as_str(),
            to.owner
        ));
    }
    lines
}

fn host_port(binding: &PortBinding) -> HostPort {
    let host_ip = binding.host_ip.filter(|address| !address.is_unspecified());
    HostPort {
        host_ip,
        protocol: binding.protocol,
        port: binding.host,
    }
}

/// Elements of the table that an instance's assignment asks for.
pub(super) fn publications(owner: InstanceName, assignment: &Assignment) -> Published {
    let to = |binding: &PortBinding| {
        let (address, port) = (assignment.address?, binding.container);
        let publication = Publication {
            owner,
            address,
            port,
        };
        Some((host_port(binding), publication))
    };
    assignment.ports.iter().filter_map(to).collect()
}

fn check_free(binding: &PortBinding) -> Result<(), NetworkError> {
    match listener_on(binding) {
        Ok(false) => Ok(()),
        Ok(true) => Err(NetworkError::PortTaken {
            binding: binding.clone(),
        }),
        Err(error) => Err(NetworkError::failed(
            format!("cannot see whether host port {} is free", binding.host),
            error,
        )),
    }
}

#[cfg(test)]
mod tests;
