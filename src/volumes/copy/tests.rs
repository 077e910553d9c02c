//! Copies of directories that hold everything that an image can.

use std::fs;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown, symlink,
};
use std::path::Path;

use super::*;

fn open_directory(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

fn copied(from: &Path, to: &Path) -> io::Result<CopiedFiles> {
    let (from, to) = (open_directory(from), open_directory(to));
    copy(&from, &to, &mut DiskBudget::of(&to).unwrap())
}

#[test]
fn a_copy_has_all_that_its_source_has() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    fs::create_dir_all(from.join("deep/er")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("deep/er/file"), "text").unwrap();
    fs::write(from.join("deep/setuid"), "").unwrap();
    chown(from.join("deep/setuid"), Some(1000), Some(2000)).unwrap();
    chown(from.join("deep"), Some(999), Some(998)).unwrap();
    chown(&from, Some(70), Some(71)).unwrap();
    for (path, mode) in [("deep/setuid", 0o4755), ("deep", 0o2770), ("", 0o1700)] {
        fs::set_permissions(from.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(from.join("deep/er/file"), from.join("other")).unwrap();
    symlink("/etc/passwd", from.join("link")).unwrap();
    lchown(from.join("link"), Some(5), None).unwrap();
    let fifo = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, from.join("fifo"), FileType::Fifo, fifo, 0).unwrap();
    let file = open_directory(&from.join("deep"));
    rustix::fs::fsetxattr(&file, c"user.note", b"text", XattrFlags::empty()).unwrap();
    // cap_net_bind_service=ep, as setcap(8) writes it.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let setuid = File::open(from.join("deep/setuid")).unwrap();
    rustix::fs::fsetxattr(
        &setuid,
        c"security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .unwrap();
    let sparse = File::create(from.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 32 << 20).unwrap();

    let made = copied(&from, &to).unwrap();
    assert_eq!((made.files, made.left_out), (8, 0));
    for path in [
        "",
        "deep",
        "deep/er",
        "deep/setuid",
        "other",
        "link",
        "fifo",
        "sparse",
    ] {
        let [a, b] = [&from, &to].map(|root| fs::symlink_metadata(root.join(path)).unwrap());
        let of = |found: &fs::Metadata| (found.mode(), found.uid(), found.gid(), found.size());
        assert_eq!(of(&a), of(&b), "{path}");
        assert_eq!(a.mtime_nsec(), b.mtime_nsec(), "{path}");
    }
    let same = |a: &str, b: &str| {
        let [a, b] = [a, b].map(|path| fs::metadata(to.join(path)).unwrap().ino());
        a == b
    };
    assert!(same("other", "deep/er/file"));
    assert_eq!(fs::read(to.join("other")).unwrap(), b"text");
    assert_eq!(
        fs::read_link(to.join("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert!(fs::metadata(to.join("fifo")).unwrap().file_type().is_fifo());
    let value = |path: &str, name: &CStr| {
        let file = File::open(to.join(path)).unwrap();
        let mut value = [0; 64];
        let bytes = rustix::fs::fgetxattr(&file, name, &mut value).unwrap();
        value[..bytes].to_vec()
    };
    assert_eq!(value("deep", c"user.note"), b"text");
    assert_eq!(value("deep/setuid", c"security.capability"), capability);
    let sparse = fs::metadata(to.join("sparse")).unwrap();
    assert!(
        sparse.blocks() * 512 < 1 << 20,
        "{} blocks",
        sparse.blocks()
    );
    assert_eq!(
        fs::read(to.join("sparse")).unwrap()[32 << 20..][..3],
        *b"end"
    );
}

#[test]
fn directories_that_are_too_deep_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let deep = |depth: usize| {
        let from = dir.path().join(format!("from-{depth}"));
        fs::create_dir_all(from.join(vec!["d"; depth].join("/"))).unwrap();
        copied(&from, &to)
    };
    let fault = deep(DEPTH_MAX + 1).unwrap_err().to_string();
    assert!(fault.contains("more than 256 deep"), "{fault}");
    fs::remove_dir_all(to.join("d")).unwrap();
    assert_eq!(deep(DEPTH_MAX).unwrap().files, DEPTH_MAX as u64);
}
