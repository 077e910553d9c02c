//! A host of one's own: a netns as the host, another as its neighbour on the network, and things that ask and answer.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chas_node_agent::network::{
    AssignedInstance, BridgeConfig, BridgeNetwork, ContainerReach, HostReach, NetworkDriver as _,
    NetworkError, NetworkPaths, RESOLV_CONF,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use state::desired::{Assignment, PortBinding};
use state::id::{ContainerId, ContainerName, InstanceName};
use state::spec::{Network, Protocol};

/// The host's address towards the outside.
pub(crate) const HOST_LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Another host's address.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Port of the agent's own API.
pub(crate) const API_PORT: u16 = 9090;

/// How long an answer may take; what a rule drops is waited for as long. The kernel tells a bridge at most once a second that
/// it has a carrier (`linkwatch`), and a lost ARP question is asked again after a second.
const PATIENCE: Duration = Duration::from_millis(2500);

/// One private host.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    name: &'static str,
    outside: Outside,
}

/// Runs `test` on a thread whose netns is a host with one link to one other host.
pub(crate) fn on_a_private_host(name: &'static str, test: impl AsyncFnOnce(&Host) + Send) {
    thread::scope(|scope| {
        let host = scope.spawn(|| {
            unshare_network();
            shell("ip link set lo up");
            let outside = Outside::on("lan0", HOST_LAN, OUTSIDE);
            let host = Host {
                dir: tempfile::tempdir().unwrap(),
                name,
                outside,
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test(&host));
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[allow(deprecated, reason = "the other form is `unsafe`")]
fn unshare_network() {
    rustix::thread::unshare(UnshareFlags::NEWNET).expect("needs root");
}

impl Host {
    pub(crate) async fn network(&self) -> BridgeNetwork {
        self.prepare(self.bridge(), self.subnet(), self.netns_dir())
            .await
    }

    /// This agent's, configured otherwise.
    pub(crate) async fn network_with(
        &self,
        change: impl FnOnce(&mut BridgeConfig),
    ) -> BridgeNetwork {
        let mut config = config(self.bridge(), self.subnet(), self.netns_dir());
        change(&mut config);
        let network = BridgeNetwork::new(config);
        network.prepare().await.unwrap();
        network
    }

    /// A second agent's.
    pub(crate) async fn another_network(&self) -> BridgeNetwork {
        self.prepare(
            format!("u-{}", self.name),
            "10.98.0.0/16",
            self.dir.path().join("other/netns"),
        )
        .await
    }

    async fn prepare(&self, bridge: String, subnet: &str, netns_dir: PathBuf) -> BridgeNetwork {
        let network = self.unprepared(bridge, subnet, netns_dir);
        network.prepare().await.unwrap();
        network
    }

    /// This agent's, of which nothing is made yet.
    pub(crate) fn unprepared_network(&self) -> BridgeNetwork {
        self.unprepared(self.bridge(), self.subnet(), self.netns_dir())
    }

    fn unprepared(&self, bridge: String, subnet: &str, netns_dir: PathBuf) -> BridgeNetwork {
        BridgeNetwork::new(config(bridge, subnet, netns_dir))
    }

    pub(crate) fn bridge(&self) -> String {
        format!("t-{}", self.name)
    }

    pub(crate) fn subnet(&self) -> &'static str {
        "10.99.0.0/16"
    }

    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.dir.path().join("netns")
    }

    pub(crate) fn outside(&self) -> &Outside {
        &self.outside
    }

    /// The address of that number in the subnet; 1 is the bridge's.
    pub(crate) fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, last)
    }

    pub(crate) fn wanted(&self, n: u64, address: u8, ports: Vec<PortBinding>) -> AssignedInstance {
        (
            instance(n),
            format!("c{n}").parse::<ContainerName>().unwrap().into(),
            Assignment {
                address: Some(self.address(address)),
                address6: None,
                ports,
            },
            Network::default(),
        )
    }

    pub(crate) async fn attach(
        &self,
        net: &BridgeNetwork,
        n: u64,
        address: u8,
        ports: Vec<PortBinding>,
    ) -> Result<NetworkPaths, NetworkError> {
        let (instance, name, assignment, network) = self.wanted(n, address, ports);
        let attached = net.attach(instance, &name, &assignment, &network).await?;
        let address = attached.addresses.map(|own| own.address);
        assert_eq!(address, assignment.address);
        Ok(attached.paths)
    }

    /// What is published, as `nft` shows it.
    pub(crate) fn table(&self) -> String {
        let maps = ["ports", "bound"]
            .map(|map| output(&format!("nft list map ip {} {map}", self.bridge())));
        let lines = maps
            .iter()
            .flat_map(|map| map.lines())
            .filter(|line| line.contains("comment"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The first of our links on the host.
    pub(crate) fn veth(&self) -> String {
        output("ip -br link")
            .split(['@', ' ', '\n'])
            .find(|word| word.starts_with("chv"))
            .unwrap()
            .to_owned()
    }

    /// Waits until there are `expected` of our links; the kernel takes its time to end a netns, under load seconds.
    #[track_caller]
    pub(crate) fn wait_for_veths(&self, expected: usize) {
        let count = || {
            output("ip -br link")
                .lines()
                .filter(|line| line.starts_with("chv"))
                .count()
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while count() != expected {
            let count = count();
            assert!(Instant::now() < deadline, "{count} links, not {expected}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) async fn repairs_nothing(&self, net: &BridgeNetwork, wanted: &[AssignedInstance]) {
        assert_eq!(
            net.repair(wanted, &BTreeSet::new()).await.unwrap(),
            Vec::<String>::new()
        );
    }
}

fn config(bridge: String, subnet: &str, netns_dir: PathBuf) -> BridgeConfig {
    BridgeConfig {
        bridge,
        resolv_conf: RESOLV_CONF.map(PathBuf::from).into(),
        subnet: subnet.parse().unwrap(),
        subnet6: None,
        files_dir: netns_dir.with_file_name("files"),
        netns_dir,
        api: SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)),
        search_path: "".into(),
        reach: ContainerReach {
            host: HostReach::Open,
            neighbours: true,
            link_local: true,
        },
        source_guard: true,
        routes_between_networks: false,
    }
}

impl Drop for Host {
    /// A failed test must not leave mounts behind either.
    fn drop(&mut self) {
        let dirs = ["netns", "files", "other/netns", "other/files"];
        for dir in dirs.map(|name| self.dir.path().join(name)) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let _ = rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

pub(crate) fn instance(n: u64) -> InstanceName {
    InstanceName {
        id: ContainerId::from_bits(n),
        generation: 1,
    }
}

pub(crate) fn binding(protocol: Protocol, host: u16, container: u16) -> PortBinding {
    PortBinding {
        host_ip: None,
        host,
        container,
        protocol,
    }
}

pub(crate) fn bound(
    host_ip: impl Into<IpAddr>,
    protocol: Protocol,
    host: u16,
    container: u16,
) -> PortBinding {
    PortBinding {
        host_ip: Some(host_ip.into()),
        host,
        container,
        protocol,
    }
}

/// Runs a command line, which must succeed.
#[track_caller]
pub(crate) fn shell(line: &str) {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(
        done.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Rules of a table, as `nft` shows them.
pub(crate) fn rules(table: &str) -> String {
    output(&format!("nft list table ip {table}"))
}

/// What a command line prints.
pub(crate) fn output(line: &str) -> String {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

/// Runs `work` inside a netns.
pub(crate) fn in_netns<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    in_open_netns(&File::open(netns).unwrap(), work)
}

fn in_open_netns<T: Send>(netns: &File, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The other host on the host's network. It knows nothing of containers' addresses.
pub(crate) struct Outside {
    netns: File,
}

impl Outside {
    /// A host at the other end of this link, with both addresses in a network of 24 bits.
    pub(crate) fn on(link: &str, host: Ipv4Addr, own: Ipv4Addr) -> Self {
        let netns = thread::scope(|scope| {
            let other = scope.spawn(|| {
                unshare_network();
                File::open("/proc/thread-self/ns/net").unwrap()
            });
            other.join().unwrap()
        });
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        shell(&format!(
            "ip link add {link} type veth peer name {link} netns {path} && ip link set {link} up"
        ));
        shell(&format!("ip address add {host}/24 dev {link}"));
        let outside = Self { netns };
        outside.shell(&format!(
            "ip link set lo up && ip link set {link} up && ip address add {own}/24 dev {link}"
        ));
        outside
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_open_netns(&self.netns, work)
    }

    pub(crate) fn shell(&self, line: &str) {
        self.run(|| shell(line));
    }

    pub(crate) fn tcp(&self, port: u16) -> Server {
        self.run(|| Server::here(&format!("0.0.0.0:{port}")))
    }

    pub(crate) fn udp(&self, port: u16) -> Server {
        self.run(|| Server::udp_here(port))
    }
}

/// Answers every client with the address it sees of it; over TCP it then repeats every line. Ends when dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn tcp(netns: &Path, port: u16) -> Self {
        in_netns(netns, || Self::here(&format!("0.0.0.0:{port}")))
    }

    pub(crate) fn udp(netns: &Path, port: u16) -> Self {
        in_netns(netns, || Self::udp_here(port))
    }

    pub(crate) fn here(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::start(move |stop| {
            let mut talks = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, from)) => talks.push((
                        client.try_clone().unwrap(),
                        thread::spawn(move || answer(&client, from)),
                    )),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
            for (client, talk) in talks {
                let _ = client.shutdown(Shutdown::Both);
                let _ = talk.join();
            }
        })
    }

    fn udp_here(port: u16) -> Self {
        Self::udp_on(&format!("0.0.0.0:{port}"))
    }

    pub(crate) fn udp_on(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        Self::start(move |stop| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
                }
            }
        })
    }

    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        Self {
            stop,
            thread: Some(thread::spawn(move || work(&seen))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn answer(client: &TcpStream, from: SocketAddr) {
    client.set_nonblocking(false).unwrap();
    let mut writer = client;
    let _ = writeln!(writer, "{}", from.ip());
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let _ = writeln!(writer, "{line}");
    }
}

/// The address that a TCP server sees of us.
pub(crate) fn ask_tcp(address: impl Into<IpAddr>, port: u16) -> io::Result<IpAddr> {
    let talk = connect(address, port)?;
    let mut line = String::new();
    BufReader::new(&talk).read_line(&mut line)?;
    line.trim().parse().map_err(io::Error::other)
}

fn connect(address: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(address.into(), port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The address that a UDP server sees of us.
pub(crate) fn ask_udp(address: impl Into<IpAddr>, port: u16) -> io::Result<IpAddr> {
    UdpClient::to(address, port).ask()
}

/// A UDP client that keeps its port.
pub(crate) struct UdpClient {
    socket: UdpSocket,
    to: SocketAddr,
}

impl UdpClient {
    pub(crate) fn to(address: impl Into<IpAddr>, port: u16) -> Self {
        let to = SocketAddr::new(address.into(), port);
        let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(own).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, to }
    }

    pub(crate) fn ask(&mut self) -> io::Result<IpAddr> {
        let mut buffer = [0; 64];
        self.socket.send_to(b"who am I?", self.to)?;
        let (length, from) = self.socket.recv_from(&mut buffer)?;
        assert_eq!(from, self.to, "it comes from where the question went");
        std::str::from_utf8(&buffer[..length])
            .unwrap()
            .parse()
            .map_err(io::Error::other)
    }
}

/// A TCP connection that stays.
pub(crate) struct Talk(TcpStream);

impl Talk {
    pub(crate) fn start(address: impl Into<IpAddr>, port: u16) -> Self {
        let stream = connect(address, port).unwrap();
        BufReader::new(&stream)
            .read_line(&mut String::new())
            .unwrap();
        Self(stream)
    }

    /// Says a word and hears it back.
    pub(crate) fn once(&mut self, word: u32) {
        writeln!(self.0, "{word}").unwrap();
        let mut line = String::new();
        BufReader::new(&self.0).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word.to_string());
    }
}
