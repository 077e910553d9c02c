//! Operations on containers, and what is seen of them.

use state::event::TOLD_KINDS;

use super::{
    DONE, DRY_RUN, GENERATION, IF_ABSENT, IF_MATCH, KEY, OWNERS, REVEAL, STATUSES, STORED, STREAM,
    TIMEOUT, parameter, wait,
};
use crate::api::error::ProblemKind::{
    Conflict, ContainerEnded, ContainerFailed, ExecLost, ExecTimedOut, InvalidSpec, NameOutOfScope,
    NodeFull, NotFound, PolicyDenied, Unavailable,
};
use crate::api::operation::ParameterKind::{Flag, Required, Text, Texts, Whole, Word, Words};
use crate::api::operation::{AnswerBody, Operation, Parameter, TakenBody};

pub(in crate::api) const LIST: Operation = Operation {
    query: &[
        parameter(
            "status",
            Words(&STATUSES),
            "Only those with one of these states",
        ),
        parameter(
            "label",
            Texts,
            "Only those with the label `key`, or `key=value`; given twice, with both",
        ),
        parameter(
            "name",
            Text,
            "Only this one, or as `web-*` those that begin so",
        ),
        parameter("limit", Whole, "Most that are listed at once"),
        parameter("after", Text, "The `next` of the page before"),
        parameter("owner", Word(&OWNERS), "Only those of this owner"),
    ],
    answers: &[(200, AnswerBody::Json(&["ContainerList"]))],
    ..Operation::of("listContainers", "Lists the containers of the node")
};
pub(in crate::api) const GET: Operation = Operation {
    query: &[wait(&["applied"]), GENERATION, TIMEOUT, REVEAL],
    answers: &[(200, AnswerBody::Json(&["ContainerDetail", "Container"]))],
    problems: &[Unavailable],
    ..Operation::of(
        "getContainer",
        "Shows a container with its spec, and its ETag",
    )
};
pub(in crate::api) const REMOVE: Operation = Operation {
    query: &[wait(&["removed"]), TIMEOUT],
    headers: &[IF_MATCH],
    answers: &[
        (202, AnswerBody::Json(&["Removal"])),
        (200, AnswerBody::Json(&["Removal"])),
    ],
    problems: &[Conflict, Unavailable],
    ..Operation::of(
        "removeContainer",
        "Stops and removes a container; named volumes stay",
    )
};
pub(in crate::api) const DEPLOY: Operation = Operation {
    query: &[wait(&["running", "ready"]), TIMEOUT, DRY_RUN],
    headers: &[IF_MATCH, IF_ABSENT, KEY],
    body: TakenBody::Json("DeployBody"),
    answers: &[
        (
            202,
            AnswerBody::Json(&["ContainerDetail", "ReplayedDeploy"]),
        ),
        (
            200,
            AnswerBody::Json(&["ContainerDetail", "DryRun", "ReplayedDeploy"]),
        ),
    ],
    problems: &[
        Conflict,
        ContainerFailed,
        NameOutOfScope,
        NodeFull,
        NotFound,
        PolicyDenied,
        Unavailable,
    ],
    ..Operation::of(
        "deploy",
        "Takes in a deploy body: a container is made, or changed",
    )
};
pub(in crate::api) const STOP: Operation = Operation {
    query: &[wait(&["stopped"]), TIMEOUT],
    headers: &[IF_MATCH],
    answers: &[STORED, DONE],
    problems: &[Conflict, ContainerFailed, Unavailable],
    ..Operation::of("stop", "Stops a container, which stays stopped")
};
pub(in crate::api) const START: Operation = Operation {
    query: &[wait(&["running", "ready"]), TIMEOUT],
    headers: &[IF_MATCH],
    answers: &[STORED, DONE],
    problems: &[
        Conflict,
        ContainerFailed,
        NodeFull,
        PolicyDenied,
        Unavailable,
    ],
    ..Operation::of("start", "Starts a container")
};
pub(in crate::api) const RESTART: Operation = Operation {
    id: "restart",
    summary: "Stops a container, and starts it again",
    ..START
};
pub(in crate::api) const KILL: Operation = Operation {
    query: &[
        parameter(
            "signal",
            Text,
            "Signal, as `SIGHUP`, `HUP` or `1`; by default SIGKILL",
        ),
        wait(&["ended"]),
        TIMEOUT,
    ],
    answers: &[STORED, DONE],
    problems: &[Conflict, ContainerFailed, Unavailable],
    ..Operation::of(
        "kill",
        "Sends a signal to the first process; a container that ends of it starts again by its policy",
    )
};
pub(in crate::api) const TOP: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["ProcessList"]))],
    problems: &[Conflict, ContainerFailed, Unavailable],
    ..Operation::of("top", "Processes of a container")
};
pub(in crate::api) const ASK_TAG: Operation = Operation {
    query: &[wait(&["checked"]), TIMEOUT],
    answers: &[STORED, DONE],
    problems: &[Conflict, Unavailable],
    ..Operation::of(
        "pull",
        "Asks the registry what the image's tag stands for now",
    )
};
pub(in crate::api) const HISTORY: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["History"]))],
    problems: &[Unavailable, Conflict],
    ..Operation::of("history", "Last generations of a container")
};
pub(in crate::api) const ROLLBACK: Operation = Operation {
    query: &[GENERATION, wait(&["running", "ready"]), TIMEOUT],
    headers: &[IF_MATCH, KEY],
    answers: &[
        (
            202,
            AnswerBody::Json(&["ContainerDetail", "ReplayedDeploy"]),
        ),
        (
            200,
            AnswerBody::Json(&["ContainerDetail", "ReplayedDeploy"]),
        ),
    ],
    problems: &[
        Conflict,
        ContainerFailed,
        InvalidSpec,
        NameOutOfScope,
        NodeFull,
        PolicyDenied,
        Unavailable,
    ],
    ..Operation::of(
        "rollback",
        "Goes back to a generation; by default, to the last good one",
    )
};
pub(in crate::api) const EXEC: Operation = Operation {
    body: TakenBody::Json("ExecBody"),
    answers: &[
        (200, AnswerBody::Json(&["ExecResult"])),
        (101, AnswerBody::None),
    ],
    problems: &[
        Conflict,
        ContainerEnded,
        ContainerFailed,
        ExecLost,
        ExecTimedOut,
        PolicyDenied,
        Unavailable,
    ],
    ..Operation::of("exec", "Runs a program in a container to its end")
};
pub(in crate::api) const WATCH_EXEC: Operation = Operation {
    query: &[
        parameter(
            "command",
            Texts,
            "Program, and each of its arguments; left out, the own program of an interactive container",
        ),
        parameter("environment", Texts, "Variables, as NAME=VALUE"),
        parameter("user", Text, "User, and group after a colon"),
        parameter("working_dir", Text, "Directory to start in"),
        parameter("stdin", Flag, "Whether it gets input"),
        parameter(
            "stdout",
            Flag,
            "Whether its output is sent; by default it is",
        ),
        parameter(
            "stderr",
            Flag,
            "Whether its errors are sent; by default without a terminal",
        ),
        parameter("tty", Flag, "Whether it has a terminal"),
    ],
    answers: &[(101, AnswerBody::None)],
    problems: &[
        Conflict,
        ContainerFailed,
        InvalidSpec,
        PolicyDenied,
        Unavailable,
    ],
    ..Operation::of(
        "watchExec",
        "Runs a program over a WebSocket of the protocol v5.channel.k8s.io or v4.channel.k8s.io",
    )
};
const PATH: Parameter = parameter("path", Required, "Absolute path in the container");
pub(in crate::api) const READ_FILES: Operation = Operation {
    query: &[PATH],
    answers: &[(200, AnswerBody::Tar)],
    problems: &[Conflict, PolicyDenied, Unavailable],
    ..Operation::of("readFiles", "An archive of what a container has at a path")
};
pub(in crate::api) const WRITE_FILES: Operation = Operation {
    query: &[PATH],
    body: TakenBody::Tar,
    answers: &[(200, AnswerBody::Json(&["Archived"]))],
    problems: &[Conflict, NodeFull, PolicyDenied, Unavailable],
    ..Operation::of(
        "writeFiles",
        "Takes an archive into a directory of a container",
    )
};
pub(in crate::api) const LOGS: Operation = Operation {
    query: &[
        parameter("tail", Text, "Last lines, or `all`; by default 100"),
        parameter(
            "since",
            Text,
            "Lines from this time on, or from so long ago",
        ),
        parameter("until", Text, "Lines up to this time, or to so long ago"),
        parameter(
            "follow",
            Flag,
            "Goes on until the container prints nothing more",
        ),
        parameter("timestamps", Flag, "Each line of text begins with its time"),
        parameter("stream", Word(&["stdout", "stderr"]), "Only this stream"),
    ],
    answers: &[(200, AnswerBody::Text), (200, AnswerBody::Lines("LogLine"))],
    ..Operation::of(
        "logs",
        "Output of a container, as text or by `Accept` as lines of JSON",
    )
};
pub(in crate::api) const EXPLAIN: Operation = Operation {
    answers: &[(200, AnswerBody::Json(&["Explanation"]))],
    problems: &[Conflict],
    ..Operation::of("explain", "Why a container is where it is")
};
pub(in crate::api) const STATS: Operation = Operation {
    query: &[STREAM],
    answers: &[
        (200, AnswerBody::Json(&["Usage"])),
        (200, AnswerBody::Lines("Usage")),
    ],
    problems: &[Conflict],
    ..Operation::of("containerStats", "Use by a container now")
};
pub(in crate::api) const NODE_STATS: Operation = Operation {
    query: &[STREAM],
    answers: &[
        (200, AnswerBody::Json(&["NodeUsage"])),
        (200, AnswerBody::Lines("NodeUsage")),
    ],
    ..Operation::of("stats", "Use by all containers now")
};
pub(in crate::api) const EVENTS: Operation = Operation {
    query: &[
        parameter(
            "after",
            Whole,
            "Number of the event after which to go on; 0: all that are kept",
        ),
        parameter(
            "container",
            Text,
            "Only events of these containers, with commas between them",
        ),
        parameter("kind", Words(&TOLD_KINDS), "Only events of these kinds"),
        parameter(
            "follow",
            Flag,
            "Goes on with what happens; by default it does",
        ),
    ],
    headers: &[parameter(
        "Last-Event-ID",
        Text,
        "As `after`, and before it",
    )],
    answers: &[(200, AnswerBody::Events), (200, AnswerBody::Lines("Event"))],
    ..Operation::of(
        "events",
        "Events as they happen, as Server-Sent Events or by `Accept` as lines of JSON",
    )
};
