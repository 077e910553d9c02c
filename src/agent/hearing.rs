//! Whether the doors of the API hear: each that is open is called now and then, as a client calls it.
//! A door that takes the call and is silent is deaf; what keeps the call from coming there is not the
//! agent's fault, and never counts.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use state::alarm::Alarm;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::Journal;
use crate::lock::lock;
use crate::notify;
use crate::reconcile::Handle;
use crate::writer::Writer;

/// Time within which a door answers. The answer takes microseconds; the rest is for a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Calls in a row without an answer after which a door is deaf: three minutes where systemd wants a
/// sign each minute. A machine that is only busy answers one of them.
const SILENT_CALLS_MAX: u32 = 6;
/// The call, which every door answers: one that speaks TLS, by closing the connection.
const CALL: &[u8] = b"GET /livez HTTP/1.0\r\n\r\n";
/// Part of the kernel's list of sockets that is read: those that listen stand in front.
const LISTENERS_BYTES_MAX: u64 = 256 << 10;
/// Part of that list in which a connection is looked for: some 25,000 sockets.
const SOCKETS_BYTES_MAX: u64 = 4 << 20;

/// Address at which a door is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DoorAddress {
    Tcp(SocketAddr),
    Socket(PathBuf),
}

/// Answer of a door to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Answered, or the connection was closed: somebody is there.
    Yes,
    /// No call came there, so that nothing is known of the door.
    Unknown,
    /// Silent though called, for this cause.
    No(&'static str),
}

/// Open door, and its silence.
#[derive(Clone, Debug)]
struct OpenDoor {
    address: DoorAddress,
    silent_calls: u32,
    cause: &'static str,
}

/// Doors that are open, and whether they hear. Clones are about the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Hearing(Arc<Mutex<BTreeMap<String, OpenDoor>>>);

impl Hearing {
    /// Notes that a door was opened; `None`: it could not be, or is shut.
    pub(super) fn note(&self, subject: &str, address: Option<DoorAddress>) {
        let mut doors = lock(&self.0);
        match address {
            Some(address) => {
                let door = OpenDoor {
                    address,
                    silent_calls: 0,
                    cause: "",
                };
                doors.insert(subject.to_owned(), door);
            }
            None => drop(doors.remove(subject)),
        }
    }

    /// The door that is deaf, if one is, and how that shows.
    fn deaf(&self) -> Option<String> {
        let doors = lock(&self.0);
        let deaf = doors
            .iter()
            .find(|(_, door)| door.silent_calls >= SILENT_CALLS_MAX);
        deaf.map(|(subject, door)| format!("the API's door {subject} is deaf: {}", door.cause))
    }

    /// Calls each door once.
    async fn call(&self, answer_max: Duration) {
        let doors: Vec<_> = lock(&self.0)
            .iter()
            .map(|(subject, door)| (subject.clone(), door.address.clone()))
            .collect();
        let calls = doors.iter().map(|(_, address)| called(address, answer_max));
        let answers = join_all(calls).await;
        let mut known = lock(&self.0);
        for ((subject, address), heard) in doors.into_iter().zip(answers) {
            // Another door may be in its place by now.
            let door = known.get_mut(&subject);
            let Some(door) = door.filter(|door| door.address == address) else {
                continue;
            };
            match heard {
                Heard::Yes => door.silent_calls = 0,
                Heard::Unknown => {}
                Heard::No(cause) => {
                    door.silent_calls = door.silent_calls.saturating_add(1);
                    door.cause = cause;
                    let calls = door.silent_calls;
                    tracing::warn!(door = %subject, cause, calls, "API silent to the agent's own call");
                }
            }
        }
    }
}

/// Tells systemd at an interval that the agent lives, unless a part of it is stuck; that is logged, and
/// an alarm, before systemd ends the agent for it. Without systemd, the alarm stands.
pub(super) fn watch(
    hearing: Hearing,
    (handle, writer, journal): (Handle, Writer, Journal),
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let every = notify::beat_interval();
    let (calling, called) = (hearing.clone(), stop.clone());
    let calling = async move {
        loop {
            tokio::time::sleep(every).await;
            calling.call(ANSWER_MAX.min(every)).await;
        }
    };
    tracker.spawn(async move { called.run_until_cancelled(calling).await });
    let stalled = move || {
        let part = handle.stalled().or_else(|| writer.stalled());
        part.map(ToOwned::to_owned).or_else(|| hearing.deaf())
    };
    let told = move |fault: Option<&str>| {
        journal.set_alarm(Alarm::AgentStuck, "", fault.map(ToOwned::to_owned));
    };
    tracker.spawn(notify::watchdog(every, stalled, told, stop.clone()));
}

