//! HTTP clients for registries: one for all that are trusted alike, and one for each host with
//! certificates of its own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Url};
use state::reason::Reason;

use super::config::{InvalidRegistryConfig, RegistryConfig};
use super::fault::RegistryError;
use super::proxy::Proxies;
use super::stamp::{FileFault, FileStamp};
use crate::cause;
use crate::lock::lock;
use crate::lookup::{Lookup, NearAddresses};

/// Largest file of certificates that is read: the system's own bundle has some 250 kB.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// Trust in one host beyond the general one. The default is the general one itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// Files of authorities' certificates.
    pub(super) authorities: Vec<PathBuf>,
    /// Files of the node's own certificate and of its key; `None` inside: both are in the first.
    pub(super) identity: Option<(PathBuf, Option<PathBuf>)>,
    /// Whether any certificate will do.
    pub(super) is_blind: bool,
    /// Time to connect; `None`: the general one.
    pub(super) connect_timeout: Option<Duration>,
}

impl Trust {
    /// Files that it is made of.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let identity = self.identity.iter();
        let identity = identity.flat_map(|(certificate, key)| [Some(certificate), key.as_ref()]);
        self.authorities.iter().chain(identity.flatten())
    }
}

/// Clients that trust alike. Their connections are apart: one that was opened to an address of this
/// node serves nobody who may not be led there.
#[derive(Clone, Debug)]
pub(super) struct TrustClients {
    /// Client for hosts that the operator named.
    pub(super) open: Client,
    /// Client for those that hosts lead to, none of which is this node.
    pub(super) walled: Client,
}

/// Builder of clients, and the general ones.
#[derive(Debug)]
pub(super) struct Clients {
    ca_file: Option<PathBuf>,
    connect_timeout: Duration,
    proxies: Proxies,
    lookup: Lookup,
    walled: Lookup,
    general: Mutex<General>,
}

#[derive(Debug)]
struct General {
    stamp: Option<FileStamp>,
    client: Client,
    /// Client that is walled; `None`: nobody led anywhere yet.
    walled: Option<Client>,
    /// Fault of the CA file, where the client is that of before.
    fault: Option<FileFault>,
}

impl Clients {
    /// Clients as they are configured.
    ///
    /// # Errors
    /// When the CA file cannot be read or holds no certificates, or a proxy cannot be used.
    pub(super) fn new(
        config: &RegistryConfig,
        near: NearAddresses,
    ) -> Result<Self, InvalidRegistryConfig> {
        // Fails when there is one already, which is then the one that is used.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let proxies = Proxies::new(&config.proxies);
        let lookup = Lookup::wary(proxies.hosts());
        let ca_file = config.ca_file.as_deref();
        let stamp = ca_file.and_then(|file| FileStamp::of(file).ok());
        let authorities = ca_file.map_or_else(|| Ok(Vec::new()), certificates);
        let authorities = authorities.map_err(|fault| InvalidRegistryConfig::CaFile {
            file: ca_file.unwrap_or(Path::new("")).to_owned(),
            fault: fault.phrase,
        })?;
        let client = general(&proxies, &lookup, config.connect_timeout, authorities)?;
        Ok(Self {
            ca_file: config.ca_file.clone(),
            connect_timeout: config.connect_timeout,
            proxies,
            walled: lookup.without(near),
            lookup,
            general: Mutex::new(General {
                stamp,
                client,
                walled: None,
                fault: None,
            }),
        })
    }

    /// Proxies that the clients use.
    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Notes that the host of a URL is one that the operator named.
    pub(super) fn trust_name_of(&self, url: &Url) {
        if let Some(name) = url.host_str() {
            self.lookup.trust(name);
        }
    }

    /// File of authorities that all clients trust, if there is one.
    pub(super) fn ca_file(&self) -> Option<&PathBuf> {
        self.ca_file.as_ref()
    }

    /// Client for hosts without certificates of their own. It is made anew when the CA file changed,
    /// and stays as it was while that cannot be used.
    pub(super) fn general(&self) -> Client {
        self.refreshed().client.clone()
    }

    /// The same for hosts that registries lead to. It is made when the first one is.
    ///
    /// # Errors
    /// [`Reason::RegistryConfigInvalid`] when the CA file cannot be used.
    pub(super) fn general_walled(&self) -> Result<Client, RegistryError> {
        let mut general = self.refreshed();
        if let Some(walled) = &general.walled {
            return Ok(walled.clone());
        }
        let invalid = |fault| RegistryError::lasting(Reason::RegistryConfigInvalid, fault);
        let file = self.ca_file.as_deref();
        let authorities = file.map_or_else(
            || Ok(Vec::new()),
            |file| certificates(file).map_err(|fault| invalid(fault.of(file).phrase)),
        )?;
        let built = self::general(
            &self.proxies,
            &self.walled,
            self.connect_timeout,
            authorities,
        );
        let walled = built.map_err(|error| invalid(error.to_string()))?;
        general.walled = Some(walled.clone());
        Ok(walled)
    }

