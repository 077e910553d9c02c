//! Operations of the API: each is what its handler reads its parameters by, and what the document
//! says of it.

use state::status::Status;

use super::error::ProblemKind::{
    Conflict, InvalidSpec, NameOutOfScope, NoSuchPath, NodeFull, PolicyDenied, Unavailable,
    Unconfirmed,
};
use super::operation::ParameterKind::{Flag, Text, Whole, Word};
use super::operation::{AnswerBody, Operation, Parameter, TakenBody};

/// Words of `status`.
pub(super) const STATUSES: [&str; Status::ALL.len()] = {
    let mut words = [""; Status::ALL.len()];
    let mut index = 0;
    while index < words.len() {
        words[index] = Status::ALL[index].as_str();
        index += 1;
    }
    words
};
/// Words of `owner`.
pub(super) const OWNERS: [&str; 3] = ["push", "chas", "unmanaged"];

const DETAIL: AnswerBody = AnswerBody::Json(&["ContainerDetail"]);
const STORED: (u16, AnswerBody) = (202, DETAIL);
const DONE: (u16, AnswerBody) = (200, DETAIL);

const fn parameter(
    name: &'static str,
    kind: super::operation::ParameterKind,
    words: &'static str,
) -> Parameter {
    Parameter { name, kind, words }
}

const fn wait(words: &'static [&'static str]) -> Parameter {
    let meaning = "Answers when it is so, has failed, or `timeout` is over";
    parameter("wait", Word(words), meaning)
}

const TIMEOUT: Parameter = parameter(
    "timeout",
    Text,
    "Longest wait, such as `30s`, which is the default; 10m at most",
);
const GENERATION: Parameter = parameter("generation", Whole, "Generation that is meant");
const REVEAL: Parameter = parameter(
    "reveal",
    Flag,
    "Shows values of the environment; needs the role `admin`",
);
const DRY_RUN: Parameter = parameter(
    "dry_run",
    Flag,
    "Answers what would be done, and stores nothing",
);
const STREAM: Parameter = parameter("stream", Flag, "A line each second, until the end");
const IF_MATCH: Parameter = parameter(
    "If-Match",
    Text,
    "ETag of what is to be changed; 412 if it is another now",
);
const IF_NONE_MATCH: Parameter = parameter(
    "If-None-Match",
    Text,
    "ETag that is known; 304 if it is still so",
);
const IF_ABSENT: Parameter = parameter(
    "If-None-Match",
    Text,
    "`*`: only if no container has the name; 412 if one has",
);
const KEY: Parameter = parameter(
    "Idempotency-Key",
    Text,
    "The same request with the same key is carried out once within 24 hours",
);

mod containers;

pub(super) use containers::*;

