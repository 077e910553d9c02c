//! Directory of mirrors and certificates by registry, in the form of containerd's `certs.d`; read
//! again whenever it changed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use state::reason::Reason;

use self::file::HostEntry;
use super::clients::{Clients, Trust};
use super::endpoint::{Endpoint, api_host};
use super::fault::RegistryError;
use super::stamp::FileStamp;
use crate::lock::lock;

mod file;

/// Largest `hosts.toml` that is read.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Hosts of one registry: further ones would only make an image that nobody has slow to fail.
const HOSTS_MAX: usize = 16;

/// Registries whose hosts are remembered; beyond that they are read again.
const KNOWN_MAX: usize = 256;

/// Directories of registries that are reviewed.
const REVIEWED_MAX: usize = 1024;

/// Directory for registries that have none of their own.
const DEFAULT: &str = "_default";

/// Hosts of a registry, the one to ask first first.
pub(super) type Endpoints = Arc<[Arc<Endpoint>]>;

/// Directory of hosts by registry, and what was read of it.
#[derive(Debug)]
pub(super) struct CertsDirectory {
    dir: Option<PathBuf>,
    /// Registries that are called in the clear where no file says otherwise.
    insecure: Vec<String>,
    known: Mutex<HashMap<String, KnownHosts>>,
    reviewed: Mutex<BTreeMap<PathBuf, ReviewedDir>>,
}

/// Directory of one registry as it was last reviewed.
#[derive(Debug)]
struct ReviewedDir {
    watched: Watched,
    fault: Option<String>,
}

/// Files with their stamps as they were when they were read.
type Watched = Vec<(PathBuf, Option<FileStamp>)>;

fn is_current(watched: &Watched) -> bool {
    watched
        .iter()
        .all(|(file, stamp)| FileStamp::of(file).ok() == *stamp)
}

#[derive(Debug)]
struct KnownHosts {
    watched: Watched,
    endpoints: Result<Endpoints, String>,
}

impl CertsDirectory {
    /// Directory `dir`; `None`: every registry is its own host.
    pub(super) fn new(dir: Option<PathBuf>, insecure: Vec<String>) -> Self {
        Self {
            dir,
            insecure,
            known: Mutex::default(),
            reviewed: Mutex::default(),
        }
    }

