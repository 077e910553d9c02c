//! Lookup of the container that a caller names: exactly, or to read also by the beginning of its id.

use std::sync::Arc;

use state::desired::Record;
use state::desired::set::Desired;
use state::id::ContainerId;

use super::UnmanagedView;

/// Shortest beginning of an id that names a container: a shorter one is hit by chance.
const PREFIX_MIN: usize = 4;

/// The way in which a caller may name a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By its name or its whole id: for whoever changes something. The same call, made again after
    /// its answer was lost, must never be about another container.
    Exact,
    /// Also by the beginning of its id: for whoever only reads.
    Loose,
}

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
    /// No container that is known is named so, and not all of them are known.
    #[error(
        "the stored state cannot be opened now, so it is not known whether a container has the \
         name or the id {0:?}; try again once /health says that it is known"
    )]
    StateUnknown(String),
    /// No container is named so.
    #[error("no container has the name or the id {0:?}")]
    Unknown(String),
    /// No id begins so, and no container is named so.
    #[error("no container has the name {0:?}, or an id that begins so")]
    UnknownPrefix(String),
    /// The text is only the beginning of an id, which does not name what is to be changed.
    #[error(
        "no container has the name or the id {text:?}; a call that changes something takes the \
         whole name or id, and an id that only begins so is {id} ({name})"
    )]
    OnlyPrefix {
        /// The text that came.
        text: String,
        /// The id that begins so.
        id: String,
        /// The name of that container.
        name: String,
    },
    /// The text is the beginning of more than one id.
    #[error("several ids begin with {0:?}; give more of it, or the name")]
    Ambiguous(String),
    /// The text is the id of one container and the name of another.
    #[error(
        "{text:?} is the id of container {name}, and the name of the container with the id {id}; \
         say {name} or {id}"
    )]
    IdAndName {
        /// The text that came.
        text: String,
        /// The name of the container with that id.
        name: String,
        /// The id of the container with that name.
        id: String,
    },
}

/// Finds the container that a caller names: by name or whole id, and if it is only to be read, by
/// the beginning of an id that only one has. A name comes before the beginning of an id.
///
/// # Errors
/// [`FindError`].
pub(crate) fn find(
    desired: &Desired,
    unmanaged: &[UnmanagedView],
    text: &str,
    naming: Naming,
) -> Result<Found, FindError> {
    let by_id = text.parse().ok().and_then(|id| desired.get(id));
    let by_name = text.parse().ok().and_then(|name| desired.named(&name));
    match (by_id, by_name) {
        (Some(one), Some(other)) if one.id != other.id && naming == Naming::Exact => {
            return Err(FindError::IdAndName {
                text: text.to_owned(),
                name: one.name.to_string(),
                id: other.id.to_string(),
            });
        }
        (Some(record), _) | (None, Some(record)) => {
            return Ok(Found::Managed(Arc::clone(record)));
        }
        (None, None) => {}
    }
    // After the managed ones: whoever names an unmanaged container like a managed one must not
    // take its calls.
    if let Some(view) = unmanaged.iter().find(|view| view.id == text) {
        return Ok(Found::Unmanaged(view.clone()));
    }
    let found = by_prefix(desired, unmanaged, text);
    match (naming, found) {
        (Naming::Loose, found) => found,
        (Naming::Exact, Ok(found)) => Err(only_prefix(text, &found)),
        (Naming::Exact, Err(_)) => Err(FindError::Unknown(text.to_owned())),
    }
}

fn only_prefix(text: &str, found: &Found) -> FindError {
    let (id, name) = match found {
        Found::Managed(record) => (record.id.to_string(), record.name.to_string()),
        Found::Unmanaged(view) => (view.id.clone(), "not managed by this agent".to_owned()),
    };
    FindError::OnlyPrefix {
        text: text.to_owned(),
        id,
        name,
    }
}

fn by_prefix(
    desired: &Desired,
    unmanaged: &[UnmanagedView],
    prefix: &str,
) -> Result<Found, FindError> {
    if prefix.len() < PREFIX_MIN {
        return Err(FindError::Unknown(prefix.to_owned()));
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
        (None, _) => Err(FindError::UnknownPrefix(prefix.to_owned())),
    }
}
