//! Writing of the table, and its restoring after another program deleted it or changed a part of it.

use super::differences::differences;
use state::reach::NodeReach;
use state::subnet::Ipv6Subnet;

use super::{HostFirewall, HostPorts, PortTable, failed};
use crate::network::NetworkError;
use crate::network::bridge::nftables::groups::GroupRules;
use crate::network::bridge::nftables::{self, NftError, TableRules};

/// Number of changes of the host's rules at which the table was as it should be, if it is known.
pub(super) type SeenRight = Option<u32>;

/// Most writings of the whole table in a row, while others change the host's rules meanwhile.
const WRITES_MAX: u32 = 3;

/// Outcome of a look at which the table was not right, and was written.
#[derive(Debug)]
pub(in crate::network::bridge) struct RestoredTable {
    /// Line for each difference that there was.
    pub(in crate::network::bridge) lines: Vec<String>,
    /// Whether it was read back, and nobody changed rules meanwhile.
    pub(in crate::network::bridge) is_sure: bool,
}

impl HostPorts {
    /// Rewrites the table if it is not as it was last written, and answers so; `None` if it is
    /// right. Where nothing but the agent's own writes happened
    /// since it was seen right, this costs some ten microseconds.
    pub(in crate::network::bridge) async fn restore(
        &self,
    ) -> Result<Option<RestoredTable>, NetworkError> {
        let mut book = self.book.lock().await;
        let now = HostFirewall::generation();
        let is_seen = book.shape.is_some() && now.is_some() && now == book.seen_right;
        if !book.is_written || is_seen {
            return Ok(None);
        }
        self.compare(&mut book).await
    }

    /// Compares the table with the book, and rewrites it if it differs or was last written while
    /// others changed rules: it may have been lost at once. Answers as [`Self::restore`].
    pub(super) async fn compare(
        &self,
        book: &mut PortTable,
    ) -> Result<Option<RestoredTable>, NetworkError> {
        let before = HostFirewall::generation();
        let found = nftables::list(&self.table, self.subnet6().is_some())
            .await
            .map_err(failed)?;
        let shape = book.shape.as_deref();
        let lines = differences(&self.table, found.as_ref(), &book.published, shape);
        if lines.is_empty() && book.shape.is_some() {
            book.seen_right = before;
            return Ok(None);
        }
        self.replace(book).await?;
        let is_sure = book.shape.is_some();
        Ok(Some(RestoredTable { lines, is_sure }))
    }

    /// Rules about who talks to whom, as they were last set.
    pub(in crate::network::bridge) async fn groups(&self) -> GroupRules {
        self.book.lock().await.groups.clone()
    }

    /// Puts these rules about who talks to whom in force. Into a table that is not written yet, and
    /// so may hold those of an earlier agent, they come with its first writing.
    pub(in crate::network::bridge) async fn set_groups(
        &self,
        groups: GroupRules,
    ) -> Result<(), NetworkError> {
        let mut book = self.book.lock().await;
        if book.groups == groups {
            return Ok(());
        }
        let before = std::mem::replace(&mut book.groups, groups);
        if !book.is_written {
            return Ok(());
        }
        let written = self.replace(&mut book).await;
        if written.is_err() {
            book.groups = before;
        }
        written
    }

    /// Writes the whole table anew, if this agent has written it: its rules are others now.
    pub(in crate::network::bridge) async fn rewrite(&self) -> Result<(), NetworkError> {
        let mut book = self.book.lock().await;
        if book.is_written {
            self.replace(&mut book).await?;
        }
        Ok(())
    }

    /// Asks the kernel whether it can have the table's half for IPv6.
    pub(in crate::network::bridge) async fn check_ipv6(&self) -> Result<(), NetworkError> {
        let groups = GroupRules::default();
        let probe = self.with_rules(&groups, self.subnet6, nftables::probe);
        nftables::check(&probe).await.map_err(failed)
    }

    /// Text of the rules that the table has with these groups.
    fn with_rules(
        &self,
        groups: &GroupRules,
        subnet6: Option<Ipv6Subnet>,
        text: impl FnOnce(TableRules<'_>) -> String,
    ) -> String {
        let unrouted = self.unrouted.as_ref();
        let unrouted = unrouted.map(|(ipv4, ipv6)| [ipv4.links(), ipv6.links()]);
        let mut unrouted = unrouted.unwrap_or_default();
        // It was switched on with the others.
        unrouted[1].retain(|link| *link != self.table);
        text(TableRules {
            table: &self.table,
            reach: &self.reach,
            unrouted: unrouted.each_ref().map(Vec::as_slice),
            subnet6,
            node: &NodeReach {
                subnet: self.subnet,
                open: self.reach.neighbours && !groups.is_closed,
                name_servers: groups.name_servers.clone(),
            },
            ruled: &groups.ruled,
        })
    }

    /// Writes the whole table, and reads it back: what is read is the shape to be compared with, if
    /// nobody changed rules since.
    pub(super) async fn replace(&self, book: &mut PortTable) -> Result<(), NetworkError> {
        book.shape = None;
        let table = self.with_rules(&book.groups, self.subnet6(), |rules| {
            nftables::table(rules, &book.published)
        });
        for _ in 0..WRITES_MAX {
            let before = HostFirewall::generation();
            self.write(book, &table, true).await.map_err(failed)?;
            book.is_written = true;
            let listed = nftables::list(&self.table, self.subnet6().is_some()).await;
            let is_only = before.is_none_or(|before| {
                HostFirewall::generation().is_none_or(|now| now == before.wrapping_add(1))
            });
            match listed {
                Ok(Some(listing)) if is_only => {
                    book.shape = Some(listing.shape);
                    break;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "written table not read back"),
            }
        }
        // A table that could not be read back is written again when it is looked at next.
        Ok(())
    }

    /// Writes the agent's own table, the whole of it or a change, in one transaction.
    pub(super) async fn write(
        &self,
        book: &mut PortTable,
        script: &str,
        is_whole: bool,
    ) -> Result<(), NftError> {
        let (known, before) = (self.firewall.before_own_write(), HostFirewall::generation());
        nftables::apply(script).await?;
        self.firewall.after_own_write(known);
        Self::note_own_write(book, before, is_whole);
        Ok(())
    }

    /// Notes that the agent itself wrote the table: since `before` there was that one change, or
    /// others happened as well. A whole table is right, whatever was before.
    fn note_own_write(book: &mut PortTable, before: SeenRight, is_whole: bool) {
        let was_right = is_whole || book.seen_right == before;
        let now = HostFirewall::generation();
        let is_only = before.map(|before| before.wrapping_add(1)) == now;
        book.seen_right = now.filter(|_| was_right && is_only);
    }
}
