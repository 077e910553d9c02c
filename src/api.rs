//! The HTTP interface. It changes what is desired and shows what is known; it cannot start a container.
//!
//! [`Node`] is all it needs of the agent. Errors are RFC 9457 problems; [`error`] alone names status codes of failures.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use axum::{Extension, Router};
use state::desired::Record;
use state::id::ContainerId;
use state::ownership::answers::Key;
use state::reason::Reason;
use state::spec::parse::{Deploy, FieldError};
use state::status::Condition;
use tokio::sync::{Semaphore, watch};

use crate::config::Secret;
use crate::metrics::Metrics;
use crate::monitor::NodeFacts;

mod auth;
mod containers;
mod declared;
pub mod error;
mod explain;
mod health;
pub mod listener;
mod logs;
mod metrics;
mod once;
mod outcome;
mod query;
#[cfg(test)]
mod tests;
mod wire;

/// A deploy body is a few kilobytes; its largest part, the environment, is bounded to 128 KiB.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What the API needs of the agent.
///
/// A client that goes away drops the future of its request: what the calls that change something began must come to its end,
/// and be acted on, without being polled again.
pub trait Node: Send + Sync + 'static {
    /// Takes in a deploy; on a dry run, only answers what it would come to. Durable when it answers.
    fn deploy(
        &self,
        deploy: Deploy,
        dry_run: bool,
    ) -> impl Future<Output = Result<Deployed, Refusal>> + Send;

    /// Takes in a deploy that bears a key, once. `request` is a fingerprint of all that it asks for.
    fn deploy_once(
        &self,
        deploy: Deploy,
        key: Key,
        request: String,
    ) -> impl Future<Output = Result<Once<Deployed>, Refusal>> + Send;

    /// The set owned by push.
    fn declared(&self) -> Declared;

    /// Makes the set owned by push what is asked, all of it or nothing. Durable when it answers.
    fn replace(
        &self,
        replace: Replace,
    ) -> impl Future<Output = Result<Once<Replaced>, Refusal>> + Send;

    /// Confirms what is held of the set that CHaS lists (of this generation, if one is given). Answers how many end.
    fn confirm(
        &self,
        generation: Option<u64>,
    ) -> impl Future<Output = Result<usize, Refusal>> + Send;

    /// What would be done now.
    fn plan(&self) -> Plan;

    /// Why a container is where it is.
    fn explain(&self, id: ContainerId) -> Option<Explanation>;

    /// Changes what is desired of one container. Durable when it answers.
    fn change(
        &self,
        id: ContainerId,
        change: Change,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Every container, by name; those that are not ours last.
    fn containers(&self) -> Vec<View>;

    /// One container.
    fn container(&self, id: ContainerId) -> Option<View>;

    /// A number that grows whenever a view may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Where the container's log files are.
    fn logs_dir(&self, id: ContainerId) -> PathBuf;

    /// The node's health.
    fn health(&self) -> Health;
}

/// What a deploy came to.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// The container as it is then (on a dry run: as it would be).
    pub view: View,
    /// It differs from what was stored.
    pub changed: bool,
    /// What will be (on a dry run: would be) done for it.
    pub plan: Vec<Action>,
}

#[path = "view/plan.rs"]
mod shown;

pub use shown::{Action, Course, Declared, Explanation, Link, Once, Plan, Replace, Replaced};

/// A change of what is desired of a container.
pub use state::ownership::Order as Change;

/// Why a change was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It contradicts what is there: a name or host port that somebody else has.
    Conflict(String),
    /// There is no such container.
    NotFound(String),
    /// The body is not valid.
    Invalid(Vec<FieldError>),
    /// The request's `Idempotency-Key` was used for another one.
    Reused(String),
    /// The node has no room for it.
    Full(String),
    /// The agent cannot take it now.
    Unavailable(String),
}

/// A container as it is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// What was asked; `None` for one that is not ours.
    pub record: Option<Arc<Record>>,
    /// The id and image of one that is not ours.
    pub foreign: Option<(String, String)>,
    /// Its status and why.
    pub condition: Condition,
    /// When the next attempt is made.
    pub next_attempt: Option<SystemTime>,
    /// Since when it runs.
    pub started: Option<SystemTime>,
    /// When it ended last.
    pub finished: Option<SystemTime>,
    /// How it ended last.
    pub exit_code: Option<u32>,
    /// How often it was started again.
    pub restart_count: u32,
    /// Bytes fetched of its image, and in all.
    pub pull: Option<(u64, u64)>,
    /// The generation that runs or last ran, if one does.
    pub applied_generation: Option<u64>,
}

