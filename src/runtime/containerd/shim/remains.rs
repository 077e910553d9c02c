//! Remains of an instance on the host, where a shim was killed in the middle of its work: control
//! groups, runc's state, the bundle and the shim's socket. containerd forgets them then, and nobody
//! else knows of them.
//!
//! Only what bears the name of an instance, below the namespace's own directory, is touched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sha2::{Digest as _, Sha256};
use state::failure::Failure;
use state::id::InstanceName;
use state::reason::Reason;

use super::process;
use crate::cgroup::CGROUP_ROOT;
use crate::mounts::on_host;

/// Directory in which the shim of runc has runc keep its state (`RuncRoot` in containerd's
/// `pkg/process`), with a directory for each namespace.
const RUNC_ROOT: &str = "/run/containerd/runc";
/// Directory of the shims' sockets, whatever the containerd's own (`socketRoot` in containerd's
/// `runtime/v2/shim`).
const SOCKETS: &str = "/run/containerd/s";
/// Directory of the bundles in containerd's state, with a directory for each namespace.
const BUNDLES: &str = "io.containerd.runtime.v2.task";
/// Looks until the processes of a control group must have ended, which SIGKILL does at once.
const LOOKS_MAX: u32 = 50;
/// Mounts that may lie over each other.
const MOUNTS_MAX: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Places where instances of one namespace leave remains.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    cgroups: PathBuf,
    runc: PathBuf,
    sockets: PathBuf,
    namespace: String,
    /// Socket of containerd, of which its shims' sockets are named.
    containerd: PathBuf,
    /// Directory of the namespace's bundles, once it is known: it is wherever containerd has its
    /// state, which a shim tells.
    bundles: Arc<OnceLock<PathBuf>>,
}

impl Remains {
    /// Remains on this host, of a namespace of the containerd that listens on `containerd`.
    pub(crate) fn of(namespace: &str, containerd: &Path) -> Self {
        Self {
            cgroups: CGROUP_ROOT.into(),
            runc: RUNC_ROOT.into(),
            sockets: SOCKETS.into(),
            namespace: namespace.to_owned(),
            containerd: containerd.to_owned(),
            bundles: Arc::default(),
        }
    }

    /// Learns where the bundles are, from the first process of any container: its parent is the
    /// shim, which works in its bundle.
    pub(crate) fn learn(&self, first_process: u32) {
        if self.bundles.get().is_some() {
            return;
        }
        let bundle = process::parent(first_process)
            .and_then(|shim| fs::read_link(format!("/proc/{shim}/cwd")).ok());
        let Some(bundles) = bundle.as_deref().and_then(Path::parent) else {
            return;
        };
        let of_namespace = Path::new(BUNDLES).join(&self.namespace);
        if bundles.ends_with(of_namespace) {
            // Another look may have been faster, with the same answer.
            let _known = self.bundles.set(bundles.to_owned());
        }
    }

    /// Instances that have control groups or a state of runc.
    pub(crate) async fn instances(&self) -> BTreeSet<InstanceName> {
        let this = self.clone();
        let found = tokio::task::spawn_blocking(move || this.named()).await;
        found.unwrap_or_default()
    }

    /// Takes away whatever is left of an instance that has no task. Its processes are killed: nobody
    /// looks after them.
    ///
    /// # Errors
    /// [`Reason::ProcessStuck`], or [`Reason::RemoveFailed`].
    pub(crate) async fn take_away(&self, instance: InstanceName) -> Result<(), Failure> {
        let (this, name) = (self.clone(), instance.to_string());
        let taken = tokio::task::spawn_blocking(move || {
            on_host(|| Ok(this.remove(&name))).unwrap_or_else(|error| {
                let message = format!("what a lost shim left of {name} cannot be removed: {error}");
                Err(Failure::new(Reason::RemoveFailed, message))
            })
        });
        taken.await.unwrap_or(Ok(()))
    }

    /// Whether a shim of the instance listens, or its socket was left.
    pub(crate) async fn has_socket(&self, instance: InstanceName) -> bool {
        let socket = self.socket(&instance.to_string());
        tokio::fs::try_exists(socket).await.unwrap_or(true)
    }

    fn named(&self) -> BTreeSet<InstanceName> {
        let parents = self.parents().chain([self.runc.join(&self.namespace)]);
        let names = parents.flat_map(|parent| directories(&parent));
        names
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect()
    }

