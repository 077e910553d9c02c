//! Secrets of the node: put, listed by name, and removed. A value comes in and never goes out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use state::spec::parse::FieldError;
use state::spec::secrets::value as read_value;
use state::spec::{Content, SecretName};
use state::store::{SECRET_BYTES_MAX, SecretEntry};

use super::access::Access;
use super::answer::Json;
use super::body;
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, operations};

pub(super) async fn list<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::SECRETS)?;
    let secrets = node.secrets();
    let shown: Vec<_> = secrets
        .iter()
        .filter(|secret| access.names.has(secret.name.as_container()))
        .map(|secret| shown(secret, &access))
        .collect();
    Ok(Json(json!({"secrets": shown})))
}

/// Gives a secret a value: the body, or what a JSON body says.
pub(super) async fn put<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::PUT_SECRET)?;
    let name = secret_name(&name, &access)?;
    let value = if body::is_raw(&headers) {
        body::read_raw(&access, body).await?.to_vec()
    } else {
        body::read(&access, &headers, body, |body| {
            read_value(&body).map_err(Problem::Invalid)
        })
        .await?
    };
    if value.is_empty() || value.len() > SECRET_BYTES_MAX {
        return Err(Problem::Invalid(vec![FieldError {
            field: "value".to_owned(),
            message: format!("must have 1 to {SECRET_BYTES_MAX} bytes"),
        }]));
    }
    let change = node.put_secret(name, Content::readable(value)).await?;
    let status = match change.is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let mut body = shown(&change.secret, &access);
    body["changed"] = json!(change.is_changed);
    Ok((status, Json(body)).into_response())
}

pub(super) async fn remove<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<StatusCode, Problem> {
    Parameters::of(query, &operations::REMOVE_SECRET)?;
    node.remove_secret(secret_name(&name, &access)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn secret_name(text: &str, access: &Access) -> Result<SecretName, Problem> {
    let name: SecretName = text.parse().map_err(|error| {
        Problem::Invalid(vec![FieldError {
            field: "name".to_owned(),
            message: format!("{error}"),
        }])
    })?;
    match access.names.has(name.as_container()) {
        true => Ok(name),
        false => Err(access.beyond("secrets", &name)),
    }
}

/// A secret without its value; of its containers those that the caller has to do with.
fn shown(secret: &SecretEntry, access: &Access) -> Value {
    let used_by = secret.used_by.iter();
    let used_by: Vec<_> = used_by.filter(|name| access.names.has(name)).collect();
    json!({
        "name": secret.name, "created": time(secret.created_ms),
        "updated": time(secret.changed_ms), "used_by": used_by,
    })
}

fn time(ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    super::wire::time(at)
}