    /// Hosts of a registry.
    ///
    /// # Errors
    /// [`Reason::RegistryConfigInvalid`] when its file cannot be used. Its images are then not
    /// fetched from elsewhere: the file may say that their names mean another server.
    pub(super) fn of(&self, registry: &str, clients: &Clients) -> Result<Endpoints, RegistryError> {
        let mut known = lock(&self.known);
        if let Some(known) = known.get(registry)
            && is_current(&known.watched)
        {
            return known.endpoints.clone().map_err(invalid);
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let mut watched = Vec::new();
        let endpoints = self.read(registry, clients, &mut watched);
        if let Err(fault) = &endpoints {
            tracing::warn!(registry, %fault, "registry hosts file unusable");
        }
        let entry = KnownHosts {
            watched,
            endpoints: endpoints.clone(),
        };
        known.insert(registry.to_owned(), entry);
        endpoints.map_err(invalid)
    }

    /// Faults of all files of the directory, each a sentence. Files that did not change since the last
    /// time are not read again.
    pub(super) fn faults(&self, clients: &Clients) -> Vec<String> {
        let Some(Ok(entries)) = self.dir.as_ref().map(std::fs::read_dir) else {
            return Vec::new();
        };
        let dirs = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        let mut reviewed = lock(&self.reviewed);
        let mut before = std::mem::take(&mut *reviewed);
        for dir in dirs.take(REVIEWED_MAX) {
            let known = before.remove(&dir);
            let known = known.filter(|known| is_current(&known.watched));
            let now = known.unwrap_or_else(|| self.review(&dir, clients));
            reviewed.insert(dir, now);
        }
        let faults = reviewed.values().filter_map(|known| known.fault.clone());
        faults.collect()
    }

    fn review(&self, dir: &Path, clients: &Clients) -> ReviewedDir {
        let mut watched = vec![(dir.to_owned(), FileStamp::of(dir).ok())];
        let read = self.read_dir(dir, "registry.invalid", clients, &mut watched);
        ReviewedDir {
            watched,
            fault: read.err(),
        }
    }

    fn read(
        &self,
        registry: &str,
        clients: &Clients,
        watched: &mut Watched,
    ) -> Result<Endpoints, String> {
        let candidates = self
            .dir
            .iter()
            .flat_map(|dir| names(registry).map(|name| dir.join(name)));
        for dir in candidates {
            let stamp = FileStamp::of(&dir).ok();
            watched.push((dir.clone(), stamp));
            if stamp.is_some() {
                return self.read_dir(&dir, registry, clients, watched);
            }
        }
        self.own(registry)
            .map(|endpoint| Arc::from([Arc::new(endpoint)]))
    }

    fn own(&self, registry: &str) -> Result<Endpoint, String> {
        let is_plain = self.insecure.iter().any(|host| host == api_host(registry));
        Endpoint::own(registry, is_plain).map_err(|error| error.to_string())
    }

    fn read_dir(
        &self,
        dir: &Path,
        registry: &str,
        clients: &Clients,
        watched: &mut Watched,
    ) -> Result<Endpoints, String> {
        let mut watch = |file: &Path| watched.push((file.to_owned(), FileStamp::of(file).ok()));
        let file = dir.join("hosts.toml");
        watch(&file);
        let named = |fault: String| format!("{} cannot be used: {fault}", file.display());
        let entries = match FileStamp::of(&file) {
            Ok(stamp) if stamp.bytes > FILE_BYTES_MAX => {
                return Err(named(format!("it is larger than {FILE_BYTES_MAX} bytes")));
            }
            // An empty one is none, as for containerd.
            Ok(stamp) if stamp.bytes == 0 => vec![certificates_only(dir)?],
            Ok(_) => {
                let text =
                    std::fs::read_to_string(&file).map_err(|error| named(error.to_string()))?;
                file::parse(&text, dir).map_err(named)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                vec![certificates_only(dir)?]
            }
            Err(error) => return Err(named(error.to_string())),
        };
        if entries.len() > HOSTS_MAX {
            return Err(named(format!("it names more than {HOSTS_MAX} hosts")));
        }
        for file in entries
            .iter()
            .flat_map(|entry| entry.trust.files())
            .chain(clients.ca_file())
        {
            watch(file);
        }
        let endpoints = entries.into_iter().map(|entry| {
            let endpoint = self.endpoint(entry, registry, clients);
            endpoint
                .map(Arc::new)
                .map_err(|fault| format!("in {}: {fault}", dir.display()))
        });
        endpoints.collect()
    }

    fn endpoint(
        &self,
        entry: HostEntry,
        registry: &str,
        clients: &Clients,
    ) -> Result<Endpoint, String> {
        let own = self.own(registry)?;
        let client = match &entry.trust {
            trust if *trust == Trust::default() => None,
            trust => Some(clients.build(trust)?),
        };
        Ok(Endpoint {
            root: entry.root.unwrap_or_else(|| own.root.clone()),
            client,
            is_blind: entry.trust.is_blind,
            headers: entry.headers,
            resolves: entry.resolves,
            serves: entry.serves,
            ..own
        })
    }
}

/// Names of a registry's directory, the first that exists counts: `:` is no letter of file names
/// everywhere.
fn names(registry: &str) -> impl Iterator<Item = String> {
    let portable = registry
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    portable
        .into_iter()
        .chain([registry.to_owned(), DEFAULT.to_owned()])
}

/// Host of a directory without `hosts.toml`, which docker fills with certificates: `*.crt` of
/// authorities, `*.cert` and `*.key` of the node.
fn certificates_only(dir: &Path) -> Result<HostEntry, String> {
    let fault = |error: std::io::Error| format!("{} cannot be read: {error}", dir.display());
    let entries: Result<Vec<_>, _> = std::fs::read_dir(dir).map_err(fault)?.collect();
    let mut files: Vec<_> = entries
        .map_err(fault)?
        .into_iter()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let ends = |file: &PathBuf, end: &str| file.extension().is_some_and(|found| found == end);
    let certificate = files.iter().find(|file| ends(file, "cert"));
    Ok(HostEntry {
        root: None,
        resolves: true,
        serves: true,
        headers: reqwest::header::HeaderMap::new(),
        trust: Trust {
            authorities: files
                .iter()
                .filter(|file| ends(file, "crt"))
                .cloned()
                .collect(),
            identity: certificate.map(|file| {
                let key = file.with_extension("key");
                let key = files.contains(&key).then_some(key);
                (file.clone(), key)
            }),
            ..Trust::default()
        },
    })
}

fn invalid(fault: String) -> RegistryError {
    RegistryError::lasting(Reason::RegistryConfigInvalid, fault)
}
