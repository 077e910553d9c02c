//! Configuration of the access to registries.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use state::subnet::ContainerSubnets;

/// Configuration of all registries: access, trust, and how long a pull goes on.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// `host[:port]`s reached over plain HTTP, which no other host ever is unless its `hosts.toml`
    /// says so; written as in image references.
    pub insecure: Vec<String>,
    /// `host[:port]`s beyond a registry's own domain that get its password when it sends there for
    /// tokens, and that it may lead to although they are this node.
    pub token_hosts: Vec<String>,
    /// Addresses of the node's containers, where only a registry of the node may lead.
    pub containers: Option<ContainerSubnets>,
    /// Credentials in the format of docker's `config.json`; read again whenever it changed. `None`:
    /// none.
    pub auth_file: Option<PathBuf>,
    /// PEM certificates of authorities to trust besides the system's; read again whenever it
    /// changed. `None`: only the system's.
    pub ca_file: Option<PathBuf>,
    /// Directory of mirrors and certificates by registry, in the form of containerd's `certs.d`;
    /// read again whenever it changed. `None`: none.
    pub hosts_dir: Option<PathBuf>,
    /// Proxies on the way.
    pub proxies: ProxySettings,
    /// Environment of credential helpers.
    pub helper_environment: Vec<(OsString, OsString)>,
    /// Layers of one pull that are downloaded at once: three fill a line without crowding out other
    /// traffic.
    pub layers_max: usize,
    /// Pulls that move at once; further ones wait for their turn.
    pub pulls_max: usize,
    /// Pulls from one registry at once, whether they move or not.
    pub pulls_per_registry: usize,
    /// Time without progress after which a pull no longer counts as one that moves.
    pub idle_after: Duration,
    /// Time for a name lookup, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Time from a request to the head of its answer, connecting included.
    pub answer_timeout: Duration,
    /// Time without a byte, or with hardly any, after which a connection is given up.
    pub stall_timeout: Duration,
    /// First wait after a failed request within a pull; it doubles.
    pub retry_initial: Duration,
    /// Longest such wait. A `Retry-After` beyond it ends the pull, and its slot is free for others.
    pub retry_max: Duration,
    /// Tries without any progress (nothing came, or what came was wrong) before the pull gives up.
    pub attempts_max: u32,
}

/// Proxies on the way to registries. Loopback addresses are never reached through one.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// Proxy for `https` URLs.
    pub https: Option<Url>,
    /// Proxy for `http` URLs.
    pub http: Option<Url>,
    /// Hosts that are reached without one, as in `NO_PROXY`.
    pub none: String,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            token_hosts: Vec::new(),
            containers: None,
            auth_file: None,
            ca_file: None,
            hosts_dir: None,
            proxies: ProxySettings::default(),
            helper_environment: Vec::new(),
            layers_max: 3,
            pulls_max: 8,
            pulls_per_registry: 3,
            idle_after: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            retry_initial: Duration::from_millis(250),
            retry_max: Duration::from_secs(10),
            attempts_max: 4,
        }
    }
}

/// Fault of a registry configuration.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRegistryConfig {
    /// Certificates that cannot be read.
    #[error("registry.ca_file {} cannot be used: {fault}", file.display())]
    CaFile {
        /// Path from the configuration.
        file: PathBuf,
        /// Reason in words.
        fault: String,
    },
    /// Proxy that no client can use.
    #[error("the proxy {proxy} cannot be used: {fault}")]
    Proxy {
        /// Host of the proxy.
        proxy: String,
        /// Reason in words.
        fault: String,
    },
    /// TLS library that refuses to start.
    #[error("TLS cannot be set up")]
    Tls(#[source] reqwest::Error),
}
