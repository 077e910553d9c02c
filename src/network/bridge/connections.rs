//! Connections that came in to an instance and are not over, by the sockets in its netns: also those
//! of neighbours, which the host's connection tracking does not see.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use state::id::InstanceName;
use tokio::time::Instant;

use super::BridgeNetwork;
use crate::network::threads::on_own_thread;
use crate::network::{NetworkError, netns};

/// Tables of the TCP sockets of the calling thread's netns (`proc_pid_net(5)`).
const TABLE: &str = "/proc/thread-self/net/tcp";
/// Table of those of IPv6, which a kernel without it does not have.
const TABLE6: &str = "/proc/thread-self/net/tcp6";
/// Counters of the netns' protocols (`proc_pid_net(5)`), of both families.
const COUNTERS: &str = "/proc/thread-self/net/snmp";
/// Time from the first look in which a client may come by what a name meant before: Go reads the hosts
/// file anew after 5 s.
const RESOLVED_FOR: Duration = Duration::from_secs(6);
/// Pause between two looks, above which they are not of the same wait for the end of connections.
const APART: Duration = Duration::from_secs(5);
/// Length of a table, in bytes, above which nothing is counted: some 100 000 sockets, as many as the
/// container likes to have.
const TABLE_LEN_MAX: u64 = 16 << 20;
/// State of a socket that listens.
const LISTEN: &str = "0A";
/// States of a connection of which this end may have to send: established, just being made, what is
/// to be sent before the end, and one of which only the other end has said that it sends no more.
const OPEN: [&str; 4] = ["01", "03", "04", "08"];

/// Connections that came in to an instance that serves no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrivals {
    first_look: Instant,
    looked_at: Instant,
    /// The kernel's count of connections that came in, since the netns was made.
    count: u64,
}

impl Arrivals {
    /// Takes in a look. Answers how many came in since the look before, while somebody may come by
    /// what a name meant before.
    fn look(known: &mut Option<Self>, count: u64, now: Instant) -> usize {
        let same = known.filter(|known| now - known.looked_at <= APART);
        let first_look = same.map_or(now, |known| known.first_look);
        let before = same.map_or(count, |known| known.count);
        *known = Some(Self {
            first_look,
            looked_at: now,
            count,
        });
        let came = if now - first_look < RESOLVED_FOR {
            count.saturating_sub(before)
        } else {
            0
        };
        usize::try_from(came).unwrap_or(usize::MAX)
    }
}

impl BridgeNetwork {
    /// Connections that came in to an instance and are not over; in the first seconds, in which not
    /// everybody knows that another one serves, also those that came in and are over since the look
    /// before. None, if it has no netns.
    pub(super) async fn count_connections(
        &self,
        instance: InstanceName,
    ) -> Result<usize, NetworkError> {
        let file = self.netns(instance);
        let (open, count) = on_own_thread("netns", move || {
            let unknown = |error| {
                netns::failed(
                    format!("cannot look into the netns {}", file.display()),
                    error,
                )
            };
            if !netns::exists(&file).map_err(unknown)? {
                return Ok((0, None));
            }
            netns::enter(&file).map_err(unknown)?;
            let table = sockets(Path::new(TABLE), Path::new(TABLE6), TABLE_LEN_MAX);
            let unread = |error| NetworkError::failed("cannot read the sockets of a netns", error);
            let open = incoming(&table.map_err(unread)?);
            // What has come and gone is known as far as the kernel tells.
            let counters = std::fs::read_to_string(COUNTERS).unwrap_or_default();
            Ok((open, came_in(&counters)))
        })
        .await?;
        let Some(count) = count else {
            return Ok(open);
        };
        let mut state = self.state();
        let mut known = state.arrivals.get(&instance).copied();
        let came = Arrivals::look(&mut known, count, Instant::now());
        state.arrivals.extend(known.map(|known| (instance, known)));
        Ok(open.saturating_add(came))
    }
}

/// Connections over TCP that came in, by the kernel's counters: a line of names, and one of numbers.
fn came_in(counters: &str) -> Option<u64> {
    let mut lines = counters.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next()?.split_ascii_whitespace();
    let mut numbers = names.zip(lines.next()?.split_ascii_whitespace());
    let (_, number) = numbers.find(|(name, _)| *name == "PassiveOpens")?;
    number.parse().ok()
}