async fn called(address: &DoorAddress, answer_max: Duration) -> Heard {
    match address {
        DoorAddress::Socket(path) => match timeout(answer_max, UnixStream::connect(path)).await {
            Ok(Ok(mut stream)) => answered(&mut stream, answer_max).await,
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Heard::No("nobody takes the connections that wait")
            }
            Ok(Err(error)) => unconnected(&error),
            Err(_) => Heard::No("nobody takes the connections that wait"),
        },
        DoorAddress::Tcp(address) => {
            let address = own(*address);
            match timeout(answer_max, TcpStream::connect(address)).await {
                Ok(Ok(mut stream)) => {
                    let heard = answered(&mut stream, answer_max).await;
                    let own_port = stream.local_addr().map_or(0, |own| own.port());
                    // A rule of the host or a floating address may lead the call to somebody else.
                    match heard {
                        Heard::No(_) if !is_here((address.port(), own_port), answer_max).await => {
                            Heard::Unknown
                        }
                        Heard::Yes | Heard::No(_) | Heard::Unknown => heard,
                    }
                }
                Ok(Err(error)) => unconnected(&error),
                // A firewall may be in the way of it, or a full line in front of the door.
                Err(_) if is_line_full(address.port(), answer_max).await => {
                    Heard::No("nobody takes the connections that wait")
                }
                Err(_) => Heard::Unknown,
            }
        }
    }
}

/// Answer to a call for which no connection came about: a closed or lost door is opened by itself, and
/// a process without a free descriptor takes nobody's call.
fn unconnected(error: &io::Error) -> Heard {
    let full = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    let is_full = full
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    match is_full {
        true => Heard::No("no file descriptor is left"),
        false => Heard::Unknown,
    }
}

async fn answered(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer_max: Duration,
) -> Heard {
    let asking = async {
        // A door that closes before it reads has heard, too.
        let _or_closed = stream.write_all(CALL).await;
        let _or_closed = stream.read(&mut [0; 16]).await;
    };
    match timeout(answer_max, asking).await {
        Ok(()) => Heard::Yes,
        Err(_) => Heard::No("a connection is taken, and not answered"),
    }
}

/// The address by which this host calls a door of its own.
fn own(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let loopback = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(loopback, address.port())
}

/// Whether connections wait at this port of the host that nobody takes.
async fn is_line_full(port: u16, answer_max: Duration) -> bool {
    let holds = move |list: &str| has_line(list, port);
    is_listed(LISTENERS_BYTES_MAX, answer_max, holds).await
}

/// Whether the other end of a connection between these ports, the door's and the caller's, is on this
/// host, and in its network.
async fn is_here(ports: (u16, u16), answer_max: Duration) -> bool {
    let holds = move |list: &str| has_connection(list, ports);
    is_listed(SOCKETS_BYTES_MAX, answer_max, holds).await
}

/// Whether it holds of one of the kernel's lists of sockets, as far as that is read in time.
async fn is_listed(
    bytes_max: u64,
    answer_max: Duration,
    holds: impl Fn(&str) -> bool + Send + 'static,
) -> bool {
    let look = move || {
        let lists = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
        lists.iter().any(|path| {
            let mut text = String::new();
            let read = std::fs::File::open(path).and_then(|file| {
                io::Read::read_to_string(&mut io::Read::take(file, bytes_max), &mut text)
            });
            read.is_ok() && holds(&text)
        })
    };
    let looked = timeout(answer_max, tokio::task::spawn_blocking(look)).await;
    looked.is_ok_and(|looked| looked.unwrap_or(false))
}

/// Whether the list has the end at a door of a connection between these ports.
fn has_connection(list: &str, (door, caller): (u16, u16)) -> bool {
    let (door, caller) = (format!(":{door:04X}"), format!(":{caller:04X}"));
    list.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let ends = words.next().zip(words.next());
        ends.is_some_and(|(own, other)| own.ends_with(&door) && other.ends_with(&caller))
    })
}