    /// Fault of the CA file as it is now, while the certificates of before count.
    pub(super) fn fault(&self) -> Option<String> {
        let general = self.refreshed();
        let fault = general.fault.as_ref()?;
        Some(format!(
            "{}; the certificates of before count",
            fault.phrase
        ))
    }

    fn refreshed(&self) -> MutexGuard<'_, General> {
        let mut general = lock(&self.general);
        let stamp = self
            .ca_file
            .as_ref()
            .and_then(|file| FileStamp::of(file).ok());
        let is_unread = general.fault.as_ref().is_some_and(|fault| fault.is_unread);
        if general.stamp != stamp || is_unread {
            general.stamp = stamp;
            match self.build_by(&self.lookup, &Trust::default()) {
                Ok(client) => {
                    (general.client, general.walled, general.fault) = (client, None, None);
                }
                Err(fault) if general.fault.as_ref() == Some(&fault) => {}
                Err(fault) => {
                    tracing::warn!(
                        fault = fault.phrase,
                        "registry CA certificates unusable; the former ones stay"
                    );
                    general.fault = Some(fault);
                }
            }
        }
        general
    }

    /// Clients that trust as told.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub(super) fn build_both(&self, trust: &Trust) -> Result<TrustClients, FileFault> {
        Ok(TrustClients {
            open: self.build_by(&self.lookup, trust)?,
            walled: self.build_by(&self.walled, trust)?,
        })
    }

    fn build_by(&self, lookup: &Lookup, trust: &Trust) -> Result<Client, FileFault> {
        let timeout = trust.connect_timeout.unwrap_or(self.connect_timeout);
        let mut builder = self
            .proxies
            .apply(base(lookup, timeout))
            .map_err(|error| error.to_string())?;
        for file in trust.authorities.iter().chain(&self.ca_file) {
            let found = certificates(file).map_err(|fault| fault.of(file))?;
            builder = builder.tls_certs_merge(found);
        }
        if let Some((certificate, key)) = &trust.identity {
            let mut pem = read(certificate).map_err(|fault| fault.of(certificate))?;
            if let Some(key) = key {
                pem.push(b'\n');
                pem.extend(read(key).map_err(|fault| fault.of(key))?);
            }
            let identity = Identity::from_pem(&pem).map_err(|error| {
                let cause = cause::root(&error);
                let fault = format!("no client certificate with its key: {cause}");
                FileFault::from(fault).of(certificate)
            })?;
            builder = builder.identity(identity);
        }
        let client = builder
            .tls_danger_accept_invalid_certs(trust.is_blind)
            .build();
        client.map_err(|error| format!("TLS cannot be set up: {}", cause::root(&error)).into())
    }
}

/// Client with the system's authorities and these.
fn general(
    proxies: &Proxies,
    lookup: &Lookup,
    connect_timeout: Duration,
    authorities: Vec<Certificate>,
) -> Result<Client, InvalidRegistryConfig> {
    let base = || proxies.apply(base(lookup, connect_timeout));
    match base()?.tls_certs_merge(authorities.clone()).build() {
        Ok(client) => Ok(client),
        // A node without the system's certificates can still use the registries it has listed.
        Err(error) => {
            tracing::warn!(%error, "system CA certificates unusable; only registry.ca_file and registry.insecure are used");
            let without = base()?.tls_certs_only(authorities);
            without.build().map_err(InvalidRegistryConfig::Tls)
        }
    }
}

fn base(lookup: &Lookup, connect_timeout: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("chas-node-agent/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .dns_resolver(lookup.clone())
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(Duration::from_secs(30))
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, FileFault> {
    match Certificate::from_pem_bundle(&read(file)?) {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err("it holds no PEM certificate".to_owned().into()),
        Err(error) => Err(error.to_string().into()),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, FileFault> {
    let stamp = FileStamp::of(file).map_err(|error| FileFault::unread(&error))?;
    if stamp.bytes > PEM_BYTES_MAX {
        return Err(format!("it is larger than {PEM_BYTES_MAX} bytes").into());
    }
    std::fs::read(file).map_err(|error| FileFault::unread(&error))
}
