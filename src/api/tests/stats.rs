//! What containers use, as it is shown once and as a stream.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use state::access::Role;
use state::id::ContainerId;
use state::status::Status;
use tokio::time::Instant;

use super::rights::{call, client, clients, node};
use super::views::{named, view};
use super::{Fake, ManagedView, get, problem};
use crate::cgroup::usage::{CpuUsage, GroupUsage, MemoryUsage};
use crate::logs::counts::LogCounts;
use crate::monitor::links::{LinkUsage, Traffic};
use crate::view::UsageView;

/// Begin of all that the fake's containers use.
static BEGUN: OnceLock<Instant> = OnceLock::new();

impl Fake {
    /// Containers that use half a core each.
    pub(super) fn usage_of(&self, only: Option<ContainerId>) -> Vec<UsageView> {
        let taken_at = Instant::now();
        let begun = *BEGUN.get_or_init(Instant::now);
        let views = self.views.lock().unwrap();
        let wanted = views
            .iter()
            .filter(|view| only.is_none_or(|id| view.record.id == id));
        let cpu = CpuUsage {
            total: taken_at.saturating_duration_since(begun) / 2,
            ..CpuUsage::default()
        };
        let memory = MemoryUsage {
            used: 1000,
            working_set: 600,
            ..MemoryUsage::default()
        };
        let received = Traffic {
            bytes: 7,
            ..Traffic::default()
        };
        let usage = |view: &ManagedView| UsageView {
            record: std::sync::Arc::clone(&view.record),
            generation: Some(1),
            taken: SystemTime::UNIX_EPOCH,
            taken_at,
            group: GroupUsage {
                cpu: Some(cpu.clone()),
                memory: Some(memory.clone()),
                ..GroupUsage::default()
            },
            network: Some(LinkUsage {
                received,
                ..LinkUsage::default()
            }),
            log: Some(LogCounts {
                written: 70,
                ..LogCounts::default()
            }),
        };
        wanted.map(usage).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn one_answer_has_the_counts_and_what_is_used_now() {
    let shown = get(&node(), "/containers/web-1/stats").await.json();
    assert_eq!(shown["name"], "web-1");
    assert_eq!(shown["cpu"]["used_cores"], 0.5, "{shown}");
    assert_eq!(shown["memory"]["working_set_bytes"], 600);
    assert_eq!(shown["memory"]["limit_bytes"], Value::Null);
    assert_eq!(shown["network"]["received_bytes"], 7);
    let log = json!({"written_bytes": 70, "left_out_bytes": 0, "lost_bytes": 0});
    assert_eq!(shown["log"], log);
    assert_eq!(
        shown["block_io"],
        Value::Null,
        "the kernel does not count it"
    );
    problem(&get(&node(), "/containers/other/stats").await, 404, "other");
    let unknown = get(&node(), "/stats?since=1").await;
    problem(&unknown, 400, "unknown parameter since");
}

#[tokio::test(start_paused = true)]
async fn a_caller_sees_the_containers_it_has_to_do_with() {
    let list = clients([client(Role::Read, &["web-*"])]);
    let answer = call(&node(), &list, "read", ("GET", "/stats"), &Value::Null).await;
    let names: Vec<_> = answer.json()["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shown| shown["name"].clone())
        .collect();
    assert_eq!(names, [json!("web-1"), json!("web-2")]);
    let answer = call(&node(), &list, "read", ("GET", "/metrics"), &Value::Null).await;
    let is_shown = |name: &str| answer.text.contains(&format!("container=\"{name}\""));
    assert!(is_shown("web-1") && !is_shown("db"), "{}", answer.text);
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_a_line_each_second_until_the_container_is_removed() {
    let node = Fake::new(vec![view(&named("web", 1), Status::Running)]);
    let later = async {
        tokio::time::sleep(Duration::from_millis(3500)).await;
        node.show(Vec::new());
    };
    let (answer, ()) = tokio::join!(get(&node, "/containers/web/stats?stream=true"), later);
    let lines: Vec<Value> = answer
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4, "{}", answer.text);
    assert_eq!(
        lines[0]["cpu"]["used_cores"],
        Value::Null,
        "nothing was before"
    );
    assert_eq!(lines[3]["cpu"]["used_cores"], 0.5);
}
