//! A faulty HTTP proxy in front of a server, and a record of who asked for what.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::http::{Head, Server, answer};
use super::scratch::lock;

/// What goes wrong with a response. Bytes are counted in the body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The connection ends properly, too early.
    Finish { after_bytes: u64 },
    /// The connection is reset.
    Reset { after_bytes: u64 },
    /// Nothing more comes, and the connection stays open.
    Stall { after_bytes: u64 },
    /// The server is not asked; this status comes back.
    Status {
        code: u16,
        retry_after_s: Option<u32>,
    },
    /// One byte is another.
    Corrupt { at_byte: u64 },
    /// The body comes no faster.
    Slow { bytes_per_s: u64 },
    /// One byte at a time.
    Drip { every: Duration },
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) target: String,
    /// The `Range` header, as in `bytes=1000-`.
    pub(crate) range: Option<String>,
    /// What was answered; 0 as long as nothing was.
    pub(crate) status: u16,
    /// So many bytes of the body were passed on.
    pub(crate) sent_bytes: u64,
    /// A fault was played on it.
    pub(crate) faulty: bool,
}

#[derive(Debug)]
struct Rule {
    part: String,
    left: usize,
    fault: Fault,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
}

/// The running proxy. Ends with the value.
#[derive(Debug)]
pub(crate) struct Proxy {
    server: Server,
    shared: Arc<Shared>,
}

impl Proxy {
    /// One that passes everything on to `upstream` (`host:port`, plain HTTP) until told otherwise.
    pub(crate) fn before(upstream: &str) -> Self {
        let upstream = upstream.to_owned();
        Self::between(Ipv4Addr::LOCALHOST, move || TcpStream::connect(&upstream))
    }

    /// As [`Self::before`], listening on another address of this computer, for a server that is reached in another way.
    pub(crate) fn between(
        address: Ipv4Addr,
        connect: impl Fn() -> io::Result<TcpStream> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let server = Server::start_on(address, move |head, stream| {
            seen.pass(&connect, head, stream)
        });
        Self { server, shared }
    }

    /// `host:port`, for image references.
    pub(crate) fn address(&self) -> String {
        self.server.address().to_string()
    }

    /// Plays `fault` on the next `times` GET requests whose target contains `part`. Of two that match, the older one.
    pub(crate) fn inject(&self, part: &str, times: usize, fault: Fault) {
        lock(&self.shared.rules).push(Rule {
            part: part.to_owned(),
            left: times,
            fault,
        });
    }

    /// Passes everything on again.
    pub(crate) fn heal(&self) {
        lock(&self.shared.rules).clear();
    }

    /// The GET requests so far whose target contains `part`, in the order they came.
    pub(crate) fn requests(&self, part: &str) -> Vec<Request> {
        self.all_requests()
            .into_iter()
            .filter(|request| request.method == "GET" && request.target.contains(part))
            .collect()
    }

    /// The requests so far, of every method, in the order they came.
    pub(crate) fn all_requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }
}

impl Shared {
    fn pass(
        &self,
        connect: &impl Fn() -> io::Result<TcpStream>,
        mut head: Head,
        mut client: BufReader<TcpStream>,
    ) -> io::Result<()> {
        let fault = self.fault_for(&head);
        let number = self.note(&head, fault.is_some());
        if let Some(Fault::Status {
            code,
            retry_after_s,
        }) = fault
        {
            self.answered(number, code);
            let seconds = retry_after_s.map(|seconds| seconds.to_string());
            let headers: Vec<_> = seconds
                .iter()
                .map(|seconds| ("Retry-After", seconds.as_str()))
                .collect();
            return answer(client.get_mut(), &format!("{code} Played"), &headers, "");
        }
        let mut upstream = connect()?;
        head.headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("expect"));
        head.write(&mut upstream)?;
        io::copy(&mut client.by_ref().take(head.body_bytes()), &mut upstream)?;
        let mut upstream = BufReader::new(upstream);
        let reply = Head::read(&mut upstream)?;
        self.answered(number, reply.second().parse().unwrap_or(0));
        reply.write(client.get_mut())?;
        self.body(number, &mut upstream, client.get_mut(), fault)
    }

    fn body(
        &self,
        number: usize,
        from: &mut impl Read,
        to: &mut TcpStream,
        fault: Option<Fault>,
    ) -> io::Result<()> {
        let mut sent: u64 = 0;
        let mut buffer = [0; 16 << 10];
        let ends = match fault {
            Some(
                Fault::Finish { after_bytes }
                | Fault::Reset { after_bytes }
                | Fault::Stall { after_bytes },
            ) => after_bytes,
            Some(
                Fault::Status { .. }
                | Fault::Corrupt { .. }
                | Fault::Slow { .. }
                | Fault::Drip { .. },
            )
            | None => u64::MAX,
        };
        while sent < ends {
            let most = match fault {
                Some(Fault::Drip { every }) => {
                    thread::sleep(every);
                    1
                }
                _ => ends - sent,
            };
            let count = from.by_ref().take(most).read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let piece = &mut buffer[..count];
            if let Some(Fault::Corrupt { at_byte }) = fault
                && let Some(byte) = at_byte
                    .checked_sub(sent)
                    .and_then(|at| piece.get_mut(usize::try_from(at).ok()?))
            {
                *byte ^= 0xff;
            }
            to.write_all(piece)?;
            sent += count as u64;
            lock(&self.requests)[number].sent_bytes = sent;
            if let Some(Fault::Slow { bytes_per_s }) = fault {
                thread::sleep(Duration::from_millis(
                    count as u64 * 1000 / bytes_per_s.max(1),
                ));
            }
        }
        match fault {
            Some(Fault::Reset { .. }) => {
                rustix::net::sockopt::set_socket_linger(&*to, Some(Duration::ZERO))?;
            }
            // Until the client gives up, which ends the read.
            Some(Fault::Stall { .. }) => drop(to.read(&mut buffer)?),
            Some(Fault::Finish { .. }) => to.shutdown(Shutdown::Both)?,
            Some(
                Fault::Status { .. }
                | Fault::Corrupt { .. }
                | Fault::Slow { .. }
                | Fault::Drip { .. },
            )
            | None => {}
        }
        Ok(())
    }

    fn fault_for(&self, head: &Head) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let matches = |rule: &&mut Rule| {
            head.method() == "GET" && rule.left > 0 && head.second().contains(&rule.part)
        };
        let rule = rules.iter_mut().find(matches)?;
        rule.left -= 1;
        Some(rule.fault)
    }

    fn note(&self, head: &Head, faulty: bool) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(Request {
            method: head.method().to_owned(),
            target: head.second().to_owned(),
            range: head.header("range").map(str::to_owned),
            status: 0,
            sent_bytes: 0,
            faulty,
        });
        requests.len() - 1
    }

    fn answered(&self, number: usize, status: u16) {
        lock(&self.requests)[number].status = status;
    }
}
