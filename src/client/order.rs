//! Orders of the client as they stand on the command line, with names and flags as docker's and nerdctl's
//! users know them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::names;

mod help;
mod images;
mod kept;
mod node;
mod run;
mod tasks;

pub(super) use images::{FetchFlags, PruneFlags};
pub(super) use kept::{SecretOrder, VolumeOrder};
pub(super) use node::DrainFlags;
pub(super) use run::RunFlags;
pub(super) use tasks::{KillFlags, TopFlags};

/// ClientOrder to an agent.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientOrder {
    /// Makes a container and starts it, with docker's flags
    #[command(after_help = help::RUN)]
    Run(Box<RunFlags>),
    /// Deploys the bodies in a file: containers are made, or changed
    #[command(after_help = "Examples:\n  chas-node-agent deploy -f web.yaml\n  \
        jq '.image = \"nginx:1.27\"' web.json | chas-node-agent deploy -f - --wait ready")]
    Deploy(DeployFlags),
    /// Makes the node run just what is in a directory: what is missing there is removed
    #[command(
        after_help = "The whole set that is pushed to this node is replaced in one change; what CHaS owns \
        stays. The difference is\nshown first, and a question asked.\n\nExit codes: 0 done, or nothing to do; 1 \
        refused, or the answer was no; 2 no agent answers."
    )]
    Apply(ApplyFlags),
    /// Shows what `deploy` or `apply` would change
    #[command(
        after_help = "Exit codes: 0 no difference; 3 there are differences; 1 refused; 2 no agent answers."
    )]
    Diff(DiffFlags),
    /// Shows the steps that the agent would do now
    Plan,
    /// Lists containers
    #[command(
        after_help = "Without --all, containers that are stopped by an order, and those that the agent does not \
        manage, are left out.\nOne that should run and does not is always listed, with its reason."
    )]
    Ps(ListFlags),
    /// Shows containers in full, as JSON
    Inspect(ContainerNames),
    /// Says why a container is where it is, and what would help
    Explain(ContainerNames),
    /// Shows what a container has printed
    Logs(LogFlags),
    /// Runs a program in a container
    #[command(after_help = help::EXEC)]
    Exec(ExecFlags),
    /// Copies files out of a container, or into it
    #[command(
        after_help = "Examples:\n  chas-node-agent cp web:/etc/nginx/nginx.conf .\n  \
        chas-node-agent cp ./site web:/usr/share/nginx/html\n  chas-node-agent cp web:/var/log - | tar -t"
    )]
    Cp(CopyFlags),
    /// Shows what containers use
    Stats(StatFlags),
    /// Shows the processes of a container
    Top(TopFlags),
    /// Stops containers, which stay stopped over reboots
    Stop(ChangeFlags),
    /// Starts containers that were stopped
    Start(ChangeFlags),
    /// Restarts containers
    Restart(ChangeFlags),
    /// Sends containers a signal, by default SIGKILL
    #[command(after_help = tasks::KILL_HELP)]
    Kill(KillFlags),
    /// Removes containers; named volumes stay
    Rm(RemoveFlags),
    /// Waits until containers have ended, and shows their exit codes
    Wait(WaitFlags),
    /// Shows events, and goes on
    Events(EventFlags),
    /// Shows the last generations of a container, and what changed
    History(ContainerNames),
    /// Goes back to a generation; by default to the last good one
    Rollback(RollbackFlags),
    /// Named volumes
    #[command(subcommand)]
    Volume(VolumeOrder),
    /// Secrets of the node
    #[command(subcommand)]
    Secret(SecretOrder),
    /// Lists the images on the node, and who uses them
    Images,
    /// Pulls an image before a container needs it
    #[command(after_help = images::FETCH_HELP)]
    Pull(FetchFlags),
    /// Removes images that nothing uses
    Prune(PruneFlags),
    /// Removes images, which nothing may use
    Rmi {
        /// Images, by digest, the beginning of it, or name
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Shows the node at a glance
    Status,
    /// Confirms the removal of containers that CHaS no longer lists, where too many are missing at once
    #[command(after_help = help::CONFIRM)]
    Confirm {
        /// Only list the containers that await a confirmation
        #[arg(long)]
        list: bool,
    },
    /// Starts nothing new on the node; what runs, runs on
    Cordon,
    /// Stops everything on the node in order, until `uncordon`
    #[command(after_help = node::DRAIN_HELP)]
    Drain(DrainFlags),
    /// Ends a cordon and a drain: what was stopped for it starts again
    Uncordon,
    /// Lists the contexts of the client's own file
    Context,
}

impl ClientOrder {
    /// Whether the exit code of the order may be that of a program.
    pub(super) const fn ends_as_program(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Exec(_) | Self::Wait(_))
    }
}

/// Containers.
#[derive(Args, Clone, Debug)]
pub struct ContainerNames {
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER", add = names::containers())]
    pub(super) names: Vec<String>,
}

/// State that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AwaitedState {
    /// Process that runs
    Running,
    /// Process that runs, and works as far as its probe tells
    Ready,
}

impl AwaitedState {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ready => "ready",
        }
    }
}

/// Length of a time on the command line: `90s`, `5m`, or seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 30s or 5m"))
}

/// Flags of `deploy`.
#[derive(Args, Clone, Debug)]
pub struct DeployFlags {
    /// File with deploy bodies, JSON or YAML; `-` is the input
    #[arg(short, long, required = true, value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Waits until each is so, and fails if it cannot
    #[arg(long, value_name = "STATE")]
    pub(super) wait: Option<AwaitedState>,
    /// Longest wait for each
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(super) timeout: Duration,
}

