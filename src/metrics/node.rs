//! Numbers of the machine, of the reconciler, and of this process, taken for each scrape.

use std::time::Duration;

use super::VolumeNumbers;
use super::containers::float;
use super::family::{Family, ScrapeText};
use crate::monitor::NodeFacts;
use crate::monitor::kernel::KernelFacts;

/// Numbers of the node as such.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeNumbers {
    pub(crate) facts: NodeFacts,
    pub(crate) kernel: KernelFacts,
    /// Containers that have a turn or wait for one.
    pub(crate) queued: usize,
    /// Longest time for which a turn could have begun and did not.
    pub(crate) overdue: Duration,
    /// Longest time for which a turn took no step.
    pub(crate) silent: Duration,
    /// Containers that are neither running nor stopped, and the longest time for which one is so.
    pub(crate) unsettled: (usize, Duration),
    /// Volumes with a size that the caller may see.
    pub(crate) volumes: Vec<VolumeNumbers>,
    /// Last answer of containerd, in seconds since 1970; 0: none since the agent started.
    pub(crate) containerd_answered: f64,
}

/// Samples of a family, each with its label, if it has one.
type Samples = Vec<(Option<(&'static str, String)>, f64)>;

type Sampled = (Family, Samples);

fn one(value: f64) -> Samples {
    vec![(None, value)]
}

fn count(value: usize) -> Samples {
    one(float(u64::try_from(value).ok()).unwrap_or_default())
}

fn bytes(value: u64) -> Samples {
    float(Some(value)).map(one).unwrap_or_default()
}

impl NodeNumbers {
    #[rustfmt::skip]
    fn of_node(&self) -> Vec<Sampled> {
        const GAUGE: bool = false;
        const COUNTER: bool = true;
        let row = |name, help, unit, is_counter, samples| (Family { name, help, unit, is_counter }, samples);
        let facts = &self.facts;
        let labelled = |label: &'static str, of: &str, value: f64| (Some((label, of.to_owned())), value);
        let cpu = self.kernel.cpu.iter().map(|(mode, time)| labelled("mode", mode, *time));
        let load = ["1", "5", "15"].into_iter().zip(facts.load_average).map(|(minutes, load)| labelled("minutes", minutes, load));
        let some = self.kernel.pressure.iter().map(|pressure| labelled("resource", pressure.resource, pressure.some));
        let full = self.kernel.pressure.iter().filter_map(|pressure| Some(labelled("resource", pressure.resource, pressure.full?)));
        let link = |of: fn(&crate::monitor::Interface) -> u64| {
            facts.interfaces.iter().filter_map(move |link| Some((Some(("interface", link.name.clone())), float(Some(of(link)))?)))
        };
        let volume = |of: fn(&VolumeNumbers) -> u64| {
            self.volumes.iter().filter_map(move |volume| Some((Some(("volume", volume.volume.clone())), float(Some(of(volume)))?)))
        };
        vec![
            row("chas_node_boot_time", "When the node was booted, since 1970", "seconds", GAUGE, self.kernel.booted.map(bytes).unwrap_or_default()),
            row("chas_node_cpus", "Processors of the node", "", GAUGE, count(facts.cpu_cores)),
            row("chas_node_cpu", "Time of all processors together, by what they did", "seconds", COUNTER, cpu.collect()),
            row("chas_node_load", "Processes that ran or waited for a CPU or a disk, on the average of so many minutes", "", GAUGE, load.collect()),
            row("chas_node_memory_size", "Memory of the node", "bytes", GAUGE, bytes(facts.memory_total_bytes)),
            row("chas_node_memory_available", "Memory that a new process could have without swapping", "bytes", GAUGE, bytes(facts.memory_available_bytes)),
            row("chas_node_disk_size", "Size of the file system of the agent's state (state.dir), where the images and containers are too unless they have a disk of their own", "bytes", GAUGE, bytes(facts.disk_total_bytes)),
            row("chas_node_disk_available", "Free space there, for the agent", "bytes", GAUGE, bytes(facts.disk_available_bytes)),
            row("chas_node_disk_inodes", "Files that it has room for; 0: it does not count them", "", GAUGE, bytes(facts.disk_inodes_total)),
            row("chas_node_disk_inodes_available", "Files that can still be created there", "", GAUGE, bytes(facts.disk_inodes_available)),
            row("chas_node_network_received", "Bytes received on an interface of the node's own, as of the last sample (monitoring.health_interval)", "bytes", COUNTER, link(|link| link.received_bytes).collect()),
            row("chas_node_network_sent", "Bytes sent on an interface of the node's own, as of the last sample", "bytes", COUNTER, link(|link| link.sent_bytes).collect()),
            row("chas_node_pressure_waiting", "Time in which at least one process waited for this resource (PSI)", "seconds", COUNTER, some.collect()),
            row("chas_node_pressure_stalled", "Time in which all processes waited for this resource at once (PSI)", "seconds", COUNTER, full.collect()),
            row("chas_volume_used", "Use of the disk by each volume that has a size, and that a container names", "bytes", GAUGE, volume(|volume| volume.used).collect()),
            row("chas_volume_limit", "Size of each volume that has one, and that a container names", "bytes", GAUGE, volume(|volume| volume.limit).collect()),
            row("chas_containerd_last_answer_timestamp", "When containerd answered last, since 1970; 0: not since the agent started", "seconds", GAUGE, one(self.containerd_answered)),
            row("chas_reconcile_queue", "Containers that the reconciler works on, or will when their time comes", "", GAUGE, count(self.queued)),
            row("chas_reconcile_overdue", "Longest time for which work that could begin did not", "seconds", GAUGE, one(self.overdue.as_secs_f64())),
            row("chas_reconcile_silence", "Longest time for which work on a container took no step, pulls aside", "seconds", GAUGE, one(self.silent.as_secs_f64())),
            row("chas_containers_unsettled", "Containers that are neither running and well nor stopped as asked", "", GAUGE, count(self.unsettled.0)),
            row("chas_containers_unsettled_oldest", "Longest time for which one of those is so", "seconds", GAUGE, one(self.unsettled.1.as_secs_f64())),
        ]
    }

    #[rustfmt::skip]
    fn of_process(&self) -> Vec<Sampled> {
        let Some(process) = &self.kernel.process else { return Vec::new() };
        let row = |name, help, unit, is_counter, samples| (Family { name, help, unit, is_counter }, samples);
        vec![
            row("process_cpu", "CPU time of the agent", "seconds", true, one(process.cpu_seconds)),
            row("process_resident_memory", "Memory of the agent", "bytes", false, bytes(process.resident_bytes)),
            row("process_virtual_memory", "Address space of the agent", "bytes", false, bytes(process.virtual_bytes)),
            row("process_threads", "Threads of the agent", "", false, bytes(process.threads)),
            row("process_open_fds", "Files and sockets that the agent has open", "", false, bytes(process.open_files)),
            row("process_max_fds", "Files and sockets that it may have open; absent: no limit", "", false, process.open_files_max.map(bytes).unwrap_or_default()),
            row("process_start_time", "When the agent was started, since 1970", "seconds", false, one(process.started)),
        ]
    }

    /// Writes all of them; those of the process under the names that every exporter gives them.
    pub(super) fn write(&self, scrape: &mut ScrapeText) {
        for (family, samples) in self.of_node().into_iter().chain(self.of_process()) {
            let samples = samples.iter();
            scrape.write(
                &family,
                samples.map(|(label, value)| (label.as_slice(), *value)),
            );
        }
    }
}
