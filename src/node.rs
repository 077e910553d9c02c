//! What the API sees of the agent: the store for what is asked, the reconciler's board for what is known.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use state::desired::{Owner, PortBinding, Record};
use state::id::ContainerId;
use state::observed::{Seen, Task};
use state::ownership;
use state::ownership::answers::{Key, Keyed};
use state::reason::Reason;
use state::spec::parse::Deploy;
use state::status::{Condition, Status, condition};
use state::store::{Accepted, Replacing, Store, StoreError};
use tokio::sync::watch;

use crate::api::{
    Change, Declared, Deployed, Explanation, Health, Node, Once, Plan, Refusal, Replace, Replaced,
    View,
};
use crate::chas::Contact;
use crate::monitor::Monitor;
use crate::network;
use crate::reconcile::{Handle, Known};
use crate::runtime::Foreign;
use crate::writer::Writer;

pub(crate) mod link;
mod plan;

/// The running agent, as the API sees it.
#[derive(Debug)]
pub(crate) struct AgentNode {
    writer: Writer,
    handle: Handle,
    monitor: Arc<Monitor>,
    logs_dir: PathBuf,
    /// `None`: no CHaS is configured.
    contact: Option<Arc<Contact>>,
}

impl AgentNode {
    pub(crate) const fn new(
        writer: Writer,
        handle: Handle,
        monitor: Arc<Monitor>,
        logs_dir: PathBuf,
        contact: Option<Arc<Contact>>,
    ) -> Self {
        Self {
            writer,
            handle,
            monitor,
            logs_dir,
            contact,
        }
    }

    /// To its end even if the caller goes away: so the change itself wakes whom it concerns, not the caller after it.
    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.writer.write(change).await.map_err(refusal)
    }

    fn keyed(&self, key: Key, request: String) -> Keyed {
        let clock = &self.handle.board().clock;
        Keyed {
            key,
            request,
            boot_id: clock.boot_id(),
            now: clock.now(),
        }
    }

    fn deployed(&self, accepted: &Accepted) -> Deployed {
        let plan = plan::course(self.handle.board(), &accepted.record).steps;
        Deployed {
            view: self.view(&accepted.record),
            changed: accepted.changed,
            plan,
        }
    }

    fn view(&self, record: &Arc<Record>) -> View {
        let board = self.handle.board();
        let mut known = board.known(record.id);
        // The board is older than the record until the turn that the change woke has taken its first look.
        known.memory = known.memory.of(record);
        let mut condition = condition(record, &known.seen, &known.memory, known.activity);
        // Nothing of it has failed: nothing can be tried.
        if condition.status == Status::Pending
            && condition.reason.is_none()
            && let Some(away) = self.away()
        {
            (condition.reason, condition.message) = (Some(Reason::RuntimeUnavailable), Some(away));
        }
        let Known {
            seen, memory, pull, ..
        } = known;
        let exit = memory.last_exit.as_ref();
        let finished_ms = record.finished.as_ref().map(|finished| finished.at_ms);
        View {
            next_attempt: condition.next_attempt.map(|at| board.clock.wall(at)),
            started: memory.started.map(|at| board.clock.wall(at)),
            finished: exit
                .map(|exit| exit.at)
                .or(finished_ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms))),
            exit_code: exit
                .map(|exit| exit.code)
                .or(record.finished.as_ref().map(|finished| finished.code)),
            restart_count: memory.restart_count,
            pull: pull.map(|progress| progress.get()),
            applied_generation: applied(&seen),
            condition,
            record: Some(Arc::clone(record)),
            foreign: None,
        }
    }
}

/// The newest generation that runs.
fn applied(seen: &Seen) -> Option<u64> {
    seen.instances
        .iter()
        .rev()
        .find(|(_, instance)| matches!(instance.task, Task::Running { .. }))
        .map(|(generation, _)| *generation)
}

fn unmanaged(foreign: Foreign) -> View {
    let status = if foreign.running {
        Status::Running
    } else {
        Status::Stopped
    };
    View {
        record: None,
        foreign: Some((foreign.id, foreign.image)),
        condition: Condition {
            status,
            reason: None,
            message: None,
            next_attempt: None,
        },
        next_attempt: None,
        started: None,
        finished: None,
        exit_code: None,
        restart_count: 0,
        pull: None,
        applied_generation: None,
    }
}

fn refusal(error: StoreError) -> Refusal {
    let text = error.to_string();
    match error {
        StoreError::Assign(
            state::assign::AssignError::TakenByContainer { .. }
            | state::assign::AssignError::TakenByProcess { .. },
        )
        | StoreError::Owned(..)
        | StoreError::Unmatched(_)
        | StoreError::NothingHeld
        | StoreError::OtherHeld(_)
        | StoreError::Held(_) => Refusal::Conflict(text),
        StoreError::KeyReused => Refusal::Reused(text),
        // One that cannot be had as things are weighs more than one that there is no room for.
        StoreError::Several(refused) => {
            let mut kinds = refused.into_iter().map(|(_, error)| refusal(error));
            let is_full = kinds.all(|kind| matches!(kind, Refusal::Full(_)));
            if is_full {
                Refusal::Full(text)
            } else {
                Refusal::Conflict(text)
            }
        }
        StoreError::Assign(_) | StoreError::TooMany(_) => Refusal::Full(text),
        StoreError::NotFound(_) => Refusal::NotFound(text),
        StoreError::Disk(source) if source.kind() == std::io::ErrorKind::StorageFull => {
            Refusal::Full(format!("{text}: {source}"))
        }
        StoreError::Disk(source) => Refusal::Unavailable(format!("{text}: {source}")),
        StoreError::Rebuilding | StoreError::InUse(_) => Refusal::Unavailable(text),
    }
}

