//! What would be done now, from what the reconciler knows: the same steps that it will decide on.

use std::time::SystemTime;

use state::desired::Record;
use state::id::ContainerId;
use state::plan::{Planned, Step, plan};
use state::reason::Reason;

use super::AgentNode;
use crate::api::{Action, Course, Explanation, Plan};
use crate::reconcile::{Board, Known};

/// What would be done for a record, which may not be stored yet.
pub(super) fn course(board: &Board, record: &Record) -> Course {
    let Known { seen, memory, .. } = board.known(record.id);
    let planned = plan(record.id, Some(record), &seen, &memory, board.clock.now());
    Course {
        id: record.id,
        name: Some(record.name.clone()),
        steps: actions(board, planned),
    }
}

fn actions(board: &Board, planned: Vec<Planned>) -> Vec<Action> {
    let action = |Planned {
                      step,
                      instance,
                      why,
                  }| {
        let until = match step {
            Step::Wait(until) => Some(board.clock.wall(until)),
            Step::Settled
            | Step::Pull
            | Step::Launch
            | Step::Stop(_)
            | Step::Remove(_)
            | Step::Finish(_)
            | Step::Forget => None,
        };
        Action {
            word: step.word(),
            instance,
            why,
            until,
        }
    };
    planned.into_iter().map(action).collect()
}

impl AgentNode {
    /// containerd does not answer, and why.
    pub(super) fn away(&self) -> Option<String> {
        let reachability = self.handle.board().reachability();
        let error = reachability.error.unwrap_or_default();
        (!reachability.reachable)
            .then(|| format!("{} ({error})", Reason::RuntimeUnavailable.meaning()))
    }

    /// Why the reconciler does nothing at the moment.
    fn blocked(&self) -> Option<String> {
        let is_adopting = self.writer.store().desired().adoption().is_some();
        let adopting = || {
            is_adopting
                .then(|| "the desired state is being rebuilt from what containerd holds".to_owned())
        };
        self.away().or_else(adopting)
    }

    pub(super) fn whole_plan(&self) -> Plan {
        let desired = self.writer.store().desired();
        let board = self.handle.board();
        let mut containers: Vec<_> = desired
            .records()
            .map(|record| course(board, record))
            .collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let leftovers = board.leftovers(&desired).into_iter().map(|(id, seen)| {
            let steps = actions(
                board,
                plan(id, None, &seen, &board.known(id).memory, board.clock.now()),
            );
            Course {
                id,
                name: None,
                steps,
            }
        });
        Plan {
            containers,
            leftovers: leftovers.collect(),
            blocked: self.blocked(),
        }
    }

    pub(super) fn explanation(&self, id: ContainerId) -> Option<Explanation> {
        let desired = self.writer.store().desired();
        let record = desired.get(id)?;
        let Known {
            seen,
            memory,
            activity,
            ..
        } = self.handle.board().known(id);
        Some(Explanation {
            view: self.view(record),
            next: course(self.handle.board(), record).steps.into_iter().next(),
            seen,
            memory: memory.of(record),
            activity,
            blocked: self.blocked(),
            suppressed: desired.marks().suppressed().get(&record.name).cloned(),
            now: (self.handle.board().clock.now(), SystemTime::now()),
        })
    }
}
