//! Tests of the assignment of addresses and host ports.

use super::*;
use crate::desired::tests::record;
use crate::spec::Network;
use crate::spec::network::NetworkMode;

/// Host with a range of addresses, and the ports on which its OS processes listen.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) addresses: RangeInclusive<Ipv4Addr>,
    pub(crate) listening: Vec<u16>,
}

impl HostNetwork for Host {
    fn holder(&self, binding: &PortBinding) -> Option<PortHolder> {
        let is_held = self.listening.contains(&binding.host);
        is_held.then_some(PortHolder::Process)
    }

    fn address(
        &self,
        before: Option<Ipv4Addr>,
        taken: &dyn Fn() -> BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Ipv4Addr>, AssignError> {
        QuietNetwork(self.addresses.clone()).address(before, taken)
    }
}

fn port(container: u16, host: Option<u16>, host_ip: Option<[u8; 4]>) -> PortSpec {
    PortSpec {
        container,
        protocol: Protocol::Tcp,
        host,
        host_ip: host_ip.map(IpAddr::from),
    }
}

fn with(name: &str, bits: u64, last: u8, ports: &[PortSpec]) -> Record {
    let mut record = record(name, bits);
    record.assignment.address = Some(Ipv4Addr::new(10, 0, 0, last));
    record.assignment.ports = ports
        .iter()
        .map(|port| bind(port, port.host.unwrap()))
        .collect();
    record
}

fn publishing(ports: &[PortSpec]) -> Spec {
    Spec {
        ports: ports.to_vec(),
        ..record("a", 1).spec
    }
}

#[track_caller]
fn give(
    records: &[Record],
    bits: u64,
    ports: &[PortSpec],
    listening: &[u16],
) -> Result<(u8, Vec<u16>), AssignError> {
    let id = ContainerId::from_bits(bits);
    let host = Host {
        addresses: Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 4),
        listening: listening.to_vec(),
    };
    let spec = publishing(ports);
    let assignment = assign(
        id,
        &spec,
        records.iter(),
        &[],
        &(100..=102),
        &host,
        AddressWish::Kept,
    )?;
    Ok((
        assignment.address.unwrap().octets()[3],
        assignment
            .ports
            .iter()
            .map(|binding| binding.host)
            .collect(),
    ))
}

#[test]
fn the_lowest_free_ones_are_assigned_and_then_kept() {
    let a = with("a", 1, 2, &[port(80, Some(100), None)]);
    assert_eq!(
        give(&[], 1, &[port(80, None, None)], &[]),
        Ok((2, vec![100]))
    );
    assert_eq!(
        give(std::slice::from_ref(&a), 2, &[port(80, None, None)], &[]),
        Ok((3, vec![101]))
    );
    assert_eq!(
        give(
            std::slice::from_ref(&a),
            1,
            &[port(80, None, None), port(81, None, None)],
            &[100]
        ),
        Ok((2, vec![100, 101]))
    );
}

#[test]
fn a_port_that_a_process_listens_on_is_passed_over_or_refused() {
    assert_eq!(
        give(&[], 1, &[port(80, None, None)], &[100, 101]),
        Ok((2, vec![102]))
    );
    let taken = AssignError::TakenOnHost {
        host: 100,
        protocol: Protocol::Tcp,
        by: PortHolder::Process,
    };
    assert_eq!(
        give(&[], 1, &[port(80, Some(100), None)], &[100]),
        Err(taken)
    );
}

#[test]
fn another_containers_port_is_refused_by_name_unless_the_addresses_differ() {
    let a = with("a", 1, 2, &[port(80, Some(8080), Some([127, 0, 0, 1]))]);
    let a = std::slice::from_ref(&a);
    let refused = give(a, 2, &[port(80, Some(8080), None)], &[]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "host port 8080/tcp is taken by container a"
    );
    assert!(give(a, 2, &[port(80, Some(8080), Some([127, 0, 0, 1]))], &[]).is_err());
    assert_eq!(
        give(a, 2, &[port(80, Some(8080), Some([10, 9, 9, 9]))], &[]),
        Ok((3, vec![8080]))
    );
}

#[test]
fn a_container_off_the_bridge_has_no_address_and_gives_its_own_back() {
    let before = with("a", 1, 2, &[]);
    let host = Host {
        addresses: Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 2),
        listening: Vec::new(),
    };
    for (mode, has_address) in [
        (NetworkMode::Bridge, true),
        (NetworkMode::None, false),
        (NetworkMode::Host, false),
    ] {
        let mut spec = publishing(&[]);
        spec.network = Network::of_mode(mode);
        let records = std::slice::from_ref(&before).iter();
        let given = assign(
            before.id,
            &spec,
            records,
            &[],
            &(100..=102),
            &host,
            AddressWish::Kept,
        )
        .unwrap();
        assert_eq!(given.address.is_some(), has_address, "{mode}");
    }
}

#[test]
fn nothing_of_an_unreadable_record_is_given_out() {
    let other = with("a", 1, 2, &[port(80, Some(100), None)]).assignment;
    let host = Host {
        addresses: Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 4),
        listening: Vec::new(),
    };
    let (id, none) = (ContainerId::from_bits(2), std::iter::empty());
    let spec = publishing(&[port(80, None, None)]);
    let assignment = assign(
        id,
        &spec,
        none,
        &[other],
        &(100..=102),
        &host,
        AddressWish::Kept,
    )
    .unwrap();
    assert_eq!(assignment.address, Some(Ipv4Addr::new(10, 0, 0, 3)));
    assert_eq!(assignment.ports[0].host, 101);
}

#[test]
fn a_chosen_port_avoids_one_that_a_sibling_names() {
    assert_eq!(
        give(
            &[],
            1,
            &[port(80, None, None), port(81, Some(100), None)],
            &[]
        ),
        Ok((2, vec![101, 100]))
    );
}

#[test]
fn an_exhausted_pool_says_what_to_widen() {
    let all: Vec<_> = (0..3)
        .map(|n| {
            with(
                &format!("c{n}"),
                u64::from(n),
                n + 2,
                &[port(80, Some(100 + u16::from(n)), None)],
            )
        })
        .collect();
    assert!(
        give(&all, 9, &[], &[])
            .unwrap_err()
            .to_string()
            .contains("network.subnet")
    );
    assert!(
        give(&all[..2], 9, &[port(80, None, None)], &[102])
            .unwrap_err()
            .to_string()
            .contains("network.port_range")
    );
}

#[test]
fn one_container_port_on_several_host_ports_keeps_each_of_them_once() {
    let ports = [port(80, None, None), port(80, Some(8080), None)];
    assert_eq!(give(&[], 1, &ports, &[]), Ok((2, vec![100, 8080])));
    let before = [with(
        "web",
        1,
        2,
        &[port(80, Some(8080), None), port(80, Some(101), None)],
    )];
    assert_eq!(give(&before, 1, &ports, &[]), Ok((2, vec![101, 8080])));
    // One more of them gets one more, and one less gives none to another.
    let more = [ports[0].clone(), ports[1].clone(), port(80, Some(9), None)];
    assert_eq!(give(&before, 1, &more, &[]), Ok((2, vec![101, 8080, 9])));
    assert_eq!(give(&before, 1, &ports[1..], &[]), Ok((2, vec![8080])));
}