/// Whether the list (proc(5), `/proc/net/tcp`) has a socket that listens at the port, with connections
/// that wait.
fn has_line(list: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    list.lines().skip(1).any(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().take(5).collect();
        let [_, local, _, "0A", queues] = words[..] else {
            return false;
        };
        let waiting = queues.split_once(':').map(|(_, waiting)| waiting);
        local.ends_with(&port)
            && waiting
                .and_then(|waiting| u32::from_str_radix(waiting, 16).ok())
                .is_some_and(|waiting| waiting > 0)
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    use state::subnet::Ipv4Subnet;
    use tokio::net::{TcpListener, UnixListener};
    use tokio::task::JoinSet;

    use super::*;
    use crate::api::listener::{TcpDoor, serve};

    const SHORT: Duration = Duration::from_millis(300);

    fn at(hearing: &Hearing, address: &SocketAddr) {
        hearing.note(&address.to_string(), Some(DoorAddress::Tcp(*address)));
    }

    async fn called_often(hearing: &Hearing) -> Option<String> {
        for _ in 0..SILENT_CALLS_MAX {
            assert_eq!(hearing.deaf(), None);
            hearing.call(SHORT).await;
        }
        hearing.deaf()
    }

    #[tokio::test]
    async fn a_port_that_nobody_serves_is_deaf_and_one_that_is_served_again_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (hearing, address) = (Hearing::default(), listener.local_addr().unwrap());
        at(&hearing, &address);
        let deaf = called_often(&hearing).await.unwrap();
        assert!(deaf.contains(&address.to_string()), "{deaf}");
        assert!(deaf.contains("taken, and not answered"), "{deaf}");
        let stop = CancellationToken::new();
        let containers = "10.231.0.0/24".parse::<Ipv4Subnet>().unwrap();
        let door = TcpDoor::new(listener, containers.into(), None);
        let router = Router::new().route("/livez", get(async || "alive\n"));
        let mut serving = JoinSet::new();
        serving.spawn(serve(door, router, stop.clone()));
        hearing.call(Duration::from_secs(10)).await;
        assert_eq!(hearing.deaf(), None);
        stop.cancel();
        serving.join_next().await.unwrap().unwrap();
        // A door that is shut is no deaf one: it is opened again by others.
        assert_eq!(called_often(&hearing).await, None);
    }

    #[tokio::test]
    async fn a_socket_that_takes_and_never_answers_is_deaf_and_so_is_one_with_a_full_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let hearing = Hearing::default();
        hearing.note("s", Some(DoorAddress::Socket(path.clone())));
        let deaf = called_often(&hearing).await.unwrap();
        assert!(deaf.contains("not answered"), "{deaf}");
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        hearing.note("s", Some(DoorAddress::Socket(path.clone())));
        assert_eq!(called_often(&hearing).await, None, "it is lost, not deaf");
        let short = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&short, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&short, 1).unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = timeout(SHORT, UnixStream::connect(&path)).await {
            waiting.push(stream);
            assert!(waiting.len() < 64, "the line is never full");
        }
        let deaf = called_often(&hearing).await.unwrap();
        assert!(deaf.contains("that wait"), "{deaf}");
        hearing.note("s", None);
        assert_eq!(hearing.deaf(), None);
    }

    #[test]
    fn a_line_in_front_of_a_port_is_what_the_kernel_says() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
             0: 0100007F:2382 00000000:0000 0A 00000000:00000081 00:00000000 00000000\n\
             1: 0100007F:2383 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
             2: 0100007F:2384 0100007F:9999 01 00000000:00000081 00:00000000 00000000\n";
        for (port, expected) in [(0x2382, true), (0x2383, false), (0x2384, false), (1, false)] {
            assert_eq!(has_line(list, port), expected, "{port:x}");
        }
        assert!(!has_line("", 1) && !has_line("x\ny z\n", 1));
        for (ports, expected) in [((0x2384, 0x9999), true), ((0x9999, 0x2384), false)] {
            assert_eq!(has_connection(list, ports), expected, "{ports:?}");
        }
    }

    #[test]
    fn a_door_on_all_addresses_is_called_on_loopback() {
        for (address, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            assert_eq!(own(address.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
