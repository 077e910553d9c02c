//! Connection of a probe, which is looked at before it is watched.
//!
//! Nearly every answer is there within milliseconds. To have the kernel tell of each would wake the
//! agent three times a probe, which costs more than the probe: so those that were asked together are
//! looked at together a little later, and only one that is slow is watched.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Waits before the looks at a connection. The first piece of an answer is never here at once.
const LOOKS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(40),
];
/// Bytes that are read at once.
const PIECE_BYTES_MAX: usize = 4 << 10;

/// Connection of a probe. It is closed when it is dropped.
#[derive(Debug)]
pub(super) enum ProbeConnection {
    /// Connection that nobody watches.
    Quiet(std::net::TcpStream),
    /// Connection that wakes who reads it.
    Watched(TcpStream),
}

impl ProbeConnection {
    /// Connects, and no more.
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        Self::connect(address, true).await
    }

    /// Connects, to send at once: what is sent tells the other end as well that the connection stands,
    /// and a packet that says only that is saved, a seventh of what a probe takes.
    pub(super) async fn open_to_send(address: SocketAddr) -> io::Result<Self> {
        Self::connect(address, false).await
    }

    async fn connect(address: SocketAddr, tells_at_once: bool) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        if !tells_at_once {
            sockopt::set_tcp_quickack(&socket, false)?;
        }
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        // Over a bridge of this host both ends are connected when the call returns.
        let stream = std::net::TcpStream::from(socket);
        if stream.peer_addr().is_ok() {
            return Ok(Self::Quiet(stream));
        }
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        let stream = TcpStream::from_std(stream)?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(Self::Watched(stream)),
        }
    }

    /// Sends all of it.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        if let Self::Quiet(stream) = self {
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.watched()?.write_all(rest).await
    }

    /// Reads some bytes behind those of `answer`, and answers how many; 0: the other end has closed.
    pub(super) async fn read(&mut self, answer: &mut Vec<u8>) -> io::Result<usize> {
        for wait in LOOKS.into_iter().skip(usize::from(answer.is_empty())) {
            let Self::Quiet(stream) = self else {
                break;
            };
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let mut piece = [0; PIECE_BYTES_MAX];
            match stream.read(&mut piece) {
                Ok(count) => {
                    answer.extend_from_slice(&piece[..count]);
                    return Ok(count);
                }
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.watched()?.read_buf(answer).await
    }

    /// Ends a connection of which all was read. Where the other end has closed it too, one packet ends it
    /// for both, in place of two and a wait of a minute in the container's kernel; where it has not, it
    /// is closed in the usual way, as a program may still look at its end.
    pub(super) fn end(self) {
        let Self::Quiet(mut stream) = self else {
            return;
        };
        if matches!(stream.read(&mut [0]), Ok(0)) {
            let _closed_as_usual = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
    }

    /// The connection, watched from now on.
    fn watched(&mut self) -> io::Result<&mut TcpStream> {
        if let Self::Quiet(stream) = self {
            *self = Self::Watched(TcpStream::from_std(stream.try_clone()?)?);
        }
        match self {
            Self::Watched(stream) => Ok(stream),
            Self::Quiet(_) => Err(ErrorKind::NotConnected.into()),
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
