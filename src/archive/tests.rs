//! Archives there and back, with GNU tar on the other side, and those of attackers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{self as unix, FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags};
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;

mod ended;

/// Two directories, one of which has a bit of everything.
struct Two {
    dir: TempDir,
}

impl Two {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["from", "to", "outside"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pack(&self) -> Vec<u8> {
        let (from, mut out) = (File::open(self.path("from")).unwrap(), Vec::new());
        pack(&PackedFrom::Directory(from.as_fd(), b"./"), None, &mut out).unwrap();
        out
    }

    fn unpack(&self, archive: impl Read) -> Result<ArchivedAmount, ArchiveFault> {
        let to = File::open(self.path("to")).unwrap();
        unpack(to.as_fd(), archive, None, |_| Ok(()))
    }
}

/// Everything that a file is, but for its time of change and its inode.
fn told(path: &Path) -> String {
    let stat = fs::symlink_metadata(path).unwrap();
    let mut told = format!(
        "{:o} {}:{} {} {} {}.{}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.nlink(),
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec()
    );
    if stat.is_file() {
        let sum = state::digest::sha256(&fs::read(path).unwrap());
        let is_sparse = stat.blocks() * 512 < stat.len();
        told += &format!(" {} {is_sparse} {sum}", stat.len());
    }
    if stat.is_symlink() {
        return told + " " + fs::read_link(path).unwrap().to_str().unwrap();
    }
    if stat.is_file() || stat.is_dir() {
        let file = File::open(path).unwrap();
        let (mut names, mut value) = ([0; 4096], [0; 4096]);
        let length = rustix::fs::flistxattr(&file, &mut names).unwrap();
        for name in names[..length]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let length = rustix::fs::fgetxattr(&file, name, &mut value).unwrap();
            told += &format!(" {}={:?}", String::from_utf8_lossy(name), &value[..length]);
        }
    }
    told
}

fn all(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found.insert(path.strip_prefix(root).unwrap().to_owned(), told(&path));
    }
    found
}

/// Compares two directories, and tells of the first difference.
#[track_caller]
fn same(one: &Path, other: &Path) {
    let (mut one, mut other) = (all(one), all(other));
    // No archive makes a device.
    if !other.contains_key(Path::new("device")) {
        one.remove(Path::new("device"));
    }
    for (path, told) in one {
        assert_eq!(other.remove(&path).as_ref(), Some(&told), "{path:?}");
    }
    assert!(other.is_empty(), "{other:?}");
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Fills a directory with a bit of everything.
fn fill(from: &Path) {
    let at = |name: &str| from.join(name);
    fs::write(at("plain"), "plain").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("part"), vec![7; 100_001]).unwrap();
    let long = "l".repeat(200);
    fs::create_dir_all(at(&format!("{long}/{long}"))).unwrap();
    fs::write(at(&format!("{long}/{long}/{long}")), "long").unwrap();
    unix::symlink("t".repeat(300), at("long link")).unwrap();
    unix::symlink("/etc/passwd", at("link")).unwrap();
    fs::write(at("setuid"), "#!").unwrap();
    unix::chown(at("setuid"), Some(1000), Some(3_000_000)).unwrap();
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    unix::lchown(at("link"), Some(70_000), Some(5)).unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o1570)).unwrap();
    fs::hard_link(at("part"), at("dir/hard")).unwrap();
    let node = |name: &str, kind, mode, device| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(mode), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0o640, 0);
    let device = rustix::fs::makedev(1, 300);
    node("device", FileType::CharacterDevice, 0o600, device);
    xattr(&at("plain"), "user.a=b%c", b"v\0\n");
    xattr(&at("dir"), "user.dir", &[0xff; 2000]);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr(&at("setuid"), "security.capability", &capability);
    // u::rw-, u:1000:r--, g::r--, m::r--, o::r--
    let acl: Vec<u8> = [
        (1, 6, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 4, u32::MAX),
    ]
    .iter()
    .flat_map(|(tag, perm, id): &(u16, u16, u32)| {
        [
            &tag.to_le_bytes()[..],
            &perm.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    })
    .collect();
    let acl = [&2_u32.to_le_bytes()[..], &acl].concat();
    fs::write(at("dir/bare"), "bare").unwrap();
    fs::create_dir(at("dir/below")).unwrap();
    fs::set_permissions(at("dir/bare"), fs::Permissions::from_mode(0o640)).unwrap();
    xattr(&at("part"), "system.posix_acl_access", &acl);
    xattr(&at("dir"), "system.posix_acl_default", &acl);
    for (name, size, regions) in [
        ("hole", 10 << 20, &[][..]),
        ("holes", (3 << 20) + 1, &[0, 1 << 20, 2 << 20][..]),
        ("hole first", 1 << 20, &[(1 << 20) - 3][..]),
    ] {
        let file = File::create(at(name)).unwrap();
        file.set_len(size).unwrap();
        for offset in regions {
            file.write_all_at(b"abc", *offset).unwrap();
        }
    }
    for (name, seconds, nanoseconds) in [("plain", -2, 5), ("link", 1, 0), ("dir", 4, 123_456_789)]
    {
        let times = place::times((seconds, nanoseconds));
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    fs::set_permissions(from, fs::Permissions::from_mode(0o2775)).unwrap();
    unix::chown(from, Some(5), Some(6)).unwrap();
}

fn gnu_tar(arguments: &[&str], directory: &Path, archive: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "-C"])
        .arg(directory)
        .arg("-f")
        .arg(archive);
    if !arguments.contains(&"--format=gnu") {
        tar.args(["--xattrs", "--xattrs-include=*"]);
    }
    let out = tar.args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    let mut errors = errors
        .lines()
        .filter(|line| !line.contains("implausibly old"));
    assert_eq!((out.status.success(), errors.next()), (true, None));
}

