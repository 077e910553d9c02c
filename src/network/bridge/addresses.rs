//! Address allocation of the bridge driver: the lowest free address of the subnet. Pure; the only
//! ledger is the store, which asks inside of its transaction.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use state::assign::AssignError;
use state::subnet::Ipv4Subnet;

/// Address of a container: `before` if it fits, else the lowest one that is not `taken`.
///
/// # Errors
/// [`AssignError::NoAddress`].
pub(super) fn choose(
    subnet: Ipv4Subnet,
    before: Option<Ipv4Addr>,
    taken: &dyn Fn() -> BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, AssignError> {
    let before = before.filter(|address| subnet.is_container_address(*address));
    before
        .or_else(|| lowest_free(subnet, &taken()))
        .ok_or_else(|| exhausted(subnet))
}

fn lowest_free(subnet: Ipv4Subnet, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    subnet
        .container_addresses()
        .find(|address| !taken.contains(address))
}

fn exhausted(subnet: Ipv4Subnet) -> AssignError {
    let mut range = subnet.container_addresses();
    let first = range.next().unwrap_or_else(|| subnet.gateway());
    let last = range.next_back().unwrap_or(first);
    AssignError::NoAddress { first, last }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[track_caller]
    fn check(before: Option<Ipv4Addr>, taken: &[u8], expected: Result<u8, &str>) {
        let subnet = "10.0.0.0/29".parse().unwrap();
        let taken: BTreeSet<_> = taken.iter().copied().map(address).collect();
        let chosen = choose(subnet, before, &|| taken.clone()).map_err(|error| error.to_string());
        assert_eq!(chosen, expected.map(address).map_err(str::to_owned));
    }

    #[test]
    fn the_lowest_free_address_is_given_and_then_kept() {
        check(None, &[], Ok(2));
        check(None, &[2, 4], Ok(3));
        check(Some(address(6)), &[2, 3], Ok(6));
    }

    #[test]
    fn an_earlier_address_outside_the_subnet_is_replaced() {
        for outside in [
            address(0),
            address(1),
            address(7),
            Ipv4Addr::new(10, 9, 0, 4),
        ] {
            check(Some(outside), &[2], Ok(3));
        }
    }

    #[test]
    fn an_exhausted_subnet_says_what_to_widen() {
        check(
            None,
            &[2, 3, 4, 5, 6],
            Err("no container address is free from 10.0.0.2 to 10.0.0.6; widen network.subnet"),
        );
        check(Some(address(3)), &[2, 4, 5, 6], Ok(3));
    }
}
