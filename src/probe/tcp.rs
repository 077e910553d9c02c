//! TCP probe: a connection, which is closed at once.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use super::ProbeResult;
use super::connection::ProbeConnection;

/// Faults of a connection that are its other end's.
const OWN_FAULTS: [ErrorKind; 5] = [
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::BrokenPipe,
    ErrorKind::TimedOut,
    ErrorKind::UnexpectedEof,
];

/// Connects. Nothing is sent.
pub(super) async fn ask(address: SocketAddr) -> ProbeResult {
    let port = address.port();
    match ProbeConnection::open(address).await {
        Ok(_) => Some(Ok(format!("port {port} accepts connections"))),
        Err(error) => fault(port, &error),
    }
}

/// Fault of a container in its connection. `None`: the fault is the node's, as where it has no
/// descriptor or no route, and says nothing about the container.
pub(super) fn fault(port: u16, error: &io::Error) -> ProbeResult {
    let kind = error.kind();
    if kind == ErrorKind::ConnectionRefused {
        return Some(Err(format!("port {port} refuses connections")));
    }
    if OWN_FAULTS.contains(&kind) {
        return Some(Err(format!("port {port} broke the connection: {error}")));
    }
    tracing::debug!(port, %error, "probe not asked");
    None
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_that_listens_is_a_success_and_another_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(ask(address).await.unwrap().is_ok());
        drop(listener);
        let fault = ask(address).await.unwrap().unwrap_err();
        assert!(fault.contains("refuses"), "{fault}");
    }

    #[test]
    fn a_fault_of_the_node_is_none_of_the_container() {
        for (code, is_own) in [
            (rustix::io::Errno::CONNRESET, true),
            (rustix::io::Errno::PIPE, true),
            (rustix::io::Errno::TIMEDOUT, true),
            (rustix::io::Errno::MFILE, false),
            (rustix::io::Errno::NFILE, false),
            (rustix::io::Errno::ADDRNOTAVAIL, false),
            (rustix::io::Errno::NETUNREACH, false),
            (rustix::io::Errno::HOSTUNREACH, false),
            (rustix::io::Errno::PERM, false),
            (rustix::io::Errno::NOBUFS, false),
        ] {
            let error = io::Error::from(code);
            assert_eq!(fault(80, &error).is_some(), is_own, "{error}");
        }
    }
}