#[test]
fn everything_that_a_file_is_comes_back() {
    let two = Two::new();
    fill(&two.path("from"));
    let archive = two.pack();
    assert!(
        archive.len() < 1 << 20,
        "holes cost nothing: {}",
        archive.len()
    );
    let amount = two.unpack(&archive[..]).unwrap();
    same(&two.path("from"), &two.path("to"));
    assert_eq!((amount.files, amount.left_out), (19, 1));
    // The same once more, over what is there.
    two.unpack(&archive[..]).unwrap();
    same(&two.path("from"), &two.path("to"));
    assert!(!two.path("to/device").exists());
    assert_eq!(archive, two.pack(), "and nothing else was read");
}

#[test]
fn gnu_tar_reads_what_is_packed_and_writes_what_is_unpacked() {
    for format in [
        &["-S", "--format=posix"][..],
        &["-S", "--format=posix", "--sparse-version=0.1"],
        &["-S", "--format=posix", "--sparse-version=0.0"],
        &["-S", "--format=gnu"],
    ] {
        let two = Two::new();
        fill(&two.path("from"));
        let archive = two.path("archive.tar");
        if format.contains(&"--format=gnu") {
            // It knows neither attributes nor parts of seconds.
            fs::remove_dir_all(two.path("from")).unwrap();
            fs::create_dir(two.path("from")).unwrap();
            let long = "l".repeat(120);
            fs::create_dir(two.path("from").join(&long)).unwrap();
            for name in ["plain", &format!("{long}/{long}")] {
                let file = File::create(two.path("from").join(name)).unwrap();
                for part in 0..9 {
                    file.write_all_at(b"abc", part << 20).unwrap();
                }
            }
            for (path, _) in all(&two.path("from")) {
                let path = two.path("from").join(path);
                rustix::fs::utimensat(CWD, &path, &place::times((9, 0)), AtFlags::empty()).unwrap();
            }
        }
        let arguments = [&["-c"], format, &["."]].concat();
        gnu_tar(&arguments, &two.path("from"), &archive);
        two.unpack(File::open(&archive).unwrap()).unwrap();
        same(&two.path("from"), &two.path("to"));
        fs::write(&archive, two.pack()).unwrap();
        let other = two.path("other");
        fs::create_dir(&other).unwrap();
        gnu_tar(&["-x", "-p"], &other, &archive);
        same(&two.path("from"), &other);
    }
}

