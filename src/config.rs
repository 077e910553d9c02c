//! Configuration from flags, environment and file, as typed values; or every error in it at once.
//! This room knows no other, and no other reads the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use reqwest::Url;
use rustix::rand::{GetRandomFlags, getrandom};
use state::spec::Protocol;
use state::store::Defaults;
use state::subnet::{ContainerSubnets, Ipv4Subnet, Ipv6Subnet};

mod api;
mod check;
mod clients;
mod containers;
mod file;
mod image;
pub(crate) mod keys;
mod logs;
mod origin;
pub(crate) mod owned;
mod parse;
mod policy;
mod policy_copy;
pub mod private;
mod reload;
mod resolve;
mod runtimes;
mod secrets;

#[cfg(any(test, fuzzing))]
pub(crate) use clients::parse as parse_clients;
#[cfg(any(test, fuzzing))]
pub(crate) use file::read as read_file;
pub(crate) use parse::log_level as read_log_level;

pub use api::{ApiSection, ApiTls, Exposure};
pub use check::report;
pub use clients::{DEFAULT_CLIENTS, NewToken, TokenOrder};
pub use containers::ContainersSection;
pub use file::{data, documents};
pub use image::ImageSection;
pub use logs::{LogFormat, LoggingSection, LogsSection, SystemUser};
pub use origin::{ConfigError, ConfigErrors, Origin};
pub use policy::{DEFAULT_POLICY, POLICY_KEYS, PolicyFile, PolicyTrial};
pub use reload::{Reload, Reloaded};
pub use resolve::{EffectiveValue, FILE_VARIABLE, Flags, LoadFor, LoadedConfig, load, load_keys};
pub use runtimes::{RuntimeChoice, shim_program};
pub use secrets::SecretsSection;

/// Longest path of a socket: `sun_path` of unix(7), less the NUL at its end.
const SOCKET_BYTES_MAX: usize = 107;

/// Path of the configuration file when none is named; the file may be absent.
pub const DEFAULT_FILE: &str = "/etc/chas/node-agent.yaml";

/// The agent's configuration, grouped into the sections of the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's own API.
    pub api: ApiSection,
    /// The CHaS API server. `None`: the node runs only containers that are pushed to it.
    pub chas: Option<ChasSection>,
    /// The node itself.
    pub node: NodeSection,
    /// The connection to containerd.
    pub containerd: ContainerdSection,
    /// Health samples and metrics.
    pub monitoring: MonitoringSection,
    /// The agent's own log.
    pub logging: LoggingSection,
    /// Directories of the agent's state.
    pub state: StateSection,
    /// The containers' network.
    pub network: NetworkSection,
    /// Access to registries.
    pub registry: RegistrySection,
    /// Room that images may take.
    pub image: ImageSection,
    /// Limits on containers.
    pub containers: ContainersSection,
    /// Lines about changes.
    pub audit: AuditSection,
    /// Loggers of containers.
    pub logs: LogsSection,
    /// Bounds on what containers may ask for.
    pub policy: PolicySection,
    /// Section `secrets`.
    pub secrets: SecretsSection,
    /// Application of the desired state.
    pub reconcile: ReconcileSection,
    /// Files with secrets, which nobody else is to read.
    pub secret_files: Vec<PathBuf>,
    /// Keys that hold a default of a version before, since the node is from before.
    pub earlier_defaults: Vec<&'static str>,
}

/// Key `api.chas_url` and section `chas`: the CHaS API server.
#[derive(Clone, Debug)]
pub struct ChasSection {
    /// URL of the server; ends with a slash, so that paths can be joined to it.
    pub url: Url,
    /// Token that the agent presents, until CHaS issues another.
    pub token: Option<Secret>,
    /// File that holds this token instead. It need not exist yet.
    pub token_file: Option<PathBuf>,
    /// Certificates of the authorities to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The agent's own certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether the operator accepts that CHaS is reached in the clear.
    pub plain_http: bool,
    /// Public keys (PEM, ed25519) of which one must have signed each set. `None`: sets need no
    /// signature.
    pub set_key_file: Option<PathBuf>,
}

impl ChasSection {
    /// Whether nobody on the way can read or write the calls: TLS, or this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_loopback = address.map_or(host == "localhost", |address| address.is_loopback());
        self.url.scheme() == "https" || is_loopback
    }
}

/// Section `node`: this node.
#[derive(Clone, Debug)]
pub struct NodeSection {
    /// Name of the node in CHaS; fits a URL's path segment.
    pub id: String,
    /// Hostname that the node registers.
    pub hostname: String,
    /// Address that the node registers. `None`: the address of the default route.
    pub address: Option<IpAddr>,
    /// Labels that the node registers, for schedulers.
    pub labels: BTreeMap<String, String>,
}

/// Section `containerd`: the connection to containerd.
#[derive(Clone, Debug)]
pub struct ContainerdSection {
    /// Socket of containerd.
    pub socket: PathBuf,
    /// containerd namespace of the agent's containers; a valid containerd identifier.
    pub namespace: String,
}

/// Section `monitoring`: health samples and metrics.
#[derive(Clone, Debug)]
pub struct MonitoringSection {
    /// Interval between two samples and two reports; 1 s to 1 h.
    pub health_interval: Duration,
    /// Whether `GET /metrics` is served.
    pub metrics_enabled: bool,
}

/// Section `state`: directories of the agent's state.
#[derive(Clone, Debug)]
pub struct StateSection {
    /// Directory that survives a reboot.
    pub dir: PathBuf,
    /// Directory that is emptied by a reboot.
    pub run_dir: PathBuf,
    /// Defaults that the node goes by, as the directory tells.
    pub defaults: Defaults,
}

