//! Configuration of the access to registries.

use std::path::PathBuf;
use std::time::Duration;

/// Configuration of all registries: access, trust, and how long a pull goes on.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// `host[:port]`s reached over plain HTTP, which no other host ever is; written as in image
    /// references.
    pub insecure: Vec<String>,
    /// Credentials in the format of docker's `config.json` (`auths` only); read again whenever it
    /// changed. `None`: none.
    pub auth_file: Option<PathBuf>,
    /// PEM certificates of authorities to trust besides the system's. `None`: only the system's.
    pub ca_file: Option<PathBuf>,
    /// Layers of one pull that are downloaded at once: three fill a line without crowding out other
    /// traffic.
    pub layers_max: usize,
    /// Pulls at once; further ones wait for their turn.
    pub pulls_max: usize,
    /// Time without a byte after which a connection is given up.
    pub stall_timeout: Duration,
    /// First wait after a failed request within a pull; it doubles.
    pub retry_initial: Duration,
    /// Longest such wait. A `Retry-After` beyond it ends the pull, and its slot is free for others.
    pub retry_max: Duration,
    /// Tries without any progress (nothing came, or what came was wrong) before the pull gives up.
    pub attempts_max: u32,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            auth_file: None,
            ca_file: None,
            layers_max: 3,
            pulls_max: 3,
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
    /// TLS library that refuses to start.
    #[error("TLS cannot be set up")]
    Tls(#[source] reqwest::Error),
}
