//! Plans, and their neighbours: the answer to a deploy, the set owned by push, and explanations.

use std::collections::BTreeSet;
use std::time::SystemTime;

use state::desired::Record;
use state::desired::marks::Suppressed;
use state::history::History;
use state::id::{ContainerId, ContainerName, InstanceName};
use state::observed::Seen;
use state::status::Activity;

use super::{DisconnectView, ManagedView};

/// A step that would be done.
#[derive(Clone, Debug)]
pub(crate) struct StepView {
    /// The step in a word; see [`state::plan::Step::as_str`].
    pub word: &'static str,
    /// The instance that the step is about.
    pub instance: Option<InstanceName>,
    /// The cause of the step, in a sentence.
    pub why: String,
    /// The end of the wait, if the step is one.
    pub until: Option<SystemTime>,
}

/// The steps for one container, in order.
#[derive(Clone, Debug)]
pub(crate) struct ContainerPlanView {
    /// The container's id.
    pub id: ContainerId,
    /// The container's name. `None`: a leftover.
    pub name: Option<ContainerName>,
    /// The steps; empty if the container is settled.
    pub steps: Vec<StepView>,
}

/// The steps that would be done now on the whole node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlanView {
    /// The steps for every record, by name.
    pub containers: Vec<ContainerPlanView>,
    /// The steps for every leftover.
    pub leftovers: Vec<ContainerPlanView>,
    /// The cause for which the plan is blocked at the moment.
    pub blocked: Option<String>,
}

/// A deploy that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct DeployedView {
    /// The container after the deploy (on a dry run: as it would be).
    pub container: ManagedView,
    /// Whether the record differs from the one stored before.
    pub changed: bool,
    /// The steps that will be (on a dry run: would be) done.
    pub plan: Vec<StepView>,
}

/// The set owned by push.
#[derive(Clone, Debug)]
pub(crate) struct PushSetView {
    /// The records, by name.
    pub records: Vec<Record>,
    /// The fingerprint: another one whenever any spec of it differs.
    pub etag: String,
}

/// A replacement of the set owned by push that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct SetPlanView {
    /// The set's fingerprint after the replacement.
    pub etag: String,
    /// The steps that will be (on a dry run: would be) done for each container that changed.
    pub plan: Vec<ContainerPlanView>,
    /// On a dry run: the running containers that would end, where the request has to say so.
    pub unconfirmed: Option<usize>,
}

/// The other containers of the node that a container may talk with on some port, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AcquaintancesView {
    /// Names of those that it may call by their own addresses.
    pub reaches: BTreeSet<ContainerName>,
    /// Names of those that may call it by its own address.
    pub reached_by: BTreeSet<ContainerName>,
}

/// The explanation of a container's status.
#[derive(Clone, Debug)]
pub(crate) struct ExplanationView {
    /// The container as it is shown elsewhere; all times here are of its moment.
    pub container: ManagedView,
    /// The last observation of the container.
    pub seen: Seen,
    /// The restart and retry history.
    pub history: History,
    /// The step under way.
    pub activity: Option<Activity>,
    /// The next step. `None`: the container is settled.
    pub next: Option<StepView>,
    /// The cause for which the reconciler is blocked at the moment, for every container.
    pub blocked: Option<String>,
    /// The remedy for that cause.
    pub unblock: Option<&'static str>,
    /// The silence of CHaS, and what it means for the container. `None`: nothing.
    pub disconnect: Option<DisconnectView>,
    /// The other containers that it may talk with.
    pub acquaintances: AcquaintancesView,
    /// Whether an operator keeps the container otherwise than CHaS lists it.
    pub suppressed: Option<Suppressed>,
}