    /// Directories that may hold control groups of instances: one on version 2, one for each
    /// hierarchy on version 1 and on the hybrid of both.
    fn parents(&self) -> impl Iterator<Item = PathBuf> {
        let is_v2 = self.cgroups.join("cgroup.controllers").exists();
        let hierarchies = if is_v2 {
            vec![self.cgroups.clone()]
        } else {
            directories(&self.cgroups)
        };
        hierarchies
            .into_iter()
            .map(|hierarchy| hierarchy.join(&self.namespace))
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        let parents = self.parents();
        let groups: Vec<_> = parents
            .map(|parent| parent.join(name))
            .filter(|group| group.is_dir())
            .collect();
        if !groups.is_empty() {
            tracing::info!(
                instance = name,
                "taking away the control groups of a lost shim"
            );
            end_processes(name, &groups)?;
        }
        let failed = |path: &Path, error: &io::Error| {
            let message = format!("{} cannot be removed: {error}", path.display());
            Failure::new(Reason::RemoveFailed, message)
        };
        for group in &groups {
            remove_group(group).map_err(|error| failed(group, &error))?;
        }
        if let Some(bundles) = self.bundles.get() {
            let bundle = bundles.join(name);
            remove_bundle(&bundle).map_err(|error| failed(&bundle, &error))?;
        }
        let state = self.runc.join(&self.namespace).join(name);
        absent_is_fine(fs::remove_dir_all(&state)).map_err(|error| failed(&state, &error))?;
        let socket = self.socket(name);
        // Nobody listens any more where nobody takes a connection.
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if UnixStream::connect(&socket).is_err_and(refused) {
            absent_is_fine(fs::remove_file(&socket)).map_err(|error| failed(&socket, &error))?;
        }
        Ok(())
    }

    /// Socket of an instance's shim (`SocketAddress` in containerd's `runtime/v2/shim`).
    fn socket(&self, name: &str) -> PathBuf {
        let path = self.containerd.join(&self.namespace).join(name);
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        self.sockets.join(state::digest::hex(&digest))
    }
}

