//! A computer of its own on this one, as far as namespaces make one: its network, mounts, processes, clock and boot id.
//!
//! It runs this computer's programs on this computer's files. A power cut takes from it what it takes from any: every process
//! at once, `/run`, every mount, every link, and the boot's clock. It is one to this process's end, however that comes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};

use super::containerd::pid;
use super::scratch::{Scratch, lock};
use super::{finish, run};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The first process: it makes the rest of the boot, takes in orphans, and ends when its input does. `/sys` tells of the
/// network namespace that mounted it; the control groups in it are those of the host.
const INIT: &str = "
    mount -t tmpfs tmpfs /run
    mkdir /run/cgroup
    mount --rbind /sys/fs/cgroup /run/cgroup
    mount -t sysfs sysfs /sys
    mount --move /run/cgroup /sys/fs/cgroup
    cat /proc/sys/kernel/random/uuid >/run/boot_id
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
    ip link set lo up
    echo ready
    cat
    :
";

/// The machine. It is off once nobody holds it.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The cable's end on this computer, a port of `bridge`.
    cable: String,
    bridge: String,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    /// Plugged in, also over a reboot.
    plugged: AtomicBool,
    boot: Mutex<Option<Boot>>,
    _scratch: Arc<Scratch>,
}

/// From a power-on to the next power-off.
#[derive(Debug)]
struct Boot {
    /// `unshare`, which lives as long as the first process does. It holds the pipe that keeps that alive.
    child: Child,
    init: Pid,
}

impl Machine {
    /// Boots one with an address in a network of 254, on a bridge of this computer.
    pub(crate) fn boot_on(bridge: &str, gateway: Ipv4Addr, address: Ipv4Addr) -> Self {
        let cable = format!(
            "v{}m{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let scratch = Scratch::shared();
        scratch.at_end(&format!("link {cable}"));
        let (plugged, boot) = (AtomicBool::new(true), Mutex::new(None));
        let machine = Self {
            cable,
            bridge: bridge.to_owned(),
            address,
            gateway,
            plugged,
            boot,
            _scratch: scratch,
        };
        machine.boot();
        machine
    }

    /// Switches it on.
    pub(crate) fn boot(&self) {
        let mut boot = lock(&self.boot);
        assert!(boot.is_none(), "the machine is on already");
        // Its clocks begin at one second: a boot that has a time from the one before is found out.
        let begin = |clock| (1 - clock_gettime(clock).tv_sec).to_string();
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--time",
        ]);
        command.args([
            "--monotonic",
            &begin(ClockId::Monotonic),
            "--boottime",
            &begin(ClockId::Boottime),
        ]);
        command
            .args(["sh", "-ec", INIT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().expect("unshare (util-linux) is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("it speaks");
        assert_eq!(line, "ready\n", "a machine boots: its words are above");
        let init = only_child(pid(&child)).expect("it was ready");
        *boot = Some(Boot { child, init });
        drop(boot);
        self.lay_cable(init)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn lay_cable(&self, init: Pid) -> Result<(), String> {
        let init = init.as_raw_nonzero().to_string();
        run(
            "ip",
            [
                "link",
                "add",
                &self.cable,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                &init,
            ],
        )?;
        run("ip", ["link", "set", &self.cable, "master", &self.bridge])?;
        self.run(
            "ip",
            &[
                "address",
                "add",
                &format!("{}/24", self.address),
                "dev",
                "eth0",
            ],
        )?;
        self.run("ip", &["link", "set", "eth0", "up"])?;
        self.run(
            "ip",
            &["route", "add", "default", "via", &self.gateway.to_string()],
        )?;
        self.set_plugged(self.plugged.load(Ordering::Relaxed));
        Ok(())
    }

    /// Cuts the power: nothing in it has a moment to end well.
    pub(crate) fn power_off(&self) {
        if let Some(mut boot) = lock(&self.boot).take() {
            let _ = kill_process(boot.init, Signal::KILL);
            // The first process of a pid namespace is gone only after all others are.
            let _ = boot.child.wait();
            // The kernel would take it away in its own time.
            let _ = run("ip", ["link", "del", &self.cable]);
        }
    }

    /// Plugs the cable in, or out.
    pub(crate) fn set_plugged(&self, plugged: bool) {
        self.plugged.store(plugged, Ordering::Relaxed);
        let state = if plugged { "up" } else { "down" };
        run("ip", ["link", "set", &self.cable, state]).unwrap_or_else(|error| panic!("{error}"));
    }

    fn init(&self) -> Option<Pid> {
        self.boot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|boot| boot.init)
    }

    /// A command that runs in it. Its process is `nsenter`, and the program the only child of that ([`only_child`]).
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let init = self.init().expect("the machine is on").as_raw_nonzero();
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &init.to_string(),
                "--net",
                "--mount",
                "--pid",
                "--time",
                "--",
            ])
            .arg(program);
        command
    }

    /// Runs a command in it; its standard output, or an error that shows the command and all that it said.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        finish(self.command(program).args(arguments))
    }

    /// Connects to a port of its loopback address, whether the cable is plugged in or not: its console.
    pub(crate) fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.socket(move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
    }

    /// Gives it a name server that hears everything and answers nothing, as long as the value lives.
    pub(crate) fn set_silent_name_server(&self) -> UdpSocket {
        let script = "echo 'nameserver 127.0.0.1' >/run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf";
        self.run("sh", &["-ec", script])
            .unwrap_or_else(|error| panic!("{error}"));
        self.socket(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)))
            .expect("nobody else is there")
    }

    /// Makes a socket in it.
    fn socket<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let init = self.init().ok_or(io::ErrorKind::HostUnreachable)?;
        socket_in(init, make)
    }
}

/// Makes a socket in the network of a process.
pub(super) fn socket_in<T: Send + 'static>(
    process: Pid,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let network = File::open(format!("/proc/{}/ns/net", process.as_raw_nonzero()))?;
    // A socket stays in the namespace that it was made in; the thread that was there goes.
    let making = thread::spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        make()
    });
    making.join().expect("it does not panic")
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// The child of a process that has one.
pub(crate) fn only_child(parent: Pid) -> Option<Pid> {
    let parent = parent.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}