/// An entry of an attacker's archive.
fn entry(kind: EntryType, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(data.len() as u64);
    header.set_cksum();
    let mut blocks = [header.as_bytes(), data].concat();
    blocks.resize(blocks.len() + padding(data.len() as u64), 0);
    blocks
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 2 * BLOCK]].concat()
}

#[test]
fn nothing_is_written_outside_of_the_directory() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let two = Two::new();
    let outside = two.path("outside");
    let out = outside.to_str().unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let dots = "../outside/new";
    for (entries, told) in [
        (vec![entry(Regular, dots, "", b"x")], "leads out"),
        (
            vec![entry(Regular, "a/../../outside/new", "", b"x")],
            "leads out",
        ),
        (
            vec![
                entry(Symlink, "s1", out, b""),
                entry(Regular, "s1/new", "", b"x"),
            ],
            "nowhere",
        ),
        (
            vec![
                entry(Symlink, "s2", "../outside", b""),
                entry(Regular, "s2/new", "", b"x"),
            ],
            "nowhere",
        ),
        (
            vec![
                entry(Symlink, "s3", out, b""),
                entry(Directory, "s3", "", b""),
            ],
            "something else",
        ),
        (
            vec![
                entry(Symlink, "s4", "..", b""),
                entry(Link, "h", "s4/outside/secret", b""),
            ],
            "nowhere",
        ),
        (
            vec![entry(Link, "h", "../outside/secret", b"")],
            "leads out",
        ),
        (
            vec![entry(Link, "h", "/../outside/secret", b"")],
            "leads out",
        ),
        (
            vec![entry(Directory, "d", "", b""), entry(Link, "h", "d", b"")],
            "",
        ),
        (vec![entry(Regular, "", "", b"x")], "no name"),
        (
            vec![entry(Regular, "d", "", b"x")],
            "a directory has this name",
        ),
        (
            vec![
                entry(Regular, "f", "", b"x"),
                entry(Regular, "f/below", "", b"x"),
            ],
            "else than a directory",
        ),
        (
            vec![entry(EntryType::new(b'M'), "d", "", b"x")],
            "not known",
        ),
    ] {
        let fault = two.unpack(&archive(&entries)[..]).unwrap_err();
        let text = fault.to_string();
        assert!(text.contains(told), "{told:?}: {text}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{told}");
        assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
    }
    // A link in the place of a file is replaced, and what it leads to is left alone.
    let secret = outside.join("secret");
    let link = entry(Symlink, "file", secret.to_str().unwrap(), b"");
    two.unpack(&archive(&[link, entry(Regular, "file", "", b"mine")])[..])
        .unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read(two.path("to/file")).unwrap(), b"mine");
    // An absolute name is one of the directory's.
    two.unpack(&archive(&[entry(Regular, "/etc/new", "", b"x")])[..])
        .unwrap();
    assert_eq!(fs::read(two.path("to/etc/new")).unwrap(), b"x");
    let inside = [
        entry(Symlink, "in", "etc", b""),
        entry(Regular, "in/y", "", b"y"),
    ];
    two.unpack(&archive(&inside)[..]).unwrap();
    assert_eq!(fs::read(two.path("to/etc/y")).unwrap(), b"y");
}

