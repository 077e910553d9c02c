//! Numbers of single containers: how each is, and what it uses. They are taken for each scrape, and
//! kept nowhere: a container that is gone has none.
//!
//! There are as many series of each name as containers, which the node bounds.

use super::family::{Family, ScrapeText};

/// Numbers of a container. What is `None` the kernel does not count, or the container does not run.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerNumbers {
    /// Name of the container.
    pub(crate) container: String,
    pub(crate) status: &'static str,
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    /// End of the last run that succeeded, of one with a schedule, since 1970; 0: none has.
    pub(crate) last_success: Option<f64>,
    pub(crate) exit_code: Option<u32>,
    pub(crate) started: Option<f64>,
    pub(crate) cpu: Option<f64>,
    pub(crate) throttled: Option<f64>,
    pub(crate) periods: Option<u64>,
    pub(crate) throttled_periods: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) working_set: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) swap: Option<u64>,
    /// Kills by the kernel over all runs of the generation.
    pub(crate) memory_kills: u64,
    pub(crate) pids: Option<u64>,
    pub(crate) pids_limit: Option<u64>,
    /// Bytes, packets, errors and drops.
    pub(crate) received: Option<[u64; 4]>,
    pub(crate) sent: Option<[u64; 4]>,
    pub(crate) disk_read: Option<u64>,
    pub(crate) disk_written: Option<u64>,
    pub(crate) disk_reads: Option<u64>,
    pub(crate) disk_writes: Option<u64>,
    /// Bytes of the log: written, left out beyond its rate, and lost.
    pub(crate) log: Option<[u64; 3]>,
}

/// Number of a container, if there is one.
type Number = fn(&ContainerNumbers) -> Option<f64>;

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of Prometheus are floats, and counts of this size are exact in them"
)]
pub(super) fn float(number: Option<u64>) -> Option<f64> {
    number.map(|number| number as f64)
}

fn part<const PARTS: usize>(counts: Option<[u64; PARTS]>, at: usize) -> Option<f64> {
    float(counts.and_then(|counts| counts.get(at).copied()))
}

#[rustfmt::skip]
fn series() -> Vec<(Family, Number)> {
    const GAUGE: bool = false;
    const COUNTER: bool = true;
    let row = |name, help, unit, is_counter, of: Number| (Family { name, help, unit, is_counter }, of);
    vec![
        row("chas_container_ready", "1 while the container runs and works, as far as its probe tells, else 0", "", GAUGE, |of| Some(f64::from(u8::from(of.ready)))),
        row("chas_container_restarts", "Restarts of the container after it had ended by itself, as GET /containers shows it; from 0 again with a change", "", COUNTER, |of| Some(of.restarts.into())),
        row("chas_container_last_exit_code", "Exit code of the last end of the container's process; absent: it has not ended", "", GAUGE, |of| of.exit_code.map(f64::from)),
        row("chas_job_last_success_timestamp", "When the last run of each container with a schedule ended that succeeded, since 1970; 0: none has", "seconds", GAUGE, |of| of.last_success),
        row("chas_container_start_time", "When the container's process was started last, since 1970", "seconds", GAUGE, |of| of.started),
        row("chas_container_cpu_usage", "CPU time of the container's processes; from 0 again with each start of the container, as all that is counted of its processes and their memory, network and disks", "seconds", COUNTER, |of| of.cpu),
        row("chas_container_cpu_throttled", "Time that the container's processes waited because its CPU limit was used up", "seconds", COUNTER, |of| of.throttled),
        row("chas_container_cpu_periods", "Periods of the CPU limit in which the container ran", "", COUNTER, |of| float(of.periods)),
        row("chas_container_cpu_throttled_periods", "Periods of the CPU limit in which it was used up", "", COUNTER, |of| float(of.throttled_periods)),
        row("chas_container_memory_used", "Memory of the container, with what is cached of files", "bytes", GAUGE, |of| float(of.memory)),
        row("chas_container_memory_working_set", "Memory of the container without files that were not used of late: what counts when it comes to the limit", "bytes", GAUGE, |of| float(of.working_set)),
        row("chas_container_memory_limit", "Limit of the container's memory; absent: it has none", "bytes", GAUGE, |of| float(of.memory_limit)),
        row("chas_container_memory_swap", "Memory of the container in swap", "bytes", GAUGE, |of| float(of.swap)),
        row("chas_container_memory_kills", "Processes of the container that the kernel killed for want of memory, children among them, over all runs of a generation; there also while none runs", "", COUNTER, |of| float(Some(of.memory_kills))),
        row("chas_container_pids", "Processes and threads of the container", "", GAUGE, |of| float(of.pids)),
        row("chas_container_pids_limit", "Limit of the container's processes and threads; absent: it has none", "", GAUGE, |of| float(of.pids_limit)),
        row("chas_container_network_received", "Bytes that the container received", "bytes", COUNTER, |of| part(of.received, 0)),
        row("chas_container_network_received_packets", "Packets that the container received", "", COUNTER, |of| part(of.received, 1)),
        row("chas_container_network_received_errors", "Faulty packets on the way to the container", "", COUNTER, |of| part(of.received, 2)),
        row("chas_container_network_received_dropped", "Packets to the container that were dropped on its link", "", COUNTER, |of| part(of.received, 3)),
        row("chas_container_network_sent", "Bytes that the container sent", "bytes", COUNTER, |of| part(of.sent, 0)),
        row("chas_container_network_sent_packets", "Packets that the container sent", "", COUNTER, |of| part(of.sent, 1)),
        row("chas_container_network_sent_errors", "Faulty packets from the container", "", COUNTER, |of| part(of.sent, 2)),
        row("chas_container_network_sent_dropped", "Packets of the container that were dropped on its link", "", COUNTER, |of| part(of.sent, 3)),
        row("chas_container_disk_read", "Bytes that the container read from disks", "bytes", COUNTER, |of| float(of.disk_read)),
        row("chas_container_disk_written", "Bytes that the container wrote to disks", "bytes", COUNTER, |of| float(of.disk_written)),
        row("chas_container_disk_reads", "Operations by which the container read from disks", "", COUNTER, |of| float(of.disk_reads)),
        row("chas_container_disk_writes", "Operations by which the container wrote to disks", "", COUNTER, |of| float(of.disk_writes)),
        row("chas_container_log_written", "Bytes written to the container's log, with time and stream of each line; from 0 again with each new generation", "bytes", COUNTER, |of| part(of.log, 0)),
        row("chas_container_log_left_out", "Bytes that the container printed beyond logs.rate, which are not in its log", "bytes", COUNTER, |of| part(of.log, 1)),
        row("chas_container_log_lost", "Bytes that the container printed and that could not be written to its log", "bytes", COUNTER, |of| part(of.log, 2)),
    ]
}

