//! Containers that come and go, one after the other: neither the agent nor its state grows by them.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::stand::Stand;
use crate::state::kills::number;

/// Size of the agent at one moment.
#[derive(Debug)]
struct Size {
    resident_kib: u64,
    descriptors: usize,
    threads: usize,
    state_kib: u64,
}

impl Size {
    fn of(stand: &Stand) -> Self {
        let proc = Path::new("/proc").join(stand.agent.pid().to_string());
        let count = |dir: &str| fs::read_dir(proc.join(dir)).unwrap().count();
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.unwrap().trim().trim_end_matches(" kB");
        Self {
            resident_kib: resident.parse().unwrap(),
            descriptors: count("fd"),
            threads: count("task"),
            state_kib: bytes_in(&stand.bed.dir.join("state")) >> 10,
        }
    }
}

/// Bytes of all files below a directory, some of which may go meanwhile.
fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// One container after the other comes, runs and goes.
async fn cycle(stand: &Stand, names: std::ops::Range<u64>) {
    for n in names {
        let name = format!("c{n}");
        let mut body = stand.script(&name, "sleep 1000 & wait", &json!({}));
        body["stop"] = json!({"timeout": "0s"});
        let deploy = "/containers/deploy?wait=running&timeout=60s";
        let (status, shown) = stand.agent.ask("POST", deploy, Some(&body)).await;
        assert_eq!(status, 200, "{shown}");
        let remove = format!("/containers/{name}?wait=removed&timeout=60s");
        let (status, shown) = stand.agent.ask("DELETE", &remove, None).await;
        assert_eq!(status, 200, "{shown}");
    }
}

/// `CHAS_TEST_CYCLES=20000` proves more, and shows the sizes on the way (`--nocapture`).
#[tokio::test(flavor = "multi_thread")]
async fn containers_that_come_and_go_leave_the_agent_as_large_as_it_was() {
    let stand = Stand::new().await;
    let cycles = number("CHAS_TEST_CYCLES", 40);
    let mut sizes = Vec::new();
    for part in 0..10 {
        cycle(&stand, part * cycles / 10..(part + 1) * cycles / 10).await;
        let size = Size::of(&stand);
        eprintln!(
            "after {} of {cycles} cycles: {size:?}",
            (part + 1) * cycles / 10
        );
        sizes.push(size);
    }
    let (half, end) = (&sizes[4], &sizes[9]);
    assert!(end.descriptors <= half.descriptors + 8, "{sizes:?}");
    assert!(end.threads <= half.threads + 8, "{sizes:?}");
    assert!(end.state_kib <= half.state_kib + 2048, "{sizes:?}");
    // Beside what an allocator may add in a short run, less than one small object a cycle.
    let allowed = 4096 + cycles / 2 / 10;
    assert!(end.resident_kib <= half.resident_kib + allowed, "{sizes:?}");
    stand.end().await;
}
