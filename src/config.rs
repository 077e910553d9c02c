//! What the operator has said, from flags, environment and file, as values that cannot be wrong; or everything that is
//! wrong at once. It knows nothing of ours, and nobody else reads the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use state::subnet::Ipv4Subnet;

mod check;
mod file;
pub mod keys;
mod origin;
mod parse;
mod resolve;

pub use check::report;
pub use origin::{ConfigFaults, Fault, Origin};
pub use resolve::{Effective, FILE_VARIABLE, Flags, Loaded, load};

/// The file that is read when none is named; it may be absent.
pub const DEFAULT_FILE: &str = "/etc/chas/node-agent.yaml";

/// Everything that can be configured, grouped as the file is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's own interface.
    pub api: Api,
    /// CHaS. `None`: the node runs only what is pushed to it.
    pub chas: Option<Chas>,
    /// This node.
    pub node: Node,
    /// Where containerd is.
    pub containerd: Containerd,
    /// What is observed of the node.
    pub monitoring: Monitoring,
    /// The agent's own log.
    pub logging: Logging,
    /// Where the agent keeps what it knows.
    pub state: State,
    /// The containers' network.
    pub network: Network,
    /// How registries are spoken to.
    pub registry: Registry,
    /// What the node accepts.
    pub containers: Containers,
    /// How the desired state is applied.
    pub reconcile: Reconcile,
}

/// `api`: what the agent serves.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where the agent's own API listens; loopback if there is no token.
    pub listen: SocketAddr,
    /// What callers of the agent present. `None`: nothing is asked of callers, who are local.
    pub token: Option<Secret>,
}

/// `api.chas_url` and `chas`: the CHaS API server.
#[derive(Clone, Debug)]
pub struct Chas {
    /// Where it is; ends with a slash, so that paths can be joined to it.
    pub url: Url,
    /// What the agent presents to it, unless CHaS gave it another.
    pub token: Option<Secret>,
    /// A file with it, instead. It need not exist yet.
    pub token_file: Option<PathBuf>,
    /// Certificates to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The agent's own certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `node`: this node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in CHaS; fits a URL's path segment.
    pub id: String,
    /// The hostname it registers with.
    pub hostname: String,
    /// The address it registers with. `None`: that of the default route.
    pub address: Option<IpAddr>,
    /// What it registers with for schedulers.
    pub labels: BTreeMap<String, String>,
}

/// `containerd`: where it is.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Its socket.
    pub socket: PathBuf,
    /// Its namespace for what is ours; an identifier that containerd takes.
    pub namespace: String,
}

/// `monitoring`: what is observed of the node.
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// Between two samples and two reports; 1 s to 1 h.
    pub health_interval: Duration,
    /// `GET /metrics` answers.
    pub metrics_enabled: bool,
}

/// `logging`: the agent's own log.
#[derive(Clone, Debug)]
pub struct Logging {
    /// Directives that `tracing_subscriber::EnvFilter` takes.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Appended to, instead of stderr.
    pub file: Option<PathBuf>,
}

/// How a line of the agent's log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: an object per line.
    Json,
}

/// `state`: where the agent keeps what it knows.
#[derive(Clone, Debug)]
pub struct State {
    /// What survives a reboot.
    pub dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
}

/// `network`: the containers' network.
#[derive(Clone, Debug)]
pub struct Network {
    /// The bridge's name; the kernel takes it.
    pub bridge: String,
    /// The containers' addresses.
    pub subnet: Ipv4Subnet,
    /// Host ports for containers that ask for any.
    pub port_range: RangeInclusive<u16>,
}

/// `registry`: how registries are spoken to.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Those spoken to in plain HTTP, as `host` or `host:port`.
    pub insecure: Vec<String>,
    /// Credentials, in the format of docker's `config.json`.
    pub auth_file: Option<PathBuf>,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// A pull that receives nothing for so long is given up; 1 s to 10 min.
    pub stall_timeout: Duration,
}

/// `containers`: what the node accepts.
#[derive(Clone, Debug)]
pub struct Containers {
    /// How many; 1 to 10000.
    pub max: u32,
}

/// `reconcile`: how the desired state is applied.
#[derive(Clone, Debug)]
pub struct Reconcile {
    /// Between two comparisons of everything; 1 s to 10 min.
    pub resync_interval: Duration,
}

/// A text that never shows by accident.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, for the one place that compares or sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A variable of the process' environment: the one reading of it there is. An empty one counts as unset.
#[must_use]
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