/// Writes the numbers of these containers.
pub(super) fn write(containers: &[ContainerNumbers], scrape: &mut ScrapeText) {
    let status = Family {
        name: "chas_container_status",
        help: "1 for the status that the container has",
        unit: "",
        is_counter: false,
    };
    let all = containers.iter();
    scrape.write(
        &status,
        all.map(|one| {
            (
                [
                    ("container", one.container.as_str()),
                    ("status", one.status),
                ],
                1.0,
            )
        }),
    );
    for (family, of) in series() {
        let all = containers.iter();
        scrape.write(
            &family,
            all.filter_map(|one| Some(([("container", one.container.as_str())], of(one)?))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, MetricsFormat, NodeNumbers};

    #[test]
    fn a_container_has_a_series_of_each_number_that_is_known_of_it() {
        let numbers = |container: &str| ContainerNumbers {
            container: container.to_owned(),
            status: "running",
            restarts: 3,
            cpu: Some(1.5),
            memory: Some(4096),
            received: Some([10, 2, 0, 1]),
            log: Some([70, 0, 5]),
            ..ContainerNumbers::default()
        };
        let numbers = vec![numbers("a"), numbers("b")];
        let node = NodeNumbers::default();
        let text = Metrics::new().text_with(&node, &numbers, MetricsFormat::OpenMetrics);
        for line in [
            "chas_container_status{container=\"a\",status=\"running\"} 1.0",
            "chas_container_restarts_total{container=\"b\"} 3.0",
            "chas_container_cpu_usage_seconds_total{container=\"a\"} 1.5",
            "chas_container_memory_used_bytes{container=\"a\"} 4096.0",
            "chas_container_network_received_bytes_total{container=\"b\"} 10.0",
            "chas_container_network_received_dropped_total{container=\"b\"} 1.0",
            "chas_container_log_written_bytes_total{container=\"a\"} 70.0",
            "chas_container_log_left_out_bytes_total{container=\"a\"} 0.0",
            "chas_container_log_lost_bytes_total{container=\"b\"} 5.0",
            "chas_containerd_up 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        let absent = [
            "memory_limit_bytes{",
            "last_exit_code{",
            "sent_bytes_total{",
        ];
        for name in absent {
            assert!(!text.contains(&format!("chas_container_{name}")), "{text}");
        }
        let ends = text.lines().filter(|line| *line == "# EOF").count();
        assert!(ends == 1 && text.ends_with("# EOF\n"), "{text}");
    }
}
