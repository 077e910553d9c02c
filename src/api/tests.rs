//! Every answer of the interface, over a node that only plays its part.

use std::future::ready;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Request, header};
use serde_json::{Value, json};
use state::desired::Record;
use state::desired::set::{Desired, DesiredChange};
use state::id::{ContainerId, ContainerName};
use state::log_level::LevelOrder;
use state::ownership::Order;
use state::ownership::answers::{Key, Keyed};
use state::spec::{Content, SecretName, parse::Deploy};
use state::status::Status;
use state::store::{
    ExpectedTag, Idempotent, ReplaceRequest, RollbackRequest, RollbackTarget, SecretChange,
    SecretEntry,
};
use state::{access::NameScope, time::BootTime};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::caller::{Caller, CallerPeer};
use super::{CallRules, CallerToken, ClientList, Gate, NodeApi, OwnNames, Refusal, router};
use crate::cgroup::usage::UsageDetail;
use crate::config::Secret;
use crate::exec::{ExecOrder, ExecRefusal, ExecSession};
use crate::feed::EventFeed;
use crate::log_level::LogLevelView;
use crate::view::{
    CapacityView, ChronicleView, ContainerPlanView, ContainerView, DeployedView, ExplanationView,
    FindError, Found, HealthView, ManagedView, Naming, PlanView, PushSetView, SetPlanView,
    UnmanagedView, UsageView, find,
};

mod capacity;
mod changes;
mod chronicle;
pub(crate) mod denied;
mod events;
mod exec;
mod explain;
pub(super) mod files;
pub(crate) mod health_seen;
mod images;
mod listing;
mod log_level;
mod logs;
mod looks;
mod maintenance;
mod metrics;
mod openapi;
mod orders;
mod page;
mod push_set;
mod rights;
mod secrets;
mod stats;
mod tasks;
mod views;

use explain::pulls;
use views::{named, record, view};

/// Shows what it is told to show.
struct Fake {
    views: Mutex<Vec<ManagedView>>,
    unmanaged: Mutex<Vec<UnmanagedView>>,
    refusal: Mutex<Option<Refusal>>,
    ordered: Mutex<Vec<(ContainerId, Order)>>,
    asked: Mutex<Vec<ContainerId>>,
    changes: watch::Sender<u64>,
    feed: EventFeed,
    containerd: bool,
    logs: PathBuf,
    /// What the next request with a key is answered, as one that came before.
    before: Mutex<Option<state::desired::answer::Answer>>,
    keys: Mutex<Vec<(Key, String)>>,
    replaced: Mutex<Vec<ReplaceRequest>>,
    expected: Mutex<Vec<ExpectedTag>>,
    revealed: Mutex<Vec<Option<ContainerName>>>,
    secrets: Mutex<Vec<SecretEntry>>,
    /// Names of the containers that are not as they should be, the worst first.
    worst: Mutex<Vec<&'static str>>,
    execs: exec::FakeExecs,
    files: files::FakeFiles,
    level: log_level::FakeLevel,
    played: tasks::Played,
}

impl Fake {
    fn new(views: Vec<ManagedView>) -> Arc<Self> {
        Arc::new(Self::with(views))
    }

    fn with(views: Vec<ManagedView>) -> Self {
        let (changes, _) = watch::channel(0);
        let (views, refusal, ordered) = (Mutex::new(views), Mutex::default(), Mutex::default());
        let (before, keys, replaced) = (Mutex::default(), Mutex::default(), Mutex::default());
        let logs = PathBuf::from("/nonexistent");
        Self {
            views,
            unmanaged: Mutex::default(),
            expected: Mutex::default(),
            refusal,
            ordered,
            asked: Mutex::default(),
            changes,
            feed: EventFeed::default(),
            containerd: true,
            logs,
            before,
            keys,
            replaced,
            revealed: Mutex::default(),
            secrets: Mutex::default(),
            worst: Mutex::new(vec!["db"]),
            execs: exec::FakeExecs::default(),
            files: files::FakeFiles::default(),
            level: log_level::FakeLevel::default(),
            played: tasks::Played::default(),
        }
    }

    fn show(&self, views: Vec<ManagedView>) {
        *self.views.lock().unwrap() = views;
        self.changes.send_modify(|count| *count += 1);
    }

    fn take(&self, deploy: Deploy, dry_run: bool) -> DeployedView {
        let mut views = self.views.lock().unwrap();
        if let Some(view) = views.iter().find(|view| view.record.name == deploy.name) {
            return DeployedView {
                container: view.clone(),
                changed: false,
                plan: Vec::new(),
            };
        }
        let view = view(&record(deploy, 0xabc), Status::Pending);
        if !dry_run {
            views.push(view.clone());
        }
        DeployedView {
            container: view,
            changed: true,
            plan: vec![pulls()],
        }
    }

