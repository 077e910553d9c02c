//! The kernel's counts of the machine and of this process, read when somebody asks, through `procfs`.
//! Blocks for well under a millisecond.

use std::sync::{Mutex, OnceLock};

use procfs::process::Process;
use procfs::{
    CpuPressure, CpuTime, Current as _, CurrentSI as _, IoPressure, KernelStats, MemoryPressure,
    PressureRecord, ProcResult,
};

use crate::lock::lock;

/// Greatest step back of a processor's time that is the kernel's inexactness, in seconds: a greater one
/// is a processor that was taken away.
const INEXACT: f64 = 3.0;
/// Times of processors that were told last.
static TOLD: Mutex<Vec<(&str, f64)>> = Mutex::new(Vec::new());

/// The kernel's counts. What is `None` or empty the kernel does not tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelFacts {
    /// CPU time of all processors together, in seconds, by what they did.
    pub(crate) cpu: Vec<(&'static str, f64)>,
    pub(crate) pressure: Vec<Pressure>,
    pub(crate) process: Option<ProcessFacts>,
    /// Boot of the node, in whole seconds since 1970.
    pub(crate) booted: Option<u64>,
}

/// Time that processes waited for a resource since the boot, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pressure {
    pub(crate) resource: &'static str,
    /// Time that at least one waited.
    pub(crate) some: f64,
    /// Time that all waited at once. `None`: of a CPU there is none.
    pub(crate) full: Option<f64>,
}

/// Counts of the agent itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessFacts {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_files: u64,
    /// `None`: as many as the kernel has.
    pub(crate) open_files_max: Option<u64>,
    /// Start, in seconds since 1970.
    pub(crate) started: f64,
}

impl KernelFacts {
    /// The counts of now.
    pub(crate) fn now() -> Self {
        let some = |record: &PressureRecord| seconds(record.total);
        let cpu = CpuPressure::current().map(|cpu| Pressure {
            resource: "cpu",
            some: some(&cpu.some),
            full: None,
        });
        let memory = MemoryPressure::current().map(|memory| Pressure {
            resource: "memory",
            some: some(&memory.some),
            full: Some(some(&memory.full)),
        });
        let io = IoPressure::current().map(|io| Pressure {
            resource: "io",
            some: some(&io.some),
            full: Some(some(&io.full)),
        });
        let stats = KernelStats::current().ok();
        let cpu_times = stats.as_ref().map(|stats| cpu_times(&stats.total));
        Self {
            cpu: never_back(cpu_times.unwrap_or_default(), &mut lock(&TOLD)),
            booted: stats.map(|stats| stats.btime),
            pressure: [cpu, memory, io].into_iter().flatten().collect(),
            process: process().ok(),
        }
    }
}

/// Seconds of so many microseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a boot are exact in a float for 285 years"
)]
fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// Modes of all processors, of which each second counts in one.
fn cpu_times(total: &CpuTime) -> Vec<(&'static str, f64)> {
    let modes = [
        ("user", Some(total.user_duration())),
        ("nice", Some(total.nice_duration())),
        ("system", Some(total.system_duration())),
        ("idle", Some(total.idle_duration())),
        ("iowait", total.iowait_duration()),
        ("irq", total.irq_duration()),
        ("softirq", total.softirq_duration()),
        ("steal", total.steal_duration()),
    ];
    let known = modes.into_iter();
    known
        .filter_map(|(mode, time)| Some((mode, time?.as_secs_f64())))
        .collect()
}

/// The times, none less than was told of it: the kernel takes waiting time back at times (proc(5)), and
/// whoever counts would take that for a new start.
fn never_back(
    mut times: Vec<(&'static str, f64)>,
    told: &mut Vec<(&'static str, f64)>,
) -> Vec<(&'static str, f64)> {
    for (mode, time) in &mut times {
        let before = told.iter().find(|(other, _)| other == mode);
        let before = before.map_or(*time, |(_, before)| *before);
        if (0.0..INEXACT).contains(&(before - *time)) {
            *time = before;
        }
    }
    told.clone_from(&times);
    times
}

#[expect(
    clippy::cast_precision_loss,
    reason = "ticks since a boot are exact in a float"
)]
fn process() -> ProcResult<ProcessFacts> {
    let this = Process::myself()?;
    let (stat, limits) = (this.stat()?, this.limits()?);
    let ticks = procfs::ticks_per_second() as f64;
    // Once for all: the kernel tells another time of its boot with each step of the wall clock, and a start
    // that changes is taken for another start.
    static STARTED: OnceLock<f64> = OnceLock::new();
    let booted = procfs::boot_time_secs()?;
    let started = *STARTED.get_or_init(|| booted as f64 + stat.starttime as f64 / ticks);
    Ok(ProcessFacts {
        cpu_seconds: stat.utime.saturating_add(stat.stime) as f64 / ticks,
        resident_bytes: stat.rss.saturating_mul(procfs::page_size()),
        virtual_bytes: stat.vsize,
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
        open_files: u64::try_from(this.fd_count()?).unwrap_or(u64::MAX),
        open_files_max: match limits.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(most) => Some(most),
            procfs::process::LimitValue::Unlimited => None,
        },
        started,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process_and_its_machine() {
        let facts = KernelFacts::now();
        let process = facts.process.unwrap();
        assert!(
            process.cpu_seconds >= 0.0 && process.started > 1.7e9,
            "{process:?}"
        );
        assert!(process.resident_bytes > 1 << 20, "{process:?}");
        assert!(
            process.virtual_bytes > process.resident_bytes,
            "{process:?}"
        );
        assert!((3..100_000).contains(&process.open_files), "{process:?}");
        assert!(process.threads >= 1, "{process:?}");
        let modes: Vec<_> = facts.cpu.iter().map(|(mode, _)| *mode).collect();
        assert!(
            modes.starts_with(&["user", "nice", "system", "idle"]),
            "{modes:?}"
        );
        let idle = facts.cpu.iter().find(|(mode, _)| *mode == "idle").unwrap();
        assert!(idle.1 > 0.0, "{facts:?}");
        assert!(facts.booted.unwrap() > 1_000_000_000, "{facts:?}");
        for pressure in facts.pressure {
            assert!(
                pressure.full.is_none_or(|full| full <= pressure.some),
                "{pressure:?}"
            );
        }
    }

    #[test]
    fn time_goes_back_only_with_a_processor() {
        let mut told = Vec::new();
        for (measured, shown) in [(7.0, 7.0), (6.5, 7.0), (6.0, 7.0), (7.5, 7.5), (3.0, 3.0)] {
            let times = never_back(vec![("iowait", measured)], &mut told);
            assert_eq!(times, [("iowait", shown)]);
        }
    }
}
