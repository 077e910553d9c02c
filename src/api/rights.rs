//! The table of all routes, each with the role that it needs; the router is made of it, and of
//! nothing else.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Router};
use state::access::Role;

use super::auth::Gate;
use super::caller::{CALL, Caller, current_call};
use super::error::Problem;
use super::operation::Operation;
use super::{
    NodeApi, archives, capacity, chronicle, containers, document, events, exec, explain, health,
    images, listing, log_level, logs, maintenance, metrics, operations, page, push_set, secrets,
    stats, tasks, volumes, whoami,
};
use crate::audit::AuditCall;
use crate::otlp;

/// Path of containers' output.
pub(super) const LOGS_PATH: &str = "/containers/{id}/logs";
/// Path of what a container uses.
pub(super) const STATS_PATH: &str = "/containers/{id}/stats";
/// Path of what all containers use.
pub(super) const NODE_STATS_PATH: &str = "/stats";
/// Path of pulls for no container.
pub(super) const FETCH_IMAGE_PATH: &str = "/images/pull";
/// Path of the events.
pub(super) const EVENTS_PATH: &str = "/events";
/// Path of the API's own document.
pub(super) const DOCUMENT_PATH: &str = "/openapi.json";
/// Path of the metrics, which may be left out.
pub(super) const METRICS_PATH: &str = "/metrics";

/// Path of what a caller may do.
pub(super) const WHOAMI_PATH: &str = "/whoami";

/// Right that a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// None: no credentials are looked at.
    Open,
    /// Role, or a higher one.
    Of(Role),
}

/// ApiRoute of the API.
pub(super) struct ApiRoute<N> {
    pub(super) right: Right,
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Parameters, bodies and problems of the route.
    pub(super) operation: &'static Operation,
    handler: MethodRouter<Arc<N>>,
}

impl<N: NodeApi> ApiRoute<N> {
    /// The route, whose handler is given this as well.
    pub(super) fn with<E: Clone + Send + Sync + 'static>(mut self, given: E) -> Self {
        self.handler = self.handler.layer(Extension(given));
        self
    }
}

/// Name of a caller, which its answer bears for the log.
#[derive(Clone, Debug)]
pub(super) struct CalledBy(pub(super) Arc<str>);

fn route<H: Handler<T, Arc<N>>, T: 'static, N: NodeApi>(
    right: Right,
    method: Method,
    path: &'static str,
    (handler, operation): (H, &'static Operation),
) -> ApiRoute<N> {
    let filter = MethodFilter::try_from(method.clone()).expect("a method that axum knows");
    let handler = on(filter, handler);
    ApiRoute {
        right,
        method,
        path,
        operation,
        handler,
    }
}

