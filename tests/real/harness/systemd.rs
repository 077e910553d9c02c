//! A systemd that boots this computer's own files: what the agent's unit allows and forbids is true there, as on a node.
//!
//! It has a network of its own, with nothing but a loopback, and its files lie over this computer's: nothing that it
//! writes is left, but what a machine with a disk keeps there until the test ends: it can be booted again, also after its power
//! was cut.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use super::containerd::{binaries, pid};
use super::machine::{only_child, socket_in};
use super::{Testbed, eventually, finish, run};
use crate::stand::SOON;

/// Makes the root of a directory and its control groups, and boots it. An overlay cannot be the upper part of another one:
/// containerd's directory is a memory of its own, or lies on the disk, as the agent's does. The disk is mounted where nobody
/// else sees it: a power cut must leave nothing that holds it. Where this computer has control groups of version 1,
/// `systemd-nspawn` leaves them read-only.
const BOOT: &str = r#"
    dir=$1 group=$2
    mkdir -p "$dir/memory"
    kept=
    if [ -e "$dir/disk.img" ]; then
        mount -o loop "$dir/disk.img" "$dir/memory"
        mkdir -p "$dir/memory/chas" "$dir/memory/containerd"
        kept="--bind=$dir/memory/chas:/var/lib/chas --bind=$dir/memory/containerd:/var/lib/containerd"
    else
        mount -t tmpfs -o size=1g tmpfs "$dir/memory"
    fi
    mkdir -p "$dir/memory/upper" "$dir/memory/work" "$dir/memory/root"
    root=$dir/memory/root
    mount -t overlay -o "lowerdir=/,upperdir=$dir/memory/upper,workdir=$dir/memory/work" overlay "$root"
    rm -rf "$root"/etc/systemd/system/* "$root"/etc/chas "$root"/var/lib/chas "$root"/var/lib/containerd
    cp -r "$dir/files/." "$root"
    hierarchies=/sys/fs/cgroup/
    [ -e /sys/fs/cgroup/cgroup.controllers ] || hierarchies=$(echo /sys/fs/cgroup/*/)
    for hierarchy in $hierarchies; do
        mkdir "$hierarchy$group" 2>/dev/null || continue
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$hierarchy$file" ] || cat "$hierarchy$file" >"$hierarchy$group/$file"
        done
        echo 0 >"$hierarchy$group/cgroup.procs"
    done
    export SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes
    exec systemd-nspawn --quiet --register=no --keep-unit --machine="$group" --directory="$root" --boot --private-network \
        --capability=all '--system-call-filter=add_key keyctl bpf' --resolv-conf=off --timezone=off --link-journal=no \
        --console=pipe $kept systemd.unit=chas-test.target
"#;

/// Units of the test itself.
const TARGET: &str = "
[Unit]
Wants=chas-test-writable.service chas-test-registry.service containerd.service chas-node-agent.service
";
const WRITABLE: &str = "
[Unit]
DefaultDependencies=no
Before=containerd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mkdir -p /var/lib/containerd
ExecStart=/bin/sh -c 'mountpoint -q /var/lib/containerd || mount -t tmpfs tmpfs /var/lib/containerd'
ExecStart=/bin/sh -c 'for c in /sys/fs/cgroup/*/; do mount -o remount,rw,bind $c || true; done'
ExecStart=-/bin/mount -o remount,rw /sys/fs/cgroup
";

/// The booted systemd. It is off once nobody holds it.
#[derive(Debug)]
pub(crate) struct Systemd {
    /// `unshare`, with which all in it ends.
    child: Child,
    /// Its first process; until that is there, `unshare`.
    init: Pid,
    group: String,
    dir: PathBuf,
}

/// Makes an empty disk; perl cuts its power (`EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`): a test may not be unsafe.
const MAKE_DISK: &str = "truncate --size $1M $2; mkfs.ext4 -q -m 0 $2";
const CUT: &str = r#"open(my $f, "<", $ARGV[0]) or die; my $how = pack("L", 2); ioctl($f, 0x8004587d, $how) or die "$!""#;

impl Systemd {
    /// As [`Self::boot`], on a disk of that size.
    pub(crate) fn boot_on_disk(
        bed: &Testbed,
        program: &Path,
        configuration: &str,
        registry: &Path,
        size_mib: u32,
    ) -> Self {
        let dir = bed.dir.join("systemd");
        fs::create_dir(&dir).unwrap();
        let disk = dir.join("disk.img").display().to_string();
        let made = run(
            "sh",
            ["-ec", MAKE_DISK, "disk", &size_mib.to_string(), &disk],
        );
        made.unwrap_or_else(|error| panic!("{error}"));
        Self::boot(bed, program, configuration, registry)
    }

