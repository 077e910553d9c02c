//! Lookup of a container by name, id, or the beginning of an id.

use std::sync::Arc;

use state::desired::Record;
use state::desired::set::Desired;
use state::id::ContainerId;

use super::UnmanagedView;

/// A container that was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// A managed container, by its record.
    Managed(Arc<Record>),
    /// An unmanaged container.
    Unmanaged(UnmanagedView),
}

/// Failure to find a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FindError {
    /// The text is neither an id, nor a name, nor the beginning of an id.
    #[error("no container is named {0}, or has an id that begins so")]
    Unknown(String),
    /// The text is the beginning of more than one id.
    #[error("several ids begin with {0}")]
    Ambiguous(String),
}

/// Finds a container by id, by name, or by the beginning of an id that only one has. An id comes
/// before a name, so that nobody can take another container's calls by naming his own so.
///
/// # Errors
/// [`FindError`].
pub(crate) fn find(
    desired: &Desired,
    unmanaged: &[UnmanagedView],
    name: &str,
) -> Result<Found, FindError> {
    let by_id = name.parse().ok().and_then(|id| desired.get(id)).cloned();
    if let Some(record) = by_id {
        return Ok(Found::Managed(record));
    }
    if let Some(view) = unmanaged.iter().find(|view| view.id == name) {
        return Ok(Found::Unmanaged(view.clone()));
    }
    let by_name = name.parse().ok().and_then(|name| desired.named(&name));
    if let Some(record) = by_name {
        return Ok(Found::Managed(Arc::clone(record)));
    }
    by_prefix(desired, unmanaged, name)
}

fn by_prefix(
    desired: &Desired,
    unmanaged: &[UnmanagedView],
    prefix: &str,
) -> Result<Found, FindError> {
    if prefix.is_empty() {
        return Err(FindError::Unknown(String::new()));
    }
    let begins = |id: ContainerId| id.to_string().starts_with(prefix);
    let managed = desired
        .records()
        .filter(|record| begins(record.id))
        .map(|record| Found::Managed(Arc::clone(record)));
    let others = unmanaged
        .iter()
        .filter(|view| view.id.starts_with(prefix))
        .map(|view| Found::Unmanaged(view.clone()));
    let mut fitting = managed.chain(others);
    match (fitting.next(), fitting.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(FindError::Ambiguous(prefix.to_owned())),
        (None, _) => Err(FindError::Unknown(prefix.to_owned())),
    }
}
