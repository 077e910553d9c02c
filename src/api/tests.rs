//! Every answer of the interface, over a node that only plays its part.

use std::future::ready;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, header};
use serde_json::{Value, json};
use state::desired::{Assignment, Owner, Record};
use state::id::ContainerId;
use state::reason::Reason;
use state::spec::parse::Deploy;
use state::status::{Condition, Status};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::{Change, Deployed, Health, Node, Refusal, View, router};
use crate::config::Secret;
use crate::monitor::NodeFacts;

mod changes;
mod logs;
mod looks;
mod metrics;

/// Shows what it is told to show.
struct Fake {
    views: Mutex<Vec<View>>,
    refusal: Mutex<Option<Refusal>>,
    changed: Mutex<Vec<(ContainerId, Change)>>,
    changes: watch::Sender<u64>,
    containerd: bool,
    logs: PathBuf,
}

impl Fake {
    fn new(views: Vec<View>) -> Arc<Self> {
        Arc::new(Self::with(views))
    }

    fn with(views: Vec<View>) -> Self {
        let (changes, _) = watch::channel(0);
        let (views, refusal, changed) = (Mutex::new(views), Mutex::default(), Mutex::default());
        Self { views, refusal, changed, changes, containerd: true, logs: PathBuf::from("/nonexistent") }
    }

    fn show(&self, views: Vec<View>) {
        *self.views.lock().unwrap() = views;
        self.changes.send_modify(|count| *count += 1);
    }

    fn take(&self, deploy: Deploy, dry_run: bool) -> Deployed {
        let mut views = self.views.lock().unwrap();
        let named = |view: &&View| view.record.as_ref().is_some_and(|record| record.name == deploy.name);
        if let Some(view) = views.iter().find(named) {
            return Deployed { view: view.clone(), changed: false };
        }
        let view = view(&record(deploy, 0xabc), Status::Pending);
        if !dry_run {
            views.push(view.clone());
        }
        Deployed { view, changed: true }
    }

    fn refused(&self) -> Result<(), Refusal> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Node for Fake {
    fn deploy(&self, deploy: Deploy, dry_run: bool) -> impl Future<Output = Result<Deployed, Refusal>> + Send {
        ready(self.refused().map(|()| self.take(deploy, dry_run)))
    }

    fn change(&self, id: ContainerId, change: Change) -> impl Future<Output = Result<(), Refusal>> + Send {
        ready(self.refused().map(|()| self.changed.lock().unwrap().push((id, change))))
    }

    fn containers(&self) -> Vec<View> {
        self.views.lock().unwrap().clone()
    }

    fn container(&self, id: ContainerId) -> Option<View> {
        self.containers().into_iter().find(|view| view.record.as_ref().is_some_and(|record| record.id == id))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn logs_dir(&self, _: ContainerId) -> PathBuf {
        self.logs.clone()
    }

    fn health(&self) -> Health {
        Health {
            writable: true,
            rebuilding: false,
            losses: Vec::new(),
            facts: NodeFacts::default(),
            running: 3,
            unsettled: 0,
            containerd: self.containerd,
            containerd_since: SystemTime::UNIX_EPOCH,
            containerd_error: None,
            errors: vec![(SystemTime::UNIX_EPOCH, Reason::PortTaken, "8080".to_owned())],
        }
    }
}

fn record(deploy: Deploy, bits: u64) -> Record {
    Record {
        id: ContainerId::from_bits(bits),
        name: deploy.name,
        spec_hash: deploy.spec.hash(),
        spec: deploy.spec,
        owner: Owner::Push,
        generation: 1,
        revision: deploy.revision,
        seq: 1,
        run: deploy.run,
        priority: deploy.priority,
        removing: false,
        restart_pending: false,
        finished: None,
        assignment: Assignment { address: Ipv4Addr::new(10, 0, 0, 2), ports: Vec::new() },
        image_digest: None,
        created_ms: 0,
    }
}

fn named(name: &str, bits: u64) -> Record {
    let body = json!({"name": name, "image": "nginx", "environment": {"PASSWORD": "hunter2"}, "labels": {"team": name}});
    record(state::spec::parse::deploy(&body).unwrap(), bits)
}

fn view(record: &Record, status: Status) -> View {
    View {
        record: Some(Arc::new(record.clone())),
        foreign: None,
        condition: Condition { status, reason: None, message: None, next_attempt: None },
        next_attempt: None,
        started: None,
        finished: None,
        exit_code: None,
        restart_count: 0,
        pull: None,
        applied_generation: (status == Status::Running).then_some(record.generation),
    }
}

fn failed(record: &Record, status: Status) -> View {
    let mut view = view(record, status);
    view.condition.reason = Some(Reason::ImageNotFound);
    view.condition.message = Some("no such tag".to_owned());
    view
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

async fn send(node: &Arc<Fake>, token: Option<&str>, request: Request<Body>) -> Answer {
    let response = router(Arc::clone(node), token.map(Secret::new), None).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    Answer { status: parts.status.as_u16(), headers: parts.headers, text }
}

async fn ask(node: &Arc<Fake>, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    send(node, None, Request::builder().method(method).uri(path).body(body.into()).unwrap()).await
}

async fn get(node: &Arc<Fake>, path: &str) -> Answer {
    ask(node, "GET", path, Body::empty()).await
}

fn nginx() -> String {
    json!({"name": "web", "image": "nginx"}).to_string()
}

/// A problem of RFC 9457 with this status, that says this.
#[track_caller]
fn problem(answer: &Answer, status: u16, says: &str) {
    assert_eq!((answer.status, &answer.headers[header::CONTENT_TYPE]), (status, &"application/problem+json".parse().unwrap()));
    let body = answer.json();
    assert_eq!(body["status"], status);
    assert!(body["title"].is_string() && body["type"].is_string(), "{body}");
    assert!(body["detail"].as_str().unwrap().contains(says), "{body}");
}
