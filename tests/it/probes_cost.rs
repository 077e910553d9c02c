//! Cost of probes, measured by hand: `cargo test --release --test it -- --ignored --nocapture probes_cost`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use chas_node_agent::journal::Journal;
use chas_node_agent::metrics::Metrics;
use chas_node_agent::probe::{NetworkProbes, Probes};
use chas_node_agent::reconcile::{Clock, Reconciler};
use chas_node_agent::writer::Writer;
use serde_json::json;
use state::assign::QuietNetwork;
use state::desired::Owner;
use state::policy::Policy;
use state::store::{Limits, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::script::ScriptedRuntime;

const CONTAINERS: u32 = 1000;
const MEASURED: Duration = Duration::from_secs(60);

/// Answers every request, on a thread of its own.
fn serve(listener: &TcpListener) {
    let mut request = [0; 1024];
    while let Ok((mut connection, _)) = listener.accept() {
        let _gone = connection.read(&mut request);
        let _gone = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
}

/// Time of a processor that this thread has used: all of the agent's but for writes to disk.
fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "measures for minutes, by hand"]
async fn probes_cost_little() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve(&listener));
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits {
        ports: 100..=199,
        network: Arc::new(QuietNetwork(
            Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 9, 99),
        )),
        containers_max: 2000,
        capacity: state::capacity::Capacity::ENDLESS,
        new_privileges: false,
        random: state::store::random,
        disk: state::store::sound_disk,
    };
    let store = Arc::new(Store::open(directory.path(), limits).unwrap());
    let mut policy = Policy::default();
    policy.node.host_network = true;
    store.set_policy(policy);
    let (metrics, tracker, stop) = (Metrics::new(), TaskTracker::new(), CancellationToken::new());
    let journal = Journal::new(metrics.clone());
    let writer = Writer::new(Arc::clone(&store), journal.clone(), tracker.clone());
    let runtime: Arc<ScriptedRuntime> = Arc::default();
    let reconciler = Reconciler::new(
        runtime,
        writer.clone(),
        journal.clone(),
        Clock::start(),
        Duration::from_hours(1),
    );
    let handle = reconciler.handle();
    for n in 0..CONTAINERS {
        let body = json!({"name": format!("c{n}"), "image": "nginx", "network": "host",
            "health": {"http": {"port": port}, "interval": "10s"}});
        let deploy = state::spec::parse::deploy(&body).unwrap();
        store.deploy(deploy, Owner::Push, false, 0).unwrap();
    }
    tracker.spawn(reconciler.run(stop.clone(), tracker.clone()));
    let probes = Probes::new(
        writer,
        handle.clone(),
        (journal, metrics.clone()),
        Arc::new(NetworkProbes),
        |ceiling| ceiling * u32::from(rand_byte()) / 256,
    );
    tracker.spawn(probes.run(stop.clone()));
    let ready = |text: String| {
        let line = "chas_health_changes_total{verdict=\"ready\"} 1000";
        text.lines().any(|shown| shown == line)
    };
    let began = tokio::time::Instant::now();
    while !ready(metrics.text()) {
        assert!(began.elapsed() < Duration::from_mins(3), "all are ready");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // What follows from the starts is over.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (before, asked) = (used(), answers(&metrics));
    tokio::time::sleep(MEASURED).await;
    let (cost, asked) = (used() - before, answers(&metrics) - asked);
    let share = 100.0 * cost.as_secs_f64() / MEASURED.as_secs_f64();
    eprintln!("{CONTAINERS} probes each 10 s: {share:.2} % of a core, {asked} in {MEASURED:?}");
    assert!(asked >= 5900, "{asked}");
    stop.cancel();
}

fn rand_byte() -> u8 {
    let mut byte = [0];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    random.read_exact(&mut byte).unwrap();
    byte[0]
}

fn answers(metrics: &Metrics) -> u64 {
    let text = metrics.text();
    let line = "chas_health_probes_total{probe=\"http\",result=\"success\"} ";
    let count = text.lines().find_map(|shown| shown.strip_prefix(line));
    count.unwrap_or("0").parse().unwrap()
}
