//! Places of connections: so many in all, so many for one caller, and a few that only probes use.
//!
//! Where no place is free, the connection that has waited longest for its client gives up its own:
//! a silent one never keeps anybody out. Those that the agent is answering are left alone.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use crate::api::caller::{CallerKey, CallerPeer};
use crate::lock::lock;

/// Numbers of places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    /// Name of the door in the metrics.
    door: &'static str,
    /// Connections that have a place now, through all doors of the kind.
    open: &'static AtomicUsize,
    /// Connections open at once.
    connections_max: usize,
    /// Connections of one caller.
    peer_max: usize,
    /// Connections beyond those, on which only probes are answered, so that a busy agent is not
    /// taken for a dead one.
    probes_max: usize,
}

/// Places of the network: far more than a control plane and its operators need, far less than the
/// 1,024 files that a service may have open where nobody raised the limit. A control plane may wait
/// for many deploys at once, and the others are to be heard beside it.
pub(super) const OF_NETWORK: SlotLimits = SlotLimits {
    door: "network",
    open: &OPEN_OF_NETWORK,
    connections_max: 256,
    peer_max: 192,
    probes_max: 16,
};
/// Places of the socket, which no flood from the network takes: more than twice of those that may watch at once.
pub(super) const OF_SOCKET: SlotLimits = SlotLimits {
    door: "socket",
    open: &OPEN_OF_SOCKET,
    connections_max: 96,
    peer_max: 96,
    probes_max: 4,
};

static OPEN_OF_NETWORK: AtomicUsize = AtomicUsize::new(0);
static OPEN_OF_SOCKET: AtomicUsize = AtomicUsize::new(0);

/// Name of each kind of door, its open connections, and how many there may be.
pub(in crate::api) fn connections() -> [(&'static str, usize, usize); 2] {
    [OF_NETWORK, OF_SOCKET].map(|of| {
        let most = of.connections_max + of.probes_max;
        (of.door, of.open.load(Ordering::Relaxed), most)
    })
}

/// The service that a connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Every call.
    Full,
    /// Probes; all else is told to come again.
    Probe,
}

#[derive(Debug)]
struct SlotHolder {
    peer: CallerKey,
    admission: Admission,
    pace: Arc<Pace>,
    evicted: CancellationToken,
}

#[derive(Debug)]
struct SlotHolders {
    limits: SlotLimits,
    number: u64,
    taken: BTreeMap<u64, SlotHolder>,
}

/// The places of all connections through one door.
#[derive(Debug)]
pub(super) struct Slots(Mutex<SlotHolders>);

/// The place of one connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    admission: Admission,
    pace: Arc<Pace>,
    evicted: CancellationToken,
}

impl Slot {
    pub(super) const fn admission(&self) -> Admission {
        self.admission
    }

    pub(super) const fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Waits until another connection needs the place.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut places = lock(&self.slots.0);
        places.taken.remove(&self.number);
        places.limits.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slots {
    /// Places within these limits, all free.
    pub(super) fn new(limits: SlotLimits) -> Arc<Self> {
        let (number, taken) = (0, BTreeMap::new());
        Arc::new(Self(Mutex::new(SlotHolders {
            limits,
            number,
            taken,
        })))
    }

    /// A place for a new connection. `None`: not even a probe's is free.
    pub(super) fn admit(self: &Arc<Self>, peer: CallerPeer) -> Option<Slot> {
        let peer = peer.key();
        let mut places = lock(&self.0);
        let admission = places.make_room(peer)?;
        places.number += 1;
        places.limits.open.fetch_add(1, Ordering::Relaxed);
        let slot = Slot {
            slots: Arc::clone(self),
            number: places.number,
            admission,
            pace: Arc::new(Pace::new()),
            evicted: CancellationToken::new(),
        };
        let place = SlotHolder {
            peer,
            admission,
            pace: Arc::clone(&slot.pace),
            evicted: slot.evicted.clone(),
        };
        places.taken.insert(slot.number, place);
        Some(slot)
    }
}

impl SlotHolders {
    /// Makes room for a connection of `peer`, and says for what kind of one.
    fn make_room(&mut self, peer: CallerKey) -> Option<Admission> {
        let is_full = |place: &SlotHolder| place.admission == Admission::Full;
        let is_probe = |place: &SlotHolder| place.admission == Admission::Probe;
        let is_own = |place: &SlotHolder| is_full(place) && place.peer == peer;
        let limits = self.limits;
        let has_own = self.count(is_own) < limits.peer_max || self.evict(is_own);
        if has_own && (self.count(is_full) < limits.connections_max || self.evict(is_full)) {
            return Some(Admission::Full);
        }
        (self.count(is_probe) < limits.probes_max || self.evict(is_probe))
            .then_some(Admission::Probe)
    }

