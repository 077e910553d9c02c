//! A systemd that boots this computer's own files: what the agent's unit allows and forbids is true there, as on a node.
//!
//! It has a network of its own, with nothing but a loopback, and its files lie over this computer's: nothing that it
//! writes is left.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::containerd::{binaries, pid};
use super::machine::only_child;
use super::{Testbed, eventually, finish};

/// Makes the root of a directory and its control groups, and boots it. An overlay cannot be the upper part of another one:
/// containerd's directory is a memory of its own. Where this computer has control groups of version 1, `systemd-nspawn`
/// leaves them read-only.
const BOOT: &str = r#"
    dir=$1 group=$2
    mkdir "$dir/memory"
    mount -t tmpfs -o size=1g tmpfs "$dir/memory"
    mkdir "$dir/memory/upper" "$dir/memory/work" "$dir/memory/root"
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
        --console=pipe systemd.unit=chas-test.target
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
ExecStart=/bin/mount -t tmpfs tmpfs /var/lib/containerd
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
}

impl Systemd {
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
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-ec", BOOT, "boot"])
            .args([dir.as_os_str(), group.as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        let child = command.spawn().expect("unshare (util-linux) is installed");
        // It ends also when the boot does not.
        let init = pid(&child);
        let mut booted = Self { child, init, group };
        eventually("systemd boots", Duration::from_secs(60), || {
            let found = only_child(init).and_then(only_child);
            // The shell's own children come before.
            let is_there = |found: &Pid| comm(*found).is_some_and(|comm| comm == "systemd");
            found.filter(is_there).is_some_and(|found| {
                booted.init = found;
                true
            })
        });
        booted
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

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = kill_process(self.init, Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The last of its processes end a moment after their first one, and the groups with them.
        let script = format!(
            "for try in $(seq 100); do left=; for group in /sys/fs/cgroup/{0} /sys/fs/cgroup/*/{0}; do [ ! -d $group ] || \
             {{ find $group -depth -type d -exec rmdir {{}} + 2>/dev/null; [ ! -d $group ] || left=1; }}; done; \
             [ -n \"$left\" ] || break; sleep 0.1; done",
            self.group
        );
        let _ = finish(Command::new("sh").args(["-c", &script]));
    }
}