/// Milliseconds since 1970, for showing.
fn wall_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a process of this host listens there. Where that cannot be found out, starting the container will.
fn listening(binding: &PortBinding) -> bool {
    network::listener_on(binding).unwrap_or(false)
}

impl Node for AgentNode {
    async fn deploy(&self, deploy: Deploy, dry_run: bool) -> Result<Deployed, Refusal> {
        let handle = self.handle.clone();
        let taken = self.write(move |store| {
            let accepted = store.deploy(deploy, Owner::Push, dry_run, wall_ms(), listening)?;
            if accepted.changed && !dry_run {
                handle.wake(accepted.record.id);
            }
            Ok(accepted)
        });
        Ok(self.deployed(&taken.await?))
    }

    async fn deploy_once(
        &self,
        deploy: Deploy,
        key: Key,
        request: String,
    ) -> Result<Once<Deployed>, Refusal> {
        let (handle, keyed) = (self.handle.clone(), self.keyed(key, request));
        let taken = self.write(move |store| {
            let answered = store.deploy_once(deploy, &keyed, wall_ms(), listening)?;
            if let Once::Now(accepted) = &answered
                && accepted.changed
            {
                handle.wake(accepted.record.id);
            }
            Ok(answered)
        });
        Ok(match taken.await? {
            Once::Now(accepted) => Once::Now(self.deployed(&accepted)),
            Once::Before(answer) => Once::Before(answer),
        })
    }

    fn declared(&self) -> Declared {
        let desired = self.writer.store().desired();
        let records = ownership::push_set(&desired).into_iter().cloned().collect();
        Declared {
            records,
            etag: ownership::etag(&desired),
        }
    }

    async fn replace(&self, replace: Replace) -> Result<Once<Replaced>, Refusal> {
        let Replace {
            wanted,
            if_match,
            key,
            dry_run,
        } = replace;
        let keyed = key.map(|(key, request)| self.keyed(key, request));
        let handle = self.handle.clone();
        let taken = self.write(move |store| {
            let answered = store.replace(
                Replacing {
                    wanted,
                    if_match,
                    keyed,
                    dry_run,
                },
                wall_ms(),
                listening,
            )?;
            Ok(match answered {
                Once::Now(replaced) => {
                    // Before anybody is woken: what is shown is the whole of it.
                    let plan = replaced
                        .changed
                        .iter()
                        .map(|record| plan::course(handle.board(), record))
                        .collect();
                    if !dry_run {
                        replaced
                            .changed
                            .iter()
                            .for_each(|record| handle.wake(record.id));
                    }
                    Once::Now(Replaced {
                        etag: replaced.etag,
                        plan,
                    })
                }
                Once::Before(answer) => Once::Before(answer),
            })
        });
        taken.await
    }

    async fn confirm(&self, generation: Option<u64>) -> Result<usize, Refusal> {
        let (handle, contact) = (self.handle.clone(), self.contact.clone());
        self.write(move |store| {
            let ended = store.confirm(generation)?;
            ended.iter().for_each(|&id| handle.wake(id));
            handle.board().changed();
            contact.iter().for_each(|contact| contact.ask_now());
            Ok(ended.len())
        })
        .await
    }

    fn plan(&self) -> Plan {
        self.whole_plan()
    }

    fn explain(&self, id: ContainerId) -> Option<Explanation> {
        self.explanation(id)
    }

    async fn change(&self, id: ContainerId, change: Change) -> Result<(), Refusal> {
        let handle = self.handle.clone();
        self.write(move |store| {
            store.order(id, change)?;
            handle.wake(id);
            Ok(())
        })
        .await
    }

    fn containers(&self) -> Vec<View> {
        let desired = self.writer.store().desired();
        let mut views: Vec<_> = desired.records().map(|record| self.view(record)).collect();
        views.sort_by(|a, b| {
            a.record
                .as_ref()
                .map(|r| &r.name)
                .cmp(&b.record.as_ref().map(|r| &r.name))
        });
        views.extend(self.handle.board().foreign().into_iter().map(unmanaged));
        views
    }

    fn container(&self, id: ContainerId) -> Option<View> {
        self.writer
            .store()
            .desired()
            .get(id)
            .map(|record| self.view(record))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.handle.board().changes()
    }

    fn logs_dir(&self, id: ContainerId) -> PathBuf {
        crate::logs::directory(&self.logs_dir, id)
    }

    fn health(&self) -> Health {
        let board = self.handle.board();
        let reachability = board.reachability();
        let views = self.containers();
        let ours = || views.iter().filter(|view| view.record.is_some());
        Health {
            facts: self.monitor.snapshot(),
            running: ours()
                .filter(|view| view.condition.status == Status::Running)
                .count(),
            unsettled: ours()
                .filter(|view| !matches!(view.condition.status, Status::Running | Status::Stopped))
                .count(),
            containerd: reachability.reachable,
            containerd_since: reachability.since,
            containerd_error: reachability.error,
            writable: self.writer.store().is_writable(),
            rebuilding: self
                .writer
                .store()
                .desired()
                .adoption()
                .is_some_and(|adoption| !adoption.is_new),
            losses: self.writer.store().losses().to_vec(),
            link: self.link_shown(),
            errors: board
                .troubles()
                .into_iter()
                .map(|trouble| (trouble.at, trouble.reason, trouble.message))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
