//! What passes between the API and the agent about the set owned by push, plans and explanations.

use std::time::SystemTime;

use state::desired::Record;
use state::desired::marks::Suppressed;
use state::id::{ContainerId, ContainerName, InstanceName};
use state::memory::{BootTime, Memory};
use state::observed::Seen;
use state::ownership::answers::Key;
use state::spec::parse::Deploy;
use state::status::Activity;

use super::View;

/// What became of a request that may have come before.
pub use state::store::Answered as Once;

/// The set owned by push.
#[derive(Clone, Debug)]
pub struct Declared {
    /// By name.
    pub records: Vec<Record>,
    /// Its fingerprint: another one whenever anything of it is asked otherwise.
    pub etag: String,
}

/// The set owned by push, as it is to be.
#[derive(Clone, Debug)]
pub struct Replace {
    /// All of it; no name twice.
    pub wanted: Vec<Deploy>,
    /// It must have one of these fingerprints now. `None`: whichever it has.
    pub if_match: Option<Vec<String>>,
    /// The request's key, and a fingerprint of all that it asks for.
    pub key: Option<(Key, String)>,
    /// Nothing is to be stored.
    pub dry_run: bool,
}

/// What the set came to.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// Its fingerprint then.
    pub etag: String,
    /// What will be (on a dry run: would be) done for each container of which something else is asked.
    pub plan: Vec<Course>,
}

/// The link to CHaS.
#[derive(Clone, Debug)]
pub struct Link {
    /// CHaS answers.
    pub reachable: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// What it said last, or what went wrong, when a call failed.
    pub error: Option<String>,
    /// It took the node's registration.
    pub registered: bool,
    /// Another node has this node's id.
    pub identity_conflict: bool,
    /// It did not say, when it was asked last, that what is stored is what it lists.
    pub stale: bool,
    /// How long ago it said so. `None`: not since the agent started.
    pub age_s: Option<u64>,
    /// What was wrong with what it listed.
    pub fault: Option<String>,
    /// The generation that is stored.
    pub generation: Option<u64>,
    /// Containers that it owns.
    pub owned: usize,
    /// Names that wait for a confirmation before they end.
    pub pending_prune: Vec<String>,
    /// The node takes nothing new.
    pub cordoned: bool,
    /// Names about which push and pull differed.
    pub conflicts: usize,
    /// Entries that could not be taken.
    pub rejected: usize,
}

/// One step that would be done.
#[derive(Clone, Debug)]
pub struct Action {
    /// [`state::plan::Step::word`].
    pub word: &'static str,
    /// What it is done to.
    pub instance: Option<InstanceName>,
    /// Why, in a sentence.
    pub why: String,
    /// Until when it waits, if it does.
    pub until: Option<SystemTime>,
}

/// What would be done for one container, in order.
#[derive(Clone, Debug)]
pub struct Course {
    /// Its id.
    pub id: ContainerId,
    /// Its name. `None`: nothing asks for it.
    pub name: Option<ContainerName>,
    /// The steps. None: it is as wanted.
    pub steps: Vec<Action>,
}

/// What would be done now.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// For every container that is asked for, by name.
    pub containers: Vec<Course>,
    /// For what the runtime holds and nothing asks for.
    pub leftovers: Vec<Course>,
    /// Why nothing of it is done at the moment.
    pub blocked: Option<String>,
}

/// Why a container is where it is.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// As it is shown elsewhere.
    pub view: View,
    /// What the last look found.
    pub seen: Seen,
    /// What happened to it lately.
    pub memory: Memory,
    /// What is being done.
    pub activity: Option<Activity>,
    /// What is done next. `None`: it is as wanted.
    pub next: Option<Action>,
    /// Why nothing is done at the moment, for any container.
    pub blocked: Option<String>,
    /// An operator keeps it otherwise than CHaS lists it.
    pub suppressed: Option<Suppressed>,
    /// One moment, by both clocks.
    pub now: (BootTime, SystemTime),
}

impl Explanation {
    /// The wall time at `point`, for showing.
    #[must_use]
    pub fn wall(&self, point: BootTime) -> SystemTime {
        let (now, wall) = self.now;
        wall + point.since(now) - now.since(point)
    }
}
