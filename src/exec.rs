//! Programs that are run in containers beside their first process: how many at once, their
//! streams, and their end, after which nothing of them is left. It knows no containerd.
//!
//! [`ExecRoom::begin`] gives an [`ExecSession`]; the program ends with it. Each is seen to its end
//! by a task of its own (`watch`), whatever becomes of its caller.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use state::event::EventSubject;
use state::failure::Failure;
use state::id::InstanceName;
use state::policy::Denial;
use state::text::shown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::journal::Journal;
use places::ExecPlaces;
use watch::Watch;

mod places;
mod pump;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

/// Pieces of a stream that wait to be taken; beyond them the program waits, too.
const PIECES_MAX: usize = 8;
/// Characters of a command line that are shown.
const COMMAND_CHARS_MAX: usize = 1000;

/// Program to be run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExecOrder {
    /// Program and its arguments. Empty: the container's own, whose first process waits for it.
    pub(crate) command: Vec<String>,
    /// User, and group after a colon, by name or number. `None`: the container's own.
    pub(crate) user: Option<String>,
    /// Directory to start in. `None`: the container's own.
    pub(crate) working_dir: Option<String>,
    /// Variables, beside the container's own and over them.
    pub(crate) environment: BTreeMap<String, String>,
    /// Whether its input comes; else it is empty.
    pub(crate) input: bool,
    /// Whether it has a terminal, whose output is all of one stream.
    pub(crate) terminal: bool,
    /// Rule of the policy by which it may not run as root.
    pub(crate) non_root_rule: Option<String>,
}

impl ExecOrder {
    /// Whether it is the container's own program.
    pub(crate) const fn is_own(&self) -> bool {
        self.command.is_empty()
    }

    /// The program as the log tells of it: arguments may be secret.
    pub(crate) fn named(&self) -> String {
        if self.is_own() {
            return "the container's own program".to_owned();
        }
        let program = self.command.first().map_or("", String::as_str);
        let arguments = self.command.len().saturating_sub(1);
        let program = shown(program, COMMAND_CHARS_MAX);
        format!("{program} with {arguments} arguments")
    }

    /// The command line as the audit has it: its words, cut where they are many.
    pub(crate) fn told(&self) -> Vec<String> {
        let mut left = COMMAND_CHARS_MAX;
        let mut told = Vec::new();
        for word in &self.command {
            if left == 0 {
                told.push("…".to_owned());
                break;
            }
            let word = shown(word, left);
            left -= word.chars().count().max(1).min(left);
            told.push(word.into_owned());
        }
        told
    }
}

/// Name of one program that is run in an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExecName {
    /// Instance that it is run in.
    pub(crate) instance: InstanceName,
    /// Id, which no other program of the instance ever has.
    pub(crate) id: String,
}

impl fmt::Display for ExecName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.instance)
    }
}

/// Message to a program that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExecInput {
    /// Bytes of its input.
    Bytes(Bytes),
    /// End of its input.
    End,
    /// Size of its terminal.
    Size {
        /// Columns.
        width: u16,
        /// Lines.
        height: u16,
    },
}

/// Piece of what a program printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExecOutput {
    /// Of its standard output, or its terminal.
    Stdout(Bytes),
    /// Of its standard error.
    Stderr(Bytes),
}

/// End of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExecEnd {
    /// End by itself, or by a signal that another sent it, with this code.
    Exited(u32),
    /// End with its container.
    ContainerEnded,
    /// End by its caller, or since that one went.
    Cut,
    /// The agent stops.
    AgentStopped,
    /// Nobody can tell any more how it ended, for this cause.
    Lost(String),
}

impl ExecEnd {
    /// The word for it, for counting.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Exited(0) => "succeeded",
            Self::Exited(_) => "failed",
            Self::ContainerEnded => "container_ended",
            Self::Cut => "cut",
            Self::AgentStopped => "agent_stopped",
            Self::Lost(_) => "lost",
        }
    }
}

impl fmt::Display for ExecEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "the program ended with exit code {code}"),
            Self::ContainerEnded => f.write_str("the container ended, and the program with it"),
            Self::Cut => f.write_str("the program was ended for its caller"),
            Self::AgentStopped => f.write_str("the agent stops, and ended the program"),
            Self::Lost(cause) => write!(f, "how the program ended is not known: {cause}"),
        }
    }
}

/// Cause for which a program was not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExecRefusal {
    /// The container does not run, or is paused.
    NotRunning(String),
    /// Too many run already.
    Busy(String),
    /// The policy denies it.
    Denied(Denial),
    /// Failure to run it in this container.
    Failed(Failure),
    /// No such container.
    Gone(String),
    /// The runtime does not answer, or the audit cannot be written.
    Unavailable(String),
}

/// Streams of a program that was started.
pub(crate) struct ExecStreams {
    /// Input, if it has one.
    pub(crate) stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Output.
    pub(crate) stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Errors. `None`: a terminal's are in its output.
    pub(crate) stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

impl fmt::Debug for ExecStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecStreams").finish_non_exhaustive()
    }
}