impl StateSection {
    /// The socket on which root calls the agent's API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The fault for which the socket cannot be made, with its remedy. `None`: there is none.
    #[must_use]
    pub fn socket_fault(&self) -> Option<String> {
        let socket = self.socket();
        let length = socket.as_os_str().len();
        (length > SOCKET_BYTES_MAX).then(|| {
            format!(
                "the path of the agent's socket, {}, has {length} bytes, and a socket's has \
                 {SOCKET_BYTES_MAX} at most: choose a state.run_dir with a shorter path",
                socket.display()
            )
        })
    }

    /// The file of the token that the agent makes where none is configured.
    #[must_use]
    pub fn admin_token(&self) -> PathBuf {
        self.dir.join("admin-token")
    }
}

/// Section `network`: the containers' network.
#[derive(Clone, Debug)]
pub struct NetworkSection {
    /// Name of the bridge; a valid interface name.
    pub bridge: String,
    /// Subnet of the containers' addresses.
    pub subnet: Ipv4Subnet,
    /// Whether the agent chooses the subnet, of which the former is only the default then.
    pub subnet_auto: bool,
    /// IPv6 subnet of the containers' addresses. `None`: they have none, or the agent draws it.
    pub subnet6: Option<Ipv6Subnet>,
    /// Whether the agent draws the IPv6 subnet.
    pub subnet6_auto: bool,
    /// Fault for which there is none although one was drawn.
    pub subnet6_fault: Option<String>,
    /// Host ports for containers that ask for any port.
    pub port_range: RangeInclusive<u16>,
    /// Ports of the host that containers reach besides name servers. `None`: every one.
    pub host_access: Option<BTreeSet<(Protocol, u16)>>,
    /// Whether containers reach link-local addresses.
    pub link_local: bool,
    /// Whether containers reach each other.
    pub neighbours: bool,
    /// Whether a container can send from its own addresses only.
    pub source_guard: bool,
    /// Whether the node goes on to connect its networks although it did not before the agent.
    pub route_between_networks: bool,
}

impl NetworkSection {
    /// Subnets of the containers' addresses.
    #[must_use]
    pub const fn subnets(&self) -> ContainerSubnets {
        ContainerSubnets {
            ipv4: self.subnet,
            ipv6: self.subnet6,
        }
    }
}

/// Section `registry`: access to registries.
#[derive(Clone, Debug)]
pub struct RegistrySection {
    /// Registries that are called over plain HTTP, as `host` or `host:port`.
    pub insecure: Vec<String>,
    /// Hosts beyond a registry's own domain that get its password for tokens, as `host` or
    /// `host:port`.
    pub token_hosts: Vec<String>,
    /// File of credentials, in the format of docker's `config.json`.
    pub auth_file: Option<PathBuf>,
    /// Certificates of authorities to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Directory of mirrors and certificates by registry, as containerd reads it.
    pub hosts_dir: PathBuf,
    /// Interval at which tags are asked for anew; 1 min to 7 d. `None`: never.
    pub follow_interval: Option<Duration>,
    /// Proxy to registries with TLS.
    pub https_proxy: Option<Url>,
    /// Proxy to registries without TLS.
    pub http_proxy: Option<Url>,
    /// Hosts that are reached without a proxy, separated by commas.
    pub no_proxy: String,
    /// Time after which a connection that brings nothing is given up; 1 s to 10 min.
    pub stall_timeout: Duration,
    /// Time to connect; 1 s to 2 min.
    pub connect_timeout: Duration,
    /// Time from a request to the head of its answer; 1 s to 10 min.
    pub answer_timeout: Duration,
    /// Pulls of the node at once; 1 to 64.
    pub pulls_max: usize,
    /// Pulls from one registry at once; 1 to 64.
    pub pulls_per_registry: usize,
}

/// Section `audit`: lines about changes.
#[derive(Clone, Debug)]
pub struct AuditSection {
    /// Whether a change that cannot be written down is refused.
    pub fail_closed: bool,
}

/// Section `policy`: bounds on what containers may ask for.
#[derive(Clone, Debug)]
pub struct PolicySection {
    /// File with the rules; read again when it changes.
    pub file: PathBuf,
}

/// Section `reconcile`: application of the desired state.
#[derive(Clone, Debug)]
pub struct ReconcileSection {
    /// Interval between two comparisons of all containers with the desired state; 1 s to 10 min.
    pub resync_interval: Duration,
}

/// Bytes of a secret that the agent makes.
const RANDOM_BYTES: usize = 32;

/// A secret text, which its `Debug` form hides.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// A secret with this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// A new secret, which nobody guesses: 43 characters.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text itself, for the one place that compares or sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Secret {
    type Err = String;

    /// A token: printable ASCII without spaces, 16 characters or more.
    fn from_str(text: &str) -> Result<Self, String> {
        parse::token(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Beginnings of the variables that credential helpers get: paths, proxies, and what clouds' own
/// tools read. The agent's tokens are not among them.
const HELPER_VARIABLES: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_",
    "TMPDIR",
    "XDG_",
    "AWS_",
    "AZURE_",
    "CLOUDSDK_",
    "GOOGLE_",
    "SSL_CERT_",
    "GNUPGHOME",
];

/// Environment of credential helpers.
#[must_use]
pub fn helper_environment() -> Vec<(OsString, OsString)> {
    let fits = |(name, _): &(OsString, OsString)| {
        let name = name.to_string_lossy();
        let is_proxy = name.to_ascii_uppercase().ends_with("_PROXY");
        is_proxy || HELPER_VARIABLES.iter().any(|begin| name.starts_with(begin))
    };
    std::env::vars_os().filter(fits).collect()
}

/// A variable of the process's environment; an empty one counts as unset. No other code reads the
/// environment.
#[must_use]
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
