//! Reasons for which the store refuses a change.

use std::path::PathBuf;

use crate::assign::AssignError;
use crate::capacity::Shortage;
use crate::id::{ContainerId, ContainerName};
use crate::order::circle;
use crate::policy::{self, Denial};
use crate::quantity::ByteCount;
use crate::reference::ImageReference;
use crate::seal::SealError;
use crate::spec::network::NODE_RULES_MAX;
use crate::spec::parse::FieldError;
use crate::spec::{SecretName, VolumeName};

/// Refusal of a change; nothing is stored then, but for [`Unsure`](StoreError::Unsure), of which that
/// is not known.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No address or host port can be given to the container.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The container is owned by CHaS (its generation).
    #[error("{0} is owned by CHaS (generation {1}); change it there")]
    Owned(ContainerName, u64),
    /// The body was given up, and its container has gone back to the generation before (how, in words).
    #[error("{0}: {1}")]
    RolledBack(ContainerName, String),
    /// Containers of a set that are refused, each with its error; not empty.
    #[error("{}", one_line(.0))]
    Several(Vec<(ContainerName, StoreError)>),
    /// The set has another `ETag` than the request expects.
    #[error("the set has changed: its ETag is \"{0}\" now; read it again before replacing it")]
    Unmatched(String),
    /// The container has another `ETag` than the request expects.
    #[error("{0} has changed: its ETag is \"{1}\" now; look at it, and ask again")]
    UnmatchedContainer(ContainerName, String),
    /// The request expects a container that is not there.
    #[error("no container is named {0}, and If-Match says that there is one; ask without it")]
    UnmatchedAbsent(ContainerName),
    /// The request expects no container of a name that one has.
    #[error(
        "a container is named {0} already, with the ETag \"{1}\", and the request is for a new one; take \
         another name, or look at that one"
    )]
    UnmatchedPresent(ContainerName, String),
    /// The `Idempotency-Key` came with another request before.
    #[error("the Idempotency-Key was used for another request; take another key")]
    KeyReused,
    /// Nothing of the applied set is unconfirmed.
    #[error("no change of CHaS waits for a confirmation")]
    NothingToConfirm,
    /// The unconfirmed changes are of another generation than the confirmed one.
    #[error(
        "the changes that wait for a confirmation are of generation {0}; \
         look at them, and confirm that generation"
    )]
    OtherGeneration(u64),
    /// No record has this id.
    #[error("no container has the id {0}")]
    NotFound(ContainerId),
    /// The container's image is named by its digest.
    #[error(
        "{0} runs {1}, an image named by its digest, which stands for the same for ever; \
         deploy it with another digest, or by a tag"
    )]
    PinnedImage(ContainerName, ImageReference),
    /// The chronicle of the container does not have the generation.
    #[error(
        "the history of {0} does not have generation {1}; see GET /containers/{0}/history, \
         or deploy its body again"
    )]
    UnknownGeneration(ContainerName, u64),
    /// The generation cannot be gone back to.
    #[error(
        "generation {1} of {0} cannot be gone back to: its image was never there, or its body was too \
         large to be kept; deploy it again"
    )]
    UnkeptGeneration(ContainerName, u64),
    /// A later generation than the one that would be gone back to ran well, and cannot be had: that
    /// one, and the one before it that can.
    #[error(
        "generation {1} of {0} is the last that worked, and it was not kept (the disk had no room, or its \
         body was too large); generation {2} before it was: name it by ?generation={2}, or deploy a body"
    )]
    UnkeptGood(ContainerName, u64, u64),
    /// Values of the generation that is gone back to cannot be opened (its number, and why).
    #[error("generation {1} of {0} cannot be gone back to, and what runs stays: {2}")]
    Unopenable(ContainerName, u64, String),
    /// No generation before is worth going back to.
    #[error(
        "{0} has no generation before that ran and was not given up; name one by ?generation=N \
         (see GET /containers/{0}/history), or deploy another body; a tag that moved makes no generation"
    )]
    NothingBefore(ContainerName),
    /// The container is what it went back to; generation that was given up.
    #[error(
        "{0} went back already, and generation {1} was given up; to go further back name the \
         generation by ?generation=N (see GET /containers/{0}/history)"
    )]
    AlreadyBack(ContainerName, u64),
    /// Another change came first; the container has this generation by now.
    #[error("{0} was changed meanwhile, and has generation {1} now; look at it, and ask again")]
    Changed(ContainerName, u64),
    /// The container is being removed.
    #[error("{0} is being removed")]
    Removing(ContainerName),
    /// The last change of the container is lost.
    #[error(
        "what was asked of {0} last is lost, so it is left as it is; \
         start, stop or deploy it, and ask again"
    )]
    Uncertain(ContainerName),
    /// The node has as many containers as it may.
    #[error("this node runs at most {0} containers; delete one, or raise containers.max")]
    TooMany(usize),
    /// The node lacks what the container would reserve; not empty.
    #[error(
        "{0} does not fit: {short}; reserve less, delete others, or place it on another node",
        short = shortages(.1)
    )]
    NoCapacity(ContainerName, Vec<Shortage>),
    /// The network sections of all containers make more rules than a node may have.
    #[error(
        "the network sections of this node's containers have {0} groups and allow entries together \
         (one more for each section, equal ones count once), and {NODE_RULES_MAX} at most are \
         possible; name fewer, give containers equal sections, or place them on another node"
    )]
    TooManyRules(usize),
    /// Another container says another size of a volume that both mount.
    #[error(
        "volume {volume} is to have {size}, and container {by} says {other}: it has one size; say it \
         in one of them alone, or change both in one request"
    )]
    VolumeSize {
        /// Volume that both mount.
        volume: VolumeName,
        /// Size that is asked for.
        size: ByteCount,
        /// Container that says another.
        by: ContainerName,
        /// Size by that.
        other: ByteCount,
    },
    /// The policy of the node denies what is asked for; not empty.
    #[error("{}", policy::told(.1))]
    Denied(ContainerName, Vec<Denial>),
    /// The values of the container cannot be sealed, and are not stored readable.
    #[error("the values in environment of {0} cannot be sealed, so it is not taken in: {1}")]
    Unsealed(ContainerName, SealError),
    /// Contents of the container cannot be written beside the state.
    #[error("the contents of {0} cannot be written below state.dir")]
    Unkept(ContainerName, #[source] std::io::Error),
    /// The container uses secrets that the node does not have: faults of its body; not empty.
    #[error("{0}: {fields}", fields = fields(.1))]
    NoSecret(ContainerName, Vec<FieldError>),
    /// The secret cannot be sealed.
    #[error("the secret {0} cannot be sealed, so it is not taken in: {1}")]
    SecretUnsealed(SecretName, SealError),
    /// Containers have the secret in a variable, which this value cannot be; not empty.
    #[error(
        "cannot be the variable (secrets[].env) that it is in {users}: it must be text (UTF-8, without \
         NUL), and not too long together with the others; they keep the value of before",
        users = few(.1)
    )]
    SecretUnfit(SecretName, Vec<ContainerName>),
    /// The node has as many secrets as it may.
    #[error("this node keeps at most {0} secrets; delete one that is not used")]
    TooManySecrets(usize),
    /// No secret has this name.
    #[error("no secret has the name {0}")]
    UnknownSecret(SecretName),
    /// Containers use the secret; not empty.
    #[error("the secret {0} is used by {users}; change or delete them before", users = few(.1))]
    SecretUsed(SecretName, Vec<ContainerName>),
    /// Running containers that a set would end by leaving them out: more than go without saying.
    #[error(
        "{} running containers would end, because the set leaves them out ({}); \
         if that is meant, send it again with ?confirm={}",
        .0.len(), few(.0), .0.len()
    )]
    Unconfirmed(Vec<ContainerName>),
    /// The container would wait for itself, by way of others: this circle.
    #[error(
        "{0} would wait for itself, and none of these would ever be started ({way}); \
         leave one of them out of after",
        way = circle::as_text(.1)
    )]
    Circle(ContainerName, Vec<ContainerName>),
    /// The disk refuses the change, and has nothing of it.
    #[error("the state cannot be written to state.dir, and the change is not made")]
    Disk(#[source] std::io::Error),
    /// The disk failed in the middle of the change, and could not be brought back to what it held.
    #[error(
        "the state cannot be written to state.dir, and whether the disk has this change is not known: it \
         is not carried out now and taken back once the disk can be written, but should the agent end \
         before, its next start may carry it out; look again then, or ask again"
    )]
    Unsure(#[source] std::io::Error),
    /// The change cannot be written down in the audit, without which none is made.
    #[error("the change cannot be written into the audit below state.dir, so it is not made")]
    Audit(#[source] std::io::Error),
    /// The name is that of a record which this version cannot read.
    #[error(
        "container {0} is stored in a format that this agent cannot read; \
         it is left running and cannot be changed"
    )]
    UnreadableRecord(ContainerName),
    /// The state is being rebuilt, so nobody knows yet which addresses and ports are taken.
    #[error(
        "the stored state was damaged and is being rebuilt from containerd's labels; \
         try again once containerd answers"
    )]
    Rebuilding,
    /// The newest copy of the state cannot be opened now, so nobody knows what was asked last.
    #[error("the stored state cannot be opened now, so nothing is changed; it is tried again: {0}")]
    Unknown(String),
    /// Another agent has locked the state directory.
    #[error("another agent uses the state in {}; stop it first", .0.display())]
    InUse(PathBuf),
}

/// The first few names.
fn few(names: &[ContainerName]) -> String {
    let mut texts: Vec<_> = names.iter().take(10).map(ToString::to_string).collect();
    if names.len() > texts.len() {
        texts.push("…".to_owned());
    }
    texts.join(", ")
}

fn shortages(short: &[Shortage]) -> String {
    let texts: Vec<_> = short.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn fields(errors: &[FieldError]) -> String {
    let texts: Vec<_> = errors
        .iter()
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect();
    texts.join("; ")
}

fn one_line(errors: &[(ContainerName, StoreError)]) -> String {
    let texts: Vec<_> = errors
        .iter()
        .map(|(name, error)| format!("{name}: {error}"))
        .collect();
    texts.join("; ")
}
