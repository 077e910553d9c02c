//! 500 requests a second from three places while generations change places: over loopback, from another host, and
//! from a neighbour; each over connections that are kept and over new ones, and over UDP.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{count, instances, updated};
use crate::harness::image::Image;
use crate::network::lab::{self, Outside};
use crate::stand::{Stand, eventually};

/// Threads at each place for each kind of connection, and the pause of each between two requests: 3 * 2 * 4 / 48 ms.
const THREADS: usize = 4;
const PAUSE: Duration = Duration::from_millis(48);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The `stop.timeout` of every generation, which connections that are kept make each update take.
const GRACE: Duration = Duration::from_secs(2);
/// Addresses of the host and of the other host on the link between them.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// Updates under load; all that must be shown takes 200.
pub(super) fn updates() -> u64 {
    count("CHAS_TEST_UPDATES", 3)
}

/// A place from which requests are sent.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) name: &'static str,
    /// Where the server is asked: by its port on the host, or by its name, which the hosts file of this process has.
    pub(super) at: Result<SocketAddr, u32>,
    pub(super) netns: Option<Arc<File>>,
}

impl Place {
    pub(super) fn enter(&self) {
        if let Some(netns) = &self.netns {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        }
    }

    /// The address of the server, looked up anew.
    fn server(&self) -> io::Result<SocketAddr> {
        let pid = match self.at {
            Ok(address) => return Ok(address),
            Err(pid) => pid,
        };
        let hosts = std::fs::read_to_string(format!("/proc/{pid}/root/etc/hosts"))?;
        let mut named = hosts.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            words.any(|name| name == "web").then_some(address)
        });
        let found = named.find(IpAddr::is_ipv4).ok_or(io::ErrorKind::NotFound)?;
        Ok(SocketAddr::new(found, 80))
    }

    pub(super) fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.server()?, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// One request over a connection: the version that answered, and whether it closes the connection.
pub(super) fn ask(stream: &mut TcpStream, more: &str) -> io::Result<(String, bool)> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: web\r\n{more}\r\n").as_bytes())?;
    let mut text = String::new();
    while !text.ends_with("\n") || !text.contains("\r\n\r\nhello ") {
        let mut part = [0; 512];
        let got = stream.read(&mut part)?;
        if got == 0 {
            let cut = format!("closed after {text:?}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut));
        }
        text.push_str(&String::from_utf8_lossy(&part[..got]));
    }
    let version = text.rsplit("hello ").next().unwrap_or_default();
    Ok((
        version.trim().to_owned(),
        text.contains("Connection: close"),
    ))
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    New,
    Kept,
    Udp,
}

/// What came of the requests.
#[derive(Default)]
struct Counts {
    stopped: AtomicBool,
    /// Packets that had no answer, and were sent again.
    resent: AtomicUsize,
    done: [AtomicUsize; 3],
    failed: Mutex<Vec<String>>,
}

struct Load {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(places: &[Place]) -> Self {
        let counts = Arc::new(Counts::default());
        let mut threads = Vec::new();
        for place in places {
            // By name a packet of UDP goes where the name led when it was looked up.
            let udp = place.at.is_ok().then_some(Kind::Udp);
            let tcp = [Kind::New, Kind::Kept].into_iter();
            for kind in tcp.flat_map(|kind| [kind; THREADS]).chain(udp) {
                let (place, counts) = (place.clone(), Arc::clone(&counts));
                threads.push(thread::spawn(move || {
                    place.enter();
                    send(&place, kind, &counts);
                }));
            }
        }
        Self { counts, threads }
    }

    /// Ends it, and answers how many requests of each kind were answered, how many packets were sent again, and which
    /// requests failed.
    fn end(self) -> ([usize; 3], usize, Vec<String>) {
        self.counts.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let done = self.counts.done.each_ref();
        let done = done.map(|done| done.load(Ordering::Relaxed));
        let resent = self.counts.resent.load(Ordering::Relaxed);
        let failed = std::mem::take(&mut *self.counts.failed.lock().unwrap());
        (done, resent, failed)
    }
}

fn send(place: &Place, kind: Kind, counts: &Counts) {
    let (began, mut kept, mut udp) = (Instant::now(), None, None);
    while !counts.stopped.load(Ordering::Relaxed) {
        let asked = match kind {
            Kind::New => place
                .connect()
                .and_then(|mut stream| ask(&mut stream, "Connection: close\r\n").map(|_| ())),
            Kind::Kept => ask_kept(place, &mut kept),
            Kind::Udp => ask_udp(place, &mut udp, &counts.resent),
        };
        match asked {
            Ok(()) => drop(counts.done[kind as usize].fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                let (at, name) = (began.elapsed(), place.name);
                let failed = format!("{name}, {kind:?}, after {at:?}: {error}");
                counts.failed.lock().unwrap().push(failed);
                (kept, udp) = (None, None);
            }
        }
        thread::sleep(PAUSE);
    }
}

/// A request over the connection that is there, unless the server has said that it closes it.
fn ask_kept(place: &Place, kept: &mut Option<TcpStream>) -> io::Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => place.connect()?,
    };
    let (_, closes) = ask(&mut stream, "")?;
    *kept = (!closes).then_some(stream);
    Ok(())
}

