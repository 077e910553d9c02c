//! Address allocation of the bridge driver: the lowest free address of the subnet. The only ledger
//! is the caller's store; this room holds answers only until the store shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use state::id::ContainerId;
use state::subnet::Ipv4Subnet;
use tokio::time::Instant;

use crate::network::NetworkError;

/// Time for which an answer that the store does not show is held. Storing an answer takes
/// milliseconds; a caller that has not done so by then has given up.
const UNSTORED_FOR: Duration = Duration::from_secs(600);

/// Query for the stored addresses, by container. Called with a lock held: it must neither wait long
/// nor allocate.
pub type TakenAddresses = Arc<dyn Fn() -> Vec<(ContainerId, Ipv4Addr)> + Send + Sync>;

/// Allocator of one subnet.
pub(super) struct Addresses {
    subnet: Ipv4Subnet,
    taken: TakenAddresses,
    /// Answers that the store does not show yet. Locked over a whole allocation, so that two at
    /// once never get the same address.
    unstored: Mutex<BTreeMap<ContainerId, Answered>>,
}

/// Address given to a container, and the time of the last answer.
#[derive(Clone, Copy, Debug)]
struct Answered {
    address: Ipv4Addr,
    at: Instant,
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses")
            .field("subnet", &self.subnet)
            .field("unstored", &self.unstored)
            .finish_non_exhaustive()
    }
}

impl Addresses {
    pub(super) fn new(subnet: Ipv4Subnet, taken: TakenAddresses) -> Self {
        Self {
            subnet,
            taken,
            unstored: Mutex::default(),
        }
    }

    /// Number of addresses in the subnet that containers may have.
    pub(super) fn capacity(&self) -> usize {
        let bits = self.subnet.broadcast().to_bits() - self.subnet.gateway().to_bits() - 1;
        usize::try_from(bits).unwrap_or(usize::MAX)
    }