impl View {
    /// The id it goes by: ours, or containerd's where it is not ours.
    fn id(&self) -> String {
        let foreign = || {
            self.foreign
                .as_ref()
                .map(|(id, _)| id.clone())
                .unwrap_or_default()
        };
        self.record
            .as_ref()
            .map_or_else(foreign, |record| record.id.to_string())
    }
}

/// The node's health.
#[derive(Clone, Debug)]
pub struct Health {
    /// The node's resources.
    pub facts: NodeFacts,
    /// Containers that run.
    pub running: usize,
    /// Containers that are not as desired.
    pub unsettled: usize,
    /// containerd answers.
    pub containerd: bool,
    /// Since when that is so.
    pub containerd_since: SystemTime,
    /// What it said last when it did not.
    pub containerd_error: Option<String>,
    /// Changes can be stored.
    pub writable: bool,
    /// The stored state was damaged, and what of it only containerd has is not taken in yet.
    pub rebuilding: bool,
    /// What the start found lost or damaged of the stored state, in sentences.
    pub losses: Vec<String>,
    /// What went wrong lately: when, the code, what.
    pub errors: Vec<(SystemTime, Reason, String)>,
    /// The link to CHaS. `None`: none is configured.
    pub link: Option<Link>,
}

impl Health {
    /// In a word. CHaS being away is no fault of the node.
    #[must_use]
    pub fn status(&self) -> &'static str {
        let is_itself = self
            .link
            .as_ref()
            .is_none_or(|link| !link.identity_conflict);
        match (
            self.containerd,
            self.writable && !self.rebuilding && is_itself,
            self.unsettled,
        ) {
            (false, ..) => "unhealthy",
            (true, true, 0) => "healthy",
            (true, ..) => "degraded",
        }
    }
}

/// The whole interface. With a `token`, every call but the probes needs it. Without `metrics`, there are none to see.
pub fn router<N: Node>(node: Arc<N>, token: Option<Secret>, metrics: Option<Metrics>) -> Router {
    let followers = Arc::new(Semaphore::new(logs::FOLLOWERS_MAX));
    let shown = metrics
        .clone()
        .map(|metrics| get(metrics::metrics::<N>).layer(Extension(metrics)));
    let guarded = shown.map_or_else(Router::new, |shown| Router::new().route("/metrics", shown));
    let guarded = guarded
        .route("/containers/deploy", post(containers::deploy::<N>))
        .route("/containers", get(containers::list::<N>))
        .route(
            "/containers/{id}",
            get(containers::get::<N>).delete(containers::remove::<N>),
        )
        .route("/containers/{id}/stop", post(containers::stop::<N>))
        .route("/containers/{id}/start", post(containers::start::<N>))
        .route("/containers/{id}/restart", post(containers::restart::<N>))
        .route(
            "/containers/{id}/logs",
            get(logs::logs::<N>).layer(Extension(followers)),
        )
        .route("/containers/{id}/explain", get(explain::explain::<N>))
        .route(
            "/desired-state",
            get(declared::get::<N>).put(declared::put::<N>),
        )
        .route("/desired-state/confirm", post(declared::confirm::<N>))
        .route("/plan", get(explain::plan::<N>))
        .route("/health", get(health::health::<N>))
        .route_layer(middleware::from_fn_with_state(Arc::new(token), auth::check));
    let open = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(health::ready::<N>))
        .route("/version", get(health::version));
    let routes = guarded
        .merge(open)
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method);
    // The last one is the outermost: a panic is answered first, and then logged and counted as the answer it became.
    let routes = routes
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(
            error::panicked,
        ))
        .layer(middleware::from_fn(error::access_log));
    let routes = match metrics {
        Some(metrics) => routes.layer(middleware::from_fn_with_state(metrics, metrics::count)),
        None => routes,
    };
    routes.with_state(node)
}