/// Both tables; the second one may be missing. One that is longer than `len_max` is an error, as is
/// every other that cannot be read: it does not say that there are no connections.
fn sockets(table: &Path, table6: &Path, len_max: u64) -> io::Result<String> {
    let mut text = String::new();
    for (path, may_be_missing) in [(table, false), (table6, true)] {
        let file = match File::open(path) {
            Err(error) if may_be_missing && error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let read = file.take(len_max).read_to_string(&mut text)?;
        if read as u64 == len_max {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "too many sockets"));
        }
    }
    Ok(text)
}

/// Connections to the ports that are listened on, apart from those of the netns to itself.
fn incoming(table: &str) -> usize {
    let sockets: Vec<_> = table.lines().filter_map(Socket::read).collect();
    let ports: BTreeSet<_> = sockets
        .iter()
        .filter(|socket| socket.state == LISTEN)
        .map(|socket| socket.port)
        .collect();
    sockets
        .iter()
        .filter(|socket| OPEN.contains(&socket.state) && ports.contains(socket.port))
        .filter(|socket| !is_own(socket))
        .count()
}

/// Line of the table.
struct Socket<'a> {
    local: &'a str,
    port: &'a str,
    remote: &'a str,
    state: &'a str,
}

impl<'a> Socket<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, port) = words.next()?.split_once(':')?;
        let (remote, _) = words.next()?.split_once(':')?;
        let state = words.next()?;
        Some(Self {
            local,
            port,
            remote,
            state,
        })
    }
}

fn is_own(socket: &Socket<'_>) -> bool {
    socket.local == socket.remote
        || address(socket.remote).is_some_and(|remote| remote.to_canonical().is_loopback())
}

/// Address as the kernel writes it: words of 32 bits, each in the order of the processor.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..(at + 1) * 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut octets = [0; 16];
    for (at, part) in octets.chunks_exact_mut(4).enumerate() {
        part.copy_from_slice(&word(at)?);
    }
    Some(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_cannot_be_read_does_not_say_that_there_are_no_connections() {
        let dir = tempfile::tempdir().unwrap();
        let (table, missing) = (dir.path().join("tcp"), dir.path().join("tcp6"));
        std::fs::write(&table, "12345").unwrap();
        assert_eq!(sockets(&table, &missing, 6).unwrap(), "12345");
        assert!(sockets(&missing, &table, 6).is_err(), "there is always one");
        assert!(sockets(&table, dir.path(), 6).is_err(), "not readable");
        assert!(sockets(&table, &missing, 5).is_err(), "too long");
    }

    #[test]
    fn who_comes_by_an_old_name_is_counted_for_some_seconds() {
        let text = "Ip: a\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 3 7\n";
        assert_eq!(came_in(text), Some(7));
        assert_eq!(came_in("Tcp: PassiveOpens\n"), None);
        let begun = Instant::now();
        let mut known = None;
        let looks = [(0, 70, 0), (1, 75, 5), (2, 75, 0), (5, 76, 1), (7, 90, 0)];
        // A later wait begins anew.
        for (at_s, count, expected) in looks.into_iter().chain([(20, 99, 0), (21, 100, 1)]) {
            let now = begun + Duration::from_secs(at_s);
            let came = Arrivals::look(&mut known, count, now);
            assert_eq!(came, expected, "after {at_s} s");
        }
    }

    #[test]
    fn connections_that_came_in_are_counted_and_no_others() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n";
        let listen =
            "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n";
        let line = |local: &str, remote: &str, state: &str| {
            format!("   1: {local} {remote} {state} 00000000:00000000 00:00000000 00000000\n")
        };
        let check = |line: &str, expected| {
            assert_eq!(
                incoming(&format!("{head}{listen}{line}")),
                expected,
                "{line}"
            );
        };
        for state in ["01", "03", "04", "08"] {
            check(&line("0200E70A:0050", "0100E70A:9C40", state), 1);
        }
        for state in ["02", "05", "06", "07", "09", "0B"] {
            check(&line("0200E70A:0050", "0100E70A:9C40", state), 0);
        }
        check(&line("0200E70A:9C40", "0100E70A:0050", "01"), 0);
        check(&line("0100007F:0050", "0100007F:9C40", "01"), 0);
        check(&line("0200E70A:0050", "0200E70A:9C40", "01"), 0);
        let mapped = "0000000000000000FFFF0000";
        let (own, other) = (
            format!("{mapped}0200E70A:0050"),
            format!("{mapped}0100E70A:9C40"),
        );
        check(&line(&own, &other, "01"), 1);
        let own = format!("{mapped}0100007F:9C40");
        check(&line(&format!("{mapped}0200007F:0050"), &own, "01"), 0);
    }
}
