//! The set owned by push as a whole: shown, replaced, and versioned by its `ETag` (RFC 9110,
//! 8.8.3).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use state::desired::Record;
use state::store::{ExpectedTag, Idempotent, ReplaceRequest};

use super::access::Access;
use super::answer::Json;
use super::body;
use super::error::Problem;
use super::idempotency::{self, fingerprint};
use super::query::{Parameters, RawQuery};
use super::{NodeApi, operations, wire};

pub(super) async fn get<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::SET)?;
    let reveals = access.reveals(&parameters)?;
    let set = node.push_set(&access.names);
    let tag = [(header::ETAG, format!("\"{}\"", set.etag))];
    // `*` is any set, and there always is one; a weak tag of it serves for showing (RFC 9110,
    // 13.1.2).
    let known = tags(&headers, &header::IF_NONE_MATCH, true)?;
    let is_known = match known {
        Some(tags) => tags.contains(&set.etag),
        None => headers.contains_key(header::IF_NONE_MATCH),
    };
    let answer = if is_known {
        (StatusCode::NOT_MODIFIED, tag).into_response()
    } else {
        if reveals {
            node.note_reveal(None).await?;
        }
        let shown = |record: &Record| match reveals {
            true => wire::revealed_spec(&node.opened(record)),
            false => wire::spec(record),
        };
        let containers: Vec<_> = set.records.iter().map(shown).collect();
        (tag, Json(json!({"containers": containers}))).into_response()
    };
    Ok(answer)
}

/// Confirms the unconfirmed part of the set from CHaS.
pub(super) async fn confirm<N: NodeApi>(
    State(node): State<Arc<N>>,
    query: RawQuery,
) -> Result<Json, Problem> {
    let generation =
        Parameters::of(query, &operations::CONFIRM)?.parsed("generation", "a number")?;
    let ended = node.confirm(generation).await?;
    Ok(Json(json!({"confirmed": true, "ended": ended})))
}

pub(super) async fn put<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::PUT_SET)?;
    let dry_run = parameters.flag("dry_run")?;
    let confirm = parameters.parsed("confirm", "a number of containers")?;
    let (if_match, key) = (
        tags(&headers, &header::IF_MATCH, false)?,
        idempotency::key(&access, &headers)?,
    );
    // The same body means another set to a caller of other names.
    let call = if access.has_all() {
        "PUT /desired-state".to_owned()
    } else {
        format!("PUT /desired-state of {}", access.names)
    };
    let made = body::read(&access, &headers, body, move |body| {
        let wanted = state::spec::parse::set(&body).map_err(Problem::Invalid)?;
        let keyed = key.map(|key| (key, fingerprint(&call, &body)));
        Ok((wanted, keyed))
    });
    let (wanted, keyed) = made.await?;
    for deploy in &wanted {
        access.may_deploy(deploy)?;
        access.may_probe(&*node, deploy)?;
    }
    let keyed = keyed.map(|(key, fingerprint)| node.keyed(key, fingerprint));
    let replacing = ReplaceRequest {
        wanted,
        scope: (*access.names).clone(),
        if_match,
        confirm,
        keyed,
        dry_run,
    };
    let replaced = match node.replace(replacing).await? {
        Idempotent::Now(replaced) => replaced,
        Idempotent::Before(answer) => return Ok(idempotency::replayed(&answer)),
    };
    let changed = !replaced.plan.is_empty();
    let mut answer = json!({
        "etag": format!("\"{}\"", replaced.etag), "changed": changed,
        "plan": replaced.plan.iter().map(wire::container_plan).collect::<Vec<Value>>(),
    });
    if dry_run {
        answer["dry_run"] = json!(true);
        if let Some(count) = replaced.unconfirmed {
            answer["confirm"] = json!(count);
        }
        return Ok(Json(answer).into_response());
    }
    let status = if changed {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok((
        status,
        [(header::ETAG, format!("\"{}\"", replaced.etag))],
        Json(answer),
    )
        .into_response())
}

/// The container that a request with `If-Match` expects.
pub(super) fn expected(headers: &HeaderMap) -> Result<ExpectedTag, Problem> {
    Ok(match tags(headers, &header::IF_MATCH, false)? {
        Some(tags) => ExpectedTag::OneOf(tags),
        None if headers.contains_key(header::IF_MATCH) => ExpectedTag::There,
        None => ExpectedTag::Any,
    })
}

/// The container, or its absence, that a deploy expects.
pub(super) fn expected_of_deploy(headers: &HeaderMap) -> Result<ExpectedTag, Problem> {
    if !headers.contains_key(header::IF_NONE_MATCH) {
        return expected(headers);
    }
    let is_any = tags(headers, &header::IF_NONE_MATCH, true)?.is_none();
    if is_any && !headers.contains_key(header::IF_MATCH) {
        return Ok(ExpectedTag::Absent);
    }
    Err(Problem::Request(
        "If-None-Match of a deploy is *, for a new container alone, and without If-Match"
            .to_owned(),
    ))
}

/// The tags that a condition names, without their quotes. `None`: there is no condition, or it is
/// `*`. A weak tag counts only where `weak` ones serve.
pub(super) fn tags(
    headers: &HeaderMap,
    name: &HeaderName,
    weak: bool,
) -> Result<Option<Vec<String>>, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let wrong = || {
            Problem::Request(format!(
                "{name}: {value:?} is neither * nor a list of tags such as \"0a1b\""
            ))
        };
        for part in value
            .to_str()
            .map_err(|_| wrong())?
            .split(',')
            .map(str::trim)
        {
            if part == "*" {
                return Ok(None);
            }
            let (is_weak, quoted) = part
                .strip_prefix("W/")
                .map_or((false, part), |quoted| (true, quoted));
            let tag = quoted
                .strip_prefix('"')
                .and_then(|tag| tag.strip_suffix('"'))
                .ok_or_else(wrong)?;
            // One that cannot match is still a condition.
            tags.push(if is_weak && !weak {
                String::new()
            } else {
                tag.to_owned()
            });
        }
    }
    Ok(headers.contains_key(name).then_some(tags))
}
