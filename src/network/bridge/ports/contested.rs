//! Host ports that somebody else holds as well: what is told of them, and what is not published for them.

use std::collections::BTreeSet;

use state::assign::PortHolder;

use super::{HostPorts, PortTable};
use crate::network::NetworkError;
use crate::network::bridge::holders::{self, ContestedPort, PortContests};
use crate::network::bridge::nftables::{HostPort, Publication, Published};

/// Contested ports of one look.
#[derive(Debug, Default)]
pub(in crate::network::bridge) struct PortsAtRisk {
    pub(in crate::network::bridge) contested: Vec<ContestedPort>,
    /// Ports of which the kernel did not tell.
    pub(in crate::network::bridge) unknown: Vec<HostPort>,
}

impl HostPorts {
    /// Ports of containers that somebody else holds as well.
    ///
    /// # Errors
    /// Nothing could be looked at.
    pub(in crate::network::bridge) async fn contested(&self) -> Result<PortsAtRisk, NetworkError> {
        let book = self.book.lock().await;
        let found = holders::contests(&self.firewall, book.published.clone()).await?;
        let others = found.held.into_iter();
        let others = others.filter(|contest| !self.is_the_agents(&contest.port));
        let own = book.published.iter();
        let own = own.filter(|(port, _)| self.is_the_agents(port));
        let own = own.map(|(port, to)| ContestedPort {
            port: *port,
            owner: to.owner,
            by: PortHolder::Agent,
            published: true,
        });
        let published = others.map(|contest| ContestedPort {
            published: true,
            ..contest
        });
        let contested = published.chain(own).chain(book.denied.iter().cloned());
        Ok(PortsAtRisk {
            contested: contested.collect(),
            unknown: found.unknown.into_iter().map(|(port, _)| port).collect(),
        })
    }

    /// Takes ports out of `wanted` that are not published yet, and that others have or may have.
    /// Answers the first error of a look.
    pub(super) async fn deny_taken(
        &self,
        book: &mut PortTable,
        wanted: &mut Published,
    ) -> Result<Option<NetworkError>, NetworkError> {
        let agents = self.take_the_agents(wanted);
        let is_new = |(port, to): &(&HostPort, &Publication)| {
            let before = book.published.get(port);
            before.is_none_or(|before| before.owner.id != to.owner.id)
        };
        let new = wanted.iter().filter(is_new);
        let new = new.map(|(port, to)| (*port, *to)).collect();
        let found = holders::contests(&self.firewall, new).await?;
        let stay = still_denied(&book.denied, wanted, &found);
        let held = found.held.iter().map(|contest| contest.port);
        for port in held.chain(found.unknown.iter().map(|(port, _)| *port)) {
            wanted.remove(&port);
        }
        book.denied = agents.into_iter().chain(found.held).chain(stay).collect();
        Ok(found.unknown.into_iter().map(|(_, error)| error).next())
    }

    /// Takes those of these host ports out of `add` that others have or may have.
    pub(super) async fn leave_out_taken(
        &self,
        book: &mut PortTable,
        add: &mut Published,
        ports: &BTreeSet<HostPort>,
    ) -> Result<(), NetworkError> {
        let asked = add.iter().filter(|(port, _)| ports.contains(port));
        let asked = asked.map(|(port, to)| (*port, *to)).collect();
        let found = holders::contests(&self.firewall, asked).await?;
        let held = found.held.iter().map(|contest| contest.port);
        for port in held.chain(found.unknown.into_iter().map(|(port, _)| port)) {
            add.remove(&port);
        }
        book.denied.retain(|denial| !ports.contains(&denial.port));
        book.denied.extend(found.held);
        Ok(())
    }
}

/// Earlier denials of ports of which nobody tells now: to the same container they are denied still.
pub(super) fn still_denied(
    before: &[ContestedPort],
    wanted: &Published,
    found: &PortContests,
) -> Vec<ContestedPort> {
    let is_wanted = |denial: &&ContestedPort| {
        let to = wanted.get(&denial.port);
        to.is_some_and(|to| to.owner.id == denial.owner.id)
    };
    let is_unknown = |denial: &&ContestedPort| {
        let mut unknown = found.unknown.iter();
        unknown.any(|(port, _)| *port == denial.port)
    };
    let denials = before.iter().filter(is_wanted).filter(is_unknown);
    denials.cloned().collect()
}
