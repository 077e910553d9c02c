//! Volumes of a container: what its record mounts, and those of its image, which are directories that
//! the author wants to be writable, whatever the root file system is, and that need not be in any
//! layer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use state::desired::Record;
use state::spec::{Propagation, VolumeSource};

use super::Placement;

/// Annotation of an OCI spec with the directories to be made, which a later start reads.
const ANNOTATION: &str = "chas.io/volumes";
/// Annotation of an OCI spec with the paths of the image's own volumes that are mounted.
const OF_IMAGE: &str = "chas.io/image-volumes";

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

/// Owner of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundDirectory {
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

/// Directory of the host that is mounted as a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeDirectory {
    /// Path on the host.
    pub(crate) source: PathBuf,
    /// Absolute path in the container, without `.` and `..`.
    pub(crate) destination: String,
    /// Whether the container can only read it, and all that is mounted below.
    pub(crate) read_only: bool,
    /// Part of a path of the host. `None`: it is a volume of the node.
    pub(crate) of_host: Option<HostMount>,
    /// Restrictions of the host's mount of a volume of the node, which hold here too.
    pub(crate) forbidden: Vec<&'static str>,
}

/// Part of a volume that only a path of the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostMount {
    /// Way in which later mounts are seen.
    pub(crate) propagation: Propagation,
    /// Whether it is anything but a directory.
    pub(crate) is_file: bool,
}

/// Mounts of all volumes; one above comes before those below it.
pub(super) fn mounts(record: &Record, place: &Placement<'_>) -> Vec<Value> {
    let directories = place.volumes.iter().map(|volume| directory(volume, place));
    let asked = record.spec.volumes.iter();
    let in_memory = asked.filter_map(|volume| match &volume.source {
        VolumeSource::Volume(_) | VolumeSource::HostPath { .. } => None,
        VolumeSource::Tmpfs { size, mode } => {
            let options = json!([
                "nosuid",
                "nodev",
                "noexec",
                format!("mode={mode:o}"),
                format!("size={}", size.0),
            ]);
            let mount = json!({"destination": volume.path, "type": "tmpfs", "source": "tmpfs", "options": options});
            Some((volume.path.as_str(), mount))
        }
    });
    let mut mounts: Vec<_> = directories.chain(in_memory).collect();
    mounts.sort_by_key(|(path, _)| *path);
    mounts.into_iter().map(|(_, mount)| mount).collect()
}

/// A bind mount whose owners are those on the disk, whatever ids the container has on the host.
fn directory<'a>(volume: &'a VolumeDirectory, place: &Placement<'_>) -> (&'a str, Value) {
    let options = match &volume.of_host {
        // With "nodev" the flags of the mount are set anew: those of the host's have to be named.
        None => {
            let access = if volume.read_only { "rro" } else { "rw" };
            let is_access = |flag: &&&str| **flag == "ro" && !volume.read_only;
            let access = volume.forbidden.iter().find(is_access).unwrap_or(&access);
            let others = volume.forbidden.iter().filter(|flag| **flag != "ro");
            let all = ["rbind", access, "nodev", "rprivate"].into_iter();
            all.chain(others.copied()).collect::<Vec<_>>()
        }
        // Each of these adds to what the host's mount forbids. A plain "nodev" would have runc set all
        // of a mount's flags anew, and a read-only mount of the host be writable.
        Some(host) => {
            let passes = host.propagation.as_str();
            let only_read = volume.read_only.then_some("rro");
            let all = ["rbind", "rnodev", "rnosuid", passes].into_iter();
            all.chain(only_read).collect()
        }
    };
    let mut mount = json!({
        "destination": volume.destination,
        "type": "bind",
        "source": volume.source,
        "options": options,
    });
    if let Some(ids) = place.ids {
        mount["uidMappings"] = ids.mappings();
        mount["gidMappings"] = ids.mappings();
    }
    (&volume.destination, mount)
}

/// Volumes of an image at whose paths the record mounts nothing.
pub(crate) fn uncovered(record: &Record, of_image: Vec<String>) -> Vec<String> {
    let is_covered = |path: &String| record.spec.volumes.iter().any(|mount| mount.path == *path);
    of_image
        .into_iter()
        .filter(|path| !is_covered(path))
        .collect()
}

