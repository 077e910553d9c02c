//! Real parts for tests: containerd, registries, a faulty proxy, images, the agent's own binary, and a search for leaks.
//!
//! A test starts with [`Testbed::new`]: its own containerd namespace, bridge, subnet, ports and directory on a containerd
//! that all tests share, so that tests run side by side, also with those of another run on the same machine. What a test
//! starts ends with the value that stands for it.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) mod agent;
pub(crate) mod certificates;
pub(crate) mod chas;
pub(crate) mod containerd;
mod contract;
pub(crate) mod digest;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod leaks;
pub(crate) mod machine;
pub(crate) mod proxy;
pub(crate) mod qemu;
pub(crate) mod registry;
pub(crate) mod scratch;
pub(crate) mod signatures;
pub(crate) mod systemd;
pub(crate) mod watchdog;

use containerd::Containerd;
use scratch::{Scratch, Sweeper};
use watchdog::Watched;

/// So many tests can run on one machine at once: 100 ports each, below the kernel's ephemeral ports (32768).
const SLOTS_MAX: u16 = 110;
/// A slot's ports: these for the agent, the rest for registries and the agent's own port.
const AGENT_PORTS: u16 = 70;

/// Counts the testbeds of this process: a name is never used again, even where a slot is.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// One test's share of the machine.
#[derive(Debug)]
pub(crate) struct Testbed {
    /// containerd's namespace, as in `t12345n007`; nobody else on the machine has it.
    pub(crate) namespace: String,
    /// The bridge's name, if the test makes one.
    pub(crate) bridge: String,
    /// The bridge's subnet, as in `10.213.7.0/24`.
    pub(crate) subnet: String,
    /// Host ports that the agent may give out.
    pub(crate) ports: Range<u16>,
    /// The test's own directory.
    pub(crate) dir: PathBuf,
    /// The containerd that all tests share.
    pub(crate) containerd: Arc<Containerd>,
    pub(crate) scratch: Arc<Scratch>,
    next_port: AtomicU16,
    ports_end: u16,
    _slot: UnixListener,
    _watched: Watched,
}

impl Testbed {
    /// A fresh one on the shared containerd.
    pub(crate) fn new() -> Self {
        Self::on(Containerd::shared())
    }

    /// A fresh one on a containerd of its own, to be killed, stopped and started again.
    pub(crate) fn with_private_containerd() -> Self {
        Self::on(Arc::new(Containerd::private()))
    }

    /// A fresh one on a containerd that the caller has set up.
    pub(crate) fn on(containerd: Arc<Containerd>) -> Self {
        let scratch = Scratch::shared();
        let (slot, number) = take_slot();
        assert_no_table_is_left(number);
        let namespace = format!(
            "t{}n{:03}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let bridge = format!("c{namespace}");
        let ports_start = 21_000 + 100 * number;
        let dir = scratch.dir().join(&namespace);
        std::fs::create_dir(&dir).expect("the name is new");
        let bed = Self {
            namespace,
            bridge,
            subnet: format!("10.213.{number}.0/24"),
            ports: ports_start..ports_start + AGENT_PORTS,
            dir,
            containerd,
            scratch,
            next_port: AtomicU16::new(ports_start + AGENT_PORTS),
            ports_end: ports_start + 100,
            _slot: slot,
            _watched: Watched::new(),
        };
        bed.scratch.at_end(&bed.will());
        bed
    }

    /// What is the test's own, as the sweeper is told it.
    fn will(&self) -> String {
        format!("namespace {}; bridge {}", self.namespace, self.bridge)
    }

    /// A TCP port of the test's own that nothing was given yet.
    pub(crate) fn port(&self) -> u16 {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        assert!(port < self.ports_end, "the test used up its ports");
        port
    }

    /// `ctr` on the test's containerd and in its namespace; its standard output. Panics if it fails.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        self.containerd
            .ctr(&self.namespace, arguments)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Self::ctr`], for what may fail; the error is the command with all that it said.
    pub(crate) fn try_ctr(&self, arguments: &[&str]) -> Result<String, String> {
        self.containerd.ctr(&self.namespace, arguments)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.containerd.empty(&self.namespace);
        let mut sweeper = Sweeper::start(&self.dir);
        sweeper.add(&self.will());
        sweeper.sweep();
    }
}

/// The lowest free slot. An abstract socket is the lock: the kernel lets go of it whatever happens to us.
fn take_slot() -> (UnixListener, u16) {
    for number in 0..SLOTS_MAX {
        let name = SocketAddr::from_abstract_name(format!("chas-node-agent-test-{number}"))
            .expect("a short name");
        if let Ok(listener) = UnixListener::bind_addr(&name) {
            return (listener, number);
        }
    }
    panic!("{SLOTS_MAX} tests are running already");
}

/// Panics if a test that was killed has left its rules for the addresses of a slot: whoever has the slot next would be told
/// that its ports are another program's.
fn assert_no_table_is_left(number: u16) {
    let tables = run("nft", ["list", "tables"]).unwrap_or_default();
    for table in tables.lines() {
        let name = table.rsplit(' ').next().unwrap_or_default();
        let process = name
            .strip_prefix("ct")
            .and_then(|name| name.split('n').next());
        let is_over = process
            .and_then(|process| process.parse::<u32>().ok())
            .is_some_and(|process| !PathBuf::from(format!("/proc/{process}")).exists());
        if is_over {
            let rules = run("nft", [&format!("list {table}")]).unwrap_or_default();
            assert!(
                !rules.contains(&format!("10.213.{number}.")),
                "a test that was killed has left {table} with this slot's addresses; remove it: nft delete {table}"
            );
        }
    }
}

/// Runs a command to its end; its standard output, or an error that shows the command and all that it said.
pub(crate) fn run<S: AsRef<OsStr> + Debug>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(&mut command)
}

/// As [`run`], for a command that is set up already.
pub(crate) fn finish(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!(
        "{command:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Waits until `condition` holds, and says so if it does not within `timeout`.
#[track_caller]
pub(crate) fn eventually(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {timeout:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
