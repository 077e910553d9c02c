//! Comparing the table with what should be in it, and finding listeners.

use std::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 2";

fn owner(text: &str) -> InstanceName {
    text.parse().unwrap()
}

fn one(port: u16, instance: &str) -> Published {
    let to = Publication {
        owner: owner(instance),
        address: Ipv4Addr::new(10, 231, 0, 2),
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
fn a_settled_table_differs_in_nothing() {
    let found = Listing {
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
    let found = Listing {
        published: one(80, "0123456789ab-1"),
        shape: "x".into(),
    };
    #[track_caller]
    fn check(found: Option<&Listing>, wanted: &Published, shape: &str, expected: &[&str]) {
        assert_eq!(differences("t", found, wanted, Some(shape)), expected);
    }
    check(
        None,
        &Published::new(),
        "x",
        &["nftables table t: was gone"],
    );
    check(
        Some(&found),
        &found.published,
        "y",
        &["nftables table t: its rules were changed by somebody else"],
    );
    check(
        Some(&found),
        &Published::new(),
        "x",
        &["host port 80 tcp of 0123456789ab-1"],
    );
    check(
        Some(&found),
        &one(80, "0123456789ab-2"),
        "x",
        &["host port 80 tcp for 0123456789ab-2"],
    );
    check(
        Some(&found),
        &one(81, "0123456789ab-1"),
        "x",
        &[
            "host port 81 tcp for 0123456789ab-1",
            "host port 80 tcp of 0123456789ab-1",
        ],
    );
}

#[test]
fn the_unspecified_address_means_every_address() {
    let binding = |host_ip| PortBinding {
        host_ip,
        host: 80,
        container: 8080,
        protocol: Protocol::Udp,
    };
    assert_eq!(
        host_port(&binding(Some(Ipv4Addr::UNSPECIFIED))),
        host_port(&binding(None))
    );
    assert_ne!(
        host_port(&binding(Some(Ipv4Addr::LOCALHOST))),
        host_port(&binding(None))
    );
}

#[test]
fn only_a_listening_socket_is_open() {
    assert!(lists_open_port(TABLE, "0A", 0x1f90));
    assert!(!lists_open_port(TABLE, "0A", 0x1f91), "a connection");
    assert!(!lists_open_port(TABLE, "0A", 0x0), "a remote port");
}

#[test]
fn a_listener_is_found_and_a_connection_is_none() {
    let on = |protocol, host_ip, host| PortBinding {
        host_ip,
        host,
        container: 1,
        protocol,
    };
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    for host_ip in [None, Some(Ipv4Addr::LOCALHOST), Some(Ipv4Addr::UNSPECIFIED)] {
        assert!(
            listener_on(&on(Protocol::Tcp, host_ip, port)).unwrap(),
            "{host_ip:?}"
        );
    }
    for elsewhere in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(192, 0, 2, 1)] {
        assert!(
            !listener_on(&on(Protocol::Tcp, Some(elsewhere), port)).unwrap(),
            "{elsewhere}"
        );
    }

    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(
        !listener_on(&on(
            Protocol::Tcp,
            None,
            client.local_addr().unwrap().port()
        ))
        .unwrap()
    );

    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    assert!(listener_on(&on(Protocol::Udp, None, port)).unwrap());
    udp.connect("127.0.0.1:9").unwrap();
    assert!(
        !listener_on(&on(Protocol::Udp, None, port)).unwrap(),
        "it hears one peer only"
    );
}
