//! What probes cost the whole agent: processor time of its process, measured by hand.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::serving;
use crate::harness::Testbed;
use crate::harness::agent::PROGRAM;
use crate::stand::{Stand, eventually};
use crate::state::kills::number;

const MEASURED: Duration = Duration::from_secs(60);

/// Processor time of a process, its threads among it (`proc_pid_stat(5)`; a tick is 10 ms).
fn used(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|text| text.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Share of a core, in percent, that the agent uses now.
async fn share(stand: &Stand) -> f64 {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = used(stand.agent.pid());
    tokio::time::sleep(MEASURED).await;
    let cost = used(stand.agent.pid()) - before;
    100.0 * cost.as_secs_f64() / MEASURED.as_secs_f64()
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
    let with = share(&stand).await;
    for n in 0..count {
        assert_eq!(stand.agent.deploy(&web(n, &json!("none"))).await.0, 202);
    }
    let without = share(&stand).await;
    let thousand = (with - without) * 100.0 / f64::from(u32::try_from(count).unwrap());
    eprintln!(
        "{count} probes a second: {with:.2} % of a core, without them {without:.2} %; 1000 each 10 s: {thousand:.2} %"
    );
    stand.end().await;
}