    /// Takes a key, unless it came before.
    fn once<T>(&self, key: Option<Keyed>, now: impl FnOnce() -> T) -> Idempotent<T> {
        let before = key
            .as_ref()
            .and_then(|_| self.before.lock().unwrap().clone());
        let key = key.map(|keyed| (keyed.key, keyed.request));
        self.keys.lock().unwrap().extend(key);
        before.map_or_else(|| Idempotent::Now(now()), Idempotent::Before)
    }

    fn refused(&self) -> Result<(), Refusal> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl NodeApi for Fake {
    fn keyed(&self, key: Key, request: String) -> Keyed {
        Keyed {
            key,
            request,
            boot_id: String::new(),
            now: BootTime::default(),
        }
    }

    async fn usage(&self, only: Option<ContainerId>, _: UsageDetail) -> Vec<UsageView> {
        self.usage_of(only)
    }

    fn deploy(
        &self,
        expected: ExpectedTag,
        deploy: Deploy,
        dry_run: bool,
    ) -> impl Future<Output = Result<DeployedView, Refusal>> + Send {
        self.expected.lock().unwrap().push(expected);
        ready(self.refused().map(|()| self.take(deploy, dry_run)))
    }

    fn deploy_once(
        &self,
        _: ExpectedTag,
        deploy: Deploy,
        keyed: Keyed,
    ) -> impl Future<Output = Result<Idempotent<DeployedView>, Refusal>> + Send {
        ready(
            self.refused()
                .map(|()| self.once(Some(keyed), || self.take(deploy, false))),
        )
    }

    fn secrets(&self) -> Vec<SecretEntry> {
        self.secrets.lock().unwrap().clone()
    }

    async fn put_secret(&self, name: SecretName, value: Content) -> Result<SecretChange, Refusal> {
        self.put_secret_of(name, &value)
    }

    async fn remove_secret(&self, name: SecretName) -> Result<(), Refusal> {
        self.remove_secret_of(&name)
    }

    fn opened(&self, record: &Record) -> Record {
        record.clone()
    }

    fn note_reveal(
        &self,
        name: Option<ContainerName>,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        ready(
            self.refused()
                .map(|()| self.revealed.lock().unwrap().push(name)),
        )
    }

    fn exec(
        &self,
        id: ContainerId,
        order: ExecOrder,
        is_local: bool,
    ) -> impl Future<Output = Result<ExecSession, ExecRefusal>> + Send {
        self.execs.begin(id, order, is_local)
    }

    async fn chronicle(&self, id: ContainerId) -> Result<ChronicleView, Refusal> {
        self.refused()?;
        Ok(chronicle::told(self.container(id).unwrap()))
    }

    async fn rollback_target(
        &self,
        request: RollbackRequest,
    ) -> Result<Idempotent<RollbackTarget>, Refusal> {
        self.refused()?;
        let view = self.container(request.id).unwrap();
        let is_other = |tags: Vec<String>| !tags.contains(&view.record.etag());
        if request.if_match.is_some_and(is_other) {
            return Err(Refusal::Unmatched("web has changed".to_owned()));
        }
        Ok(self.once(request.keyed, || chronicle::target(&view)))
    }

    async fn go_back(
        &self,
        request: RollbackRequest,
        target: RollbackTarget,
    ) -> Result<Idempotent<DeployedView>, Refusal> {
        self.asked.lock().unwrap().push(request.id);
        Ok(Idempotent::Now(DeployedView {
            container: self.container(request.id).unwrap(),
            changed: !target.is_there,
            plan: Vec::new(),
        }))
    }

    fn push_set(&self, scope: &NameScope) -> PushSetView {
        let views = self.views.lock().unwrap();
        let records = views.iter().map(|view| (*view.record).clone());
        PushSetView {
            records: records.filter(|record| scope.has(&record.name)).collect(),
            etag: "0a1b".to_owned(),
        }
    }

    fn replace(
        &self,
        replacing: ReplaceRequest,
    ) -> impl Future<Output = Result<Idempotent<SetPlanView>, Refusal>> + Send {
        let plans = replacing.wanted.iter().map(|deploy| ContainerPlanView {
            id: ContainerId::from_bits(0xabc),
            name: Some(deploy.name.clone()),
            steps: vec![pulls()],
        });
        let replaced = SetPlanView {
            etag: "2c3d".to_owned(),
            plan: plans.collect(),
            unconfirmed: replacing.dry_run.then_some(7),
        };
        let answer = self
            .refused()
            .map(|()| self.once(replacing.keyed.clone(), || replaced));
        self.replaced.lock().unwrap().push(replacing);
        ready(answer)
    }

    fn confirm(&self, _: Option<u64>) -> impl Future<Output = Result<usize, Refusal>> + Send {
        ready(self.refused().map(|()| 3))
    }

    fn plan(&self) -> PlanView {
        let plan = |view: &ManagedView| {
            let steps = if view.condition.status == Status::Running {
                Vec::new()
            } else {
                vec![pulls()]
            };
            ContainerPlanView {
                id: view.record.id,
                name: Some(view.record.name.clone()),
                steps,
            }
        };
        PlanView {
            containers: self.views.lock().unwrap().iter().map(plan).collect(),
            leftovers: Vec::new(),
            blocked: (!self.containerd).then(|| "containerd is unreachable".to_owned()),
        }
    }

    fn explain(&self, id: ContainerId) -> Option<ExplanationView> {
        Some(explain::explanation(self.container(id)?))
    }

    fn order(
        &self,
        id: ContainerId,
        order: Order,
        _: ExpectedTag,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        ready(
            self.refused()
                .map(|()| self.ordered.lock().unwrap().push((id, order))),
        )
    }

    fn ask_tag(&self, id: ContainerId) -> impl Future<Output = Result<(), Refusal>> + Send {
        ready(self.refused().map(|()| self.asked.lock().unwrap().push(id)))
    }

    fn containers(&self) -> Vec<ContainerView> {
        let managed = self.views.lock().unwrap().clone().into_iter();
        let unmanaged = self.unmanaged.lock().unwrap().clone().into_iter();
        managed
            .map(|view| ContainerView::Managed(Box::new(view)))
            .chain(unmanaged.map(ContainerView::Unmanaged))
            .collect()
    }

    fn container(&self, id: ContainerId) -> Option<ManagedView> {
        let views = self.views.lock().unwrap();
        views.iter().find(|view| view.record.id == id).cloned()
    }

    fn find(&self, name: &str, naming: Naming) -> Result<ContainerView, FindError> {
        let put = |view: &ManagedView| DesiredChange::Put(Box::new((*view.record).clone()));
        let records: Vec<_> = self.views.lock().unwrap().iter().map(put).collect();
        let unmanaged = self.unmanaged.lock().unwrap();
        Ok(
            match find(&Desired::default().with(&records), &unmanaged, name, naming)? {
                Found::Managed(record) => {
                    ContainerView::Managed(Box::new(self.container(record.id).unwrap()))
                }
                Found::Unmanaged(view) => ContainerView::Unmanaged(view),
            },
        )
    }

    fn feed(&self) -> EventFeed {
        self.feed.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn logs_dir(&self, _: ContainerId) -> PathBuf {
        self.logs.clone()
    }

    fn capacity(&self) -> CapacityView {
        capacity::seen()
    }

    fn health(&self) -> HealthView {
        let worst = self.worst.lock().unwrap();
        health_seen::seen(self.containerd, &worst)
    }

    fn log_level(&self) -> LogLevelView {
        self.level.0.now()
    }

    async fn set_log_level(&self, order: LevelOrder) -> Result<LogLevelView, Refusal> {
        self.refused().map(|()| self.level.given(&order))
    }
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

/// A caller from the network.
const STRANGE: CallerPeer = CallerPeer::Tcp(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
/// Root, on the socket.
const ROOT: CallerPeer = CallerPeer::Socket { uid: 0, pid: None };

fn rules(token: Option<&str>) -> CallRules {
    rules_with(token, ClientList::default())
}

fn rules_with(token: Option<&str>, clients: ClientList) -> CallRules {
    let token = CallerToken::new(token.map(Secret::new));
    let (socket, file) = (
        Path::new("/run/agent.sock"),
        Path::new("/state/admin-token"),
    );
    CallRules {
        gate: Gate::new(token, clients, socket, file),
        hosts: OwnNames::default(),
    }
}

/// A request as it comes through the door.
fn of(peer: CallerPeer, mut request: Request<Body>) -> Request<Body> {
    let host = HeaderValue::from_static("localhost");
    request.headers_mut().entry(header::HOST).or_insert(host);
    request.extensions_mut().insert(Caller::of(peer));
    request
}

/// Sends a request: over the network to a node with this token, or else on the socket.
async fn send(node: &Arc<Fake>, token: Option<&str>, request: Request<Body>) -> Answer {
    let peer = token.map_or(ROOT, |_| STRANGE);
    let router = router(Arc::clone(node), rules(token), None);
    sent(router, of(peer, request)).await
}

/// The answer of a router to one request.
async fn sent(router: axum::Router, request: Request<Body>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().to_string());
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    let answer = Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text,
    };
    openapi::check(&method, &path, &answer);
    answer
}

async fn ask(node: &Arc<Fake>, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    send(
        node,
        None,
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
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
    let is_whole = body["title"].is_string() && body["type"].is_string();
    assert!(is_whole, "{body}");
    assert!(body["detail"].as_str().unwrap().contains(says), "{body}");
}
