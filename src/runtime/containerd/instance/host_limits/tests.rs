//! The limits that hosts of several kinds can keep.

use serde_json::{Value, json};

use super::*;

fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostFiles) {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let host = HostFiles {
        proc: root.path().join("proc"),
        sys: root.path().join("sys"),
    };
    (root, host)
}

fn spec(more: &Value) -> Spec {
    let mut body = json!({"name": "a", "image": "b"});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    state::spec::parse::deploy(&body).unwrap().spec
}

#[track_caller]
fn check(faults: &[String], parts: &[&str]) {
    assert_eq!(faults.len(), parts.len(), "{faults:?}");
    for (fault, part) in faults.iter().zip(parts) {
        assert!(fault.contains(part), "{fault}");
    }
}

const V1: Cgroup = Cgroup::V1 { swap: true };

#[test]
fn what_the_control_groups_of_a_host_lack_is_told_at_once() {
    let all = spec(&json!({"resources": {
        "cpuset": "1-3", "memory": "64m", "swap": "0", "io": {"weight": 10},
    }}));
    let online = ("sys/devices/system/cpu/online", "0-1\n");
    let (_root, bare) = host(&[online]);
    let lacking = "CPU 2-3, and containers of this host have 0-1";
    let unaccounted = bare.resources(&all.resources, Cgroup::V1 { swap: false }, "ns");
    check(&unaccounted, &["swapaccount=1", lacking, "io.weight"]);
    let (_root, around) = host(&[
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/fs/cgroup/cpuset/ns/cpuset.effective_cpus", "\n"),
        ("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-1\n"),
        ("sys/fs/cgroup/cpuset.cpus.effective", "0-2\n"),
        ("sys/fs/cgroup/ns/cpuset.cpus.effective", "0-3\n"),
        ("sys/fs/cgroup/ns/memory.swap.max", "max\n"),
    ]);
    let of_group = |cgroup| around.resources(&all.resources, cgroup, "ns");
    check(&of_group(V1), &[lacking, "io.weight"]);
    check(&of_group(Cgroup::V2), &["io.weight"]);
    check(
        &bare.resources(&all.resources, Cgroup::V2, "ns"),
        &[lacking],
    );
    let bfq = "sys/fs/cgroup/blkio/blkio.bfq.io_service_bytes";
    let (_root, weighing) = host(&[online, (bfq, "")]);
    check(&weighing.resources(&all.resources, V1, "ns"), &[lacking]);
    let (_root, unweighed) = host(&[("sys/fs/cgroup/a.slice/cpu.max", "")]);
    check(
        &unweighed.resources(&all.resources, Cgroup::V2, "ns"),
        &["does not account swap", "io.weight"],
    );
    let (_root, weighed) = host(&[
        ("sys/fs/cgroup/a.slice/io.weight", ""),
        ("sys/fs/cgroup/a.slice/memory.swap.max", ""),
    ]);
    check(&weighed.resources(&all.resources, Cgroup::V2, "ns"), &[]);
    let throttled = spec(&json!({"resources": {"io": {"read_bps": {"/dev/null": "1m"}}}}));
    let limits = |host: &HostFiles| host.resources(&throttled.resources, V1, "ns");
    check(&limits(&bare), &["no throttling"]);
    let throttling = "sys/fs/cgroup/blkio/blkio.throttle.read_bps_device";
    check(&limits(&host(&[(throttling, "")]).1), &["it is no disk"]);
    assert!(asks_the_host(&throttled));
    let unlimited = spec(&json!({"resources": {"memory": "64m", "swap": "unlimited"}}));
    check(
        &bare.resources(&unlimited.resources, Cgroup::V1 { swap: false }, "ns"),
        &[],
    );
}

#[test]
fn no_process_limit_is_above_what_the_runtime_may_give() {
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max locked memory         8388608              8388608              bytes     \n\
         Max open files            1024                 524288               files     \n\
         Max stack size            8388608              unlimited            bytes     \n";
    let with = |capabilities: &str| {
        host(&[
            ("proc/7/limits", LIMITS),
            (
                "proc/7/status",
                &format!("Name:\tx\nCapEff:\t{capabilities}\n"),
            ),
            ("proc/sys/fs/nr_open", "1048576\n"),
        ])
    };
    let asked = spec(&json!({"ulimits": {
        "memlock": "unlimited", "nofile": "64:2000000", "stack": "unlimited", "rtprio": 1,
    }}));
    let (_root, bound) = with("000001fffeffffff");
    let told = [
        "memlock unlimited:unlimited is above the 8388608 that containerd",
        "the 524288 that containerd",
    ];
    check(&bound.ulimits(&asked, 7), &told);
    let (_root, free) = with("000001ffffffffff");
    check(&free.ulimits(&asked, 7), &["the 1048576 that fs.nr_open"]);
    check(
        &free.ulimits(&spec(&json!({"ulimits": {"nofile": 1_048_576}})), 7),
        &[],
    );
    check(&free.ulimits(&asked, 8), &[]);
}

#[test]
fn a_capability_that_the_runtime_has_not_is_told() {
    assert_eq!(CAPABILITIES[SYS_RESOURCE], "CAP_SYS_RESOURCE");
    let status = "CapBnd:\t000001fffeffffff\n";
    let (_root, bound) = host(&[("proc/7/status", status)]);
    let asked = |add: &[&str]| spec(&json!({"security": {"capabilities": {"add": add}}}));
    let both = asked(&["NET_ADMIN", "SYS_RESOURCE"]);
    check(&bound.capabilities(&both, 7), &["CAP_SYS_RESOURCE cannot"]);
    check(&bound.capabilities(&asked(&["NET_ADMIN"]), 7), &[]);
    check(&bound.capabilities(&both, 8), &[]);
    assert!(asks_the_host(&both) && !asks_the_host(&asked(&["KILL"])));
}

#[test]
fn every_limit_is_found_in_the_list_of_this_kernel() {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    for name in UlimitName::ALL {
        let is_there = limits.lines().any(|line| line.starts_with(label(*name)));
        assert!(is_there, "{}", label(*name));
    }
}
