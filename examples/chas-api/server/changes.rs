//! Changes of sets: written to the disk, then published, then answered.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use serde_json::Value;

use super::Server;
use super::etag::EtagCondition;
use super::problem::Problem;
use super::sets::{ContainerSet, DEFAULT, DesiredSets, NAMES_MAX, SetChange};

/// The origin of a change.
#[derive(Debug)]
pub(super) enum ChangeOrigin {
    /// A call over HTTP, on a condition about the current set.
    Caller(EtagCondition),
    /// A file, which the set belongs to from then on.
    File,
}

/// The outcome of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeReply {
    /// Generation after the change.
    pub(crate) generation: u64,
    /// Whether anything changed.
    pub(crate) is_changed: bool,
}

impl Server {
    /// Makes `body` the set of a node, or of [`DEFAULT`], as `PUT /nodes/{name}/set` does.
    ///
    /// # Errors
    /// The set is invalid, comes from a file, or cannot be stored.
    #[allow(
        dead_code,
        reason = "only for those who run the server in their own process"
    )]
    pub(crate) async fn put_set(
        self: &Arc<Self>,
        name: &str,
        body: &Value,
        force: bool,
    ) -> Result<ChangeReply, Problem> {
        let set = ContainerSet::of(body, force).map_err(Problem::Invalid)?;
        self.change(
            name,
            SetChange::Put(Arc::new(set)),
            EtagCondition::default(),
        )
        .await
    }

    /// Makes a change, also if the caller disconnects meanwhile.
    pub(super) async fn change(
        self: &Arc<Self>,
        name: &str,
        change: SetChange,
        condition: EtagCondition,
    ) -> Result<ChangeReply, Problem> {
        let (server, name) = (Arc::clone(self), name.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            server.change_now(&name, &change, &ChangeOrigin::Caller(condition))
        });
        made.await
            .map_err(|error| Problem::NotStored(error.to_string()))?
    }

    /// Makes a change. Blocks.
    pub(super) fn change_now(
        &self,
        name: &str,
        change: &SetChange,
        by: &ChangeOrigin,
    ) -> Result<ChangeReply, Problem> {
        let mut in_files = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (after, generation) = {
            let wanted = self.wanted();
            check_change(&wanted, &in_files, name, change, by)?;
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
            (ChangeOrigin::File, SetChange::Put(_)) => _ = in_files.insert(name.to_owned()),
            (ChangeOrigin::File, _) => _ = in_files.remove(name),
            (ChangeOrigin::Caller(_), _) => {}
        }
        let generation = if is_changed {
            self.wanted().generation(name)
        } else {
            generation
        };
        tracing::info!(name, generation, is_changed, "set changed");
        Ok(ChangeReply {
            generation,
            is_changed,
        })
    }

    /// Releases these sets from their files: they stay as they are, and calls may change them.
    pub(super) fn release(&self, names: impl Iterator<Item = String>) {
        let mut in_files = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        names.for_each(|name| _ = in_files.remove(&name));
    }
}

/// Checks that a change is permitted, and that its conditions hold.
fn check_change(
    wanted: &DesiredSets,
    in_files: &BTreeSet<String>,
    name: &str,
    change: &SetChange,
    by: &ChangeOrigin,
) -> Result<(), Problem> {
    let set = wanted.entry(name).set;
    match (by, change) {
        (ChangeOrigin::Caller(_), SetChange::Put(_) | SetChange::Delete)
            if in_files.contains(name) =>
        {
            return Err(Problem::SetInFile(format!(
                "the set of {name} comes from a file in the directory of --sets: change it there"
            )));
        }
        (ChangeOrigin::Caller(_), SetChange::Delete) if set.is_none() => {
            return Err(none_for(name));
        }
        (ChangeOrigin::Caller(condition), SetChange::Put(_) | SetChange::Delete)
            if !condition.allows(set.as_ref().map(|set| set.tag()).as_deref()) =>
        {
            return Err(Problem::Precondition(
                "the set has changed: read it again, then change it".to_owned(),
            ));
        }
        (_, SetChange::Confirm(_))
            if set.is_none() && (name == DEFAULT || wanted.wish(name).is_none()) =>
        {
            return Err(none_for(name));
        }
        (_, SetChange::Confirm(generation)) if *generation != wanted.generation(name) => {
            let now = wanted.generation(name);
            return Err(Problem::Precondition(format!(
                "the generation is {now} by now: check what it removes, then confirm it"
            )));
        }
        _ => {}
    }
    if wanted.is_full_for(name) {
        return Err(Problem::Full(format!(
            "this server keeps at most {NAMES_MAX} sets"
        )));
    }
    Ok(())
}

/// The problem that no set is written for `name`.
pub(super) fn none_for(name: &str) -> Problem {
    Problem::NoSet(format!("no set is written for {name}"))
}
