//! Room for what sled writes beside its log. Without it, sled waits for itself for ever.

use super::*;

/// A file system of a few MiB that is gone with the value. It needs root.
pub(super) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(super) fn mount(size: &std::ffi::CStr) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = rustix::mount::mount(
            "small",
            directory.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            size,
        );
        mounted.ok().map(|()| Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn on_a_full_disk_large_values_are_refused_and_nothing_is_stuck() {
    // As nobody, no file system can be mounted; contrib/test runs as root.
    let Some(disk) = SmallDisk::mount(c"size=6m") else {
        assert!(!rustix::process::geteuid().is_root(), "root mounts it");
        return;
    };
    let store = open(&disk.path().join("state"));
    // Twice as long in JSON.
    let large = "\"".repeat(100_000);
    let body =
        |name: &str, value: &str| json!({"name": name, "image": "x", "labels": {"a": value}});
    deploy(&store, &body("a", "1")).unwrap();
    let fill = disk.path().join("fill");
    std::fs::write(&fill, vec![0_u8; 6 << 20]).unwrap_err();
    let refused = deploy(
        &store,
        &json!({"name": "b", "image": "x", "environment": {"A": large}}),
    );
    assert!(matches!(refused, Err(StoreError::Disk(_))), "{refused:?}");
    assert!(!store.is_stuck());
    std::fs::remove_file(&fill).unwrap();
    deploy(
        &store,
        &json!({"name": "b", "image": "x", "environment": {"A": large}}),
    )
    .unwrap();
    // Beside a large one, a small change may have sled write the large one again.
    std::fs::write(&fill, vec![0_u8; 6 << 20]).unwrap_err();
    let _may_be_refused = deploy(&store, &body("a", "2"));
    assert!(!store.is_stuck());
    std::fs::remove_file(&fill).unwrap();
    deploy(&store, &body("a", "3")).unwrap();
    drop(store);
}