/// Annotations of an OCI spec: the directories on which volumes are mounted, and which of these are
/// the image's. `None`: there are none.
pub(super) fn annotations(record: &Record, place: &Placement<'_>) -> Option<Value> {
    let asked: BTreeSet<_> = record
        .spec
        .volumes
        .iter()
        .map(|volume| &volume.path)
        .collect();
    let mounted = place.volumes.iter().map(|volume| &volume.destination);
    let of_image: Vec<_> = mounted.filter(|path| !asked.contains(path)).collect();
    let mut annotations = Map::new();
    let mut add = |name: &str, paths: Value| {
        if paths != json!([]) {
            annotations.insert(name.to_owned(), json!(paths.to_string()));
        }
    };
    add(OF_IMAGE, json!(of_image));
    let all: BTreeSet<_> = asked.into_iter().chain(of_image).collect();
    add(ANNOTATION, json!(all));
    (!annotations.is_empty()).then_some(Value::Object(annotations))
}

/// Paths of the image's own volumes that are mounted into a container with this OCI spec.
pub(crate) fn of_image(oci_spec: &[u8]) -> Vec<String> {
    let spec = serde_json::from_slice(oci_spec).unwrap_or_default();
    paths(&spec, OF_IMAGE)
}

/// Directories of the host that a container with this OCI spec mounts, by their paths in it.
pub(crate) fn mounted(oci_spec: &[u8]) -> BTreeMap<String, PathBuf> {
    let spec: Value = serde_json::from_slice(oci_spec).unwrap_or_default();
    let mounts = spec["mounts"].as_array().into_iter().flatten();
    let binds = mounts.filter(|mount| mount["type"] == "bind");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let pairs = binds
        .filter_map(|mount| Some((text(&mount["destination"])?, text(&mount["source"])?.into())));
    pairs.collect()
}

fn paths(spec: &Value, annotation: &str) -> Vec<String> {
    let paths = spec["annotations"][annotation].as_str();
    paths
        .and_then(|paths| serde_json::from_str(paths).ok())
        .unwrap_or_default()
}

/// Directory to be made in the file system of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// Absolute path in the container.
    pub(crate) path: String,
    /// Permissions of the file system in memory that is mounted on it.
    pub(crate) mode: Option<u32>,
    /// Whether it is a file instead.
    pub(crate) is_file: bool,
}

/// Directories and files to be made in the file system of a container with this OCI spec, on which
/// these volumes are mounted now.
pub(crate) fn to_be_made(oci_spec: &[u8], volumes: &[VolumeDirectory]) -> Vec<MountPoint> {
    let spec: Value = serde_json::from_slice(oci_spec).unwrap_or_default();
    let points = paths(&spec, ANNOTATION).into_iter().map(|path| MountPoint {
        mode: mode_of_memory(&spec, &path),
        is_file: is_file(volumes, &path),
        path,
    });
    points.collect()
}

fn is_file(volumes: &[VolumeDirectory], path: &str) -> bool {
    let mut volumes = volumes.iter();
    let at = volumes.find(|volume| volume.destination == path);
    at.and_then(|volume| volume.of_host)
        .is_some_and(|host| host.is_file)
}