    /// Address for a container: `before`, its last answer or its stored one if that still fits,
    /// else the lowest free one.
    pub(super) fn allocate(
        &self,
        id: ContainerId,
        before: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, NetworkError> {
        let mut unstored = self.unstored.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = (self.taken)();
        unstored.retain(|id, answered| {
            !stored.contains(&(*id, answered.address)) && answered.at.elapsed() < UNSTORED_FOR
        });
        let answers = unstored
            .iter()
            .map(|(id, answered)| (*id, answered.address));
        let (own, others): (Vec<_>, Vec<_>) = answers
            .chain(stored.iter().copied())
            .partition(|(owner, _)| *owner == id);
        let others = others.into_iter().map(|(_, address)| address).collect();
        let known = before
            .into_iter()
            .chain(own.into_iter().map(|(_, address)| address));
        let address = choose(self.subnet, known, &others).ok_or_else(|| self.exhausted())?;
        if !stored.contains(&(id, address)) {
            let at = Instant::now();
            unstored.insert(id, Answered { address, at });
        }
        Ok(address)
    }

    fn exhausted(&self) -> NetworkError {
        let mut range = self.subnet.container_addresses();
        let first = range.next().unwrap_or_else(|| self.subnet.gateway());
        let last = range.next_back().unwrap_or(first);
        NetworkError::failed(
            format!("no free container address between {first} and {last}; widen network.subnet"),
            format!("all {} addresses are taken", self.capacity()),
        )
    }
}

/// First of the `known` addresses that is in the subnet and not another container's, else the
/// lowest free one. `None`: none is free.
fn choose(
    subnet: Ipv4Subnet,
    known: impl IntoIterator<Item = Ipv4Addr>,
    others: &BTreeSet<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    known
        .into_iter()
        .filter(|address| subnet.is_container_address(*address))
        .chain(subnet.container_addresses())
        .find(|address| !others.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Stored = Arc<Mutex<Vec<(ContainerId, Ipv4Addr)>>>;

    fn id(bits: u64) -> ContainerId {
        ContainerId::from_bits(bits)
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    /// Allocator of 10.0.0.2 to 10.0.0.6, and the store it asks.
    fn addresses(stored: &[(u64, u8)]) -> (Addresses, Stored) {
        let stored = stored
            .iter()
            .map(|(bits, last)| (id(*bits), address(*last)));
        let stored: Stored = Arc::new(Mutex::new(stored.collect()));
        let asked = Arc::clone(&stored);
        let taken: TakenAddresses = Arc::new(move || asked.lock().unwrap().clone());
        (
            Addresses::new("10.0.0.0/29".parse().unwrap(), taken),
            stored,
        )
    }

    #[track_caller]
    fn check(addresses: &Addresses, bits: u64, before: Option<Ipv4Addr>, expected: u8) {
        assert_eq!(
            addresses.allocate(id(bits), before).unwrap(),
            address(expected)
        );
    }

    #[test]
    fn the_lowest_free_address_is_given_and_then_kept() {
        let (addresses, _stored) = addresses(&[(1, 2), (2, 4)]);
        check(&addresses, 3, None, 3);
        check(&addresses, 3, None, 3);
        check(&addresses, 4, None, 5);
        check(&addresses, 1, None, 2);
        check(&addresses, 2, Some(address(4)), 4);
    }

    #[test]
    fn an_earlier_address_is_kept_only_where_it_fits_and_nobody_else_has_it() {
        let (addresses, _stored) = addresses(&[(1, 2)]);
        check(&addresses, 2, Some(address(6)), 6);
        check(&addresses, 3, Some(address(2)), 3);
        for outside in [
            address(0),
            address(1),
            address(7),
            Ipv4Addr::new(10, 9, 0, 4),
        ] {
            check(&addresses, 4, Some(outside), 4);
        }
        check(&addresses, 5, Some(address(6)), 5);
    }

    #[test]
    fn a_stored_address_outside_the_subnet_is_replaced() {
        let (addresses, stored) = addresses(&[]);
        stored
            .lock()
            .unwrap()
            .push((id(1), Ipv4Addr::new(10, 9, 0, 4)));
        check(&addresses, 1, Some(Ipv4Addr::new(10, 9, 0, 4)), 2);
        check(&addresses, 2, None, 3);
        check(&addresses, 1, Some(Ipv4Addr::new(10, 9, 0, 4)), 2);
    }

    #[test]
    fn two_allocations_at_once_never_get_the_same_address() {
        let (addresses, _stored) = addresses(&[]);
        let mut given: Vec<_> = std::thread::scope(|scope| {
            let threads = [1, 2, 3, 4, 5].map(|bits| {
                let addresses = &addresses;
                scope.spawn(move || addresses.allocate(id(bits), None).unwrap())
            });
            threads.map(|thread| thread.join().unwrap()).to_vec()
        });
        given.sort();
        assert_eq!(given, [2, 3, 4, 5, 6].map(address));
    }

    #[test]
    fn an_exhausted_subnet_says_what_to_widen() {
        let (addresses, stored) = addresses(&[(1, 2), (2, 3), (3, 4), (4, 5)]);
        assert_eq!(addresses.capacity(), 5);
        check(&addresses, 5, None, 6);
        assert_eq!(
            addresses.allocate(id(6), None).unwrap_err().to_string(),
            "no free container address between 10.0.0.2 and 10.0.0.6; widen network.subnet"
        );
        stored.lock().unwrap().remove(0);
        check(&addresses, 6, None, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_held_until_it_is_stored_or_long_past() {
        let (addresses, stored) = addresses(&[]);
        check(&addresses, 1, None, 2);
        check(&addresses, 2, None, 3);
        stored.lock().unwrap().push((id(1), address(2)));
        check(&addresses, 3, None, 4);
        // Stored and then removed: the address is free at once.
        stored.lock().unwrap().clear();
        check(&addresses, 4, None, 2);
        tokio::time::advance(UNSTORED_FOR).await;
        check(&addresses, 5, None, 2);
    }
}
