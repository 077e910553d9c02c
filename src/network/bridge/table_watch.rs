//! Watch over the agent's own table: the kernel tells of each change of its rules, and what another
//! program deletes of the table is back within milliseconds.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::nfnetlink::{AF_INET, AF_INET6, NetfilterEvents, NetfilterMessage};
use super::{BridgeNetwork, conntrack};
use crate::network::threads::blocking;

/// Group of the kernel's messages about nftables (`NFNLGRP_NFTABLES`, 7), as a bit.
const GROUPS: u32 = 1 << 6;
/// The kernel's number of its subsystem, in the kind of each of these messages.
const NFTABLES: u16 = 10;
/// Kind of the message that ends a change. It names the number of changes where others name a table.
const NEW_GENERATION: u16 = NFTABLES << 8 | 15;
/// Attribute with the table's name, the same in all of these.
const TABLE_NAME: u16 = 1;

/// Wait for the rest of a change: a program that loads its rules flushes those before first, and
/// may do so in steps.
const SETTLE: Duration = Duration::from_millis(10);
/// Wait for each writing of the table beyond [`BURST`]. A program that flushes again and again is
/// answered so often and not more; the comparison at each resync holds all the same.
const SPACING: Duration = Duration::from_millis(250);
/// Writings at once that wait for nothing but [`SETTLE`], as the time that they take up.
const BURST: Duration = SPACING.saturating_mul(8);
/// Longest wait for the next look while no writing lasts.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Wait for the rest of what a firewall does that starts again, before what it took beside the table
/// is mended: its own rules come after the flush.
const AFTERMATH: Duration = Duration::from_secs(1);
/// Wait before the kernel is listened to again.
const RETRY: Duration = Duration::from_secs(5);

/// Times of the looks at the table: soon after each change, and once more after each writing.
#[derive(Debug)]
struct LookTimes {
    /// Time of the next look.
    next: Option<Instant>,
    /// Time before which nothing is looked at.
    earliest: Instant,
    /// Time up to which the writings so far have taken up.
    taken_up: Instant,
    /// Writings in a row of which it is not known whether they lasted.
    failures: u32,
}

impl LookTimes {
    /// Times that begin with a look at once: nobody listened before.
    const fn from(now: Instant) -> Self {
        Self {
            next: Some(now),
            earliest: now,
            taken_up: now,
            failures: 0,
        }
    }

    fn changed(&mut self, now: Instant) {
        let soon = self.earliest.max(now + SETTLE);
        self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
    }

    const fn seen_right(&mut self) {
        self.next = None;
        self.failures = 0;
    }

    /// The table was written, and read back if `is_sure`, or could not be: it is looked at once
    /// more, whether the kernel tells of a change or not.
    fn written(&mut self, now: Instant, is_sure: bool) {
        self.failures = if is_sure { 0 } else { self.failures + 1 };
        self.taken_up = self.taken_up.max(now) + SPACING;
        let doubled = SETTLE.saturating_mul(1 << self.failures.min(16));
        let wait = (self.taken_up - now).saturating_sub(BURST).max(doubled);
        self.earliest = now + wait.min(LOOK_AGAIN_MAX);
        self.next = Some(self.earliest);
    }
}

/// Waits until that time, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl BridgeNetwork {
    /// Restores the agent's own table whenever another program deletes it or changes a part of it.
    /// It never ends.
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
        let mut looks = LookTimes::from(Instant::now());
        let mut aftermath = None;
        loop {
            let mut is_own = false;
            let note = |kind, message: NetfilterMessage<'_>| is_own |= self.is_own(kind, message);
            tokio::select! {
                all_came = events.next(note) => {
                    if !all_came? || is_own {
                        looks.changed(Instant::now());
                    }
                }
                () = at(looks.next) => {
                    match self.restore_table().await {
                        None => looks.seen_right(),
                        Some(is_sure) => {
                            looks.written(Instant::now(), is_sure);
                            aftermath = Some(Instant::now() + AFTERMATH);
                        }
                    }
                }
                () = at(aftermath) => {
                    aftermath = None;
                    self.mend_aftermath().await;
                }
            }
        }
    }

    /// Whether a message tells of the agent's own table: of a part that is gone, new or changed. The
    /// agent's own writes are told of as well, and told apart by the number of changes.
    fn is_own(&self, kind: u16, message: NetfilterMessage<'_>) -> bool {
        let names_own =
            || message.attributes.text(TABLE_NAME).as_ref() == Some(&self.config.bridge);
        [AF_INET, AF_INET6].contains(&message.family)
            && kind >> 8 == NFTABLES
            && kind != NEW_GENERATION
            && names_own()
    }

    /// Restores the table if it is not right; answers then whether it is known to be right now.
    async fn restore_table(&self) -> Option<bool> {
        match self.ports.restore().await {
            Ok(restored) => {
                let restored = restored?;
                for line in &restored.lines {
                    tracing::warn!(repaired = line, "network repaired at once");
                }
                Some(restored.is_sure)
            }
            Err(error) => {
                tracing::warn!(%error, "table of host ports not restored");
                Some(false)
            }
        }
    }

    /// Mends what a flush of all rules does beside taking the table: the accepting rules in the
    /// tables of `iptables` are gone as well, and UDP flows that began without the table lead past
    /// its ports.
    async fn mend_aftermath(&self) {
        let published = self.ports.of(|_| true).await;
        let stale = blocking(move || Ok(conntrack::delete_stale(&published)));
        match stale.await {
            Ok(Ok(0)) => {}
            Ok(Ok(flows)) => tracing::info!(flows, "stale UDP flows deleted"),
            Ok(Err(error)) => tracing::warn!(%error, "stale UDP flows not deleted"),
            Err(error) => tracing::warn!(%error, "stale UDP flows not deleted"),
        }
        let _alone = self.gate.write().await;
        let occupied = match self.with_any_netns() {
            Ok(instances) => !instances.is_empty(),
            // Rules of containers that may be there are not taken away for that.
            Err(error) => return tracing::warn!(%error, "rules for forwarding not restored"),
        };
        let ensured = self.ensure_forward(occupied).await;
        self.state().forward_open = occupied && ensured.is_ok();
        match ensured {
            Ok(lines) => {
                for line in &lines {
                    tracing::warn!(repaired = line, "network repaired at once");
                }
            }
            Err(error) => tracing::warn!(%error, "rules for forwarding not restored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_lost_again_is_looked_at_soon_and_never_without_end() {
        let began = Instant::now();
        let mut looks = LookTimes::from(began);
        looks.seen_right();
        // A few flushes, each seen and mended: the next look is at once.
        for _ in 0..7 {
            looks.changed(began);
            looks.written(began, true);
            assert_eq!(looks.next, Some(began + SETTLE));
            looks.seen_right();
        }
        // Many of them: four a second.
        for _ in 0..20 {
            looks.written(began, true);
            looks.seen_right();
        }
        looks.changed(began);
        assert!(
            looks.next > Some(began + Duration::from_secs(3)),
            "{looks:?}"
        );
        let later = began + Duration::from_secs(60);
        looks.changed(later);
        looks.written(later, true);
        assert_eq!(looks.next, Some(later + SETTLE), "after a while of peace");
        // Writings that never last.
        for _ in 0..40 {
            looks.written(later, false);
        }
        assert_eq!(looks.next, Some(later + LOOK_AGAIN_MAX));
    }
}