/// Engine that runs programs in containers. Every call comes to an end by itself, but for
/// [`ended`](Self::ended).
pub(crate) trait ExecEngine: fmt::Debug + Send + Sync + 'static {
    /// Starts a program. Not to be given up half-way. Also one that was refused is to be cleared.
    fn start<'a>(
        &'a self,
        name: &'a ExecName,
        order: &'a ExecOrder,
    ) -> BoxFuture<'a, Result<ExecStreams, ExecRefusal>>;

    /// Waits until the program has ended: [`ExecEnd::Exited`], [`ExecEnd::ContainerEnded`] or
    /// [`ExecEnd::Lost`].
    fn ended<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ExecEnd>;

    /// Gives the program's terminal a size.
    fn resize<'a>(&'a self, name: &'a ExecName, size: (u16, u16)) -> BoxFuture<'a, ()>;

    /// Tells the program that its input ends. Only after the stream was dropped.
    fn end_input<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()>;

    /// Kills the program with every process of its session.
    fn kill<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()>;

    /// Takes away what is left of a program that has ended.
    fn clear<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()>;
}

/// Call for a program to be run.
#[derive(Clone, Debug)]
pub(crate) struct ExecCall {
    /// Instance to run it in.
    pub(crate) instance: InstanceName,
    /// Container of the instance, as events name it.
    pub(crate) subject: EventSubject,
    /// Caller.
    pub(crate) by: String,
    /// Whether the caller is root on the socket.
    pub(crate) is_local: bool,
    /// Whether it is a probe of the agent's own, of which no event tells.
    pub(crate) is_probe: bool,
    /// The program.
    pub(crate) order: ExecOrder,
}

/// Program that runs. It ends with this value.
#[derive(Debug)]
pub(crate) struct ExecSession {
    /// Input.
    pub(crate) input: mpsc::Sender<ExecInput>,
    /// Output. `None`: it has ended, and all is taken.
    pub(crate) output: mpsc::Receiver<ExecOutput>,
    ended: oneshot::Receiver<ExecEnd>,
    cut: DropGuard,
    /// The agent stops only once its caller has heard of the end.
    awaited: TaskTrackerToken,
}

impl ExecSession {
    /// Token that keeps the agent from its end, for whoever tells the caller of the program's.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.awaited.clone()
    }

    /// Waits for its end, once the output has ended. Nothing of it is left then.
    pub(crate) async fn end(self) -> ExecEnd {
        let Self {
            output,
            ended,
            cut,
            awaited: _awaited,
            ..
        } = self;
        // Whoever waits with a piece of it would wait for ever.
        drop(output);
        let end = ended.await;
        drop(cut);
        end.unwrap_or_else(|_| ExecEnd::Lost("the agent stops".to_owned()))
    }

    /// Ends it now; then its output ends.
    pub(crate) fn cut(self) -> CutSession {
        let Self {
            output,
            ended,
            cut,
            awaited,
            ..
        } = self;
        drop(cut);
        CutSession {
            output,
            ended,
            _awaited: awaited,
        }
    }
}

/// Program that its caller has ended.
#[derive(Debug)]
pub(crate) struct CutSession {
    /// The last of its output.
    pub(crate) output: mpsc::Receiver<ExecOutput>,
    ended: oneshot::Receiver<ExecEnd>,
    _awaited: TaskTrackerToken,
}

impl CutSession {
    /// Waits until nothing of it is left.
    pub(crate) async fn end(self) -> ExecEnd {
        let Self { output, ended, .. } = self;
        drop(output);
        ended.await.unwrap_or(ExecEnd::Cut)
    }
}

/// Programs run in the containers of a node. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct ExecRoom {
    engine: Arc<dyn ExecEngine>,
    places: Arc<ExecPlaces>,
    journal: Journal,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl ExecRoom {
    /// Programs on this engine. Those that run at the `stop` are ended; `tracker` waits for that.
    pub(crate) fn new(
        engine: Arc<dyn ExecEngine>,
        journal: Journal,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            engine,
            places: Arc::default(),
            journal,
            tracker,
            stop,
        }
    }

    /// Tasks that the agent waits for when it stops.
    #[cfg(test)]
    pub(crate) const fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Runs a program, once it has a place.
    pub(crate) async fn begin(&self, call: ExecCall) -> Result<ExecSession, ExecRefusal> {
        let id = call.instance.id;
        let place = match call.is_probe {
            true => self.places.take_for_probe(id).await,
            false => self.places.take(id, call.is_local).await?,
        };
        let (input, to_program) = mpsc::channel(PIECES_MAX);
        let (from_program, output) = mpsc::channel(PIECES_MAX);
        let (is_begun, begun) = oneshot::channel();
        let (is_ended, ended) = oneshot::channel();
        let cut = CancellationToken::new();
        let id = format!("exec-{:016x}", state::store::random());
        let watch = Watch {
            engine: Arc::clone(&self.engine),
            journal: self.journal.clone(),
            name: ExecName {
                instance: call.instance,
                id,
            },
            call,
            cut: cut.clone(),
            stop: self.stop.clone(),
        };
        let guard = cut.drop_guard();
        self.tracker.spawn(async move {
            let end = watch.run(is_begun, to_program, from_program).await;
            // The next in line begins when nothing of this one is left.
            drop(place);
            let _whoever_waits = is_ended.send(end);
        });
        match begun.await {
            Ok(Ok(())) => Ok(ExecSession {
                input,
                output,
                ended,
                cut: guard,
                awaited: self.tracker.token(),
            }),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(ExecRefusal::Unavailable("the agent stops".to_owned())),
        }
    }
}