/// Every route. Those of containers refuse names that the caller has nothing to do with.
#[rustfmt::skip]
pub(super) fn routes<N: NodeApi>() -> Vec<ApiRoute<N>> {
    const READ: Right = Right::Of(Role::Read);
    const DEPLOY: Right = Right::Of(Role::Deploy);
    const EXEC: Right = Right::Of(Role::Exec);
    const ADMIN: Right = Right::Of(Role::Admin);
    vec![
        route(Right::Open, Method::GET, "/livez", (async || "alive\n", &operations::LIVE)),
        route(Right::Open, Method::GET, "/readyz", (health::ready::<N>, &operations::READY)),
        route(Right::Open, Method::GET, "/version", (health::version, &operations::VERSION)),
        route(Right::Open, Method::GET, DOCUMENT_PATH, (document::document, &operations::DOCUMENT)),
        // The page holds no data: what it shows it asks for, with the token of whoever looks at it.
        route(Right::Open, Method::GET, "/", (page::page, &operations::PAGE)),
        route(READ, Method::GET, WHOAMI_PATH, (whoami::whoami, &operations::WHOAMI)),
        route(READ, Method::GET, "/containers", (listing::list::<N>, &operations::LIST)),
        route(READ, Method::GET, "/containers/{id}", (containers::get::<N>, &operations::GET)),
        route(DEPLOY, Method::DELETE, "/containers/{id}", (containers::remove::<N>, &operations::REMOVE)),
        route(DEPLOY, Method::POST, "/containers/deploy", (containers::deploy::<N>, &operations::DEPLOY)),
        // The one path whose last word is fixed, and may be a container's name nevertheless.
        route(READ, Method::GET, "/containers/deploy", (containers::get::<N>, &operations::GET)),
        route(DEPLOY, Method::DELETE, "/containers/deploy", (containers::remove::<N>, &operations::REMOVE)),
        route(DEPLOY, Method::POST, "/containers/{id}/stop", (containers::stop::<N>, &operations::STOP)),
        route(DEPLOY, Method::POST, "/containers/{id}/start", (containers::start::<N>, &operations::START)),
        route(DEPLOY, Method::POST, "/containers/{id}/restart", (containers::restart::<N>, &operations::RESTART)),
        route(DEPLOY, Method::POST, "/containers/{id}/kill", (tasks::kill::<N>, &operations::KILL)),
        route(DEPLOY, Method::POST, "/containers/{id}/pull", (containers::ask_tag::<N>, &operations::ASK_TAG)),
        route(READ, Method::GET, "/containers/{id}/history", (chronicle::history::<N>, &operations::HISTORY)),
        route(DEPLOY, Method::POST, "/containers/{id}/rollback", (chronicle::rollback::<N>, &operations::ROLLBACK)),
        route(EXEC, Method::POST, "/containers/{id}/exec", (exec::run::<N>, &operations::EXEC)),
        // RFC 6455 knows no other method.
        route(EXEC, Method::GET, "/containers/{id}/exec", (exec::watch::<N>, &operations::WATCH_EXEC)),
        // Words of a program may be what only those should see who may run one beside it.
        route(EXEC, Method::GET, "/containers/{id}/top", (tasks::top::<N>, &operations::TOP)),
        route(EXEC, Method::GET, "/containers/{id}/archive", (archives::read::<N>, &operations::READ_FILES)),
        route(EXEC, Method::PUT, "/containers/{id}/archive", (archives::write::<N>, &operations::WRITE_FILES)),
        route(READ, Method::GET, LOGS_PATH, (logs::logs::<N>, &operations::LOGS)),
        route(READ, Method::GET, "/containers/{id}/explain", (explain::explain::<N>, &operations::EXPLAIN)),
        route(READ, Method::GET, STATS_PATH, (stats::of_container::<N>, &operations::STATS)),
        route(READ, Method::GET, NODE_STATS_PATH, (stats::of_node::<N>, &operations::NODE_STATS)),
        route(READ, Method::GET, EVENTS_PATH, (events::events::<N>, &operations::EVENTS)),
        route(READ, Method::GET, "/images", (images::list::<N>, &operations::IMAGES)),
        route(DEPLOY, Method::POST, FETCH_IMAGE_PATH, (images::fetch::<N>, &operations::FETCH_IMAGE)),
        route(ADMIN, Method::POST, "/images/prune", (images::prune::<N>, &operations::PRUNE_IMAGES)),
        route(ADMIN, Method::DELETE, "/images/{digest}", (images::remove::<N>, &operations::REMOVE_IMAGE)),
        route(READ, Method::GET, "/volumes", (volumes::list::<N>, &operations::VOLUMES)),
        route(READ, Method::GET, "/volumes/{name}", (volumes::get::<N>, &operations::VOLUME)),
        route(DEPLOY, Method::DELETE, "/volumes/{name}", (volumes::remove::<N>, &operations::REMOVE_VOLUME)),
        route(DEPLOY, Method::GET, "/volumes/{name}/archive", (volumes::read::<N>, &operations::READ_VOLUME)),
        route(DEPLOY, Method::PUT, "/volumes/{name}/archive", (volumes::write::<N>, &operations::WRITE_VOLUME)),
        route(READ, Method::GET, "/desired-state", (push_set::get::<N>, &operations::SET)),
        route(DEPLOY, Method::PUT, "/desired-state", (push_set::put::<N>, &operations::PUT_SET)),
        route(ADMIN, Method::POST, "/desired-state/confirm", (push_set::confirm::<N>, &operations::CONFIRM)),
        route(DEPLOY, Method::GET, "/secrets", (secrets::list::<N>, &operations::SECRETS)),
        route(DEPLOY, Method::PUT, "/secrets/{name}", (secrets::put::<N>, &operations::PUT_SECRET)),
        route(DEPLOY, Method::DELETE, "/secrets/{name}", (secrets::remove::<N>, &operations::REMOVE_SECRET)),
        route(READ, Method::GET, "/plan", (explain::plan::<N>, &operations::PLAN)),
        route(READ, Method::GET, "/capacity", (capacity::get::<N>, &operations::CAPACITY)),
        route(READ, Method::GET, "/health", (health::health::<N>, &operations::HEALTH)),
        route(ADMIN, Method::POST, "/node/cordon", (maintenance::cordon::<N>, &operations::CORDON)),
        route(ADMIN, Method::POST, "/node/uncordon", (maintenance::uncordon::<N>, &operations::UNCORDON)),
        route(ADMIN, Method::POST, "/node/drain", (maintenance::drain::<N>, &operations::DRAIN)),
        route(READ, Method::GET, "/log-level", (log_level::get::<N>, &operations::LOG_LEVEL)),
        route(ADMIN, Method::PUT, "/log-level", (log_level::put::<N>, &operations::PUT_LOG_LEVEL)),
        route(READ, Method::GET, METRICS_PATH, (metrics::metrics::<N>, &operations::METRICS)),
    ]
}

/// The router of these routes, in front of each of which its right is looked at.
pub(super) fn router<N: NodeApi>(
    routes: impl Iterator<Item = ApiRoute<N>>,
    gate: &Gate,
) -> Router<Arc<N>> {
    let guarded = |route: ApiRoute<N>| match route.right {
        Right::Open => (route.path, route.handler),
        Right::Of(role) => {
            let check = middleware::from_fn_with_state((gate.clone(), role), check);
            (route.path, route.handler.route_layer(check))
        }
    };
    let add = |router: Router<Arc<N>>, (path, handler)| router.route(path, handler);
    routes.map(guarded).fold(Router::new(), add)
}

/// Looks at who calls, and whether its role is the route's.
async fn check(
    State((gate, least)): State<(Gate, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Problem::Unauthorized("the caller is not known".to_owned()).into_response();
    };
    let access = match gate.judge(&caller, request.headers()).await {
        Ok(access) => access,
        Err(problem) => return problem.into_response(),
    };
    let by = Arc::clone(&access.by);
    let mut response = match access.at_least(least) {
        Ok(()) => {
            // A stranger has nothing sampled, and hangs itself on nobody's trace.
            otlp::believe_caller();
            let call = AuditCall {
                by: by.to_string(),
                ..current_call()
            };
            let end = access.end.clone();
            request.extensions_mut().insert(access);
            tokio::select! {
                biased;
                response = CALL.scope(call, next.run(request)) => response,
                // A change that was taken in comes to its end without whoever waits for it.
                () = end.reached() => {
                    let over = "the right to call ended meanwhile; what was taken in goes on";
                    Problem::Unauthorized(over.to_owned()).into_response()
                }
            }
        }
        Err(problem) => problem.into_response(),
    };
    response.extensions_mut().insert(CalledBy(by));
    response
}
