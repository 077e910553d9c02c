//! A sample of the node, through `sysinfo` and statvfs. Blocks.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
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
}

impl Sampler {
    pub(super) fn new(disk: PathBuf) -> Result<Self, sysinfo::Error> {
        let cpu = CpuRefreshKind::nothing().with_usage();
        let kinds = RefreshKind::nothing()
            .with_cpu(cpu)
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        Ok(Self {
            system: System::new_with_specifics(kinds)?,
            networks: Networks::new()?,
            disk,
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
        let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
        let is_own = |name: &OsStr| {
            let is_way_out = name.to_str().is_some_and(|name| is_way_out(&routes, name));
            is_way_out || !is_of_guest(Path::new(LINKS), name)
        };
        let own = self
            .networks
            .iter()
            .filter(|(name, _)| is_own(name.as_ref()));
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

/// The kernel's routes, of version 4 of the protocol.
const ROUTES: &str = "/proc/net/route";
/// Directory of the kernel with one for each link.
const LINKS: &str = "/sys/class/net";
/// Kind of a link with Ethernet's frames.
const ETHERNET: u64 = 1;

/// Whether the link is that of a container or a virtual machine, whoever runs it: a port of a bridge
/// that is neither a device nor made of other links, or an end of a veth pair, which is a link to another that has no kind. They come and
/// go with each start, so each would be a series more for ever.
fn is_of_guest(links: &Path, name: &OsStr) -> bool {
    let link = links.join(name);
    let read = |file| std::fs::read_to_string(link.join(file)).unwrap_or_default();
    let number = |file| read(file).trim().parse::<u64>().unwrap_or(0);
    let files = || std::fs::read_dir(&link).into_iter().flatten().flatten();
    // Bonds, VLANs and the node's own macvlan; that of a virtual machine is of a kind of its own.
    let is_made = || files().any(|file| file.file_name().as_bytes().starts_with(b"lower_"));
    let is_own = link.join("device").exists() || (is_made() && !link.join("macvtap").exists());
    let is_port = || link.join("master/bridge").exists();
    let is_pair = || {
        let other = number("iflink");
        let is_linked = other > 0 && other != number("ifindex");
        is_linked && number("type") == ETHERNET && !read("uevent").contains("DEVTYPE=")
    };
    !is_own && (is_port() || is_pair())
}

/// Whether the node's default route is by this link: the pair of a node that is itself a container is
/// its own.
fn is_way_out(routes: &str, name: &str) -> bool {
    let mut lines = routes.lines().map(str::split_whitespace);
    lines.any(|mut words| words.next() == Some(name) && words.next() == Some("00000000"))
}

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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn links_of_guests_are_known_by_whose_they_are() {
        let links = tempfile::tempdir().unwrap();
        let link = |name: &str, index: u64, other: u64, more: &[(&str, &str)]| {
            let link = links.path().join(name);
            fs::create_dir(&link).unwrap();
            let index = index.to_string();
            let other = other.to_string();
            let all = [
                ("ifindex", index.as_str()),
                ("iflink", &other),
                ("type", "1"),
            ];
            for (file, text) in all.iter().chain(more) {
                fs::create_dir_all(link.join(file).parent().unwrap()).unwrap();
                fs::write(link.join(file), format!("{text}\n")).unwrap();
            }
        };
        let bridge = ("master/bridge/bridge_id", "8000");
        link("eth0", 2, 2, &[("device/vendor", "0x1af4"), bridge]);
        link("bond0.7", 3, 2, &[("uevent", "DEVTYPE=vlan\nIFINDEX=3")]);
        link("docker0", 4, 4, &[("uevent", "DEVTYPE=bridge\nIFINDEX=4")]);
        link("gre1", 5, 2, &[("type", "778")]);
        link("sit0", 6, 0, &[("type", "776")]);
        link("wg0", 7, 7, &[("uevent", "DEVTYPE=wireguard")]);
        link("veth1", 10, 11, &[("uevent", "INTERFACE=veth1"), bridge]);
        link("cali2", 12, 4, &[("uevent", "INTERFACE=cali2")]);
        link("vnet3", 14, 14, &[bridge]);
        link("bond1", 15, 15, &[("lower_eth1/x", ""), bridge]);
        link("eth0.9", 16, 2, &[("lower_eth0/x", ""), bridge]);
        link("mac0", 17, 2, &[("lower_eth0/x", "")]);
        link("tap7", 18, 2, &[("lower_eth0/x", ""), ("macvtap/x", "")]);
        let of_guest = |name: &&str| is_of_guest(links.path(), OsStr::new(name));
        let all = [
            "eth0", "bond0.7", "docker0", "gre1", "sit0", "wg0", "veth1", "cali2", "vnet3", "gone",
            "bond1", "eth0.9", "mac0", "tap7",
        ];
        let guests: Vec<_> = all.into_iter().filter(of_guest).collect();
        assert_eq!(guests, ["veth1", "cali2", "vnet3", "tap7"]);
        let routes = "Iface Destination Gateway\neth0 00000000 0101A8C0\nveth1 0001A8C0 0\n";
        assert!(is_way_out(routes, "eth0") && !is_way_out(routes, "veth1"));
    }
}
