//! Volumes of an image: directories that its author wants to be writable, whatever the root file
//! system is, and that need not be in any layer.
//!
//! In a writable root file system a volume is a directory like any other, made if it is absent.
//! In a read-only one it is a tmpfs that starts with what the image has there: bounded, and gone
//! with the container's task.

use serde_json::{Value, json};

/// Size of a volume in memory. What is in it counts as the container's memory.
const TMPFS_BYTES: u64 = 256 << 20;

/// Annotation of an OCI spec with the volumes to be made, which a later start reads.
const ANNOTATION: &str = "chas.io/volumes";

/// Places of the kernel's file systems, where an image has nothing to say.
const KERNEL: [&str; 3] = ["dev", "proc", "sys"];

/// Volume of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageVolume {
    /// Absolute path, without `.` and `..`.
    pub(crate) path: String,
    /// The image's directory at that path; `None`: it has none.
    pub(crate) found: Option<FoundDirectory>,
}

/// Owner and permissions of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundDirectory {
    /// Permission bits.
    pub(crate) mode: u32,
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
}

/// Path of a volume as the image names it, made absolute; `None`: no volume can be there.
pub(crate) fn path(named: &str) -> Option<String> {
    let parts: Vec<_> = named
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    let is_possible =
        parts.first().is_some_and(|first| !KERNEL.contains(first)) && !parts.contains(&"..");
    is_possible.then(|| format!("/{}", parts.join("/")))
}

/// Mounts of the volumes in a read-only root file system.
pub(super) fn mounts(volumes: &[ImageVolume]) -> Vec<Value> {
    let root = FoundDirectory {
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
    let mount = |volume: &ImageVolume| {
        let FoundDirectory { mode, uid, gid } = volume.found.unwrap_or(root);
        let options = [
            "nosuid".to_owned(),
            "nodev".to_owned(),
            "tmpcopyup".to_owned(),
            format!("mode={mode:o}"),
            format!("uid={uid}"),
            format!("gid={gid}"),
            format!("size={TMPFS_BYTES}"),
        ];
        json!({"destination": volume.path, "type": "tmpfs", "source": "tmpfs", "options": options})
    };
    volumes.iter().map(mount).collect()
}

/// Annotations of an OCI spec that name the volumes to be made; `None`: none are.
pub(super) fn annotations(volumes: &[ImageVolume]) -> Option<Value> {
    let absent = volumes.iter().filter(|volume| volume.found.is_none());
    let paths: Vec<_> = absent.map(|volume| volume.path.as_str()).collect();
    (!paths.is_empty()).then(|| json!({ANNOTATION: json!(paths).to_string()}))
}

/// Volumes to be made in the file system of a container with this OCI spec.
pub(crate) fn to_be_made(oci_spec: &[u8]) -> Vec<String> {
    let spec: Value = serde_json::from_slice(oci_spec).unwrap_or_default();
    let paths = spec["annotations"][ANNOTATION].as_str();
    paths
        .and_then(|paths| serde_json::from_str(paths).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_an_absolute_path_and_is_none_of_the_kernels() {
        for (named, expected) in [
            ("/data", Some("/data")),
            ("data", Some("/data")),
            ("//a/./b/", Some("/a/b")),
            ("/", None),
            ("", None),
            ("/a/../b", None),
            ("/proc", None),
            ("/dev/shm", None),
            ("/device", Some("/device")),
        ] {
            assert_eq!(path(named).as_deref(), expected, "{named:?}");
        }
    }

    #[test]
    fn only_absent_volumes_are_made_and_a_later_start_knows_them() {
        let volume = |path: &str, found| ImageVolume {
            path: path.to_owned(),
            found,
        };
        let found = FoundDirectory {
            mode: 0o1770,
            uid: 5,
            gid: 6,
        };
        let volumes = [volume("/a", Some(found)), volume("/b \"", None)];
        let spec = json!({"annotations": annotations(&volumes).unwrap()});
        assert_eq!(to_be_made(spec.to_string().as_bytes()), ["/b \""]);
        assert_eq!(annotations(&volumes[..1]), None);
        assert!(to_be_made(b"{}").is_empty());
        let options = mounts(&volumes)[0]["options"].clone();
        for option in ["mode=1770", "uid=5", "gid=6", "tmpcopyup", "size=268435456"] {
            assert!(
                options.as_array().unwrap().contains(&json!(option)),
                "{options}"
            );
        }
    }
}