pub(super) const LIVE: Operation = Operation {
    answers: &[(200, AnswerBody::Text)],
    ..Operation::of("live", "Whether the agent answers at all")
};
pub(super) const READY: Operation = Operation {
    answers: &[(200, AnswerBody::Text), (503, AnswerBody::Text)],
    ..Operation::of(
        "ready",
        "Whether the agent knows its state, and containerd answers",
    )
};
pub(super) const VERSION: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Version"]))],
    ..Operation::of("version", "Version of the agent")
};
pub(super) const PAGE: Operation = Operation {
    headers: &[IF_NONE_MATCH],
    answers: &[(200, AnswerBody::Html), (304, AnswerBody::None)],
    ..Operation::of("page", "Page for people, without data of its own")
};
pub(super) const WHOAMI: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Caller"]))],
    ..Operation::of("whoami", "The caller, as the node knows it")
};
pub(super) const DOCUMENT: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Document"]))],
    ..Operation::of("document", "This document")
};
pub(super) const VOLUMES: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["VolumeList"]))],
    problems: &[Unavailable],
    ..Operation::of("listVolumes", "Lists the named volumes")
};
pub(super) const VOLUME: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Volume"]))],
    problems: &[Unavailable],
    ..Operation::of("getVolume", "Shows a named volume")
};
pub(super) const REMOVE_VOLUME: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["VolumeRemoval"]))],
    problems: &[Conflict, NameOutOfScope, Unavailable],
    ..Operation::of(
        "removeVolume",
        "Removes a named volume that nothing uses, and its content",
    )
};
pub(super) const READ_VOLUME: Operation = Operation {
    answers: &[(200, AnswerBody::Tar)],
    problems: &[Conflict, Unavailable],
    ..Operation::of("readVolume", "An archive of a volume's content")
};
pub(super) const WRITE_VOLUME: Operation = Operation {
    body: TakenBody::Tar,
    answers: &[(200, AnswerBody::Json(&["Archived"]))],
    problems: &[
        Conflict,
        NameOutOfScope,
        NodeFull,
        PolicyDenied,
        Unavailable,
    ],
    ..Operation::of(
        "writeVolume",
        "Takes an archive into a volume, which is made if there is none",
    )
};
pub(super) const SET: Operation = Operation {
    query: &[REVEAL],
    headers: &[IF_NONE_MATCH],
    answers: &[
        (200, AnswerBody::Json(&["DesiredSet"])),
        (304, AnswerBody::None),
    ],
    problems: &[Unavailable],
    ..Operation::of("getDesiredState", "The set owned by push, and its ETag")
};
pub(super) const PUT_SET: Operation = Operation {
    query: &[
        DRY_RUN,
        parameter(
            "confirm",
            Whole,
            "Number of running containers that may end",
        ),
    ],
    headers: &[IF_MATCH, KEY],
    body: TakenBody::Json("DeploySet"),
    answers: &[
        (202, AnswerBody::Json(&["SetChange"])),
        (200, AnswerBody::Json(&["SetChange"])),
    ],
    problems: &[
        Conflict,
        NameOutOfScope,
        NodeFull,
        PolicyDenied,
        Unavailable,
        Unconfirmed,
    ],
    ..Operation::of(
        "putDesiredState",
        "Replaces the set owned by push in one change; what it leaves out is removed",
    )
};
pub(super) const CONFIRM: Operation = Operation {
    query: &[GENERATION],
    answers: &[(200, AnswerBody::Json(&["Confirmation"]))],
    problems: &[Conflict, Unavailable],
    ..Operation::of(
        "confirm",
        "Confirms the part of the set from CHaS that ends many containers",
    )
};
pub(super) const SECRETS: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["SecretList"]))],
    ..Operation::of(
        "listSecrets",
        "Lists the secrets of the node, without values",
    )
};
pub(super) const PUT_SECRET: Operation = Operation {
    body: TakenBody::Bytes("SecretBody"),
    answers: &[
        (201, AnswerBody::Json(&["Secret"])),
        (200, AnswerBody::Json(&["Secret"])),
    ],
    problems: &[Conflict, NameOutOfScope, NodeFull, Unavailable],
    ..Operation::of("putSecret", "Gives a secret a value")
};
pub(super) const REMOVE_SECRET: Operation = Operation {
    answers: &[(204, AnswerBody::None)],
    problems: &[Conflict, InvalidSpec, NameOutOfScope, Unavailable],
    ..Operation::of("removeSecret", "Removes a secret that nothing uses")
};
pub(super) const PLAN: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Plan"]))],
    ..Operation::of("plan", "Steps that would be done now")
};
pub(super) const CAPACITY: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Capacity"]))],
    ..Operation::of("capacity", "What the node has, reserves and uses")
};
pub(super) const HEALTH: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Health"]))],
    ..Operation::of("health", "Health of the node")
};
pub(super) const LOG_LEVEL: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["LogLevel"]))],
    ..Operation::of("getLogLevel", "Level of the agent's own log")
};
pub(super) const PUT_LOG_LEVEL: Operation = Operation {
    body: TakenBody::Json("LogLevelOrder"),
    answers: &[(200, AnswerBody::Json(&["LogLevel"]))],
    problems: &[NameOutOfScope, Unavailable],
    ..Operation::of(
        "putLogLevel",
        "Gives the agent's own log another level for a while, 15 minutes unless `for` says otherwise",
    )
};
pub(super) const IMAGES: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["ImageList"]))],
    problems: &[Unavailable],
    ..Operation::of(
        "listImages",
        "Lists the images on the node, and who uses them",
    )
};
pub(super) const FETCH_IMAGE: Operation = Operation {
    body: TakenBody::Json("ImageOrder"),
    answers: &[(200, AnswerBody::Lines("ImageProgress"))],
    problems: &[Conflict, PolicyDenied, Unavailable],
    ..Operation::of(
        "pullImage",
        "Pulls an image before a container needs it, a line each second; the last says how it ended",
    )
};
pub(super) const REMOVE_IMAGE: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Image"]))],
    problems: &[Conflict, NameOutOfScope, Unavailable],
    ..Operation::of("removeImage", "Removes an image that nothing uses")
};
pub(super) const PRUNE_IMAGES: Operation = Operation {
    query: &[
        DRY_RUN,
        parameter("all", Flag, "Also those that are to be kept for a while"),
    ],
    answers: &[(200, AnswerBody::Json(&["PrunedImages"]))],
    problems: &[NameOutOfScope, Unavailable],
    ..Operation::of("pruneImages", "Removes the images that nothing uses")
};
pub(super) const CORDON: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["NodeCordon"]))],
    problems: &[NameOutOfScope, Unavailable],
    ..Operation::of(
        "cordon",
        "Starts nothing new on the node, until it is uncordoned",
    )
};
pub(super) const UNCORDON: Operation = Operation {
    id: "uncordon",
    summary: "Ends the operator's cordon and drain; what was stopped for it starts again",
    ..CORDON
};
pub(super) const DRAIN: Operation = Operation {
    query: &[wait(&["drained"]), TIMEOUT],
    id: "drain",
    summary: "Cordons the node, and stops everything that it may stop, until it is uncordoned",
    problems: &[Conflict, NameOutOfScope, Unavailable],
    ..CORDON
};
pub(super) const METRICS: Operation = Operation {
    answers: &[(200, AnswerBody::Text), (200, AnswerBody::OpenMetrics)],
    problems: &[NoSuchPath],
    ..Operation::of(
        "metrics",
        "Metrics, as Prometheus reads them; they can be switched off",
    )
};