/// A packet from one port all the time: to the kernel, one flow. An answer that is on its way while the flow is turned
/// to another generation is lost, and asked for again.
fn ask_udp(place: &Place, kept: &mut Option<UdpSocket>, resent: &AtomicUsize) -> io::Result<()> {
    let socket = match kept.take() {
        Some(socket) => socket,
        None => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(place.server()?)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket
        }
    };
    socket.send(b"hello")?;
    if socket.recv(&mut [0; 16]).is_err() {
        resent.fetch_add(1, Ordering::Relaxed);
        socket.send(b"hello")?;
        socket.recv(&mut [0; 16])?;
    }
    *kept = Some(socket);
    Ok(())
}

/// Connections that are kept and idle, one from each place, and the version that each has.
fn idle(places: &[Place]) -> Vec<(TcpStream, String)> {
    let connected = places.iter().map(|place| {
        let place = place.clone();
        let connecting = thread::spawn(move || {
            place.enter();
            let mut stream = place.connect().unwrap();
            let (version, _) = ask(&mut stream, "").unwrap();
            (stream, version)
        });
        connecting.join().unwrap()
    });
    connected.collect()
}

pub(super) fn body(stand: &Stand, version: u64) -> Value {
    stand.web(
        "web",
        &json!({"image": stand.image("serve:1"), "command": ["/serve"], "environment": {"VERSION": version.to_string()},
            "exposed_ports": [{"container": 80}, {"container": 80, "protocol": "udp"}],
            "health": {"http": {"path": "/", "port": 80}, "interval": "1s"}, "stop": {"timeout": format!("{}s", GRACE.as_secs())},
            "update": {"strategy": "start-first", "min_ready": "300ms"}}),
    )
}

pub(super) async fn push_server(stand: &Stand) {
    let directory = tempfile::tempdir().unwrap();
    let [source, program] = ["serve.c", "serve"].map(|name| directory.path().join(name));
    std::fs::write(&source, include_str!("serve.c")).unwrap();
    let (source, built) = (source.display(), program.display());
    lab::shell(&format!("cc -static -O1 -o {built} {source}"));
    Image::busybox()
        .program("/serve", &std::fs::read(&program).unwrap())
        .push(&stand.registry, "serve:1")
        .await;
}

/// The places, once the server is served at each.
pub(super) async fn places(stand: &Stand, shown: &Value, other: &Outside) -> Vec<Place> {
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let port = u16::try_from(port).unwrap();
    let neighbour = stand.script("neighbour", "sleep 100000 & wait", &json!({}));
    let neighbour = stand.agent.deploy_and_wait(&neighbour).await;
    let pid: u32 = stand.pid(&neighbour).unwrap().parse().unwrap();
    let own = || File::open("/proc/thread-self/ns/net").unwrap();
    let inside = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let places = vec![
        Place {
            name: "loopback",
            at: Ok((Ipv4Addr::LOCALHOST, port).into()),
            netns: None,
        },
        Place {
            name: "another host",
            at: Ok((HOST, port).into()),
            netns: Some(Arc::new(other.run(own))),
        },
        Place {
            name: "a neighbour",
            at: Err(pid),
            netns: Some(Arc::new(inside)),
        },
    ];
    for place in &places {
        let is_served = async || {
            let place = place.clone();
            let asking = thread::spawn(move || {
                place.enter();
                place
                    .connect()
                    .and_then(|mut stream| ask(&mut stream, ""))
                    .is_ok()
            });
            asking.join().unwrap()
        };
        eventually(place.name, is_served).await;
    }
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_from_anywhere_and_no_idle_connection_before_its_grace() {
    let stand = Stand::new().await;
    push_server(&stand).await;
    let shown = stand.agent.deploy_and_wait(&body(&stand, 1)).await;
    let other = Outside::on("chas-load", HOST, OTHER);
    let places = places(&stand, &shown, &other).await;
    let (load, began) = (Load::start(&places), Instant::now());
    let mut resets = Vec::new();
    for generation in 2..2 + updates() {
        let before = idle(&places);
        let (status, told) = stand.agent.deploy(&body(&stand, generation)).await;
        assert_eq!(status, 202, "{told}");
        let path = format!("/containers/web?wait=applied&generation={generation}&timeout=60s");
        let (status, shown) = stand.agent.get(&path).await;
        assert_eq!(status, 200, "{shown}");
        // Most of the grace passes, in which nothing is asked.
        tokio::time::sleep(GRACE.mul_f32(0.6)).await;
        for ((mut stream, version), place) in before.into_iter().zip(&places) {
            match ask(&mut stream, "") {
                Ok((answered, _)) if answered == version => {}
                other => resets.push(format!("{generation}, {}: {other:?}", place.name)),
            }
        }
        updated(&stand, generation).await;
        assert_eq!(instances(&stand), 2, "the one before is gone");
    }
    let (done, resent, failed) = load.end();
    let seconds = began.elapsed().as_secs_f64();
    let [new, kept, udp] = done;
    #[allow(clippy::cast_precision_loss, reason = "for showing")]
    let rate = (new + kept) as f64 / seconds;
    eprintln!(
        "{} updates in {seconds:.0} s: {new} requests over new connections, {kept} over kept ones, {udp} over UDP, {resent} of them asked twice; {rate:.0} a \
         second; {} failed, {} idle connections ended early",
        updates(),
        failed.len(),
        resets.len()
    );
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(resets.is_empty(), "{resets:#?}");
    // Two flows over UDP, each of which is turned once by each update.
    assert!(resent as u64 <= 2 * updates(), "{resent} packets lost");
    assert!(new > 100 && kept > 100 && udp > 50);
    // They hold the network of the neighbour.
    drop((places, other));
    stand.end().await;
}
