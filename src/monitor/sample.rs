//! A sample of the node, through `sysinfo` and statvfs. Blocks.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sysinfo::{
    CpuRefreshKind, InterfaceOperationalState, MemoryRefreshKind, Networks, RefreshKind, System,
};

use super::{Interface, NodeFacts};

/// The values that must be kept between two samples.
#[derive(Debug)]
pub(super) struct Sampler {
    system: System,
    networks: Networks,
    disk: PathBuf,
    bridge: String,
}

impl Sampler {
    pub(super) fn new(disk: PathBuf, bridge: String) -> Result<Self, sysinfo::Error> {
        let cpu = CpuRefreshKind::nothing().with_usage();
        let kinds = RefreshKind::nothing()
            .with_cpu(cpu)
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        Ok(Self {
            system: System::new_with_specifics(kinds)?,
            networks: Networks::new()?,
            disk,
            bridge,
        })
    }

    pub(super) fn sample(&mut self) -> NodeFacts {
        self.system.refresh_cpu_usage();
        self.system
            .refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let (total, available) = (self.system.total_memory(), self.system.available_memory());
        let disk = file_system(&self.disk);
        let disk = |size: fn(&rustix::fs::StatVfs) -> u64| disk.as_ref().map_or(0, size);
        let load = System::load_average().map(|load| [load.one, load.five, load.fifteen]);
        NodeFacts {
            cpu_cores: self.system.cpus().len(),
            // The first sample has nothing to compare with, and says NaN.
            cpu_usage_percent: Some(f64::from(self.system.global_cpu_usage()))
                .filter(|usage| usage.is_finite())
                .unwrap_or(0.0),
            memory_usage_percent: percent(total.saturating_sub(available), total),
            memory_total_bytes: total,
            memory_available_bytes: available,
            disk_total_bytes: disk(|disk| disk.f_blocks.saturating_mul(disk.f_frsize)),
            disk_available_bytes: disk(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
            disk_inodes_total: disk(|disk| disk.f_files),
            disk_inodes_available: disk(|disk| disk.f_favail),
            load_average: load.unwrap_or_default(),
            uptime_seconds: 0,
            interfaces: self.interfaces(),
        }
    }

    fn interfaces(&mut self) -> Vec<Interface> {
        self.networks.refresh(true);
        let own = self
            .networks
            .iter()
            .filter(|(name, _)| !is_attached(name, &self.bridge));
        let mut interfaces: Vec<Interface> = own
            .map(|(name, data)| Interface {
                name: name.to_string_lossy().into_owned(),
                up: matches!(
                    data.operational_state(),
                    InterfaceOperationalState::Up | InterfaceOperationalState::Unknown
                ),
                addresses: data
                    .ip_networks()
                    .iter()
                    .map(|network| network.addr)
                    .collect(),
                received_bytes: data.total_received(),
                sent_bytes: data.total_transmitted(),
            })
            .collect();
        // The system's order changes from sample to sample.
        interfaces
            .iter_mut()
            .for_each(|interface| interface.addresses.sort_unstable());
        interfaces.sort_by(|left, right| left.name.cmp(&right.name));
        interfaces
    }
}

/// Whether the interface is a port of a bridge: the host's end of a container's veth pair.
fn is_attached(interface: &OsStr, bridge: &str) -> bool {
    let master = std::fs::read_link(Path::new("/sys/class/net").join(interface).join("master"));
    master.is_ok_and(|master| master.file_name().is_some_and(|name| name == bridge))
}

/// Total and available bytes of the file system that `path` lies on, or would lie on.
/// The file system that holds the path, or will.
fn file_system(path: &Path) -> Option<rustix::fs::StatVfs> {
    path.ancestors()
        .find_map(|path| rustix::fs::statvfs(path).ok())
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}
