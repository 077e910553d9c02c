//! Routes of the calls to their functions.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware;
use axum::routing::{get, post, put};

use super::body::{BODY_BYTES_MAX, SET_BYTES_MAX, answer};
use super::problem::Problem;
use super::schema::OPENAPI;
use super::{Server, counts, node_calls, operator, poll};

pub(super) fn router(server: Arc<Server>) -> Router {
    let sets = get(operator::set)
        .put(operator::put_set)
        .delete(operator::delete_set);
    let operators = Router::new()
        .route("/nodes", get(operator::list))
        .route(
            "/nodes/{node_id}",
            get(operator::get).delete(operator::delete),
        )
        .route(
            "/nodes/{node_id}/set",
            sets.layer(DefaultBodyLimit::max(SET_BYTES_MAX)),
        )
        .route("/nodes/{node_id}/confirm", post(operator::confirm))
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            operator::check,
        ));
    Router::new()
        .route("/nodes/register", post(node_calls::register))
        .route("/nodes/{node_id}/health", put(node_calls::report))
        .route("/nodes/{node_id}/desired-state", get(poll::desired_state))
        .route("/livez", get(async || "alive\n"))
        .route("/openapi.json", get(async || answer(OPENAPI)))
        .route("/metrics", get(counts::metrics))
        .merge(operators)
        .fallback(async |uri: Uri| {
            Problem::NoSuchPath(format!(
                "no resource at {}: openapi.json lists all paths",
                uri.path()
            ))
        })
        .method_not_allowed_fallback(async || Problem::NoSuchMethod)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            counts::count,
        ))
        .with_state(server)
}
