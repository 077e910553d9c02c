//! The HTTP interface: changes the desired state and shows the read model; it cannot start a
//! container.
//!
//! [`NodeApi`] is all it needs of the agent. Errors are RFC 9457 problems; [`error`] alone names
//! status codes of failures.

#![allow(
    clippy::unused_async,
    reason = "a handler is an async function to its router, whether it waits for anything or not"
)]

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use error::ProblemKind;
use state::access::NameScope;
use state::desired::Record;
use state::id::{ContainerId, ContainerName};
use state::log_level::LevelOrder;
use state::ownership::Order;
use state::ownership::answers::{Key, Keyed};
use state::policy::Denial;
use state::spec::parse::{Deploy, FieldError};
use state::spec::{Content, SecretName};
use state::store::{
    ExpectedTag, Idempotent, ReplaceRequest, RollbackRequest, RollbackTarget, SecretChange,
    SecretEntry,
};
use tokio::sync::watch;

use crate::cgroup::usage::UsageDetail;
use crate::exec::{ExecOrder, ExecRefusal, ExecSession};
use crate::feed::EventFeed;
use crate::log_level::LogLevelView;
use crate::metrics::Metrics;
use crate::view::{
    CapacityView, ChronicleView, ContainerView, DeployedView, ExplanationView, FindError,
    HealthView, ManagedView, Naming, PlanView, PushSetView, SetPlanView, UsageView,
};

mod accept;
mod access;
mod answer;
mod archives;
mod auth;
mod body;
mod caller;
mod capacity;
mod chronicle;
mod clients;
mod containers;
mod document;
pub(crate) mod error;
mod events;
mod exec;
mod explain;
mod files;
mod guesses;
mod health;
mod idempotency;
mod images;
mod json;
pub(crate) mod listener;
mod listing;
mod log_level;
mod logs;
mod maintenance;
mod metrics;
mod openapi;
mod operation;
mod operations;
mod origin;
mod outcome;
mod page;
mod push_set;
mod query;
mod request_id;
mod request_log;
mod rights;
mod secrets;
mod stats;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod version;
mod volumes;
mod watchers;
mod whoami;
mod wire;

pub(crate) use auth::{CallerToken, Gate};
pub(crate) use caller::current_call;
pub(crate) use clients::ClientList;
pub(crate) use files::NodeFiles;
pub(crate) use images::{ImageFetch, NodeImages};
#[cfg(any(test, fuzzing))]
pub(crate) use json::parse as parse_body;
pub(crate) use maintenance::NodeMaintenance;
pub(crate) use metrics::text as metrics_text;
pub(crate) use origin::OwnNames;
use rights::{
    DOCUMENT_PATH, EVENTS_PATH, FETCH_IMAGE_PATH, LOGS_PATH, METRICS_PATH, NODE_STATS_PATH,
    STATS_PATH, WHOAMI_PATH,
};
pub(crate) use tasks::{NodeTasks, TaskRefusal};

/// The agent, as the API needs it.
///
/// A client that goes away drops the future of its request: the calls that change something come to
/// their end, and are acted on, without being polled again.
pub(crate) trait NodeApi: NodeFiles + NodeImages + NodeMaintenance + NodeTasks {
    /// A request with its key, at this moment. `request` is a fingerprint of all that it asks for.
    fn keyed(&self, key: Key, request: String) -> Keyed;

    /// Takes in a deploy of a container that is as expected; on a dry run, only answers the result it
    /// would have. Durable when it answers.
    fn deploy(
        &self,
        expected: ExpectedTag,
        deploy: Deploy,
        dry_run: bool,
    ) -> impl Future<Output = Result<DeployedView, Refusal>> + Send;

    /// Takes in a deploy that bears a key, once.
    fn deploy_once(
        &self,
        expected: ExpectedTag,
        deploy: Deploy,
        keyed: Keyed,
    ) -> impl Future<Output = Result<Idempotent<DeployedView>, Refusal>> + Send;

    /// Replaces the set owned by push, all of it or nothing. Durable when it answers.
    fn replace(
        &self,
        replacing: ReplaceRequest,
    ) -> impl Future<Output = Result<Idempotent<SetPlanView>, Refusal>> + Send;

    /// Confirms the unconfirmed part of the set from CHaS (of this generation, if one is given).
    /// Answers how many end.
    fn confirm(
        &self,
        generation: Option<u64>,
    ) -> impl Future<Output = Result<usize, Refusal>> + Send;

