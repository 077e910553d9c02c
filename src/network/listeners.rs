//! Listeners of the host: whether an OS process takes packets on a host port.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use state::desired::PortBinding;
use state::spec::Protocol;

/// Whether an OS process of this host listens on a host port right now, on any address that
/// `binding` would take from it.
///
/// Published ports of containers are not seen: no OS process listens on them. An address that the
/// host does not have (yet) has no listeners. Costs some ten microseconds.
///
/// # Errors
/// The kernel's refusal to tell.
pub(super) fn listener_on(binding: &PortBinding) -> io::Result<bool> {
    let host_ip = binding.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let address = SocketAddr::new(host_ip, binding.host);
    let kind = match binding.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = match socket_with(family(host_ip), kind, SocketFlags::CLOEXEC, None) {
        // A kernel without IPv6 has nobody who listens there.
        Err(Errno::AFNOSUPPORT) if host_ip.is_ipv6() => return Ok(false),
        socket => socket?,
    };
    if host_ip.is_ipv6() {
        // Otherwise a listener on IPv4 counts as well.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if binding.protocol == Protocol::Tcp {
        // Otherwise connections that ended a minute ago count as well.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    match bind(&socket, &address) {
        Ok(()) | Err(Errno::ADDRNOTAVAIL) => Ok(false),
        // Perhaps only a connection from here to elsewhere that happens to have this port; it goes
        // on undisturbed.
        Err(Errno::ADDRINUSE) => is_open(host_ip, binding.protocol, binding.host),
        Err(error) => Err(error.into()),
    }
}

/// Whether this host has an address.
pub(super) fn is_local(address: IpAddr) -> bool {
    let socket = socket_with(
        family(address),
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    socket.is_ok_and(|socket| bind(socket, &SocketAddr::new(address, 0)).is_ok())
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    }
}

/// Whether a socket takes packets from anybody on a port, on any address (proc_net(5)).
///
/// A socket of IPv6 may take packets of IPv4 as well, and never the other way round.
fn is_open(address: IpAddr, protocol: Protocol, port: u16) -> io::Result<bool> {
    let (files, open) = match protocol {
        Protocol::Tcp => (["tcp", "tcp6"], "0A"),
        Protocol::Udp => (["udp", "udp6"], "07"),
    };
    for file in files.into_iter().skip(usize::from(address.is_ipv6())) {
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(table) if lists_open_port(&table, open, port) => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(false)
}

fn lists_open_port(table: &str, open: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().is_some_and(|local| local.ends_with(&suffix));
        local && words.nth(1) == Some(open)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 2";

    #[test]
    fn only_a_listening_socket_is_open() {
        assert!(lists_open_port(TABLE, "0A", 0x1f90));
        assert!(!lists_open_port(TABLE, "0A", 0x1f91), "a connection");
        assert!(!lists_open_port(TABLE, "0A", 0x0), "a remote port");
    }

    #[test]
    fn a_listener_is_found_and_a_connection_is_none() {
        let on = |protocol, host_ip: Option<Ipv4Addr>, host| PortBinding {
            host_ip: host_ip.map(IpAddr::from),
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

        let on_ipv6 = PortBinding {
            host_ip: Some(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
            ..on(Protocol::Tcp, None, port)
        };
        assert!(!listener_on(&on_ipv6).unwrap(), "the other family is free");
        if let Ok(both) = TcpListener::bind("[::]:0") {
            let host = both.local_addr().unwrap().port();
            assert!(listener_on(&PortBinding { host, ..on_ipv6 }).unwrap());
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
}
