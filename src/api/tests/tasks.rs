//! Signals to containers, and their processes.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use state::failure::Failure;
use state::id::ContainerId;
use state::reason::Reason;
use state::spec::Signal;
use state::status::Status;

use super::{Fake, ask, get, named, problem, view};
use crate::api::{NodeTasks, TaskRefusal};
use crate::monitor::processes;
use crate::view::ProcessesView;

/// Parts that the fake agent plays.
#[derive(Debug, Default)]
pub(super) struct Played {
    pub(super) tasks: FakeTasks,
    pub(super) cordon: super::maintenance::FakeCordon,
    pub(super) images: super::images::FakeImages,
}

/// Tasks of the fake agent: signals that were sent, and the refusal of the next.
#[derive(Debug, Default)]
pub(super) struct FakeTasks {
    sent: Mutex<Vec<(ContainerId, Signal)>>,
    refusal: Mutex<Option<TaskRefusal>>,
}

impl FakeTasks {
    fn refused(&self) -> Result<(), TaskRefusal> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl NodeTasks for Fake {
    async fn send_signal(&self, id: ContainerId, signal: Signal) -> Result<(), TaskRefusal> {
        self.played.tasks.refused()?;
        self.played.tasks.sent.lock().unwrap().push((id, signal));
        Ok(())
    }

    async fn processes(&self, id: ContainerId) -> Result<ProcessesView, TaskRefusal> {
        self.played.tasks.refused()?;
        let views = self.views.lock().unwrap();
        let view = views.iter().find(|view| view.record.id == id).unwrap();
        Ok(ProcessesView {
            record: view.record.clone(),
            generation: 1,
            processes: processes::look(&[std::process::id()]),
            is_cut: false,
        })
    }
}

#[tokio::test]
async fn a_signal_is_sent_as_it_is_named_and_what_is_none_is_sent_to_nobody() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let path = "/containers/web/kill";
    for (query, number) in [
        ("", 9),
        ("?signal=SIGHUP", 1),
        ("?signal=usr1", 10),
        ("?signal=15", 15),
        ("?signal=RTMIN%2B3", 37),
    ] {
        let answer = ask(&node, "POST", &format!("{path}{query}"), "").await;
        assert_eq!(answer.status, 202, "{query}: {}", answer.text);
        let sent = std::mem::take(&mut *node.played.tasks.sent.lock().unwrap());
        let sent: Vec<_> = sent.iter().map(|(_, signal)| signal.number()).collect();
        assert_eq!(sent, [number], "{query}");
    }
    for (path, status, says) in [
        ("/containers/web/kill?signal=NONE", 400, "is not a signal"),
        ("/containers/web/kill?signal=0", 400, "1 to 64"),
        ("/containers/web/kill?wait=stopped", 400, "wait=ended is"),
        ("/containers/web/kill?grace=1", 400, "known are signal"),
        ("/containers/db/kill", 404, "no container"),
        // The beginning of an id names nobody who is changed.
        ("/containers/00000000/kill", 404, "whole name or id"),
    ] {
        problem(&ask(&node, "POST", path, "").await, status, says);
    }
    assert!(node.played.tasks.sent.lock().unwrap().is_empty());
    assert!(node.ordered.lock().unwrap().is_empty(), "nothing is stored");
}

#[tokio::test]
async fn a_signal_or_a_look_that_reaches_nobody_says_why() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let says = "it does not run";
    for (refusal, status) in [
        (TaskRefusal::NotRunning(says.to_owned()), 409),
        (TaskRefusal::Gone(says.to_owned()), 404),
        (TaskRefusal::Unavailable(says.to_owned()), 503),
        (
            TaskRefusal::Failed(Failure::new(Reason::ShimUnresponsive, says)),
            422,
        ),
    ] {
        *node.played.tasks.refusal.lock().unwrap() = Some(refusal);
        problem(
            &ask(&node, "POST", "/containers/web/kill", "").await,
            status,
            says,
        );
        problem(&get(&node, "/containers/web/top").await, status, says);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_end_hears_of_it_and_not_of_what_runs_next() {
    let mut now = view(&named("web", 0xabc), Status::Running);
    now.applied_generation = Some(1);
    now.started = Some(std::time::SystemTime::UNIX_EPOCH);
    let mut next = now.clone();
    next.started = Some(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let mut ended = now.clone();
    ended.applied_generation = None;
    let path = "/containers/web/kill?wait=ended&timeout=10s";
    for (then, status) in [
        (vec![now.clone()], 504),
        (vec![next], 200),
        (vec![ended], 200),
        (Vec::new(), 404),
    ] {
        let node = Fake::new(vec![now.clone()]);
        let later = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            node.show(then);
        };
        let (answer, ()) = tokio::join!(ask(&node, "POST", path, ""), later);
        assert_eq!(answer.status, status, "{}", answer.text);
    }
}

#[tokio::test]
async fn processes_are_told_with_their_numbers_and_words() {
    let node = Fake::new(vec![view(&named("web", 0xabc), Status::Running)]);
    let told = get(&node, "/containers/web/top").await.json();
    assert_eq!(
        (&told["name"], &told["cut"]),
        (&json!("web"), &json!(false))
    );
    let own = std::process::id();
    assert_eq!(told["processes"][0]["host_pid"], own, "{told}");
    assert!(told["processes"][0]["command"][0].is_string(), "{told}");
}
