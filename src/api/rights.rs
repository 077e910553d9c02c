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
use super::{
    NodeApi, archives, capacity, chronicle, containers, events, exec, explain, health, logs,
    metrics, page, push_set, secrets, stats, volumes, whoami,
};
use crate::audit::AuditCall;

/// Path of containers' output.
pub(super) const LOGS_PATH: &str = "/containers/{id}/logs";
/// Path of what a container uses.
pub(super) const STATS_PATH: &str = "/containers/{id}/stats";
/// Path of what all containers use.
pub(super) const NODE_STATS_PATH: &str = "/stats";
/// Path of the events.
pub(super) const EVENTS_PATH: &str = "/events";
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
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the handler has it; tests ask for it")
    )]
    pub(super) method: Method,
    pub(super) path: &'static str,
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
    handler: H,
) -> ApiRoute<N> {
    let filter = MethodFilter::try_from(method.clone()).expect("a method that axum knows");
    let handler = on(filter, handler);
    ApiRoute {
        right,
        method,
        path,
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
        route(Right::Open, Method::GET, "/livez", async || "alive\n"),
        route(Right::Open, Method::GET, "/readyz", health::ready::<N>),
        route(Right::Open, Method::GET, "/version", health::version),
        // The page holds no data: what it shows it asks for, with the token of whoever looks at it.
        route(Right::Open, Method::GET, "/", page::page),
        route(READ, Method::GET, WHOAMI_PATH, whoami::whoami),
        route(READ, Method::GET, "/containers", containers::list::<N>),
        route(READ, Method::GET, "/containers/{id}", containers::get::<N>),
        route(DEPLOY, Method::DELETE, "/containers/{id}", containers::remove::<N>),
        route(DEPLOY, Method::POST, "/containers/deploy", containers::deploy::<N>),
        // The one path whose last word is fixed, and may be a container's name nevertheless.
        route(READ, Method::GET, "/containers/deploy", containers::get::<N>),
        route(DEPLOY, Method::DELETE, "/containers/deploy", containers::remove::<N>),
        route(DEPLOY, Method::POST, "/containers/{id}/stop", containers::stop::<N>),
        route(DEPLOY, Method::POST, "/containers/{id}/start", containers::start::<N>),
        route(DEPLOY, Method::POST, "/containers/{id}/restart", containers::restart::<N>),
        route(DEPLOY, Method::POST, "/containers/{id}/pull", containers::ask_tag::<N>),
        route(READ, Method::GET, "/containers/{id}/history", chronicle::history::<N>),
        route(DEPLOY, Method::POST, "/containers/{id}/rollback", chronicle::rollback::<N>),
        route(EXEC, Method::POST, "/containers/{id}/exec", exec::run::<N>),
        // RFC 6455 knows no other method.
        route(EXEC, Method::GET, "/containers/{id}/exec", exec::watch::<N>),
        route(EXEC, Method::GET, "/containers/{id}/archive", archives::read::<N>),
        route(EXEC, Method::PUT, "/containers/{id}/archive", archives::write::<N>),
        route(READ, Method::GET, LOGS_PATH, logs::logs::<N>),
        route(READ, Method::GET, "/containers/{id}/explain", explain::explain::<N>),
        route(READ, Method::GET, STATS_PATH, stats::of_container::<N>),
        route(READ, Method::GET, NODE_STATS_PATH, stats::of_node::<N>),
        route(READ, Method::GET, EVENTS_PATH, events::events::<N>),
        route(READ, Method::GET, "/volumes", volumes::list::<N>),
        route(READ, Method::GET, "/volumes/{name}", volumes::get::<N>),
        route(DEPLOY, Method::DELETE, "/volumes/{name}", volumes::remove::<N>),
        route(DEPLOY, Method::GET, "/volumes/{name}/archive", volumes::read::<N>),
        route(DEPLOY, Method::PUT, "/volumes/{name}/archive", volumes::write::<N>),
        route(READ, Method::GET, "/desired-state", push_set::get::<N>),
        route(DEPLOY, Method::PUT, "/desired-state", push_set::put::<N>),
        route(ADMIN, Method::POST, "/desired-state/confirm", push_set::confirm::<N>),
        route(DEPLOY, Method::GET, "/secrets", secrets::list::<N>),
        route(DEPLOY, Method::PUT, "/secrets/{name}", secrets::put::<N>),
        route(DEPLOY, Method::DELETE, "/secrets/{name}", secrets::remove::<N>),
        route(READ, Method::GET, "/plan", explain::plan::<N>),
        route(READ, Method::GET, "/capacity", capacity::get::<N>),
        route(READ, Method::GET, "/health", health::health::<N>),
        route(READ, Method::GET, METRICS_PATH, metrics::metrics::<N>),
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