    /// Boots it with the agent's shipped unit and this configuration, and with the images of the registry that was started
    /// with `registry`, its configuration file.
    pub(crate) fn boot(
        bed: &Testbed,
        program: &Path,
        configuration: &str,
        registry: &Path,
    ) -> Self {
        let dir = bed.dir.join("systemd");
        let files = dir.join("files");
        let units = files.join("etc/systemd/system");
        for made in ["etc/systemd/system", "etc/chas", "usr/local/bin"] {
            fs::create_dir_all(files.join(made)).unwrap();
        }
        let unit = include_str!("../../../contrib/chas-node-agent.service");
        fs::write(units.join("chas-node-agent.service"), unit).unwrap();
        fs::write(units.join("chas-test.target"), TARGET).unwrap();
        fs::write(units.join("chas-test-writable.service"), WRITABLE).unwrap();
        let serve = format!(
            "[Service]\nExecStart=docker-registry serve {}\n",
            registry.display()
        );
        fs::write(units.join("chas-test-registry.service"), serve).unwrap();
        fs::write(files.join("etc/chas/node-agent.yaml"), configuration).unwrap();
        fs::copy(program, files.join("usr/local/bin/chas-node-agent")).unwrap();
        for file in binaries()
            .into_iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap())
        {
            // Where Debian's packages have them.
            let name = file.as_ref().unwrap().file_name();
            let place = if name == "runc" {
                "usr/sbin"
            } else {
                "usr/bin"
            };
            fs::create_dir_all(files.join(place)).unwrap();
            fs::copy(file.unwrap().path(), files.join(place).join(name)).unwrap();
        }
        let group = format!("{}-systemd", bed.namespace);
        let (child, init) = start(&dir, &group);
        Self {
            child,
            init,
            group,
            dir,
        }
    }

    /// From its next boot on it has no registry: no image can be pulled.
    pub(crate) fn forget_registry(&self) {
        let registry = "files/etc/systemd/system/chas-test-registry.service";
        fs::remove_file(self.dir.join(registry)).unwrap();
    }

    /// Keeps a file of its `/etc` for its next boots.
    pub(crate) fn keep(&self, inside: &str) {
        let kept = self.dir.join("files").join(inside.trim_start_matches('/'));
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::copy(self.path(inside), kept).unwrap();
    }

    /// Boots it again, on its disk.
    pub(crate) fn boot_again(&mut self) {
        (self.child, self.init) = start(&self.dir, &self.group);
    }

    /// Cuts its power: what is not on its disk is lost, and no process has a moment to end well.
    pub(crate) fn cut_power(&mut self) {
        run("perl", ["-e", CUT, &self.path("/var/lib/chas")])
            .unwrap_or_else(|error| panic!("{error}"));
        self.end();
    }

    /// Has it shut down, as its systemd does that, and waits for it.
    pub(crate) fn shut_down(&mut self, timeout: Duration) {
        let _it_breaks_off = self.run("systemctl poweroff");
        eventually("it shuts down", timeout, || {
            self.child.try_wait().expect("it is our child").is_some()
        });
        self.end();
    }

    /// Connects to a port of its loopback address.
    pub(crate) fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.dial(port)()
    }

    /// What connects to a port of this boot, for whoever does not hold it.
    pub(crate) fn dial(&self, port: u16) -> impl Fn() -> io::Result<TcpStream> + Send + 'static {
        let init = self.init;
        move || {
            socket_in(init, move || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            })
        }
    }

    /// A command on this computer's files in its network.
    pub(crate) fn command_in_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let network = format!("--net=/proc/{}/ns/net", self.init.as_raw_nonzero());
        command.arg(network).arg("--").arg(program);
        command
    }

    /// Asks the agent in it, over its socket; the answer, which must be a good one.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, text) = self.answer(method, path, body).await;
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {text}"
        );
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    /// As [`Self::ask`], whatever the answer is: its status, and its text.
    pub(crate) async fn answer(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, String) {
        let client = reqwest::Client::builder()
            .unix_socket(self.path("/run/chas/agent.sock"))
            .build()
            .unwrap();
        let url = format!("http://localhost{path}");
        let mut request = client.request(method.parse().unwrap(), url);
        if let Some(body) = body {
            request = request.json(body);
        }
        // An agent that was killed a moment ago is still the active one to systemd.
        let deadline = Instant::now() + SOON;
        let answer = loop {
            match request.try_clone().unwrap().send().await {
                Ok(answer) => break answer,
                Err(error) if Instant::now() < deadline => {
                    assert!(error.is_connect() || error.is_request(), "{error:?}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        };
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// A file in it, as this computer reaches it.
    pub(crate) fn path(&self, inside: &str) -> String {
        format!("/proc/{}/root{inside}", self.init.as_raw_nonzero())
    }

    /// Runs a shell script in it; its standard output, or an error that shows all that it said.
    pub(crate) fn run(&self, script: &str) -> Result<String, String> {
        let init = self.init.as_raw_nonzero().to_string();
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target", &init, "--mount", "--uts", "--ipc", "--net", "--pid",
            ])
            .args(["--cgroup", "--root", "--wd", "--", "bash", "-c", script]);
        finish(&mut command)
    }
}

/// Name of a process's program.
fn comm(process: Pid) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{}/comm", process.as_raw_nonzero()));
    comm.ok().map(|comm| comm.trim_end().to_owned())
}

/// Boots what the directory has; `unshare`, and the first process.
fn start(dir: &Path, group: &str) -> (Child, Pid) {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-ec", BOOT, "boot"])
        .args([dir.as_os_str(), group.as_ref()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    let child = command.spawn().expect("unshare (util-linux) is installed");
    let unshare = pid(&child);
    let mut init = None;
    eventually("systemd boots", Duration::from_secs(60), || {
        let found = only_child(unshare).and_then(only_child);
        // The shell's own children come before.
        init = found.filter(|found| comm(*found).is_some_and(|comm| comm == "systemd"));
        init.is_some()
    });
    (child, init.expect("it was found"))
}

impl Systemd {
    /// Ends all of it, at once.
    fn end(&mut self) {
        let _ = kill_process(self.init, Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The last of its processes end a moment after their first one, and the groups with them.
        let script = format!(
            "for try in $(seq 100); do left=; for group in /sys/fs/cgroup/{0} /sys/fs/cgroup/*/{0}; do [ ! -d $group ] || \
             {{ find $group -depth -type d -exec rmdir {{}} + 2>/dev/null; [ ! -d $group ] || left=1; }}; done; \
             [ -z \"$(losetup --associated {1}/disk.img)\" ] || left=1; [ -n \"$left\" ] || break; sleep 0.1; done",
            self.group,
            self.dir.display()
        );
        let _ = finish(Command::new("sh").args(["-c", &script]));
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.end();
    }
}
