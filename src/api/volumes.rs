//! Volumes with names: which there are, who uses them, their content as an archive, and their removal.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Version};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use state::spec::VolumeName;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, Refusal, archives, operations, wire};
use crate::view::VolumeView;

/// The volumes that the caller has to do with.
pub(super) async fn list<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::VOLUMES)?;
    let volumes = node.volumes(&access.names).await?;
    let shown: Vec<_> = volumes.iter().map(|view| shown(view, &access)).collect();
    Ok(Json(json!({"volumes": shown})).into_response())
}

pub(super) async fn get<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::VOLUME)?;
    let view = node.volume(seen(&access, &name)?).await?;
    Ok(Json(shown(&view, &access)).into_response())
}

pub(super) async fn remove<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::REMOVE_VOLUME)?;
    let name = may_change(&access, &name)?;
    node.remove_volume(name.clone(), &access.names).await?;
    Ok(Json(json!({"name": name, "removed": true})).into_response())
}

pub(super) async fn read<N: NodeApi>(
    State(node): State<Arc<N>>,
    (method, version): (Method, Version),
    access: Access,
    Named(name): Named,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Parameters::of(query, &operations::READ_VOLUME)?;
    archives::may_read(&method, version)?;
    let name = seen(&access, &name)?;
    let is_zstd = archives::takes_zstd(&headers);
    let pieces = node.read_volume(name, is_zstd).await?;
    Ok(archives::answer(pieces, is_zstd, access.end))
}

pub(super) async fn write<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    request: Request,
) -> Response {
    let begin = async |is_zstd| {
        Parameters::of(query, &operations::WRITE_VOLUME)?;
        let name = may_change(&access, &name)?;
        Ok(node.write_volume(name, is_zstd).await?)
    };
    archives::take(request, begin).await.into_response()
}

/// The volume of this name, if the caller has to do with it; another is none.
fn seen(access: &Access, name: &str) -> Result<VolumeName, Problem> {
    let none = || Problem::Refused(Refusal::NotFound(format!("there is no volume {name}")));
    let name: VolumeName = name.parse().map_err(|_| none())?;
    if access.names.has_volume(&name) {
        Ok(name)
    } else {
        Err(none())
    }
}

fn may_change(access: &Access, name: &str) -> Result<VolumeName, Problem> {
    let parsed = name.parse::<VolumeName>();
    let name =
        parsed.map_err(|error| Problem::Request(format!("{name:?} is no volume: {error}")))?;
    if access.names.has_volume(&name) {
        Ok(name)
    } else {
        Err(access.beyond("volumes", name))
    }
}

/// A volume as JSON. Of its users only those are named that the caller has to do with.
fn shown(view: &VolumeView, access: &Access) -> Value {
    let used_by: Vec<_> = view
        .used_by
        .iter()
        .filter(|name| access.names.has(name))
        .collect();
    let mut shown =
        json!({"name": view.name, "used": !view.used_by.is_empty(), "used_by": used_by});
    let mut show = |key: &str, value: Value| shown[key] = value;
    if view.is_use_unknown {
        show("use_unknown", json!(true));
    }
    if let Some(since) = view.unused_since {
        show("unused_since", json!(wire::time(since)));
    }
    if let Some(made) = view.made {
        show("made_at", json!(wire::time(made)));
    }
    if let Some(image) = &view.image {
        show("image", json!(image));
    }
    if view.is_missing {
        show("missing", json!(true));
    }
    if view.is_mount {
        show("mounted", json!(true));
    }
    if let Some(limit) = view.limit_bytes {
        show("limit_bytes", json!(limit));
    }
    if let Some(content) = view.content {
        show("size_bytes", json!(content.bytes));
        show("files", json!(content.files));
        if content.is_partial {
            show("partial", json!(true));
        }
    }
    shown
}
