//! Changes of what is wanted: on the disk, then published, then answered.

use std::sync::{Arc, PoisonError};

use serde_json::Value;

use super::Server;
use super::etag::Condition;
use super::problem::Problem;
use super::sets::{Change, DEFAULT, NAMES_MAX, Set};

/// Who changes something.
#[derive(Debug)]
pub(super) enum By {
    /// Somebody over HTTP, if what is there is what they believe.
    Caller(Condition),
    /// A file: the set is the file's from then on.
    File,
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    /// The generation from now on.
    pub(crate) generation: u64,
    /// It was otherwise before.
    pub(crate) is_changed: bool,
}

impl Server {
    /// Makes `body` the set of a node, or of [`DEFAULT`], as `PUT /nodes/{name}/set` does.
    ///
    /// # Errors
    /// The set is not valid, is kept in a file, or cannot be stored.
    #[allow(
        dead_code,
        reason = "only for those who run the server in their own process"
    )]
    pub(crate) async fn put_set(
        self: &Arc<Self>,
        name: &str,
        body: &Value,
        force: bool,
    ) -> Result<Changed, Problem> {
        let set = Set::of(body, force).map_err(Problem::Invalid)?;
        self.change(name, Change::Put(Arc::new(set)), Condition::default())
            .await
    }

    /// Makes a change. It comes to its end also if the caller goes away.
    pub(super) async fn change(
        self: &Arc<Self>,
        name: &str,
        change: Change,
        condition: Condition,
    ) -> Result<Changed, Problem> {
        let (server, name) = (Arc::clone(self), name.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            server.change_now(&name, &change, &By::Caller(condition))
        });
        made.await
            .map_err(|error| Problem::NotStored(error.to_string()))?
    }

    /// Makes a change. Blocks.
    pub(super) fn change_now(
        &self,
        name: &str,
        change: &Change,
        by: &By,
    ) -> Result<Changed, Problem> {
        let mut in_files = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (after, generation) = {
            let wanted = self.wanted();
            let set = wanted.entry(name).set;
            match (by, change) {
                (By::Caller(_), Change::Put(_) | Change::Delete) if in_files.contains(name) => {
                    return Err(Problem::SetInFile(format!(
                        "{name} is one of the files that --sets names"
                    )));
                }
                (By::Caller(_), Change::Delete) if set.is_none() => return Err(none_for(name)),
                (By::Caller(condition), Change::Put(_) | Change::Delete)
                    if !condition.allows(set.as_ref().map(|set| set.tag()).as_deref()) =>
                {
                    return Err(Problem::Precondition(
                        "look at it again, and then change it".to_owned(),
                    ));
                }
                (_, Change::Confirm(_))
                    if set.is_none() && (name == DEFAULT || wanted.wish(name).is_none()) =>
                {
                    return Err(none_for(name));
                }
                (_, Change::Confirm(generation)) if *generation != wanted.generation(name) => {
                    let now = wanted.generation(name);
                    return Err(Problem::Precondition(format!(
                        "it is generation {now} by now: look at what that removes"
                    )));
                }
                _ => {}
            }
            if wanted.is_full_for(name) {
                return Err(Problem::Full(format!(
                    "this server keeps {NAMES_MAX} sets and takes no more"
                )));
            }
            (wanted.after(name, change), wanted.generation(name))
        };
        let is_changed = after.is_some();
        if let Some(entry) = after {
            self.disk
                .keep(name, &entry)
                .map_err(|error| Problem::NotStored(error.to_string()))?;
            self.wanted
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name, entry);
            self.wake.send_modify(|_| ());
        }
        match (by, change) {
            (By::File, Change::Put(_)) => _ = in_files.insert(name.to_owned()),
            (By::File, _) => _ = in_files.remove(name),
            (By::Caller(_), _) => {}
        }
        let generation = if is_changed {
            self.wanted().generation(name)
        } else {
            generation
        };
        tracing::info!(name, generation, is_changed, "what is wanted");
        Ok(Changed {
            generation,
            is_changed,
        })
    }

    /// What is wanted of these is not in files any more; it stays as it is, and callers may change it.
    pub(super) fn release(&self, names: impl Iterator<Item = String>) {
        let mut in_files = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        names.for_each(|name| _ = in_files.remove(&name));
    }
}

/// Nobody wrote a set for it.
pub(super) fn none_for(name: &str) -> Problem {
    Problem::NoSet(format!("nobody wrote a set for {name}"))
}
