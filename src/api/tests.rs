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
use state::ownership::answers::Key;
use state::reason::Reason;
use state::spec::parse::Deploy;
use state::status::{Condition, Status};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::{
    Action, Change, Course, Declared, Deployed, Explanation, Health, Node, Once, Plan, Refusal,
    Replace, Replaced, View, router,
};
use crate::config::Secret;
use crate::monitor::NodeFacts;

mod changes;
mod declared;
mod explain;
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
    /// What the next request with a key is answered, as one that came before.
    before: Mutex<Option<state::desired::answer::Answer>>,
    keys: Mutex<Vec<(Key, String)>>,
    replaced: Mutex<Vec<Replace>>,
}

impl Fake {
    fn new(views: Vec<View>) -> Arc<Self> {
        Arc::new(Self::with(views))
    }

    fn with(views: Vec<View>) -> Self {
        let (changes, _) = watch::channel(0);
        let (views, refusal, changed) = (Mutex::new(views), Mutex::default(), Mutex::default());
        let (before, keys, replaced) = (Mutex::default(), Mutex::default(), Mutex::default());
        let logs = PathBuf::from("/nonexistent");
        Self {
            views,
            refusal,
            changed,
            changes,
            containerd: true,
            logs,
            before,
            keys,
            replaced,
        }
    }

    fn show(&self, views: Vec<View>) {
        *self.views.lock().unwrap() = views;
        self.changes.send_modify(|count| *count += 1);
    }

    fn take(&self, deploy: Deploy, dry_run: bool) -> Deployed {
        let mut views = self.views.lock().unwrap();
        let named = |view: &&View| {
            view.record
                .as_ref()
                .is_some_and(|record| record.name == deploy.name)
        };
        if let Some(view) = views.iter().find(named) {
            return Deployed {
                view: view.clone(),
                changed: false,
                plan: Vec::new(),
            };
        }
        let view = view(&record(deploy, 0xabc), Status::Pending);
        if !dry_run {
            views.push(view.clone());
        }
        Deployed {
            view,
            changed: true,
            plan: vec![pulls()],
        }
    }

    /// Takes a key, unless it came before.
    fn once<T>(&self, key: Option<(Key, String)>, now: impl FnOnce() -> T) -> Once<T> {
        let before = key
            .as_ref()
            .and_then(|_| self.before.lock().unwrap().clone());
        self.keys.lock().unwrap().extend(key);
        before.map_or_else(|| Once::Now(now()), Once::Before)
    }

    fn refused(&self) -> Result<(), Refusal> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Node for Fake {
    fn deploy(
        &self,
        deploy: Deploy,
        dry_run: bool,
    ) -> impl Future<Output = Result<Deployed, Refusal>> + Send {
        ready(self.refused().map(|()| self.take(deploy, dry_run)))
    }

    fn deploy_once(
        &self,
        deploy: Deploy,
        key: Key,
        request: String,
    ) -> impl Future<Output = Result<Once<Deployed>, Refusal>> + Send {
        ready(
            self.refused()
                .map(|()| self.once(Some((key, request)), || self.take(deploy, false))),
        )
    }

    fn declared(&self) -> Declared {
        let records = self
            .views
            .lock()
            .unwrap()
            .iter()
            .filter_map(|view| view.record.as_deref().cloned())
            .collect();
        Declared {
            records,
            etag: "0a1b".to_owned(),
        }
    }

    fn replace(
        &self,
        replace: Replace,
    ) -> impl Future<Output = Result<Once<Replaced>, Refusal>> + Send {
        let courses = replace.wanted.iter().map(|deploy| Course {
            id: ContainerId::from_bits(0xabc),
            name: Some(deploy.name.clone()),
            steps: vec![pulls()],
        });
        let replaced = Replaced {
            etag: "2c3d".to_owned(),
            plan: courses.collect(),
        };
        let answer = self
            .refused()
            .map(|()| self.once(replace.key.clone(), || replaced));
        self.replaced.lock().unwrap().push(replace);
        ready(answer)
    }

    fn confirm(&self, _: Option<u64>) -> impl Future<Output = Result<usize, Refusal>> + Send {
        ready(self.refused().map(|()| 3))
    }

    fn plan(&self) -> Plan {
        let course = |view: &View| {
            let record = view.record.as_ref()?;
            let steps = if view.condition.status == Status::Running {
                Vec::new()
            } else {
                vec![pulls()]
            };
            Some(Course {
                id: record.id,
                name: Some(record.name.clone()),
                steps,
            })
        };
        let containers = self
            .views
            .lock()
            .unwrap()
            .iter()
            .filter_map(course)
            .collect();
        Plan {
            containers,
            leftovers: Vec::new(),
            blocked: (!self.containerd).then(|| "containerd is away".to_owned()),
        }
    }

    fn explain(&self, id: ContainerId) -> Option<Explanation> {
        Some(explain::explanation(self.container(id)?))
    }

    fn change(
        &self,
        id: ContainerId,
        change: Change,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        ready(
            self.refused()
                .map(|()| self.changed.lock().unwrap().push((id, change))),
        )
    }

    fn containers(&self) -> Vec<View> {
        self.views.lock().unwrap().clone()
    }

    fn container(&self, id: ContainerId) -> Option<View> {
        self.containers()
            .into_iter()
            .find(|view| view.record.as_ref().is_some_and(|record| record.id == id))
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
            link: None,
            errors: vec![(SystemTime::UNIX_EPOCH, Reason::PortTaken, "8080".to_owned())],
        }
    }
}

/// The step that everything begins with.
fn pulls() -> Action {
    Action {
        word: "pull",
        instance: Some("000000000abc-1".parse().unwrap()),
        why: "it is not resolved".to_owned(),
        until: None,
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
        cordoned: false,
        listed_hash: None,
        assignment: Assignment {
            address: Some(Ipv4Addr::new(10, 0, 0, 2)),
            ports: Vec::new(),
        },
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
        condition: Condition {
            status,
            reason: None,
            message: None,
            next_attempt: None,
        },
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
    let response = router(Arc::clone(node), token.map(Secret::new), None)
        .oneshot(request)
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text,
    }
}

async fn ask(node: &Arc<Fake>, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    send(
        node,
        None,
        Request::builder()
            .method(method)
            .uri(path)
            .body(body.into())
            .unwrap(),
    )
    .await
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
    assert_eq!(
        (answer.status, &answer.headers[header::CONTENT_TYPE]),
        (status, &"application/problem+json".parse().unwrap())
    );
    let body = answer.json();
    assert_eq!(body["status"], status);
    assert!(
        body["title"].is_string() && body["type"].is_string(),
        "{body}"
    );
    assert!(body["detail"].as_str().unwrap().contains(says), "{body}");
}
