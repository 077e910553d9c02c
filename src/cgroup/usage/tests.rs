use std::fs;

use super::*;

fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let file = root.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    root
}

/// Use of a group, with its limits read first.
fn found(cgroup: Cgroup, root: &tempfile::TempDir, name: &str) -> Option<GroupUsage> {
    let (reader, mut scratch) = (cgroup.usage_in(root.path(), "chas"), Scratch::default());
    let limits = reader.limits(name, &mut scratch).unwrap_or_default();
    let cpu = reader.cpu(name, limits, UsageDetail::All, (None, &mut scratch));
    let (all, none) = (UsageDetail::All, UsageBefore::default());
    reader.usage(name, limits, all, (cpu, none), (None, &mut scratch))
}

#[test]
fn operations_of_disks_are_looked_up_where_bytes_came() {
    let root = written(&[
        ("memory/chas/a-1/memory.usage_in_bytes", "1\n"),
        (
            "blkio/chas/a-1/blkio.throttle.io_service_bytes",
            "8:0 Read 100\n",
        ),
        ("blkio/chas/a-1/blkio.throttle.io_serviced", "8:0 Read 2\n"),
    ]);
    let v1 = Cgroup::V1 { swap: true };
    let before = |read, reads| DiskUsage {
        read,
        reads,
        ..DiskUsage::default()
    };
    for (before, reads) in [
        (None, 2),
        (Some(before(99, 1)), 2),
        (Some(before(100, 7)), 7),
    ] {
        let (reader, limits) = (v1.usage_in(root.path(), "chas"), GroupLimits::default());
        let disk = before.as_ref();
        let known = UsageBefore { memory: None, disk };
        let read = (None, &mut Scratch::default());
        let found = reader.usage("a-1", limits, UsageDetail::All, (None, known), read);
        let disk = found.and_then(|found| found.disk);
        assert_eq!(disk.map(|disk| disk.reads), Some(reads), "{before:?}");
    }
}

#[test]
fn parts_of_memory_are_read_where_all_of_it_changed_and_kills_not_for_metrics() {
    let v1 = [
        ("memory/chas/a-1/memory.usage_in_bytes", "1000\n"),
        ("memory/chas/a-1/memory.stat", "total_inactive_file 400\n"),
        ("memory/chas/a-1/memory.oom_control", "oom_kill 2\n"),
    ];
    let v2 = [
        ("chas/a-1/memory.current", "1000\n"),
        ("chas/a-1/memory.stat", "inactive_file 400\n"),
        ("chas/a-1/memory.events", "oom_kill 2\n"),
    ];
    for (cgroup, files) in [(Cgroup::V1 { swap: true }, v1), (Cgroup::V2, v2)] {
        let root = written(&files);
        let before = |used| MemoryUsage {
            used,
            working_set: 7,
            limit: Some(1),
            swap: None,
            kills: None,
        };
        for (before, working_set) in [
            (None, 600),
            (Some(before(999)), 600),
            (Some(before(1000)), 7),
        ] {
            let reader = cgroup.usage_in(root.path(), "chas");
            let known = UsageBefore {
                memory: before.as_ref(),
                disk: None,
            };
            let (limits, read) = (GroupLimits::default(), (None, &mut Scratch::default()));
            let found = reader.usage("a-1", limits, UsageDetail::Metrics, (None, known), read);
            let memory = found.unwrap().memory.unwrap();
            assert_eq!(memory.working_set, working_set, "{cgroup:?} {before:?}");
            assert_eq!((memory.limit, memory.kills), (None, None), "{cgroup:?}");
        }
    }
}

#[test]
fn kept_files_tell_what_is_so_now_and_a_group_that_was_made_anew_has_others() {
    let root = written(&[
        ("memory/chas/a-1/memory.usage_in_bytes", "1\n"),
        ("pids/chas/a-1/pids.current", "3\n"),
    ]);
    let v1 = Cgroup::V1 { swap: true };
    let (reader, kept) = (v1.usage_in(root.path(), "chas"), KeptFiles::default());
    let used = || {
        let read = (Some(&kept), &mut Scratch::default());
        let (limits, none) = (GroupLimits::default(), UsageBefore::default());
        let found = reader.usage("a-1", limits, UsageDetail::All, (None, none), read)?;
        Some((found.memory?.used, found.pids?.count, found.disk))
    };
    assert_eq!(used(), Some((1, 3, None)));
    let count = kept.count();
    assert!((2..=KeptFiles::MOST).contains(&count), "{count}");
    let memory = root.path().join("memory/chas/a-1/memory.usage_in_bytes");
    fs::write(&memory, "22\n").unwrap();
    assert_eq!(used(), Some((22, 3, None)));
    assert_eq!(kept.count(), count, "nothing was opened again");
}