fn mode_of_memory(spec: &Value, path: &str) -> Option<u32> {
    let mut mounts = spec["mounts"].as_array().into_iter().flatten();
    let mount = mounts.find(|mount| mount["type"] == "tmpfs" && mount["destination"] == path)?;
    let mut options = mount["options"].as_array().into_iter().flatten();
    let mode = options.find_map(|option| option.as_str()?.strip_prefix("mode="))?;
    u32::from_str_radix(mode, 8).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::devices::DeviceGrant;
    use crate::oci::host_ids::HostIds;
    use crate::oci::tests::record;

    static NO_DEVICES: DeviceGrant = DeviceGrant::NONE;

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

    fn place<'a>(volumes: &'a [VolumeDirectory], ids: Option<HostIds>) -> Placement<'a> {
        Placement {
            netns: Some(Path::new("/netns")),
            devices: &NO_DEVICES,
            cgroups_path: "/a/b",
            mounts: &[],
            volumes,
            sysfs: Path::new("/sys"),
            ids,
            given: None,
        }
    }

    fn directory(destination: &str, read_only: bool) -> VolumeDirectory {
        VolumeDirectory {
            source: format!("/host{destination}").into(),
            destination: destination.to_owned(),
            read_only,
            of_host: None,
            forbidden: Vec::new(),
        }
    }

    #[test]
    fn what_the_host_s_mount_forbids_is_forbidden_here() {
        let options = |read_only, forbidden: &[&'static str]| {
            let volume = VolumeDirectory {
                forbidden: forbidden.to_vec(),
                ..directory("/h", read_only)
            };
            let volumes = place(std::slice::from_ref(&volume), None);
            mounts(&record(&json!({})), &volumes)[0]["options"].clone()
        };
        let told = options(false, &["ro", "noexec"]);
        assert_eq!(told, json!(["rbind", "ro", "nodev", "rprivate", "noexec"]));
        let told = options(true, &["ro", "nosuid"]);
        assert_eq!(told, json!(["rbind", "rro", "nodev", "rprivate", "nosuid"]));
    }

    #[test]
    fn what_a_volume_is_mounted_on_is_made_and_a_later_start_knows_it() {
        let point = |path: &str, mode| MountPoint {
            path: path.to_owned(),
            mode,
            is_file: false,
        };
        let asked = record(&json!({
            "volumes": [{"tmpfs": "1m", "path": "/t"}, {"volume": "v", "path": "/d"}],
        }));
        let of_the_image = vec!["/i \"".to_owned(), "/d".to_owned()];
        assert_eq!(uncovered(&asked, of_the_image), ["/i \""]);
        let directories = [directory("/d", false), directory("/i \"", false)];
        let place = place(&directories, None);
        let spec = json!({
            "annotations": annotations(&asked, &place).unwrap(),
            "mounts": mounts(&asked, &place),
        });
        let spec = spec.to_string();
        assert_eq!(
            to_be_made(spec.as_bytes(), &[]),
            [
                point("/d", None),
                point("/i \"", None),
                point("/t", Some(0o1777))
            ]
        );
        assert_eq!(of_image(spec.as_bytes()), ["/i \""]);
        let of_spec = mounted(spec.as_bytes());
        assert_eq!(of_spec["/d"], PathBuf::from("/host/d"));
        assert_eq!(of_spec.len(), 2, "of no file system in memory");
        assert!(to_be_made(b"{}", &[]).is_empty() && of_image(b"{}").is_empty());
        // As an agent before wrote it, which mounted no volume of an image.
        let before = json!({"annotations": {ANNOTATION: "[\"/a\"]"}}).to_string();
        assert_eq!(to_be_made(before.as_bytes(), &[]), [point("/a", None)]);
        assert!(of_image(before.as_bytes()).is_empty());
    }

    #[test]
    fn nothing_is_said_of_volumes_where_there_are_none() {
        assert_eq!(annotations(&record(&json!({})), &place(&[], None)), None);
    }

    #[test]
    fn what_is_mounted_above_comes_first_and_owners_are_mapped() {
        let directories = [directory("/a/b", false), directory("/c", true)];
        let asked = record(&json!({
            "volumes": [{"tmpfs": "64k", "path": "/a", "mode": "0700"}],
        }));
        let mounted = mounts(&asked, &place(&directories, None));
        let paths: Vec<_> = mounted.iter().map(|mount| &mount["destination"]).collect();
        assert_eq!(paths, ["/a", "/a/b", "/c"]);
        let options = |at: usize| mounted[at]["options"].clone();
        let of_host = VolumeDirectory {
            of_host: Some(HostMount {
                propagation: Propagation::Rslave,
                is_file: true,
            }),
            ..directory("/h", true)
        };
        let shared = place(std::slice::from_ref(&of_host), None);
        assert_eq!(
            mounts(&record(&json!({})), &shared)[0]["options"],
            json!(["rbind", "rnodev", "rnosuid", "rslave", "rro"])
        );
        assert_eq!(
            options(0),
            json!(["nosuid", "nodev", "noexec", "mode=700", "size=65536"])
        );
        assert_eq!(options(1), json!(["rbind", "rw", "nodev", "rprivate"]));
        assert_eq!(options(2), json!(["rbind", "rro", "nodev", "rprivate"]));
        assert_eq!(mounted[1].get("uidMappings"), None);
        let ids = Some(HostIds { first: 70_000 });
        let mapped = mounts(&asked, &place(&directories, ids));
        assert_eq!(mapped[1]["uidMappings"][0]["hostID"], 70_000);
        assert_eq!(mapped[1]["gidMappings"], mapped[1]["uidMappings"]);
    }
}
