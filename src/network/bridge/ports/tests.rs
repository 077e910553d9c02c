//! Comparing the table with what should be in it.

use state::spec::Protocol;

use super::super::holders::PortContests;
use super::super::nftables::TableListing;
use super::contested::still_denied;
use super::differences::differences;
use super::*;

fn owner(text: &str) -> InstanceName {
    text.parse().unwrap()
}

fn one(port: u16, instance: &str) -> Published {
    let to = Publication {
        owner: owner(instance),
        address: [10, 231, 0, 2].into(),
        port: 80,
    };
    Published::from([(
        HostPort {
            host_ip: None,
            protocol: Protocol::Tcp,
            port,
        },
        to,
    )])
}

#[test]
fn a_right_table_differs_in_nothing() {
    let found = TableListing {
        published: one(80, "0123456789ab-1"),
        shape: "x".into(),
    };
    assert_eq!(
        differences("t", Some(&found), &found.published, Some("x")),
        Vec::<String>::new()
    );
    assert_eq!(
        differences("t", Some(&found), &found.published, None),
        Vec::<String>::new()
    );
}

#[test]
fn every_way_a_table_can_differ_has_its_line() {
    let found = TableListing {
        published: one(80, "0123456789ab-1"),
        shape: "x".into(),
    };
    #[track_caller]
    fn check(found: Option<&TableListing>, wanted: &Published, shape: &str, expected: &[&str]) {
        assert_eq!(differences("t", found, wanted, Some(shape)), expected);
    }
    check(None, &Published::new(), "x", &["nftables table t: missing"]);
    check(
        Some(&found),
        &found.published,
        "y",
        &["nftables table t: rules changed externally"],
    );
    check(
        Some(&found),
        &Published::new(),
        "x",
        &["host port 80/tcp withdrawn from 0123456789ab-1"],
    );
    check(
        Some(&found),
        &one(80, "0123456789ab-2"),
        "x",
        &["host port 80/tcp published for 0123456789ab-2"],
    );
    check(
        Some(&found),
        &one(81, "0123456789ab-1"),
        "x",
        &[
            "host port 81/tcp published for 0123456789ab-1",
            "host port 80/tcp withdrawn from 0123456789ab-1",
        ],
    );
}

#[test]
fn a_denied_port_stays_denied_while_nobody_tells_of_it() {
    let wanted = one(80, "0123456789ab-2");
    let port = *wanted.keys().next().unwrap();
    let denial = |owned: &str| ContestedPort {
        port,
        owner: owner(owned),
        by: PortHolder::Process,
        published: false,
    };
    let error = NetworkError::failed("cannot see", io::Error::other("no file descriptor is left"));
    let untold = PortContests {
        unknown: vec![(port, error)],
        ..PortContests::default()
    };
    let before = [denial("0123456789ab-1")];
    assert_eq!(still_denied(&before, &wanted, &untold), before);
    for (before, wanted, found) in [
        (denial("0123456789ac-1"), &wanted, &untold),
        (denial("0123456789ab-1"), &Published::new(), &untold),
        (denial("0123456789ab-1"), &wanted, &PortContests::default()),
    ] {
        assert_eq!(still_denied(&[before], wanted, found), []);
    }
}