#[test]
fn version_1_counts_by_controller_in_ticks_and_nanoseconds() {
    let root = written(&[
        ("cpuacct/chas/a-1/cpuacct.usage", "1500000000\n"),
        ("cpuacct/chas/a-1/cpuacct.stat", "user 120\nsystem 30\n"),
        ("cpu/chas/a-1/cpu.cfs_quota_us", "50000\n"),
        (
            "cpu/chas/a-1/cpu.stat",
            "nr_periods 10\nnr_throttled 4\nthrottled_time 250000000\n",
        ),
        ("memory/chas/a-1/memory.usage_in_bytes", "1000\n"),
        (
            "memory/chas/a-1/memory.stat",
            "inactive_file 1\ntotal_inactive_file 400\ntotal_swap 7\n",
        ),
        (
            "memory/chas/a-1/memory.limit_in_bytes",
            "9223372036854771712\n",
        ),
        (
            "memory/chas/a-1/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
        ("pids/chas/a-1/pids.current", "3\n"),
        ("pids/chas/a-1/pids.max", "4096\n"),
        (
            "blkio/chas/a-1/blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 100\n8:0 Write 50\n8:16 Read 1\nTotal 151\n",
        ),
        (
            "blkio/chas/a-1/blkio.throttle.io_serviced_recursive",
            "8:0 Read 2\n8:0 Write 1\nTotal 3\n",
        ),
    ]);
    let v1 = Cgroup::V1 { swap: true };
    let metrics = {
        let (reader, none) = (v1.usage_in(root.path(), "chas"), GroupLimits::default());
        let read = (None, &mut Scratch::default());
        reader.cpu("a-1", none, UsageDetail::Metrics, read)
    };
    let of = |name| found(v1, &root, name);
    let found = of("a-1").unwrap();
    let cpu = CpuUsage {
        total: Duration::from_millis(1500),
        user: Duration::from_millis(1200),
        system: Duration::from_millis(300),
        periods: 10,
        throttled_periods: 4,
        throttled: Duration::from_millis(250),
    };
    assert_eq!(found.cpu, Some(cpu));
    let in_all = CpuUsage {
        total: Duration::from_millis(1500),
        ..CpuUsage::default()
    };
    assert_eq!(metrics, Some(in_all));
    let memory = MemoryUsage {
        used: 1000,
        working_set: 600,
        limit: None,
        swap: Some(7),
        kills: Some(2),
    };
    assert_eq!(found.memory, Some(memory));
    let pids = PidUsage {
        count: 3,
        limit: Some(4096),
    };
    assert_eq!(found.pids, Some(pids));
    let disk = DiskUsage {
        read: 101,
        written: 50,
        reads: 2,
        writes: 1,
    };
    assert_eq!(found.disk, Some(disk));
    assert_eq!(of("b-1"), None);
    fs::write(root.path().join("cpu/chas/a-1/cpu.cfs_quota_us"), "-1\n").unwrap();
    let unlimited = of("a-1").unwrap();
    assert_eq!(unlimited.cpu.unwrap().periods, 0, "nothing is counted");
}

#[test]
fn version_2_counts_in_one_tree_and_has_a_word_for_no_limit() {
    let root = written(&[
        (
            "chas/a-1/cpu.stat",
            "usage_usec 1500000\nuser_usec 1200000\nsystem_usec 300000\nnr_periods 0\n",
        ),
        ("chas/a-1/memory.current", "1000\n"),
        ("chas/a-1/memory.stat", "anon 500\ninactive_file 300\n"),
        ("chas/a-1/memory.max", "2000\n"),
        ("chas/a-1/memory.events", "oom 1\noom_kill 1\n"),
        ("chas/a-1/pids.current", "3\n"),
        ("chas/a-1/pids.max", "max\n"),
        (
            "chas/a-1/io.stat",
            "8:0 rbytes=100 wbytes=50 rios=2 wios=1 dbytes=9 dios=9\n8:16 rbytes=1 wbytes=0 rios=1 wios=0\n",
        ),
    ]);
    let of = |name| found(Cgroup::V2, &root, name);
    let found = of("a-1").unwrap();
    let cpu = found.cpu.unwrap();
    assert_eq!(cpu.total, Duration::from_millis(1500));
    assert_eq!((cpu.periods, cpu.throttled), (0, Duration::ZERO));
    let memory = found.memory.unwrap();
    assert_eq!((memory.used, memory.working_set), (1000, 700));
    assert_eq!((memory.limit, memory.swap), (Some(2000), None));
    assert_eq!(memory.kills, Some(1));
    assert_eq!(found.pids.unwrap().limit, None);
    let disk = found.disk.unwrap();
    assert_eq!((disk.read, disk.reads), (101, 3));
    assert_eq!(of("b-1"), None);
}
