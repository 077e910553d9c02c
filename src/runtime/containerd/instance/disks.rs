//! Disks of the host by the paths of their devices, and the limits on what an instance asks of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{major, minor};
use state::desired::Record;
use state::reason::Reason;
use state::spec::DiskLimits;

use super::Instances;
use crate::cgroup::throttles::Throttle;
use crate::mounts::on_host;
use crate::runtime::RuntimeError;

/// Disks that the kernel knows, by their numbers; a partition has a file `partition`.
const BLOCK_DEVICES: &str = "/sys/dev/block";

impl Instances {
    /// Sets what a task that was not started yet may ask of each disk.
    pub(super) async fn throttle(&self, record: &Record) -> Result<(), RuntimeError> {
        if !are_any(&record.spec.resources.io) {
            return Ok(());
        }
        self.set_throttles(record).await.map_err(|error| {
            let message = format!("resources.io cannot be set: {error}");
            RuntimeError::failed(Reason::LimitRefused, message)
        })
    }

    /// Sets what a task may ask of each disk, and releases what it may ask of all others. One that
    /// cannot be limited keeps none of the others from it.
    pub(super) async fn set_throttles(&self, record: &Record) -> io::Result<()> {
        let limits = record.spec.resources.io.clone();
        let (cgroup, path) = (self.host.cgroup, self.cgroups_path(record.instance()));
        let set = move || {
            on_host(|| {
                let (wanted, faults) = throttles(&limits);
                cgroup.throttle(&path, &wanted)?;
                if faults.is_empty() {
                    Ok(())
                } else {
                    Err(io::Error::other(faults.join("; ")))
                }
            })
        };
        tokio::task::spawn_blocking(set).await?
    }
}

/// Faults of the disks that these limits name.
pub(super) fn faults(limits: &DiskLimits) -> Vec<String> {
    let found = on_host(|| Ok(throttles(limits).1));
    found.unwrap_or_else(|error| vec![format!("resources.io: {error}")])
}

/// Whether anything is asked for that is a limit of a disk.
pub(super) fn are_any(limits: &DiskLimits) -> bool {
    paths(limits).next().is_some()
}

fn paths(limits: &DiskLimits) -> impl Iterator<Item = &String> {
    let bytes = limits.read_bps.keys().chain(limits.write_bps.keys());
    let operations = limits.read_iops.keys().chain(limits.write_iops.keys());
    bytes.chain(operations)
}

/// The limits by disk, and each fault.
fn throttles(limits: &DiskLimits) -> (Vec<Throttle>, Vec<String>) {
    let (mut throttles, mut faults) = (Vec::<Throttle>::new(), Vec::new());
    for path in paths(limits).collect::<BTreeSet<_>>() {
        let rates = [
            limits.read_bps.get(path).map(|rate| rate.0),
            limits.write_bps.get(path).map(|rate| rate.0),
            limits.read_iops.get(path).copied().map(u64::from),
            limits.write_iops.get(path).copied().map(u64::from),
        ];
        match disk(Path::new(path)) {
            Err(fault) => faults.push(format!("resources.io names {path}: {fault}")),
            Ok(disk) if throttles.iter().any(|known| known.disk == disk) => faults.push(format!(
                "resources.io names {path}: it is a disk that has another name there; use one"
            )),
            Ok(disk) => throttles.push(Throttle { disk, rates }),
        }
    }
    (throttles, faults)
}

/// Number of a disk, as in `8:0`; or why it is none.
fn disk(path: &Path) -> Result<String, String> {
    let found = fs::metadata(path).map_err(|error| error.to_string())?;
    if !found.file_type().is_block_device() {
        return Err("it is no disk".to_owned());
    }
    let (major, minor) = (major(found.rdev()), minor(found.rdev()));
    let disk = format!("{major}:{minor}");
    if Path::new(BLOCK_DEVICES)
        .join(&disk)
        .join("partition")
        .exists()
    {
        return Err(
            "it is a part of a disk, and only whole disks can be limited; name that".to_owned(),
        );
    }
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_disk_is_told_and_all_of_it() {
        let limits: DiskLimits = serde_json::from_value(
            json!({"read_bps": {"/dev/null": 4096}, "write_iops": {"/dev/no-such": 1}}),
        )
        .unwrap();
        assert!(are_any(&limits));
        let (none, told) = throttles(&limits);
        assert_eq!(none, Vec::new());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("/dev/no-such: No such file"), "{told:?}");
        assert!(told[1].contains("/dev/null: it is no disk"), "{told:?}");
        assert!(!are_any(&DiskLimits::default()));
        assert_eq!(throttles(&DiskLimits::default()), (Vec::new(), Vec::new()));
    }
}
