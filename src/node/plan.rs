//! Plans and explanations: the steps that the reconciler would do now, from its own observations.

use state::alarm::Alarm;
use state::desired::Record;
use state::desired::set::Desired;
use state::id::ContainerId;
use state::plan::{Planned, Step, plan};
use state::reach::End;
use state::reason::Reason;
use state::surroundings::Surroundings;

use super::AgentNode;
use super::queries::moment;
use crate::reconcile::Board;
use crate::view::{
    AcquaintancesView, ContainerPlanView, ExplanationView, Moment, PlanView, StepView,
};

/// The steps for a record, which may not be stored yet.
pub(super) fn container_plan(
    board: &Board,
    desired: &Desired,
    record: &Record,
) -> ContainerPlanView {
    ContainerPlanView {
        id: record.id,
        name: Some(record.name.clone()),
        steps: steps(board, desired, record.id, Some(record)),
    }
}

fn steps(
    board: &Board,
    desired: &Desired,
    id: ContainerId,
    record: Option<&Record>,
) -> Vec<StepView> {
    let known = board.known(id);
    let now = moment(board);
    let around = record.map_or(Surroundings::NONE, |record| {
        board.told_surroundings(desired, record)
    });
    let planned = plan(id, record, &known.seen, &known.history, &around, now.boot);
    planned.into_iter().map(|step| shown(step, now)).collect()
}

fn shown(planned: Planned, now: Moment) -> StepView {
    let until = match planned.step {
        Step::Wait(until) => Some(now.wall_at(until)),
        Step::Settled
        | Step::WaitForOthers
        | Step::Pull
        | Step::Adjust(_)
        | Step::Launch
        | Step::Revive(_)
        | Step::Switch
        | Step::HandOver(_)
        | Step::GiveBack(_)
        | Step::Signal(_)
        | Step::Conclude
        | Step::RollBack(_)
        | Step::Stop(_)
        | Step::Suspend(_)
        | Step::Remove(_)
        | Step::NoteRestart
        | Step::Finish(_)
        | Step::Forget => None,
    };
    StepView {
        word: planned.step.as_str(),
        instance: planned.instance,
        why: planned.why,
        until,
    }
}

impl AgentNode {
    /// The cause for which no container can be looked at now: its reason, and a sentence.
    pub(super) fn out_of_reach(&self) -> Option<(Reason, String)> {
        let reachability = self.board().reachability();
        if reachability.reachable {
            return None;
        }
        if !reachability.is_known() {
            // It may well answer: nobody asks before the network is set up.
            let mut alarms = self.journal.alarms().into_iter();
            let network = alarms.find(|standing| standing.alarm == Alarm::NetworkNotReady);
            return Some(match network {
                Some(standing) => {
                    let meaning = Alarm::NetworkNotReady.meaning();
                    (
                        Reason::NetworkError,
                        format!("{meaning} {}", standing.message),
                    )
                }
                None => (
                    Reason::RuntimeUnavailable,
                    "containerd is not asked yet: the agent has just begun".to_owned(),
                ),
            });
        }
        let error = reachability.error.unwrap_or_default();
        let since = humantime::format_rfc3339_seconds(reachability.since);
        let meaning = Reason::RuntimeUnavailable.meaning();
        let message = format!("{meaning} Since {since}: {error}");
        Some((Reason::RuntimeUnavailable, message))
    }

    /// The cause for which the reconciler is blocked at the moment.
    pub(super) fn blocked(&self) -> Option<String> {
        let is_adopting = self.writer.store().desired().adoption().is_some();
        let unknown = || {
            let losses = self.writer.store().losses().join("; ");
            format!("the stored state cannot be opened now ({losses})")
        };
        let is_unknown = self.writer.store().desired().is_unknown();
        let adopting = || "the desired state is being rebuilt from what containerd holds";
        let out_of_reach = self.out_of_reach().map(|(_, message)| message);
        out_of_reach
            .or_else(|| is_unknown.then(unknown))
            .or_else(|| is_adopting.then(adopting).map(ToOwned::to_owned))
    }

    /// The remedy for that cause.
    fn unblock(&self) -> Option<&'static str> {
        match self.out_of_reach() {
            Some((Reason::NetworkError, _)) => return Some(Alarm::NetworkNotReady.remedy()),
            Some((reason, _)) => return Some(reason.remedy()),
            None => {}
        }
        let is_adopting = self.writer.store().desired().adoption().is_some();
        is_adopting.then(|| Alarm::StateRebuilding.remedy())
    }

    /// The steps for every record and every leftover.
    pub(super) fn plan(&self) -> PlanView {
        let desired = self.writer.store().desired();
        let board = self.board();
        let mut containers: Vec<_> = desired
            .records()
            .map(|record| container_plan(board, &desired, record))
            .collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let leftovers = board.leftovers(&desired).into_keys();
        let leftovers = leftovers.map(|id| ContainerPlanView {
            id,
            name: None,
            steps: steps(board, &desired, id, None),
        });
        PlanView {
            containers,
            leftovers: leftovers.collect(),
            blocked: self.blocked(),
        }
    }

    /// The other containers that this one may talk with.
    fn acquaintances(&self, desired: &Desired, record: &Record) -> AcquaintancesView {
        let end = |record: &Record| {
            record
                .assignment
                .address
                .map(|address| (address, record.id))
        };
        let mut found = AcquaintancesView::default();
        let (Some(reach), Some((address, id))) = (&self.reach, end(record)) else {
            return found;
        };
        let own = End {
            address,
            network: Some(&record.spec.network),
        };
        for other in desired.records() {
            let Some((address, _)) = end(other).filter(|(_, other)| *other != id) else {
                continue;
            };
            let network = Some(&other.spec.network);
            let their = End { address, network };
            if reach.knows(own, their) {
                found.reaches.insert(other.name.clone());
            }
            if reach.knows(their, own) {
                found.reached_by.insert(other.name.clone());
            }
        }
        found
    }

    /// The explanation of a container's status. `None`: there is no such managed container.
    pub(super) fn explain(&self, id: ContainerId) -> Option<ExplanationView> {
        let desired = self.writer.store().desired();
        let record = desired.get(id)?;
        let known = self.board().known(id);
        Some(ExplanationView {
            container: self.managed(record),
            next: container_plan(self.board(), &desired, record)
                .steps
                .into_iter()
                .next(),
            seen: known.seen,
            history: known.history.of(record),
            activity: known.activity,
            blocked: self.blocked(),
            unblock: self.unblock(),
            acquaintances: self.acquaintances(&desired, record),
            disconnect: self.disconnect_view(record),
            suppressed: desired.marks().suppressed().get(&record.name).cloned(),
        })
    }
}
