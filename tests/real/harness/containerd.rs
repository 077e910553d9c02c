//! A containerd with its own root, state and socket.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::machine::{Machine, only_child};
use super::scratch::{Scratch, lock};
use super::{eventually, finish};

static SHARED: Mutex<Weak<Containerd>> = Mutex::new(Weak::new());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Names the directory of another containerd to run the tests on (`containerd`, `ctr`, the shim, `runc`).
const BINARIES: &str = "CHAS_TEST_CONTAINERD_BIN";

/// A running containerd. Ends with the value.
#[derive(Debug)]
pub(crate) struct Containerd {
    dir: PathBuf,
    child: Mutex<Option<Child>>,
    /// Where it looks for `runc` and the shim; `None`: where everybody does.
    path: Option<PathBuf>,
    /// Where it runs; `None`: on this computer.
    machine: Option<Arc<Machine>>,
    _scratch: Arc<Scratch>,
}

impl Containerd {
    /// The one that tests share: started by the first that asks, stopped with the last that holds it.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = lock(&SHARED);
        shared.upgrade().unwrap_or_else(|| {
            let containerd = Arc::new(Self::private());
            *shared = Arc::downgrade(&containerd);
            containerd
        })
    }

    /// One for a test that kills, stops or starts it.
    pub(crate) fn private() -> Self {
        Self::private_with(None, None)
    }

    /// As [`Self::private`], on a machine. Its socket can be reached from everywhere.
    pub(crate) fn private_on(machine: Arc<Machine>) -> Self {
        Self::private_with(None, Some(machine))
    }

    /// As [`Self::private`], looking for `runc` and the shim in one directory only.
    pub(crate) fn private_with_path(path: &Path) -> Self {
        Self::private_with(Some(path.to_owned()), None)
    }

    fn private_with(path: Option<PathBuf>, machine: Option<Arc<Machine>>) -> Self {
        let scratch = Scratch::shared();
        let dir = scratch.dir().join(format!(
            "containerd{}",
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&dir).expect("the number is new");
        let state = if machine.is_some() {
            PathBuf::from("/run/containerd")
        } else {
            dir.join("state")
        };
        fs::write(dir.join("config.toml"), config(&dir, &state)).expect("the disk takes it");
        let containerd = Self {
            dir,
            child: Mutex::new(None),
            path,
            machine,
            _scratch: scratch,
        };
        containerd.start();
        containerd
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Where its images, layers and metadata are.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where its shims have their bundles and their working directories, one directory a namespace.
    pub(crate) fn bundles(&self) -> [PathBuf; 2] {
        ["state", "root"].map(|dir| self.dir.join(dir).join("io.containerd.runtime.v2.task"))
    }

    /// Where it runs; `None`: on this computer.
    pub(crate) fn machine(&self) -> Option<&Arc<Machine>> {
        self.machine.as_ref()
    }

    /// All that it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Starts it (again) and waits until it answers.
    pub(crate) fn start(&self) {
        let mut child = lock(&self.child);
        assert!(child.is_none(), "containerd runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("a log file");
        let mut command = match &self.machine {
            Some(machine) => machine.command(program("containerd")),
            None => Command::new(program("containerd")),
        };
        command.env("PATH", search_path());
        command
            .arg("-c")
            .arg(self.dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut started = command
            .process_group(0)
            .spawn()
            .expect("containerd is installed");
        eventually("containerd answers", Duration::from_secs(30), || {
            let ended = started.try_wait().expect("it is our child");
            assert!(
                ended.is_none(),
                "containerd ended ({ended:?}):\n{}",
                self.log()
            );
            self.ctr("default", &["version"]).is_ok()
        });
        *child = Some(started);
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn stop(&self) {
        self.end(Signal::TERM);
    }

    /// Kills it. What it started lives on.
    pub(crate) fn kill_9(&self) {
        self.end(Signal::KILL);
    }

    fn end(&self, signal: Signal) {
        let Some(mut child) = lock(&self.child).take() else {
            return;
        };
        if let Some(process) = self
            .machine
            .as_ref()
            .map_or_else(|| Some(pid(&child)), |_| only_child(pid(&child)))
        {
            let _ = kill_process(process, signal);
        }
        child.wait().expect("it is our child");
    }

    /// Runs `ctr` in a namespace; its standard output, or an error that shows the command and what it said.
    pub(crate) fn ctr(&self, namespace: &str, arguments: &[&str]) -> Result<String, String> {
        let mut ctr = command("ctr");
        ctr.arg("--address")
            .arg(self.socket())
            .arg("--namespace")
            .arg(namespace)
            .args(arguments);
        finish(&mut ctr)
    }

    /// Takes everything out of a namespace, by force, and the namespace with it.
    pub(crate) fn empty(&self, namespace: &str) {
        if lock(&self.child).is_none() {
            return;
        }
        let lines = |arguments: &[&str]| -> Vec<String> {
            let listed = self.ctr(namespace, arguments).unwrap_or_default();
            listed
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_owned)
                .collect()
        };
        for task in lines(&["tasks", "ls", "-q"]) {
            let _ = self.ctr(namespace, &["tasks", "rm", "-f", &task]);
        }
        for (list, remove) in [
            (["containers", "ls", "-q"], ["containers", "rm"]),
            (["images", "ls", "-q"], ["images", "rm"]),
            (["leases", "ls", "-q"], ["leases", "rm"]),
        ] {
            for name in lines(&list) {
                let _ = self.ctr(namespace, &[remove[0], remove[1], &name]);
            }
        }
        // A snapshot can go only after its children: each round takes the leaves.
        for _ in 0..64 {
            let snapshots: Vec<_> = lines(&["snapshots", "ls"])
                .into_iter()
                .filter(|name| name != "KEY")
                .collect();
            if snapshots.is_empty() {
                break;
            }
            for snapshot in snapshots {
                let _ = self.ctr(namespace, &["snapshots", "rm", &snapshot]);
            }
        }
        for blob in lines(&["content", "ls", "-q"]) {
            let _ = self.ctr(namespace, &["content", "rm", &blob]);
        }
        let _ = self.ctr("default", &["namespaces", "rm", namespace]);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            eprintln!(
                "containerd's last words:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}

/// A program of containerd's, from the directory under test if one is named. The shim finds `runc` on `PATH` only.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.env("PATH", search_path());
    command
}

/// The directory under test, if one is named.
pub(crate) fn binaries() -> Option<PathBuf> {
    std::env::var_os(BINARIES).map(PathBuf::from)
}

/// Where such a program is.
fn program(name: &str) -> PathBuf {
    binaries().map_or_else(|| PathBuf::from(name), |binaries| binaries.join(name))
}

/// `PATH` with the directory under test, if there is one, in front.
pub(crate) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(binaries) = std::env::var_os(BINARIES) else {
        return path;
    };
    std::env::join_paths(
        std::iter::once(PathBuf::from(binaries)).chain(std::env::split_paths(&path)),
    )
    .expect("a directory without a colon")
}

pub(crate) fn pid(child: &Child) -> Pid {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a child has a pid")
}

/// Version 2 is what every containerd from 1.6 to 2.1 takes. CRI and the snapshotters that nobody asks for stay out.
fn config(dir: &Path, state: &Path) -> String {
    let (dir, state) = (dir.display(), state.display());
    let disabled = [
        "io.containerd.grpc.v1.cri",
        "io.containerd.cri.v1.images",
        "io.containerd.cri.v1.runtime",
        "io.containerd.nri.v1.nri",
        "io.containerd.snapshotter.v1.btrfs",
        "io.containerd.snapshotter.v1.devmapper",
        "io.containerd.snapshotter.v1.zfs",
        "io.containerd.tracing.processor.v1.otlp",
        "io.containerd.internal.v1.tracing",
    ];
    let mut config = format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{state}\"\ndisabled_plugins = {disabled:?}\n"
    );
    let _ = writeln!(config, "[grpc]\naddress = \"{dir}/containerd.sock\"");
    let _ = writeln!(config, "[ttrpc]\naddress = \"{dir}/containerd.sock.ttrpc\"");
    config
}
