//! Last generations of a container, and the way back to one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use state::chronicle::GENERATIONS_MAX;
use state::desired::Record;
use state::desired::chronicle::{Chapter, ChapterEnd, MemberChange};
use state::store::{Idempotent, RollbackRequest};

use super::access::Access;
use super::answer::Json;
use super::containers::{awaited, find_managed, replay, wait_for_one};
use super::error::Problem;
use super::idempotency::{self, fingerprint};
use super::push_set::tags;
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, answer, operations, wire};
use crate::view::{ManagedView, Naming};

pub(super) async fn history<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::HISTORY)?;
    let id = find_managed(&*node, &access, &name, Naming::Loose)?;
    let view = node.chronicle(id).await?;
    let record = &view.container.record;
    let mut chapters = view.chapters;
    // It was made by an older version, or where the disk had no room to note it.
    if chapters
        .first()
        .is_none_or(|chapter| chapter.generation != record.generation)
    {
        let generation = record.generation;
        chapters.insert(
            0,
            Chapter {
                generation,
                ..Chapter::default()
            },
        );
    }
    let generations: Vec<_> = chapters
        .iter()
        .map(|chapter| shown(chapter, &view.container))
        .collect();
    Ok(Json(json!({
        "id": record.id, "name": record.name, "kept_max": GENERATIONS_MAX, "generations": generations,
    })))
}

fn shown(chapter: &Chapter, container: &ManagedView) -> Value {
    let at = |ms: u64| wire::time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    let is_present = chapter.generation == container.record.generation;
    let mut shown = json!({"generation": chapter.generation, "present": is_present});
    let outcome = match chapter.end.as_deref() {
        _ if is_present => of_present(container, &mut shown),
        Some(end) => {
            of_past(end, &mut shown);
            json!({"result": end.result.as_str(), "reason": end.reason, "message": end.message, "at": end.at_ms.map(at)})
        }
        // The disk had no room to note it.
        None => Value::Null,
    };
    shown["by"] = json!(chapter.by);
    shown["at"] = json!(chapter.at_ms.map(at));
    shown["from"] = json!(chapter.from);
    if let Some(back_to) = chapter.back_to {
        shown["back_to"] = json!(back_to);
    }
    let changes = chapter.changes.iter().map(change);
    shown["changes"] = json!(chapter.from.map(|_| changes.collect::<Vec<_>>()));
    if chapter.changes_left_out > 0 {
        shown["changes_left_out"] = json!(chapter.changes_left_out);
    }
    shown["outcome"] = outcome;
    shown
}

fn change(change: &MemberChange) -> Value {
    match change.hidden {
        Some(hidden) => json!({"field": change.field, "hidden": hidden}),
        None => json!({"field": change.field, "before": change.before, "after": change.after}),
    }
}

fn of_past(end: &ChapterEnd, shown: &mut Value) {
    shown["revision"] = json!(end.revision);
    shown["image"] = json!(end.image);
    shown["image_digest"] = json!(end.image_digest);
    shown["spec_hash"] = json!(end.spec_hash);
    shown["owner"] = json!(end.owner);
    let is_kept = |record: &Record| record.image_digest.is_some();
    shown["kept"] = json!(end.record.as_deref().is_some_and(is_kept));
}

/// The present generation, which goes as its container does.
fn of_present(container: &ManagedView, shown: &mut Value) -> Value {
    let (record, condition) = (&container.record, &container.condition);
    shown["revision"] = json!(record.revision);
    shown["image"] = json!(record.spec.image);
    shown["image_digest"] = json!(record.image_digest);
    shown["spec_hash"] = json!(record.spec_hash);
    shown["owner"] = json!(record.owner);
    shown["kept"] = json!(true);
    json!({"result": condition.status, "reason": condition.reason, "message": condition.message, "at": null})
}

pub(super) async fn rollback<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(query, &operations::ROLLBACK)?;
    let generation: Option<u64> = parameters.parsed("generation", "a number")?;
    let (wait, timeout) = (wait_for_one(&parameters)?, parameters.timeout()?);
    let if_match = tags(&headers, &header::IF_MATCH, false)?;
    let key = idempotency::key(&access, &headers)?;
    let id = find_managed(&*node, &access, &name, Naming::Exact)?;
    let asked = json!({"id": id, "generation": generation});
    let keyed = key.map(|key| {
        let request = fingerprint("POST /containers/{id}/rollback", &asked);
        node.keyed(key, request)
    });
    let request = RollbackRequest {
        id,
        generation,
        if_match,
        keyed,
        by: access.by.to_string(),
    };
    let wait = wait.map(|word| (word == "ready", timeout));
    let target = match node.rollback_target(request.clone()).await? {
        Idempotent::Now(target) => target,
        Idempotent::Before(answer) => return replay(&*node, &answer, wait).await,
    };
    // Who may not deploy a body may not have it come back.
    let deploy = target.deploy();
    access.may_deploy(&deploy)?;
    access.may_probe(&*node, &deploy)?;
    let deployed = match node.go_back(request, target).await? {
        Idempotent::Now(deployed) => deployed,
        Idempotent::Before(answer) => return replay(&*node, &answer, wait).await,
    };
    if let Some(wait) = wait {
        let view = awaited(&*node, &deployed, wait).await?;
        return Ok(answer::container(StatusCode::OK, &view));
    }
    let status = match deployed.changed {
        true => StatusCode::ACCEPTED,
        false => StatusCode::OK,
    };
    Ok(answer::container(status, &deployed.container))
}
