//! Host ports: who has which, and the elements of the table that say so. Which port a container gets is decided by others.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use state::desired::{Assignment, PortBinding};
use state::id::InstanceName;
use state::spec::Protocol;
use state::subnet::Ipv4Subnet;
use tokio::sync::Mutex;

use super::nftables::{self, HostPort, Listing, NftError, Publication, Published};
use super::{NetworkError, Part};

/// The published ports of one agent. All changes of its table pass through here, one after another.
#[derive(Debug)]
pub(super) struct Ports {
    table: String,
    subnet: Ipv4Subnet,
    book: Mutex<Book>,
}

/// What the table should hold.
#[derive(Debug, Default)]
struct Book {
    published: Published,
    /// [`Listing::shape`] right after this process wrote the table. `None`: it has not yet, so nothing is known of it.
    shape: Option<String>,
}

impl Ports {
    pub(super) fn new(table: String, subnet: Ipv4Subnet) -> Self {
        Self {
            table,
            subnet,
            book: Mutex::default(),
        }
    }

    /// Writes the table anew and keeps what an earlier process published in it.
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

    /// Publishes all ports of an instance, in one transaction. What an earlier generation of it has becomes its own.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`] if another container has one of them, or a process of the host listens on it.
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
                // It was free when it was published. A process that has come since gets no packets, and is not asked for.
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

    /// Takes back all ports of an instance.
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
        book: &mut Book,
        delete: &[HostPort],
        add: Published,
    ) -> Result<(), NetworkError> {
        let mut next = book.published.clone();
        next.retain(|port, _| !delete.contains(port));
        next.extend(add.iter().map(|(port, to)| (*port, *to)));
        let changed = nftables::apply(&nftables::change(&self.table, delete, &add)).await;
        let before = std::mem::replace(&mut book.published, next);
        if let Err(error) = changed {
            // The table is not as it was left: it, or a part of it, was taken away or changed by somebody else.
            tracing::warn!(table = self.table, %error, "the table is not as it was left and is written anew");
            if let Err(error) = self.replace(book).await {
                book.published = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Compares the whole table with what should be published, and writes it anew if it differs. A line for each difference.
    pub(super) async fn settle(&self, wanted: Published) -> Result<Vec<String>, NetworkError> {
        let mut book = self.book.lock().await;
        let found = nftables::list(&self.table).await.map_err(failed)?;
        let lines = differences(&self.table, found.as_ref(), &wanted, book.shape.as_deref());
        book.published = wanted;
        if !lines.is_empty() || book.shape.is_none() {
            self.replace(&mut book).await?;
        }
        Ok(lines)
    }

    /// Everything that is published by an instance of which `keep` says so.
    pub(super) async fn of(&self, keep: impl Fn(InstanceName) -> bool) -> Published {
        let book = self.book.lock().await;
        book.published
            .iter()
            .filter(|(_, to)| keep(to.owner))
            .map(|(port, to)| (*port, *to))
            .collect()
    }

    /// Takes the whole table away.
    pub(super) async fn teardown(&self) -> Result<(), NetworkError> {
        let mut book = self.book.lock().await;
        *book = Book::default();
        nftables::apply(&format!("table ip {0}\ndelete table ip {0}\n", self.table))
            .await
            .map_err(failed)
    }

    async fn replace(&self, book: &mut Book) -> Result<(), NetworkError> {
        book.shape = None;
        nftables::apply(&nftables::whole(&self.table, self.subnet, &book.published))
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
    found: Option<&Listing>,
    wanted: &Published,
    shape: Option<&str>,
) -> Vec<String> {
    let Some(found) = found else {
        return vec![format!("nftables table {table}: was gone")];
    };
    let mut lines = Vec::new();
    if shape.is_some_and(|shape| shape != found.shape) {
        lines.push(format!(
            "nftables table {table}: its rules were changed by somebody else"
        ));
    }
    for (port, to) in wanted
        .iter()
        .filter(|(port, to)| found.published.get(port) != Some(to))
    {
        lines.push(format!(
            "host port {} {} for {}",
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
            "host port {} {} of {}",
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

/// What an instance's assignment asks the table to hold.
pub(super) fn publications(owner: InstanceName, assignment: &Assignment) -> Published {
    let to = |binding: &PortBinding| Publication {
        owner,
        address: assignment.address,
        port: binding.container,
    };
    assignment
        .ports
        .iter()
        .map(|binding| (host_port(binding), to(binding)))
        .collect()
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

/// Whether a process of this host listens on a host port right now; on any address that `binding` would take from it.
///
/// Published ports of containers are not seen: nobody listens on them. An address that the host does not have (yet) has
/// no listeners. Costs some ten microseconds.
///
/// # Errors
/// If the kernel does not tell.
pub fn listener_on(binding: &PortBinding) -> io::Result<bool> {
    let address = SocketAddrV4::new(
        binding.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
        binding.host,
    );
    let kind = match binding.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    if binding.protocol == Protocol::Tcp {
        // Otherwise connections that ended a minute ago count as well.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    match bind(&socket, &address) {
        Ok(()) | Err(Errno::ADDRNOTAVAIL) => Ok(false),
        // Perhaps only a connection from here to elsewhere that happens to have this port; it goes on undisturbed.
        Err(Errno::ADDRINUSE) => is_open(binding.protocol, binding.host),
        Err(error) => Err(error.into()),
    }
}

/// Whether a socket takes packets from anybody on a port, on whatever address (proc_net(5)).
fn is_open(protocol: Protocol, port: u16) -> io::Result<bool> {
    let (files, open) = match protocol {
        Protocol::Tcp => (["tcp", "tcp6"], "0A"),
        Protocol::Udp => (["udp", "udp6"], "07"),
    };
    for file in files {
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(table) if lists_open_port(&table, open, port) => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(false)
}

fn lists_open_port(table: &str, open: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().is_some_and(|local| local.ends_with(&suffix));
        local && words.nth(1) == Some(open)
    })
}

#[cfg(test)]
mod tests;
