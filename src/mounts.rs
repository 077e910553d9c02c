//! Mount namespace of the host. Where the agent's service has one of its own, mounts that containerd
//! and runc must see are made and taken away in the host's, and control groups are written there.
//!
//! What the host mounts is seen in the service's as well (systemd makes it a slave of the host's),
//! but not the other way round.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Mount namespace of the host: that of its first process.
const HOST: &str = "/proc/1/ns/mnt";
/// The same, of the kernel's own threads, where nobody may look at the first process.
const KERNEL: &str = "/proc/2/ns/mnt";
/// Flag of a thread of the kernel's own (`PF_KTHREAD`), which no program can give itself.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Mount namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/mnt";

/// Does `work` in the mount namespace of the host: on the calling thread if that is there, else on
/// one of its own, which has the caller's other namespaces.
///
/// # Errors
/// Those of `work`; or the host's mount namespace cannot be entered, for which the agent needs
/// `CAP_SYS_ADMIN`, `CAP_SYS_CHROOT` and `CAP_SYS_PTRACE`.
pub(crate) fn on_host<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    if is_host()? {
        return work();
    }
    let host = File::open(host()).map_err(|error| unentered(&error))?;
    std::thread::scope(|threads| {
        let entered = || {
            enter(&host).map_err(|error| unentered(&error))?;
            work()
        };
        let thread = std::thread::Builder::new()
            .name("host mounts".to_owned())
            .spawn_scoped(threads, entered)?;
        let ended = thread.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread for host mounts ended early")))
    })
}

/// Path of the host's mount namespace.
fn host() -> &'static str {
    let is_denied =
        fs::metadata(HOST).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let stat = || fs::read_to_string("/proc/2/stat").unwrap_or_default();
    if is_denied && is_kernels(&stat()) {
        KERNEL
    } else {
        HOST
    }
}

/// Whether a process with this `stat` is the thread that all of the kernel's own come from: such are
/// in the first process's namespaces of a machine alone, and in no container.
fn is_kernels(stat: &str) -> bool {
    // Its name may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let fields: Vec<_> = fields.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    number(1) == Some(0) && number(6).is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

fn is_host() -> io::Result<bool> {
    let place = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    Ok(place(host()).map_err(|error| unentered(&error))? == place(OWN)?)
}

/// Moves the calling thread into a mount namespace. Its directories are the process's until then.
fn enter(namespace: &File) -> io::Result<()> {
    #[allow(
        deprecated,
        reason = "the other form is `unsafe` for the sake of CLONE_FILES alone, which is not used here"
    )]
    rustix::thread::unshare(UnshareFlags::FS)?;
    let kind = Some(LinkNameSpaceType::Mount);
    Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
}

fn unentered(error: &io::Error) -> io::Error {
    let message = format!("the host's mount namespace, {HOST}, cannot be entered: {error}");
    io::Error::new(error.kind(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_nobody_a_thread_of_the_kernel() {
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        for (stat, is) in [
            ("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0", true),
            ("2 (kthreadd) S 1 0 0 0 -1 2129984 0 0 0", false),
            ("2 (kthreadd) S 0 2 2 0 -1 4194560 0 0 0", false),
            ("2 (a) S 0 0 0 0 -1 2129984) S 1 2 2 0 -1 4194560 0", false),
            ("", false),
            (&own, false),
        ] {
            assert_eq!(is_kernels(stat), is, "{stat}");
        }
    }
}