/// Directories in a directory; links to other ones are not among them.
fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes a bundle, with the working directory that it links to.
fn remove_bundle(bundle: &Path) -> io::Result<()> {
    let Ok(own) = fs::metadata(bundle) else {
        return Ok(());
    };
    let rootfs = bundle.join("rootfs");
    let is_mounted = || fs::metadata(&rootfs).is_ok_and(|rootfs| rootfs.dev() != own.dev());
    // One over the other, where a creation was tried again.
    for _ in 0..MOUNTS_MAX {
        if is_mounted() {
            unmount(&rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        }
    }
    if is_mounted() {
        return Err(io::Error::other("its rootfs is mounted"));
    }
    if let Ok(work) = fs::read_link(bundle.join("work")) {
        absent_is_fine(fs::remove_dir_all(work))?;
    }
    absent_is_fine(fs::remove_dir_all(bundle))
}

/// Removes a control group and those below it. Its files go with it, and cannot be removed before.
fn remove_group(group: &Path) -> io::Result<()> {
    for below in directories(group) {
        remove_group(&below)?;
    }
    absent_is_fine(fs::remove_dir(group))
}

/// Kills the processes of the control groups and waits until they have ended.
fn end_processes(name: &str, groups: &[PathBuf]) -> Result<(), Failure> {
    let mut left = BTreeSet::new();
    for _ in 0..LOOKS_MAX {
        left = groups.iter().flat_map(|group| processes(group)).collect();
        if left.is_empty() {
            return Ok(());
        }
        for group in groups {
            kill_all(group);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let message = format!(
        "processes {left:?} in the control group of {name} do not end even by SIGKILL: they hang in the kernel"
    );
    Err(Failure::new(Reason::ProcessStuck, message))
}

/// Processes of a control group and of those below it.
fn processes(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().filter_map(|line| line.parse().ok());
    let below = directories(group).into_iter();
    own.chain(below.flat_map(|group| processes(&group)))
        .collect()
}

/// Sends SIGKILL to every process of a control group, frozen ones among them.
fn kill_all(group: &Path) {
    // Only one of these is there: the freezer's file in version 1, the other in version 2.
    for (file, value) in [("freezer.state", "THAWED"), ("cgroup.kill", "1")] {
        let _absent = fs::OpenOptions::new()
            .write(true)
            .open(group.join(file))
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    }
    for pid in processes(group) {
        let Some(Ok(process)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        else {
            continue;
        };
        // Once it is open, the number cannot become another's: so it is looked for again.
        if processes(group).contains(&pid) {
            let sent = pidfd_send_signal(&process, Signal::KILL);
            if let Err(error) = sent.or_else(|error| match error {
                Errno::SRCH => Ok(()),
                error => Err(error),
            }) {
                tracing::debug!(pid, %error, "process not killed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "000000000abc-1";

    fn on(dir: &Path) -> Remains {
        Remains {
            cgroups: dir.join("cgroup"),
            runc: dir.join("runc"),
            sockets: dir.join("s"),
            namespace: "chas".to_owned(),
            containerd: "/run/containerd/containerd.sock".into(),
            bundles: Arc::new(dir.join("bundles").into()),
        }
    }

    fn make(dir: &Path, paths: &[&str]) {
        for path in paths {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
    }

    #[test]
    fn what_bears_an_instances_name_is_found_and_taken_in_every_hierarchy_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let remains = on(dir.path());
        make(
            dir.path(),
            &[
                "cgroup/memory/chas/000000000abc-1/inner/most",
                "cgroup/unified/chas/000000000abc-1",
                "cgroup/memory/chas/stranger",
                "cgroup/memory/other/000000000abc-2",
                "cgroup/chas/000000000abc-3",
                "runc/chas/000000000abc-4",
                "runc/other/000000000abc-5",
                "bundles/000000000abc-1/rootfs",
                "bundles/000000000abc-2",
                "work/000000000abc-1",
            ],
        );
        std::os::unix::fs::symlink("memory", dir.path().join("cgroup/link")).unwrap();
        let work = dir.path().join("work/000000000abc-1");
        std::os::unix::fs::symlink(&work, dir.path().join("bundles/000000000abc-1/work")).unwrap();
        let names = |remains: &Remains| -> Vec<String> {
            remains.named().iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&remains), [OURS, "000000000abc-4"]);
        remains.remove(OURS).unwrap();
        remains.remove("000000000abc-4").unwrap();
        remains.remove("000000000abc-4").unwrap();
        assert!(names(&remains).is_empty());
        assert!(!work.exists() && !dir.path().join("bundles").join(OURS).exists());
        for kept in [
            "bundles/000000000abc-2",
            "cgroup/memory/chas/stranger",
            "cgroup/memory/other/000000000abc-2",
            "cgroup/chas/000000000abc-3",
            "runc/other/000000000abc-5",
        ] {
            assert!(dir.path().join(kept).is_dir(), "{kept}");
        }
    }

    #[test]
    fn on_version_2_there_is_one_tree() {
        let dir = tempfile::tempdir().unwrap();
        let remains = on(dir.path());
        make(
            dir.path(),
            &[
                "cgroup/chas/000000000abc-1/inner",
                "cgroup/system.slice/chas/000000000abc-2",
            ],
        );
        fs::write(dir.path().join("cgroup/cgroup.controllers"), "memory").unwrap();
        let names: Vec<_> = remains.named().into_iter().collect();
        assert_eq!(names, [OURS.parse().unwrap()]);
        remains.remove(OURS).unwrap();
        assert!(
            dir.path()
                .join("cgroup/system.slice/chas/000000000abc-2")
                .is_dir()
        );
        assert!(!dir.path().join("cgroup/chas/000000000abc-1").exists());
    }

    #[test]
    fn a_socket_goes_only_when_nobody_listens_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let remains = on(dir.path());
        make(dir.path(), &["s"]);
        let socket = remains.socket(OURS);
        // printf /run/containerd/containerd.sock/chas/000000000abc-1 | sha256sum
        assert_eq!(
            socket.file_name().unwrap().to_str().unwrap(),
            "f87c01add52d812557c26df099f64df70a4a71b2be1bfe7d250372b4d45fe604"
        );
        let short = tempfile::tempdir_in("/tmp").unwrap();
        let remains = Remains {
            sockets: short.path().to_owned(),
            ..remains
        };
        let socket = remains.socket(OURS);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        remains.remove(OURS).unwrap();
        assert!(socket.exists(), "a shim listens");
        drop(listener);
        remains.remove(OURS).unwrap();
        assert!(!socket.exists());
    }
}
