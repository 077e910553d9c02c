//! Witness of changes: hears of each before it is stored, and may refuse it.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::{Store, StoreError};
use crate::desired::marks::Mark;
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Owner, Record, RunState};
use crate::id::{ContainerId, ContainerName};
use crate::log_level::AuditedLevel;
use crate::policy;
use crate::spec::SecretName;

mod told;

/// Verdict about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditVerdict {
    /// The change is about to be stored.
    Allowed,
    /// The policy denies it, with its words; nothing is stored.
    Denied(String),
    /// The disk did not take what was allowed; it is not in force.
    Unstored,
    /// The disk failed over what was allowed: it is not in force, and the next start may have it.
    Unsure,
}

/// Spec of a container at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedSpec {
    /// Generation.
    pub generation: u64,
    /// Fingerprint of the spec.
    pub spec_hash: String,
}

/// Program that is run in a container, as a witness hears of it. Neither its input nor a value of its
/// environment is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditedExec {
    /// Program and arguments, which may be cut.
    pub command: Vec<String>,
    /// Fingerprint of all of these words, each with a NUL at its end.
    pub command_hash: String,
    /// User that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Directory that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
}

/// Archive of a volume or a container, as a witness hears of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditedArchive {
    /// Name of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Path in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Change as a witness hears of it. No value of a spec is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedChange {
    /// Kind of the change, a word.
    pub kind: &'static str,
    /// Name of the container. `None`: the change is about the node.
    pub name: Option<ContainerName>,
    /// Id of the container.
    pub id: Option<ContainerId>,
    /// Secret that the change is about.
    pub secret: Option<SecretName>,
    /// Owner after the change.
    pub owner: Option<Owner>,
    /// Spec before. `None`: there was none.
    pub before: Option<AuditedSpec>,
    /// Spec after.
    pub after: Option<AuditedSpec>,
    /// Program that is run in the container. `None`: none is.
    pub exec: Option<AuditedExec>,
    /// Archive that is read or written. `None`: none is.
    pub archive: Option<AuditedArchive>,
    /// Level that the agent's log gets. `None`: it keeps its own.
    pub log_level: Option<AuditedLevel>,
    /// Signal that the container's first process is sent. `None`: none is.
    pub signal: Option<String>,
    /// Image that is pulled or removed, by its reference or digest. `None`: none is.
    pub image: Option<String>,
    /// Verdict.
    pub verdict: AuditVerdict,
}

/// Call that asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeCall {
    /// Caller: a name, or the part of the agent that acts by itself.
    pub by: String,
    /// Wall time, milliseconds since 1970. For showing.
    pub at_ms: u64,
}

/// Witness that is to hear of changes before they are stored.
pub trait ChangeWitness: fmt::Debug + Send + Sync {
    /// Hears of changes that are stored next, or never.
    ///
    /// # Errors
    /// They must not be stored, since nobody would know of them later.
    fn hear(&self, changes: &[AuditedChange]) -> io::Result<()>;

    /// Call for which this thread changes the store. `None`: nobody knows.
    fn call(&self) -> Option<ChangeCall> {
        None
    }
}

impl Store {
    /// Has every change from now on be heard of. Only the first witness counts.
    pub fn set_witness(&self, witness: Arc<dyn ChangeWitness>) {
        let _first_counts = self.witness.set(witness);
    }

    /// Has it be heard that values of a container are shown, or of all of them.
    ///
    /// # Errors
    /// [`StoreError::Audit`]: they must not be shown, since nobody would know of it later.
    pub fn note_reveal(&self, name: Option<ContainerName>) -> Result<(), StoreError> {
        let Some(witness) = self.witness.get() else {
            return Ok(());
        };
        let shown = AuditedChange {
            name,
            ..of_node("reveal")
        };
        witness.hear(&[shown]).map_err(StoreError::Audit)
    }

    /// Has it be heard that the agent's log gets another level.
    ///
    /// # Errors
    /// [`StoreError::Audit`]: it must keep its own, since nobody would know of it later.
    pub fn note_log_level(&self, level: AuditedLevel) -> Result<(), StoreError> {
        let Some(witness) = self.witness.get() else {
            return Ok(());
        };
        let changed = AuditedChange {
            log_level: Some(level),
            ..of_node("log_level")
        };
        witness.hear(&[changed]).map_err(StoreError::Audit)
    }

    /// Has it be heard that a program is run in a container.
    ///
    /// # Errors
    /// [`StoreError::Audit`]: it must not run, since nobody would know of it later.
    pub fn note_exec(
        &self,
        name: ContainerName,
        id: ContainerId,
        exec: AuditedExec,
    ) -> Result<(), StoreError> {
        let Some(witness) = self.witness.get() else {
            return Ok(());
        };
        let run = AuditedChange {
            name: Some(name),
            id: Some(id),
            exec: Some(exec),
            ..of_node("exec")
        };
        witness.hear(&[run]).map_err(StoreError::Audit)
    }

    /// Has it be heard that a volume is read, written or removed, or that files of a container are
    /// read or written. `kind`: the word for that.
    ///
    /// # Errors
    /// [`StoreError::Audit`]: it must not be done, since nobody would know of it later.
    pub fn note_archive(
        &self,
        kind: &'static str,
        container: Option<(ContainerName, ContainerId)>,
        archive: AuditedArchive,
    ) -> Result<(), StoreError> {
        let Some(witness) = self.witness.get() else {
            return Ok(());
        };
        let (name, id) = container.unzip();
        let done = AuditedChange {
            name,
            id,
            archive: Some(archive),
            ..of_node(kind)
        };
        witness.hear(&[done]).map_err(StoreError::Audit)
    }

