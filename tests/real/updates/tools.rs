//! The same load by the tools that people measure with: wrk and hey, from all three places, over new connections and over
//! kept ones.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::load::{HOST, OTHER, Place, body, places, push_server, updates};
use super::updated;
use crate::network::lab::Outside;
use crate::stand::Stand;

/// Connections of each tool at each place for each kind, with a request each 40 ms: 3 * 4 * 5 * 25 = 1500 a second.
const CONNECTIONS: &str = "5";
/// Pause of wrk, which knows no rate.
const PAUSE: &str = "function delay() return 40 end\n";

/// One tool at one place.
struct Tool {
    name: String,
    process: Child,
}

/// Requests that were answered well, and those that failed.
#[derive(Debug, Default)]
struct Counts {
    answered: u64,
    failed: u64,
    told: String,
}

impl Tool {
    fn start(place: &Place, url: &str, script: &str, is_wrk: bool, is_kept: bool) -> Self {
        let mut arguments: Vec<&str> = match is_wrk {
            true => vec![
                "wrk",
                "-t",
                "1",
                "-d",
                "1h",
                "--timeout",
                "5s",
                "-s",
                script,
            ],
            false => vec!["hey", "-z", "1h", "-q", "25", "-t", "5"],
        };
        match (is_wrk, is_kept) {
            (_, true) => {}
            (true, false) => arguments.extend(["-H", "Connection: close"]),
            (false, false) => arguments.push("-disable-keepalive"),
        }
        arguments.extend(["-c", CONNECTIONS, url]);
        let kind = if is_kept { "kept" } else { "new" };
        let name = format!("{}, {}, {kind}", place.name, arguments[0]);
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]).stdout(Stdio::piped());
        let place = place.clone();
        let started = thread::spawn(move || {
            place.enter();
            command.spawn().unwrap()
        });
        let process = started.join().unwrap();
        Self { name, process }
    }

    /// Ends it, and reads what it counted.
    fn end(self) -> (String, Counts) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::INT).unwrap();
        let output = self.process.wait_with_output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let counts = match self.name.contains("wrk") {
            true => of_wrk(told),
            false => of_hey(told),
        };
        (self.name, counts)
    }
}

/// Every number of a line.
fn numbers(line: &str) -> Vec<u64> {
    let words = line.split(|letter: char| !letter.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

fn of_wrk(told: String) -> Counts {
    let mut counts = Counts::default();
    for line in told.lines() {
        let found = numbers(line);
        if line.contains(" requests in ") {
            counts.answered = found[0];
        } else if line.contains("Socket errors:") || line.contains("Non-2xx") {
            // The last number of the second one is how many; those before are of its name.
            let failed = if line.contains("Non-2xx") {
                found[2..].iter()
            } else {
                found.iter()
            };
            counts.failed += failed.sum::<u64>();
        }
    }
    counts.told = told;
    counts
}

fn of_hey(told: String) -> Counts {
    let (mut counts, mut part) = (Counts::default(), "");
    for line in told.lines() {
        match line.trim() {
            "Status code distribution:" => part = "status",
            "Error distribution:" => part = "error",
            line if line.starts_with('[') => match (part, numbers(line).as_slice()) {
                ("status", [200, count]) => counts.answered += count,
                ("status", [_, count]) | ("error", [count, ..]) => counts.failed += count,
                _ => {}
            },
            _ => {}
        }
    }
    counts.told = told;
    counts
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs wrk and hey, by hand; all that must be shown takes CHAS_TEST_UPDATES=200"]
async fn no_request_of_wrk_or_hey_fails_while_generations_change_places() {
    let stand = Stand::new().await;
    push_server(&stand).await;
    let shown = stand.agent.deploy_and_wait(&body(&stand, 1)).await;
    let other = Outside::on("chas-tools", HOST, OTHER);
    let places = places(&stand, &shown, &other).await;
    let script = stand.bed.dir.join("pause.lua");
    std::fs::write(&script, PAUSE).unwrap();
    let port = shown["ports"][0]["host"].as_u64().unwrap();
    let port = u16::try_from(port).unwrap();
    let mut tools = Vec::new();
    for place in &places {
        // Names are looked up once by these; from a neighbour, too, the host's port is what moves.
        let address = place.at.unwrap_or(SocketAddr::from((HOST, port)));
        for (is_wrk, is_kept) in [(true, true), (true, false), (false, true), (false, false)] {
            let (url, script) = (format!("http://{address}/"), script.to_str().unwrap());
            tools.push(Tool::start(place, &url, script, is_wrk, is_kept));
        }
    }
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for generation in 2..2 + updates() {
        let (status, told) = stand.agent.deploy(&body(&stand, generation)).await;
        assert_eq!(status, 202, "{told}");
        updated(&stand, generation).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seconds = began.elapsed().as_secs_f64();
    let counted: Vec<_> = tools.into_iter().map(Tool::end).collect();
    eprintln!("{} updates in {seconds:.0} s", updates());
    for (name, counts) in &counted {
        eprintln!(
            "{name}: {} answered, {} failed",
            counts.answered, counts.failed
        );
    }
    for (name, counts) in &counted {
        assert!(
            counts.failed == 0 && counts.answered > 100,
            "{name}: {}",
            counts.told
        );
    }
    drop((places, other));
    stand.end().await;
}