    /// Carries out an operator's order for one container, if it is as expected. Durable when it
    /// answers.
    fn order(
        &self,
        id: ContainerId,
        order: Order,
        expected: ExpectedTag,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Has the registry asked what the tag of a container's image stands for now. Durable when it
    /// answers.
    fn ask_tag(&self, id: ContainerId) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Last generations of a container.
    fn chronicle(
        &self,
        id: ContainerId,
    ) -> impl Future<Output = Result<ChronicleView, Refusal>> + Send;

    /// The generation that a request goes back to, or the answer to it if it came before.
    fn rollback_target(
        &self,
        request: RollbackRequest,
    ) -> impl Future<Output = Result<Idempotent<RollbackTarget>, Refusal>> + Send;

    /// Goes back to a generation. Durable when it answers.
    fn go_back(
        &self,
        request: RollbackRequest,
        target: RollbackTarget,
    ) -> impl Future<Output = Result<Idempotent<DeployedView>, Refusal>> + Send;

    /// Containers with these names of the set owned by push.
    fn push_set(&self, scope: &NameScope) -> PushSetView;

    /// The record with the values of its environment readable, as far as the node can open them.
    fn opened(&self, record: &Record) -> Record;

    /// Has it be written down that values of a container are shown, or of all.
    fn note_reveal(
        &self,
        name: Option<ContainerName>,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Secrets of the node, by name.
    fn secrets(&self) -> Vec<SecretEntry>;

    /// Gives a secret a value. Durable when it answers.
    fn put_secret(
        &self,
        name: SecretName,
        value: Content,
    ) -> impl Future<Output = Result<SecretChange, Refusal>> + Send;

    /// Removes a secret that nothing uses.
    fn remove_secret(&self, name: SecretName) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Runs a program in a container, and has it be written down before.
    fn exec(
        &self,
        id: ContainerId,
        order: ExecOrder,
        is_local: bool,
    ) -> impl Future<Output = Result<ExecSession, ExecRefusal>> + Send;

    /// The steps that would be done now.
    fn plan(&self) -> PlanView;

    /// The cause for which a container is where it is.
    fn explain(&self, id: ContainerId) -> Option<ExplanationView>;

    /// Every container: the managed ones by name, then the unmanaged.
    fn containers(&self) -> Vec<ContainerView>;

    /// The managed container with this id.
    fn container(&self, id: ContainerId) -> Option<ManagedView>;

    /// The container that a caller names in one of the ways that `naming` allows.
    ///
    /// # Errors
    /// None is named so, or several are.
    fn find(&self, text: &str, naming: Naming) -> Result<ContainerView, FindError>;

    /// The feed of the node's events.
    fn feed(&self) -> EventFeed;

    /// A number that grows whenever a view may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The directory of the container's log files.
    fn logs_dir(&self, id: ContainerId) -> PathBuf;

    /// Use by every managed container, or by the one with this id; by name.
    fn usage(
        &self,
        only: Option<ContainerId>,
        detail: UsageDetail,
    ) -> impl Future<Output = Vec<UsageView>> + Send;

    /// The node's capacity.
    fn capacity(&self) -> CapacityView;

    /// The node's health.
    fn health(&self) -> HealthView;

    /// The level of the agent's own log.
    fn log_level(&self) -> LogLevelView;

    /// Gives that log another level for a while, and has it be written down before.
    fn set_log_level(
        &self,
        order: LevelOrder,
    ) -> impl Future<Output = Result<LogLevelView, Refusal>> + Send;
}

/// The cause for which a change was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The change conflicts with existing state: a name or host port that another one has.
    Conflict(String),
    /// Number of running containers that would end; the request has to name it.
    Unconfirmed(usize, String),
    /// The object of the request is not there as it was any more.
    Unmatched(String),
    /// The node's policy denies the change; not empty.
    Denied(Vec<Denial>),
    /// The body names things that the node does not have; not empty.
    Invalid(Vec<FieldError>),
    /// No such container.
    NotFound(String),
    /// The request's `Idempotency-Key` was used for another request.
    Reused(String),
    /// The node's capacity is exceeded.
    Full(String),
    /// The agent cannot take the change now.
    Unavailable(String),
}

/// Rules for who may call.
#[derive(Clone, Debug)]
pub(crate) struct CallRules {
    /// Gate before every call but the probes.
    pub gate: Gate,
    /// Names by which the node may be called.
    pub hosts: OwnNames,
}

/// The whole interface. Without `metrics`, there are none to see.
pub(crate) fn router<N: NodeApi>(
    node: Arc<N>,
    rules: CallRules,
    metrics: Option<Metrics>,
) -> Router {
    let CallRules { gate, hosts } = rules;
    if let Some(metrics) = &metrics {
        let kinds = ProblemKind::ALL.iter();
        let kinds = kinds.filter(|kind| **kind != ProblemKind::ContainerFailed);
        metrics.know_problems(kinds.map(|kind| kind.code()));
    }
    let (followers, watchers) = (logs::followers(), stats::watchers());
    let (readers, pulls) = (events::readers(), images::pulls());
    let routes = rights::routes().into_iter().filter_map(|route| {
        Some(match route.path {
            LOGS_PATH => route.with(followers.clone()),
            FETCH_IMAGE_PATH => route.with(pulls.clone()),
            EVENTS_PATH => route.with(readers.clone()),
            STATS_PATH | NODE_STATS_PATH => route.with(watchers.clone()),
            DOCUMENT_PATH => route.with(document::ApiDocument(openapi::text::<N>())),
            METRICS_PATH => route.with(metrics.clone()?),
            WHOAMI_PATH => route.with(hosts.clone()),
            _ => route,
        })
    });
    let routes = rights::router(routes, &gate)
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method);
    // The last one is the outermost: a panic is answered first, and then logged and counted as the
    // answer it became.
    let routes = routes
        .layer(middleware::from_fn(request_log::expectation))
        .layer(middleware::from_fn_with_state(hosts, origin::check))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(
            error::panicked,
        ))
        .layer(middleware::from_fn(request_log::access_log));
    let routes = match metrics {
        Some(metrics) => routes.layer(middleware::from_fn_with_state(metrics, metrics::count)),
        None => routes,
    };
    version::with_prefix(routes.with_state(node))
}
