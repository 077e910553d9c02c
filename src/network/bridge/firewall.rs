//! The host's firewall as it is: chains and rules of everybody else, read from the kernel and kept until
//! they change. What they mean for the agent is `others`' matter.
//!
//! The kernel counts the changes of its rule set, so that a look without a change costs some ten
//! microseconds. Rules of the old `iptables-legacy` are not among them: where there are any they
//! are read again each second at most.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use tokio::time::Instant;

use rules::RuleSet;

use super::others::{self, RuledPort};
use crate::lock::lock;

mod decode;
mod dump;
pub(super) mod legacy;
mod matches;
pub(super) mod rules;

/// Reads whatever attributes as a rule, and as elements of the sets that it looks up.
#[cfg(any(test, fuzzing))]
pub(super) fn read_any(bytes: &[u8]) {
    use super::nfnetlink::NetlinkAttributes;
    let chain = rules::ChainName {
        family: "ip",
        table: String::new(),
        chain: String::new(),
    };
    let attributes = NetlinkAttributes(bytes);
    let (mut rule, lookups) = decode::rule(chain, attributes);
    let elements: Vec<_> = attributes
        .map(|(_, element)| decode::element(NetlinkAttributes(element)))
        .collect();
    for lookup in &lookups {
        decode::add_elements(&mut rule, lookup, elements.clone());
    }
}

/// Most attempts to read the rule set while others change it.
const ATTEMPTS_MAX: u32 = 4;

/// Age up to which rules of `iptables-legacy` are believed; the kernel tells no changes of them.
const LEGACY_FRESH: Duration = Duration::from_secs(1);

/// Rules as they were last read, with the ports that they publish.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownRules {
    pub(super) rules: Arc<RuleSet>,
    pub(super) published: Arc<[RuledPort]>,
}

impl From<RuleSet> for KnownRules {
    fn from(rules: RuleSet) -> Self {
        Self {
            published: others::published(&rules).into(),
            rules: Arc::new(rules),
        }
    }
}

/// The host's firewall, with the rules as they were last read.
#[derive(Debug)]
pub(super) struct HostFirewall {
    /// Name of the agent's own table, which is left out.
    own_table: String,
    /// Whether rules for IPv6 packets matter.
    ipv6: bool,
    nftables: Mutex<Option<(u32, KnownRules)>>,
    legacy: Mutex<Option<(Instant, KnownRules)>>,
}

impl HostFirewall {
    /// Firewall without the table `own_table`, not yet read.
    pub(super) fn new(own_table: String, ipv6: bool) -> Self {
        Self {
            own_table,
            ipv6,
            nftables: Mutex::default(),
            legacy: Mutex::default(),
        }
    }

    /// Rules of nftables, among them those of `iptables-nft`. Blocks for some ten microseconds, and
    /// for the reading if there was a change. Rules that cannot be read count as they were.
    ///
    /// # Errors
    /// The kernel has no nftables, or never told.
    pub(super) fn nftables(&self) -> io::Result<KnownRules> {
        let mut last = lock(&self.nftables);
        current(&mut last, dump::generation, || {
            dump::read(&self.own_table, self.ipv6)
        })
    }

    /// Number of changes of the rules of nftables so far. `None`: the kernel does not tell.
    pub(super) fn generation() -> Option<u32> {
        dump::generation().ok()
    }

    /// Number of changes up to which the rules are known, if there was none since. `None` also while
    /// they are being read: the write does not wait for that, and they are read once more.
    pub(super) fn before_own_write(&self) -> Option<u32> {
        let known = try_lock(&self.nftables)?
            .as_ref()
            .map(|(known, _)| *known)?;
        (dump::generation().ok()? == known).then_some(known)
    }

    /// Keeps the known rules if the only change since `before` is the agent's own write, in one
    /// transaction: its table is none of them.
    pub(super) fn after_own_write(&self, before: Option<u32>) {
        let Some((before, now)) = before.zip(dump::generation().ok()) else {
            return;
        };
        let Some(mut rules) = try_lock(&self.nftables) else {
            return;
        };
        if let Some((known, _)) = rules.as_mut() {
            move_on(known, before, now);
        }
    }

    /// Rules of `iptables-legacy`; none where the kernel has no such table. Blocks for some 5 ms
    /// where it has one. Rules that cannot be read count as they were.
    pub(super) fn legacy(&self) -> KnownRules {
        let mut last = lock(&self.legacy);
        if let Some((_, rules)) = last.as_ref().filter(|(at, _)| at.elapsed() < LEGACY_FRESH) {
            return rules.clone();
        }
        let rules = match legacy::read() {
            Ok(rules) => rules.into(),
            Err(error) => {
                tracing::warn!(%error, "rules of iptables-legacy not read");
                last.take().map(|(_, rules)| rules).unwrap_or_default()
            }
        };
        *last = Some((Instant::now(), rules.clone()));
        rules
    }
}

/// Rules at the present number of changes: the `last` ones if that is theirs, or if there are no
/// others to be had.
fn current(
    last: &mut Option<(u32, KnownRules)>,
    generation: impl Fn() -> io::Result<u32>,
    read: impl Fn() -> io::Result<RuleSet>,
) -> io::Result<KnownRules> {
    let fresh = |last: &Option<(u32, KnownRules)>| {
        let mut attempt = 1;
        loop {
            let generation = generation()?;
            if let Some((_, rules)) = last.as_ref().filter(|(known, _)| *known == generation) {
                return Ok((generation, rules.clone()));
            }
            match read() {
                Ok(rules) => return Ok((generation, rules.into())),
                Err(error)
                    if error.kind() == io::ErrorKind::Interrupted && attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    };
    match fresh(last) {
        Ok(now) => Ok(last.insert(now).1.clone()),
        Err(error) => {
            let Some((_, before)) = last else {
                return Err(error);
            };
            tracing::warn!(%error, "rules of other programs not read, those before count");
            Ok(before.clone())
        }
    }
}

/// Guard of a value that nobody else has locked.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Moves the number of changes `known` on by the one change after `before`.
fn move_on(known: &mut u32, before: u32, now: u32) {
    if *known == before && before.checked_add(1) == Some(now) {
        *known = now;
    }
}

#[cfg(test)]
mod tests;