#[test]
fn a_stream_that_breaks_off_leaves_each_file_as_it_was_or_complete() {
    let two = Two::new();
    fs::write(two.path("to/a"), "before").unwrap();
    fs::write(two.path("to/b"), "before").unwrap();
    let (a, b) = (vec![b'a'; 5000], vec![b'b'; 5000]);
    let parts = [
        entry(EntryType::Regular, "a", "", &a),
        entry(EntryType::Regular, "b", "", &b),
    ];
    let archive = archive(&parts);
    for length in (0..archive.len() - BLOCK).step_by(97) {
        let fault = two.unpack(&archive[..length]).unwrap_err();
        let ArchiveFault::Cut { entry, .. } = &fault else {
            panic!("{length}: {fault}")
        };
        let expected = match length {
            0..512 => None,
            512..6144 => Some("a"),
            _ => Some("b"),
        };
        assert_eq!(entry.as_deref(), expected, "{length}");
        let read = |name| fs::read(two.path("to").join(name)).unwrap();
        assert!(read("a") == a || read("a") == b"before", "{length}");
        assert!(read("b") == b || read("b") == b"before", "{length}");
        assert_eq!(fs::read_dir(two.path("to")).unwrap().count(), 2);
    }
}

#[test]
fn what_takes_too_much_is_refused() {
    let two = Two::new();
    let mut huge = entry(EntryType::XHeader, "x", "", b"");
    let header = |size: u64| {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    huge.extend(header(1 << 40));
    let deep = format!("{}x", "d/".repeat(300));
    let mut deep_name = Vec::new();
    pax::add(&mut deep_name, "path", deep.as_bytes());
    let mut wrong_map = Vec::new();
    for (key, value) in [("GNU.sparse.map", "0,1,0,1"), ("GNU.sparse.size", "10")] {
        pax::add(&mut wrong_map, key, value.as_bytes());
    }
    let mut no_owner = Vec::new();
    pax::add(&mut no_owner, "uid", b"4294967295");
    let mut many = Vec::new();
    for (key, value) in [("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "10")] {
        pax::add(&mut many, key, value.as_bytes());
    }
    let file = |data: &[u8]| entry(EntryType::Regular, "file", "", data);
    let pax = |records: &[u8]| entry(EntryType::XHeader, "x", "", records);
    for (entries, told) in [
        (vec![huge], "bytes, and"),
        (vec![pax(&deep_name), file(b"x")], "too long"),
        (vec![pax(&wrong_map), file(b"xy")], "does not fit"),
        (vec![pax(&no_owner), file(b"xy")], "its owner"),
        (
            vec![
                pax(&many),
                file(format!("99999999999\n{}", "0".repeat(500)).as_bytes()),
            ],
            "too many holes",
        ),
        (vec![pax(&many), file(b"1\n")], "not complete"),
        (vec![pax(b"3 x"), file(b"x")], "not well-formed"),
        (vec![b"x".repeat(BLOCK)], "no header"),
        (vec![archive(&[]), vec![0; 2 << 20]], "more follows"),
    ] {
        let fault = two.unpack(&archive(&entries)[..]).unwrap_err();
        let is_named = matches!(
            fault,
            ArchiveFault::Malformed { .. } | ArchiveFault::Misplaced { .. }
        );
        assert!(
            is_named && fault.to_string().contains(told),
            "{told:?}: {fault}"
        );
    }
    let to = File::open(two.path("to")).unwrap();
    let take = |bytes| match bytes {
        0 => Ok(()),
        _ => Err(io::ErrorKind::StorageFull.into()),
    };
    let full = unpack(to.as_fd(), &archive(&[file(b"x")])[..], None, take).unwrap_err();
    assert!(matches!(full, ArchiveFault::Full { .. }) && full.to_string().starts_with("file: "));
    assert_eq!(fs::read_dir(two.path("to")).unwrap().count(), 0);
}

#[test]
fn a_hard_link_that_bears_its_data_is_read_over_them() {
    let two = Two::new();
    let mut records = Vec::new();
    pax::add(&mut records, "comment", b"none");
    let entries = [
        entry(EntryType::Regular, "a", "", b"aaa"),
        entry(EntryType::XHeader, "x", "", &records),
        entry(EntryType::Link, "b", "a", b"aaa"),
        entry(EntryType::Regular, "c", "", b"c"),
    ];
    two.unpack(&archive(&entries)[..]).unwrap();
    assert_eq!(fs::metadata(two.path("to/b")).unwrap().nlink(), 2);
    assert_eq!(fs::read(two.path("to/c")).unwrap(), b"c");
}
