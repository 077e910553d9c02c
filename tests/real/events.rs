//! Events, read as they happen: over kills of the agent, by many, and by who does not read.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::agent::{Agent, TOKEN};
use crate::stand::{SOON, Stand, eventually};
use crate::state::kills::number;

/// Reader of events over a connection of its own.
struct Reader(BufReader<TcpStream>);

impl Reader {
    fn open(agent: &Agent, query: &str, header: &str) -> Self {
        let mut stream = TcpStream::connect(agent.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let head = format!(
            "GET /events?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{header}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next event; `None`: the answer is over, or has none. A comment comes each 15 s.
    fn next(&mut self) -> Option<Value> {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data.trim()).unwrap());
            }
        }
        None
    }

    /// The next event of a kind.
    fn next_of(&mut self, kind: &str) -> Value {
        while let Some(event) = self.next() {
            if event["kind"] == kind {
                return event;
            }
        }
        panic!("the answer ended without {kind}");
    }
}

/// Numbers and kinds of all events that are kept.
async fn kept(agent: &Agent) -> Vec<(u64, String)> {
    let (_, text) = agent.get("/events?follow=false").await;
    let text = text.as_str().unwrap().to_owned();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = events.map(|data| serde_json::from_str::<Value>(data).unwrap());
    events
        .map(|event| {
            (
                event["id"].as_u64().unwrap(),
                event["kind"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_misses_nothing_over_a_kill_and_an_end_of_the_agent() {
    let mut stand = Stand::new().await;
    let mut reader = Reader::open(&stand.agent, "after=0&container=web", "");
    let shown = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    let (asked, launched) = tokio::task::block_in_place(|| {
        (
            reader.next_of("change_asked"),
            reader.next_of("step_finished"),
        )
    });
    assert_eq!(
        (&asked["change"], &asked["by"]),
        (&json!("deploy"), &json!("token")),
        "{asked}"
    );
    assert_eq!(launched["container"]["id"], shown["id"], "{launched}");
    assert_eq!(launched["explain"], "/containers/web/explain");
    let last = launched["id"].as_u64().unwrap();
    let before = kept(&stand.agent).await;
    stand.agent.kill_9();
    // The process ends while nobody looks.
    let pid = stand.pid(&shown).unwrap();
    crate::harness::run("kill", ["-KILL", &pid]).unwrap();
    stand.agent.start_again().await;
    let mut reader = Reader::open(&stand.agent, "", &format!("Last-Event-ID: {last}\r\n"));
    let mut missed = Vec::new();
    let exited = tokio::task::block_in_place(|| {
        loop {
            let event = reader.next().unwrap();
            if event["kind"] == "container_exited" {
                break event;
            }
            missed.push((
                event["id"].as_u64().unwrap(),
                event["kind"].as_str().unwrap().to_owned(),
            ));
        }
    });
    assert_eq!(exited["exit_code"], 137, "{exited}");
    let expected: Vec<_> = before
        .into_iter()
        .filter(|(number, _)| *number > last)
        .collect();
    assert!(missed.starts_with(&expected), "{missed:?} for {expected:?}");
    assert!(
        missed.iter().any(|(_, kind)| kind == "agent_started"),
        "{missed:?}"
    );
    let numbers: Vec<_> = missed.iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted() && numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len());
    // An end on purpose is told, and ends the answer at once.
    stand.agent.wait_status("web", "running", SOON).await;
    let began = Instant::now();
    stand.agent.terminate();
    tokio::task::block_in_place(|| {
        reader.next_of("agent_stopping");
        assert_eq!(reader.next().map(|event| event["kind"].clone()), None);
    });
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    stand.agent.start_again().await;
    let kinds: Vec<_> = kept(&stand.agent)
        .await
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    assert!(kinds.contains(&"agent_stopping".to_owned()), "{kinds:?}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_readers_and_one_that_never_reads_hold_up_nobody() {
    let stand = Stand::new().await;
    let agent = &stand.agent;
    let _deaf = Reader::open(agent, "after=0", "");
    let mut readers: Vec<_> = (0..100)
        .map(|_| Reader::open(agent, "after=0&container=web", ""))
        .collect();
    stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    tokio::task::block_in_place(|| {
        let first = readers[0].next_of("step_finished");
        for reader in &mut readers[1..] {
            assert_eq!(reader.next_of("step_finished"), first);
        }
    });
    let mut more: Vec<_> = (0..40).map(|_| Reader::open(agent, "", "")).collect();
    let is_refused = |reader: &mut Reader| {
        let mut line = String::new();
        reader.0.read_line(&mut line).unwrap();
        line.contains(" 429 ")
    };
    let refused = more.iter_mut().map(is_refused).filter(|refused| *refused);
    assert_eq!(refused.count(), 13, "101 of 128 places were taken");
    drop(more);
    // The places of those who have gone are free again.
    drop(readers);
    eventually("another reader has a place", async || {
        tokio::task::block_in_place(|| {
            let mut head = [0; 12];
            let mut reader = Reader::open(agent, "", "");
            reader.0.read_exact(&mut head).unwrap();
            head.ends_with(b"200")
        })
    })
    .await;
    stand.end().await;
}

/// Time from a kill of a container's process to its event at a reader: `CHAS_TEST_EVENT_KILLS=200`
/// measures, and shows the middle and the worst (`--nocapture`).
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_told_to_a_reader_at_once() {
    let stand = Stand::new().await;
    let body = stand.script(
        "a",
        "sleep 10000 & wait",
        &json!({"restart": {"policy": "never"}}),
    );
    let mut shown = stand.agent.deploy_and_wait(&body).await;
    let mut reader = Reader::open(&stand.agent, "container=a&kind=container_exited", "");
    // The head is there: whatever happens from now on is told.
    let mut line = String::new();
    tokio::task::block_in_place(|| reader.0.read_line(&mut line).unwrap());
    assert!(line.contains(" 200 "), "{line}");
    let mut took = Vec::new();
    for _ in 0..number("CHAS_TEST_EVENT_KILLS", 5) {
        let pid = stand.pid(&shown).unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let began = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let exited = tokio::task::block_in_place(|| reader.next_of("container_exited"));
        took.push(began.elapsed());
        assert_eq!(exited["exit_code"], 137, "{exited}");
        stand.agent.wait_status("a", "failed", SOON).await;
        let path = "/containers/a/restart?wait=running";
        let (status, told) = stand.agent.ask("POST", path, None).await;
        assert_eq!(status, 200, "{told}");
        shown = told;
    }
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    eprintln!(
        "{} kills: median {:?}, p99 {:?}, worst {:?}",
        took.len(),
        at(50),
        at(99),
        at(100)
    );
    // No timer is in the way: a resync or a poll of the reader would take many seconds.
    assert!(at(50) < Duration::from_secs(3), "{took:?}");
    stand.end().await;
}
