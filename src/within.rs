//! Opening of paths that an image's author or a container has made: links are followed as in the
//! container, and never out of its root.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Tries of one path. Each costs a walk along it, and fails by chance.
const TRIES_MAX: u32 = 128;

/// File or directory at `path` below `root`.
///
/// While anything on the host is renamed or mounted, the kernel cannot tell whether a `..` leads out,
/// and says `EAGAIN` (openat2(2)): another try is the remedy.
pub(crate) fn open(root: impl AsFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open_as(root, path, flags, ResolveFlags::IN_ROOT)
}

/// The same, with these rules for the way, of which one keeps it below `root`.
pub(crate) fn open_as(
    root: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 1;
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES_MAX => tries += 1,
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_way_up_is_found_while_others_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("root"), dir.path().join("other"));
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let root = File::open(&root).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, two) = (other.join("1"), other.join("2"));
                std::fs::create_dir(&one).unwrap();
                while !over.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &two).unwrap();
                    std::fs::rename(&two, &one).unwrap();
                }
            });
            let path = format!("a/b/c{}/file", "/..".repeat(8));
            let mut opened = (0..20_000).map(|_| open(&root, &path, OFlags::RDONLY));
            let fault = opened.find_map(Result::err);
            over.store(true, Ordering::Relaxed);
            assert_eq!(fault, None);
        });
    }
}
