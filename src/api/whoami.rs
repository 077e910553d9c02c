//! The caller as the node knows it, so that a program or a page can tell what it may do before it tries.

use axum::Extension;
use serde_json::json;
use state::access::NameScope;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;
use super::origin::OwnNames;
use super::query::{Parameters, RawQuery};
use super::{operations, wire};

pub(super) async fn whoami(
    Extension(node): Extension<OwnNames>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    Parameters::of(query, &operations::WHOAMI)?;
    let names = match &*access.names {
        NameScope::All => None,
        NameScope::Some(patterns) => {
            Some(patterns.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
    };
    Ok(Json(json!({
        "name": &*access.by, "role": access.role.as_str(), "names": names,
        "expires": access.end.expires.map(wire::time), "node": node.first(),
        "version": env!("CARGO_PKG_VERSION"),
    })))
}