/// Flags of `apply`.
#[derive(Args, Clone, Debug)]
pub struct ApplyFlags {
    /// Directory of deploy bodies (.yaml, .yml, .json), or one file
    #[arg(short, long, required = true, value_name = "DIR")]
    pub(super) file: PathBuf,
    /// Asks no question
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// Flags of `diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffFlags {
    /// File, or directory, of deploy bodies; `-` is the input
    #[arg(short, long, required = true, value_name = "PATH")]
    pub(super) file: PathBuf,
    /// Takes it for the whole set, as `apply` does
    #[arg(long)]
    pub(super) whole: bool,
}

/// Flags of `ps`.
#[derive(Args, Clone, Debug)]
pub struct ListFlags {
    /// Also containers that are stopped by an order, and those that are not managed
    #[arg(short, long)]
    pub(super) all: bool,
    /// Ids only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Cuts nothing off
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// Only those for which it holds: name=web-*, label=team=web, status=failed, owner=chas
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(super) filter: Vec<String>,
    /// Shows it anew each two seconds
    #[arg(short, long)]
    pub(super) watch: bool,
}

/// Flags of `logs`.
#[derive(Args, Clone, Debug)]
pub struct LogFlags {
    /// Container, by name or id
    #[arg(value_name = "CONTAINER", add = names::containers())]
    pub(super) name: String,
    /// Goes on with what is printed
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Lines from the end, or `all`
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    pub(super) tail: String,
    /// Only lines since: 10m, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Only lines until then
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// Time before each line
    #[arg(short, long)]
    pub(super) timestamps: bool,
    /// Only this stream: stdout or stderr
    #[arg(long, value_name = "STREAM", value_parser = ["stdout", "stderr"])]
    pub(super) stream: Option<String>,
    /// Leaves control characters as they are, which may do anything to a terminal
    #[arg(long)]
    pub(super) raw: bool,
}

impl LogFlags {
    /// All that a container prints, to its end.
    pub(super) fn of_all(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            follow: true,
            tail: "all".to_owned(),
            since: None,
            until: None,
            timestamps: false,
            stream: None,
            raw: false,
        }
    }
}

/// Flags of `exec`.
#[derive(Args, Clone, Debug)]
pub struct ExecFlags {
    /// Gives the program this input
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Gives the program a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Variable of its environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// User, and group after a colon
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Directory to start in
    #[arg(short, long, value_name = "PATH")]
    pub(super) workdir: Option<String>,
    /// Leaves control characters of its output as they are also where it has no terminal
    #[arg(long)]
    pub(super) raw: bool,
    /// Container, by name or id
    #[arg(value_name = "CONTAINER", add = names::containers())]
    pub(super) name: String,
    /// Program, and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(super) command: Vec<String>,
}

/// Flags of `cp`.
#[derive(Args, Clone, Debug)]
pub struct CopyFlags {
    /// CONTAINER:PATH, a path of this host, or `-` for a tar stream from the input
    #[arg(value_name = "FROM")]
    pub(super) from: String,
    /// CONTAINER:PATH, a path of this host, or `-` for a tar stream to the output
    #[arg(value_name = "TO")]
    pub(super) to: String,
}

/// Flags of `stats`.
#[derive(Args, Clone, Debug)]
pub struct StatFlags {
    /// Containers, by name or id; without one, all
    #[arg(value_name = "CONTAINER", add = names::containers())]
    pub(super) names: Vec<String>,
    /// Shows them once
    #[arg(long)]
    pub(super) no_stream: bool,
}

/// Flags of `stop`, `start` and `restart`.
#[derive(Args, Clone, Debug)]
pub struct ChangeFlags {
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER", add = names::containers())]
    pub(super) names: Vec<String>,
    /// Answers when the order is stored, without waiting until it is done
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Longest wait for each
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub(super) timeout: Duration,
}

/// Flags of `rm`.
#[derive(Args, Clone, Debug)]
pub struct RemoveFlags {
    #[command(flatten)]
    pub(super) change: ChangeFlags,
    /// Also removes those that run, without a question
    #[arg(short, long)]
    pub(super) force: bool,
}

/// Flags of `wait`.
#[derive(Args, Clone, Debug)]
pub struct WaitFlags {
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER", add = names::containers())]
    pub(super) names: Vec<String>,
    /// Longest wait; without it, for ever
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

/// Flags of `events`.
#[derive(Args, Clone, Debug)]
pub struct EventFlags {
    /// Only events of this container
    #[arg(long, value_name = "CONTAINER", add = names::containers())]
    pub(super) container: Vec<String>,
    /// Only events of this kind, such as container_exited
    #[arg(long, value_name = "KIND")]
    pub(super) kind: Vec<String>,
    /// Begins after this event; 0 is the oldest that is kept
    #[arg(long, value_name = "ID")]
    pub(super) since: Option<String>,
    /// Ends with the last event that is known
    #[arg(long)]
    pub(super) no_follow: bool,
}

/// Flags of `rollback`.
#[derive(Args, Clone, Debug)]
pub struct RollbackFlags {
    /// Container, by name or id
    #[arg(value_name = "CONTAINER", add = names::containers())]
    pub(super) name: String,
    /// Generation to go back to, as `history` lists them
    #[arg(long, value_name = "GENERATION")]
    pub(super) to: Option<u64>,
    /// Answers when the order is stored, without waiting until it is done
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Longest wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(super) timeout: Duration,
}
