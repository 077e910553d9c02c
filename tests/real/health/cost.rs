//! What probes cost the whole agent: processor time of its process, measured by hand, beside what the
//! kernel takes for the same connections of anybody.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::serving;
use crate::harness::Testbed;
use crate::harness::agent::PROGRAM;
use crate::stand::{Stand, eventually};
use crate::state::kills::number;

const MEASURED: Duration = Duration::from_secs(60);

/// Processor time of a process, its threads among it, as its programs' and as the kernel's
/// (`proc_pid_stat(5)`; a tick is 10 ms).
pub(crate) fn used(pid: u32) -> [Duration; 2] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let mut ticks = fields.split_whitespace().skip(11);
    [(); 2].map(|()| Duration::from_millis(10 * ticks.next().unwrap().parse::<u64>().unwrap()))
}

/// Shares of a core, in percent, that the agent and the kernel for it use now.
async fn shares(stand: &Stand) -> [f64; 2] {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = used(stand.agent.pid());
    tokio::time::sleep(MEASURED).await;
    let after = used(stand.agent.pid());
    [0, 1].map(|at| 100.0 * (after[at] - before[at]).as_secs_f64() / MEASURED.as_secs_f64())
}

/// Processor time of one connection with a request and an answer, where `at_once` of them are asked
/// in a row and heard in a row: the least that a probe can take.
fn floor(addresses: &[String], at_once: usize) -> Duration {
    const BEGUN: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap()
    };
    let (mut count, before) = (0, used());
    for asked in addresses.chunks(at_once).cycle() {
        let connections: Vec<_> = asked
            .iter()
            .map(|address| {
                let mut connection = TcpStream::connect((address.as_str(), 80)).unwrap();
                connection.write_all(BEGUN).unwrap();
                connection
            })
            .collect();
        // Where one is asked at a time it is waited for.
        std::thread::sleep(Duration::from_millis(if at_once == 1 { 0 } else { 10 }));
        for mut connection in connections {
            assert!(connection.read(&mut [0; 4096]).unwrap() > 0);
            count += 1;
        }
        std::thread::sleep(Duration::from_millis(10) * u32::try_from(asked.len()).unwrap());
        if count >= 2000 {
            break;
        }
    }
    (used() - before) / count
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes, by hand; a probe each second counts for ten of the usual ones"]
async fn probes_of_the_whole_agent_cost_little() {
    // A debug build takes a multiple.
    let program = std::env::var_os("CHAS_TEST_AGENT");
    let program = program.map_or_else(|| PROGRAM.into(), PathBuf::from);
    let stand = Stand::of(Testbed::new(), &program, &[]).await;
    let count = number("CHAS_TEST_PROBED", 50);
    let web = |n: u64, health: &serde_json::Value| {
        let mut body = serving(&stand, &format!("web{n}"), &json!({"health": health}));
        body.as_object_mut().unwrap().remove("exposed_ports");
        body
    };
    let health = json!({"http": {"path": "/index.html", "port": 80}, "interval": "1s"});
    for n in 0..count {
        let (status, told) = stand.agent.deploy(&web(n, &health)).await;
        assert_eq!(status, 202, "{told}");
    }
    eventually("all are ready", async || {
        let (_, listed) = stand.agent.get("/containers").await;
        let listed = listed["containers"].as_array().unwrap();
        listed.iter().filter(|one| one["ready"] == true).count() as u64 == count
    })
    .await;
    let with = shares(&stand).await;
    for n in 0..count {
        assert_eq!(stand.agent.deploy(&web(n, &json!("none"))).await.0, 202);
    }
    let without = shares(&stand).await;
    let (_, listed) = stand.agent.get("/containers").await;
    let addresses: Vec<String> = listed["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["ip"].as_str().unwrap().to_owned())
        .collect();
    for at_once in [1, 10, 20] {
        let floor = tokio::task::block_in_place(|| floor(&addresses, at_once));
        eprintln!("anybody's connection, {at_once} at once: {floor:?}");
    }
    for (at, what) in ["the agent itself", "the kernel for it"].iter().enumerate() {
        let (with, without) = (with[at], without[at]);
        // A percent of a second is 10 ms.
        let each = 10_000.0 * (with - without) / f64::from(u32::try_from(count).unwrap());
        eprintln!(
            "{count} probes a second, {what}: {with:.2} % of a core, without them {without:.2} %; {each:.0} us a probe; 1000 each 10 s: {:.2} %",
            each / 100.0
        );
    }
    stand.end().await;
}