    /// Has a change be heard of that is about to be stored.
    pub(super) fn announce(
        &self,
        desired: &Desired,
        changes: &[DesiredChange],
    ) -> Result<Vec<AuditedChange>, StoreError> {
        let Some(witness) = self.witness.get() else {
            return Ok(Vec::new());
        };
        let asked = changes.iter().filter_map(|change| audited(desired, change));
        let asked: Vec<_> = asked.collect();
        if !asked.is_empty() {
            witness.hear(&asked).map_err(StoreError::Audit)?;
        }
        Ok(asked)
    }

    /// Has it be heard that announced changes could not be stored. `is_sure`: the disk has nothing of
    /// them.
    pub(super) fn tell_unstored(&self, announced: Vec<AuditedChange>, is_sure: bool) {
        let unstored = announced.into_iter().map(|change| AuditedChange {
            verdict: match is_sure {
                true => AuditVerdict::Unstored,
                false => AuditVerdict::Unsure,
            },
            ..change
        });
        let unstored: Vec<_> = unstored.collect();
        self.hear_of(&unstored);
    }

    /// Has it be heard what the policy denies.
    pub(super) fn tell_denied(&self, error: &StoreError) {
        let mut denied = Vec::new();
        if let StoreError::Several(all) = error {
            denied.extend(all.iter().filter_map(|(_, error)| audited_denial(error)));
        } else {
            denied.extend(audited_denial(error));
        }
        self.hear_of(&denied);
    }

    fn hear_of(&self, changes: &[AuditedChange]) {
        if let Some(witness) = self.witness.get().filter(|_| !changes.is_empty()) {
            // Nothing of it is stored, so nothing is to be refused.
            let _told_by_the_witness_itself = witness.hear(changes);
        }
    }
}

fn audited_denial(error: &StoreError) -> Option<AuditedChange> {
    let StoreError::Denied(name, denials) = error else {
        return None;
    };
    Some(AuditedChange {
        name: Some(name.clone()),
        verdict: AuditVerdict::Denied(policy::told(denials)),
        ..of_node("deploy")
    })
}

/// The change as a witness hears of it. `None`: nobody asked for it; it is only noted.
fn audited(desired: &Desired, change: &DesiredChange) -> Option<AuditedChange> {
    match change {
        DesiredChange::Put(record) => {
            let before = desired.get(record.id).map(AsRef::as_ref);
            Some(AuditedChange {
                name: Some(record.name.clone()),
                id: Some(record.id),
                owner: Some(record.owner),
                before: before.map(spec_of),
                after: (!record.removing).then(|| spec_of(record)),
                ..of_node(kind(before, record)?)
            })
        }
        DesiredChange::Mark(Mark::Secret(name, mark)) => Some(AuditedChange {
            secret: Some(name.clone()),
            ..of_node(if mark.is_some() {
                "put-secret"
            } else {
                "remove-secret"
            })
        }),
        DesiredChange::Mark(Mark::Cordoned(true)) => Some(of_node("cordon")),
        DesiredChange::Mark(Mark::Cordoned(false)) => Some(of_node("uncordon")),
        DesiredChange::Mark(Mark::OperatorCordon(cordon)) => {
            let cordon = cordon.as_ref();
            let drains = cordon.map(|cordon| cordon.drained_ms.is_some());
            Some(of_node(match drains {
                Some(true) => "drain",
                Some(false) => "operator-cordon",
                None => "operator-uncordon",
            }))
        }
        DesiredChange::Mark(Mark::AppliedSet(applied)) => {
            let waits = |set: Option<&crate::desired::applied::AppliedSet>| {
                let unconfirmed = set.and_then(|set| set.unconfirmed.as_ref());
                unconfirmed.is_some_and(|unconfirmed| !unconfirmed.confirmed)
            };
            let before = desired.marks().applied_set();
            let is_over = waits(before) && !waits(Some(applied));
            let is_let_in = before.is_some_and(|before| {
                before.refused.is_some() && before.version == applied.version
            }) && applied.refused.is_none();
            (is_over || is_let_in).then(|| of_node("confirm"))
        }
        DesiredChange::Mark(_)
        | DesiredChange::RemoveRecord(_)
        | DesiredChange::KeepUnreadable(..)
        | DesiredChange::Adopt(_)
        | DesiredChange::Lose(_) => None,
    }
}

/// Change that is about no container.
const fn of_node(kind: &'static str) -> AuditedChange {
    AuditedChange {
        kind,
        name: None,
        id: None,
        secret: None,
        owner: None,
        before: None,
        after: None,
        exec: None,
        archive: None,
        log_level: None,
        signal: None,
        image: None,
        verdict: AuditVerdict::Allowed,
    }
}

fn spec_of(record: &Record) -> AuditedSpec {
    AuditedSpec {
        generation: record.generation,
        spec_hash: record.spec_hash.clone(),
    }
}

/// The word for what is asked of a container. `None`: nothing is.
fn kind(before: Option<&Record>, after: &Record) -> Option<&'static str> {
    let Some(before) = before else {
        return Some("deploy");
    };
    if after.removing != before.removing {
        return Some(if after.removing { "remove" } else { "deploy" });
    }
    let given_up = after.rolled_back.as_ref();
    if given_up.is_some_and(|given_up| given_up.generation == before.generation) {
        return Some("rollback");
    }
    // With the same generation a spec is another only in that its values were sealed.
    if after.generation != before.generation {
        return Some("deploy");
    }
    if after.run != before.run {
        return Some(match after.run {
            RunState::Running => "start",
            RunState::Stopped => "stop",
        });
    }
    if after.restart_pending && after.restarts_asked != before.restarts_asked {
        return Some("restart");
    }
    let is_other = after.owner != before.owner
        || after.priority != before.priority
        || after.revision != before.revision;
    is_other.then_some("adjust")
}
