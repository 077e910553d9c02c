//! Watch over the agent's own table: the kernel tells of each change of its rules, and what another
//! program deletes of the table is back within milliseconds.

use std::io;
use std::time::Duration;

use super::BridgeNetwork;
use super::nfnetlink::{AF_INET, NetfilterEvents, NetfilterMessage};

/// Group of the kernel's messages about nftables (`NFNLGRP_NFTABLES`, 7), as a bit.
const GROUPS: u32 = 1 << 6;
/// Kinds of messages that something is gone: a table, a chain, a rule, a set or map, elements of one.
const DELETIONS: [u16; 5] = [0x0a02, 0x0a05, 0x0a08, 0x0a0b, 0x0a0e];
/// Attribute with the table's name, the same in all of these.
const TABLE_NAME: u16 = 1;

/// Wait for the rest of a change: a program that loads its rules flushes those before first, and
/// may do so in steps.
const SETTLE: Duration = Duration::from_millis(10);
/// Wait after the table was restored. A program that flushes again and again is answered so often
/// and not more; the comparison at each resync holds all the same.
const SPACING: Duration = Duration::from_millis(250);
/// Wait before the kernel is listened to again.
const RETRY: Duration = Duration::from_secs(5);

impl BridgeNetwork {
    /// Restores the agent's own table whenever another program deletes it or a part of it. It never
    /// ends.
    pub async fn guard_table(&self) {
        loop {
            if let Err(error) = self.follow_changes().await {
                tracing::warn!(%error, "changes of nftables not followed, retrying");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_changes(&self) -> io::Result<()> {
        let events = NetfilterEvents::open(GROUPS)?;
        // Whatever happened while nobody listened.
        self.restore_table().await;
        loop {
            let mut is_gone = false;
            let all_came = events
                .next(|kind, message| is_gone |= self.is_deletion(kind, message))
                .await?;
            if is_gone || !all_came {
                tokio::time::sleep(SETTLE).await;
                if self.restore_table().await {
                    tokio::time::sleep(SPACING).await;
                }
            }
        }
    }

    fn is_deletion(&self, kind: u16, message: NetfilterMessage<'_>) -> bool {
        let is_own = || message.attributes.text(TABLE_NAME).as_ref() == Some(&self.config.bridge);
        message.family == AF_INET && DELETIONS.contains(&kind) && is_own()
    }

    /// Restores the table if it is not right; answers whether it was not.
    async fn restore_table(&self) -> bool {
        match self.ports.restore().await {
            Ok(lines) => {
                for line in &lines {
                    tracing::warn!(repaired = line, "network repaired at once");
                }
                !lines.is_empty()
            }
            Err(error) => {
                tracing::warn!(%error, "table of host ports not restored");
                true
            }
        }
    }
}
