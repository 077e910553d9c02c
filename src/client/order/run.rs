//! Flags of `run`, as docker and nerdctl have them.

use std::path::PathBuf;

use clap::Args;

use super::ExecFlags;

/// Flags of `run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunFlags {
    /// Keeps it running in the background, and shows its id
    #[arg(short, long)]
    pub(in crate::client) detach: bool,
    /// Gives its program this input; the container ends with it
    #[arg(short, long, conflicts_with = "detach")]
    pub(in crate::client) interactive: bool,
    /// Gives its program a terminal
    #[arg(short, long, conflicts_with = "detach")]
    pub(in crate::client) tty: bool,
    /// Name; without it, one is made of the image's
    #[arg(long)]
    pub(in crate::client) name: Option<String>,
    /// Port of the host for one of the container
    #[arg(
        short,
        long,
        value_name = "PORT",
        help = "Port of the host for one of the container: [[IP:]HOST:]CONTAINER[/udp]"
    )]
    pub(in crate::client) publish: Vec<String>,
    /// Variable of its environment; without a value, that of this shell
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(in crate::client) env: Vec<String>,
    /// File with such variables, one a line
    #[arg(long, value_name = "PATH")]
    pub(in crate::client) env_file: Vec<PathBuf>,
    /// Volume or path of the host, and where it is mounted
    #[arg(
        short,
        long,
        value_name = "VOLUME",
        help = "Volume or path of the host, and where it is mounted: NAME:PATH[:ro]"
    )]
    pub(in crate::client) volume: Vec<String>,
    /// File system in memory: PATH[:size=64m]
    #[arg(long, value_name = "PATH")]
    pub(in crate::client) tmpfs: Vec<String>,
    /// When it is started again
    #[arg(
        long,
        value_name = "POLICY",
        help = "When it is started again: no, on-failure[:RETRIES], always, unless-stopped"
    )]
    pub(in crate::client) restart: Option<String>,
    /// Cores, such as 0.5
    #[arg(long, value_name = "CORES")]
    pub(in crate::client) cpus: Option<String>,
    /// Relative weight of its processor time
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    pub(in crate::client) cpu_shares: Option<u64>,
    /// Cores that it may use, such as 0-1
    #[arg(long, value_name = "CORES")]
    pub(in crate::client) cpuset_cpus: Option<String>,
    /// Most memory, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub(in crate::client) memory: Option<String>,
    /// Memory that is set aside for it
    #[arg(long, value_name = "SIZE")]
    pub(in crate::client) memory_reservation: Option<String>,
    /// Most processes and threads
    #[arg(long, value_name = "COUNT")]
    pub(in crate::client) pids_limit: Option<u64>,
    /// User, and group after a colon
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(in crate::client) user: Option<String>,
    /// Further group of its processes
    #[arg(long, value_name = "GROUP")]
    pub(in crate::client) group_add: Vec<String>,
    /// Directory to start in
    #[arg(short, long, value_name = "PATH")]
    pub(in crate::client) workdir: Option<String>,
    /// Host name of its own
    #[arg(long, value_name = "NAME")]
    pub(in crate::client) hostname: Option<String>,
    /// Label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(in crate::client) label: Vec<String>,
    /// Program instead of the image's ENTRYPOINT
    #[arg(long, value_name = "PROGRAM")]
    pub(in crate::client) entrypoint: Option<String>,
    /// Mounts its own files read-only
    #[arg(long)]
    pub(in crate::client) read_only: bool,
    /// Capability that it gets
    #[arg(long, value_name = "NAME")]
    pub(in crate::client) cap_add: Vec<String>,
    /// Capability that it loses, or ALL
    #[arg(long, value_name = "NAME")]
    pub(in crate::client) cap_drop: Vec<String>,
    /// Network: bridge, host or none
    #[arg(long, value_name = "NETWORK", alias = "net")]
    pub(in crate::client) network: Option<String>,
    /// Server of names
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::client) dns: Vec<String>,
    /// Further name of a host: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(in crate::client) add_host: Vec<String>,
    /// Device of the host
    #[arg(long, value_name = "PATH")]
    pub(in crate::client) device: Vec<String>,
    /// Limit of its processes, such as nofile=65536
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(in crate::client) ulimit: Vec<String>,
    /// Kernel setting of its own
    #[arg(long, value_name = "NAME=VALUE")]
    pub(in crate::client) sysctl: Vec<String>,
    /// Size of its /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub(in crate::client) shm_size: Option<String>,
    /// Gives it a small first process, which ends what its programs leave behind
    #[arg(long)]
    pub(in crate::client) init: bool,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    pub(in crate::client) stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL
    #[arg(long, value_name = "SECONDS")]
    pub(in crate::client) stop_timeout: Option<u64>,
    /// Command by which it is seen whether it works, run by a shell
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck")]
    pub(in crate::client) health_cmd: Option<String>,
    /// Time between two such looks
    #[arg(long, value_name = "DURATION", requires = "health_cmd")]
    pub(in crate::client) health_interval: Option<String>,
    /// Longest time of one
    #[arg(long, value_name = "DURATION", requires = "health_cmd")]
    pub(in crate::client) health_timeout: Option<String>,
    /// Looks in a row that must fail
    #[arg(long, value_name = "COUNT", requires = "health_cmd")]
    pub(in crate::client) health_retries: Option<u64>,
    /// Time at its start in which none counts
    #[arg(long, value_name = "DURATION", requires = "health_cmd")]
    pub(in crate::client) health_start_period: Option<String>,
    /// Leaves the image's HEALTHCHECK alone
    #[arg(long)]
    pub(in crate::client) no_healthcheck: bool,
    /// When the image is fetched: always, missing or never
    #[arg(long, value_name = "WHEN", value_parser = ["always", "missing", "never"])]
    pub(in crate::client) pull: Option<String>,
    /// Removes it when it has ended
    #[arg(long, conflicts_with = "detach")]
    pub(in crate::client) rm: bool,
    /// Shows the deploy body, and does nothing
    #[arg(long)]
    pub(in crate::client) dry_run: bool,
    /// Image, such as nginx:1.27; what follows it stands instead of the image's CMD
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "COMMAND"])]
    pub(in crate::client) words: Vec<String>,
}

impl RunFlags {
    /// Whether its program is run in a session, with the caller's input or terminal.
    pub(in crate::client) fn is_session(&self) -> bool {
        self.interactive || self.tty
    }

    /// The image.
    pub(in crate::client) fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

impl ExecFlags {
    /// The container's own program, as `run` gives it input and terminal.
    pub(in crate::client) fn of_own(name: &str, flags: &RunFlags) -> Self {
        Self {
            interactive: flags.interactive,
            tty: flags.tty,
            env: Vec::new(),
            user: None,
            workdir: None,
            raw: false,
            name: name.to_owned(),
            command: Vec::new(),
        }
    }
}
