//! The list of containers: filters, and pages that go on where the last one ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use super::access::Access;
use super::answer::Json;
use super::error::Problem;
use super::query::{Parameters, RawQuery};
use super::{NodeApi, operations, wire};
use crate::view::ContainerView;

/// Beginning of a position among the containers that are not managed, which are listed last.
const UNMANAGED: &str = "unmanaged/";

pub(super) async fn list<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    query: RawQuery,
) -> Result<Json, Problem> {
    let parameters = Parameters::of(query, &operations::LIST)?;
    let filter = ListFilter {
        statuses: parameters.words("status")?,
        owner: parameters.word("owner")?,
        labels: parameters.texts("label"),
        name: parameters.text("name"),
        after: parameters.text("after").map(position),
    };
    let limit: Option<usize> = parameters.parsed("limit", "a number of containers")?;
    if limit == Some(0) {
        let zero = "limit=0 lists nothing; give 1 or more, or leave it out";
        return Err(Problem::Request(zero.to_owned()));
    }
    let views = node.containers();
    let mut views = views
        .iter()
        .filter(|view| access.sees(view) && filter.has(view));
    let page: Vec<_> = views.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
    let shown: Vec<_> = page.iter().map(|view| wire::short(view)).collect();
    let mut answer = json!({"containers": shown});
    if let (Some(last), Some(_)) = (page.last(), views.next()) {
        let (is_unmanaged, name) = place(last);
        let prefix = if is_unmanaged { UNMANAGED } else { "" };
        answer["next"] = json!(format!("{prefix}{name}"));
    }
    Ok(Json(answer))
}

/// Place of a container in the list.
fn place(view: &ContainerView) -> (bool, &str) {
    match view {
        ContainerView::Managed(view) => (false, view.record.name.as_str()),
        ContainerView::Unmanaged(view) => (true, view.id.as_str()),
    }
}

/// Place that a caller has come to. The container there may be gone.
fn position(text: &str) -> (bool, &str) {
    match text.strip_prefix(UNMANAGED) {
        Some(name) => (true, name),
        None => (false, text),
    }
}

/// Filters of a list, all of which must hold.
struct ListFilter<'a> {
    statuses: Option<BTreeSet<&'a str>>,
    owner: Option<&'a str>,
    labels: Vec<&'a str>,
    name: Option<&'a str>,
    after: Option<(bool, &'a str)>,
}

impl ListFilter<'_> {
    fn has(&self, view: &ContainerView) -> bool {
        let has_label = |wanted: &&str| match wanted.split_once('=') {
            Some((key, value)) => view.label(key) == Some(value),
            None => view.label(wanted).is_some(),
        };
        let mut statuses = self.statuses.iter();
        let place = place(view);
        let is_named = |wanted: &str| match wanted.strip_suffix('*') {
            Some(beginning) => place.1.starts_with(beginning),
            None => place.1 == wanted,
        };
        statuses.all(|words| words.contains(view.status().as_str()))
            && self.owner.is_none_or(|owner| owner == view.owner())
            && self.labels.iter().all(has_label)
            && self.name.is_none_or(is_named)
            && self.after.is_none_or(|after| place > after)
    }
}
