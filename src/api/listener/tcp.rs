//! Door of the network: TCP, to everybody but the containers.
//!
//! A container may be anybody's, and what it is to do with the node it does through CHaS. So none
//! has a way to the API, whichever of the node's addresses it calls, and nobody has one by the
//! address that the node has among them.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use state::subnet::ContainerSubnets;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::pace::Pace;
use super::shut::SentAway;
use super::slots::{OF_NETWORK, SlotLimits};
use super::stream::PacedStream;
use super::{Door, TlsInForce};
use crate::api::caller::{CallerPeer, ShownCertificate};

/// Silence of a client after which the kernel asks whether it is still there; then how often, and
/// how many questions may stay without an answer.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// A listening TCP socket.
#[derive(Debug)]
pub(crate) struct TcpDoor {
    listener: TcpListener,
    containers: ContainerSubnets,
    /// TLS that is spoken here. `None`: plain HTTP is.
    tls: Option<TlsInForce>,
    sent_away: SentAway,
}

impl TcpDoor {
    /// A door on a socket that listens, shut to these subnets of the containers.
    pub(crate) fn new(
        listener: TcpListener,
        containers: ContainerSubnets,
        tls: Option<TlsInForce>,
    ) -> Self {
        let sent_away = SentAway::default();
        Self {
            listener,
            containers,
            tls,
            sent_away,
        }
    }

    fn is_containers(&self, address: IpAddr) -> bool {
        self.containers.contains(address)
    }
}

impl Door for TcpDoor {
    type Arrived = (TcpStream, Option<TlsInForce>);
    type Stream = Either<PacedStream<TcpStream>, Box<TlsStream<PacedStream<TcpStream>>>>;

    async fn accept(&self) -> io::Result<Option<(Self::Arrived, CallerPeer)>> {
        let (stream, address) = self.listener.accept().await?;
        let peer = CallerPeer::Tcp(address.ip());
        if self.is_containers(address.ip()) || self.is_containers(stream.local_addr()?.ip()) {
            self.sent_away
                .note(peer, "it is on the containers' network");
            return Ok(None);
        }
        let _worse_without = keep_alive(&stream);
        Ok(Some(((stream, self.tls.clone()), peer)))
    }

    async fn welcome(
        (stream, tls): Self::Arrived,
        pace: Arc<Pace>,
    ) -> io::Result<(Self::Stream, ShownCertificate)> {
        let stream = PacedStream::new(stream, pace);
        let Some(tls) = tls else {
            return Ok((Either::Left(stream), ShownCertificate::default()));
        };
        let (stream, shown) = tls.welcome(stream).await?;
        Ok((Either::Right(Box::new(stream)), shown))
    }

    fn places(&self) -> SlotLimits {
        OF_NETWORK
    }
}

/// Makes the kernel find out when a client is gone without a word.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    let (idle, interval, count) = KEEPALIVE;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    Ok(sockopt::set_tcp_keepcnt(stream, count)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_containers_network_is_known_by_either_end_however_it_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let containers = ContainerSubnets {
            ipv4: "10.231.0.0/24".parse().unwrap(),
            ipv6: "fd12:3456:789a::/64".parse().ok(),
        };
        let door = TcpDoor::new(listener, containers, None);
        for (address, is_containers) in [
            ("10.231.0.1", true),
            ("10.231.0.77", true),
            ("::ffff:10.231.0.77", true),
            ("10.231.1.1", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("::10.231.0.77", false),
            ("fd12:3456:789a::1", true),
            ("fd12:3456:789a::4d", true),
            ("fd12:3456:789b::1", false),
        ] {
            let is = door.is_containers(address.parse().unwrap());
            assert_eq!(is, is_containers, "{address}");
        }
    }
}