    fn count(&self, is_meant: impl Fn(&SlotHolder) -> bool) -> usize {
        self.taken.values().filter(|place| is_meant(place)).count()
    }

    /// Takes a place from the caller that has most of them: that of its connection that has waited
    /// longest for it. False: all of them are being answered.
    fn evict(&mut self, is_meant: impl Fn(&SlotHolder) -> bool) -> bool {
        let mut of_caller: BTreeMap<CallerKey, usize> = BTreeMap::new();
        let meant = || self.taken.iter().filter(|(_, place)| is_meant(place));
        for (_, place) in meant() {
            *of_caller.entry(place.peer).or_default() += 1;
        }
        let waiting = meant().filter_map(|(number, place)| {
            let since = place.pace.waiting_since()?;
            Some((of_caller[&place.peer], Reverse(since), *number))
        });
        let Some((.., number)) = waiting.max() else {
            return false;
        };
        if let Some(place) = self.taken.remove(&number) {
            place.evicted.cancel();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const PEER_MAX: usize = OF_NETWORK.peer_max;
    const PROBES_MAX: usize = OF_NETWORK.probes_max;

    fn peer(number: u8) -> CallerPeer {
        CallerPeer::Tcp(IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)))
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.evicted.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_gives_up_its_place_and_the_longest_silent_one_first() {
        let slots = Slots::new(OF_NETWORK);
        let mut silent = Vec::new();
        for _ in 0..PEER_MAX {
            silent.push(slots.admit(peer(1)).unwrap());
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        assert!(!silent.iter().any(is_evicted));
        let next = slots.admit(peer(1)).unwrap();
        assert_eq!(next.admission(), Admission::Full);
        assert!(is_evicted(&silent[0]) && !is_evicted(&silent[1]));
        // Another caller's newer silence is not touched while one has more.
        let other = slots.admit(peer(2)).unwrap();
        let mut more = Vec::new();
        for number in 3..=254 {
            more.push(slots.admit(peer(number)).unwrap());
        }
        assert!(!is_evicted(&other) && silent.iter().filter(|slot| is_evicted(slot)).count() > 100);
    }

    #[test]
    fn those_who_watch_leave_places_for_others() {
        use crate::api::{events, logs, stats};
        const { assert!(OF_SOCKET.connections_max / 2 > SOCKET_WATCHERS) }
        const { assert!(OF_NETWORK.connections_max > NETWORK_WATCHERS) }
        const SOCKET_WATCHERS: usize = events::OF_SOCKET + logs::OF_SOCKET + stats::OF_SOCKET;
        const NETWORK_WATCHERS: usize = events::OF_NETWORK + logs::OF_NETWORK + stats::OF_NETWORK;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_answered_keeps_its_place_and_probes_have_their_own() {
        let slots = Slots::new(OF_NETWORK);
        let busy = |number| {
            let slot = slots.admit(peer(number)).unwrap();
            slot.pace().request_began(false);
            slot
        };
        let answered: Vec<_> = (0..PEER_MAX).map(|_| busy(1)).collect();
        // Of this caller only probes now; of others everything.
        let mut probes: Vec<_> = (0..PROBES_MAX).map(|_| busy(1)).collect();
        assert!(
            probes
                .iter()
                .all(|slot| slot.admission() == Admission::Probe)
        );
        assert!(slots.admit(peer(1)).is_none());
        assert_eq!(busy(2).admission(), Admission::Full);
        // A probe that was answered makes room for the next.
        probes[0].pace().answer_ended();
        probes[0].pace().flushed();
        let probe = slots.admit(peer(1)).unwrap();
        assert!(is_evicted(&probes[0]) && probe.admission() == Admission::Probe);
        assert!(!answered.iter().any(is_evicted));
        drop((answered, probes.split_off(1)));
        assert_eq!(slots.admit(peer(1)).unwrap().admission(), Admission::Full);
    }
}
