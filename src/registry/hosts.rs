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
use super::stamp::{FileFault, FileStamp};
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
    fault: Option<FileFault>,
}

/// Files with their stamps as they were when they were read.
type Watched = Vec<(PathBuf, Option<FileStamp>)>;

/// Whether what was read of the files, or the fault of that, is still so.
fn is_current(watched: &Watched, fault: Option<&FileFault>) -> bool {
    !fault.is_some_and(|fault| fault.is_unread)
        && watched
            .iter()
            .all(|(file, stamp)| FileStamp::of(file).ok() == *stamp)
}

#[derive(Debug)]
struct KnownHosts {
    watched: Watched,
    endpoints: Result<Endpoints, FileFault>,
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
            && is_current(&known.watched, known.endpoints.as_ref().err())
        {
            return known.endpoints.clone().map_err(invalid);
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let mut watched = Vec::new();
        let endpoints = self.read(registry, clients, &mut watched);
        // One that could not be read is read for each request.
        let before = known.get(registry);
        let before = before.and_then(|known| known.endpoints.as_ref().err());
        if let Err(fault) = &endpoints
            && before.is_none_or(|before| before.phrase != fault.phrase)
        {
            tracing::warn!(
                registry,
                fault = fault.phrase,
                "registry hosts file unusable"
            );
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
        let Some(dir) = &self.dir else {
            return Vec::new();
        };
        let mut reviewed = lock(&self.reviewed);
        let unread = match directories(dir) {
            Ok(dirs) => {
                let mut before = std::mem::take(&mut *reviewed);
                for dir in dirs {
                    let known = before.remove(&dir);
                    let known =
                        known.filter(|known| is_current(&known.watched, known.fault.as_ref()));
                    let now = known.unwrap_or_else(|| self.review(&dir, clients));
                    reviewed.insert(dir, now);
                }
                None
            }
            // What is in it is not known to be otherwise than before.
            Err(error) => Some(unreadable(dir, &error).phrase),
        };
        let faults = reviewed.values().filter_map(|known| known.fault.as_ref());
        let faults = faults.map(|fault| fault.phrase.clone());
        unread.into_iter().chain(faults).collect()
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
    ) -> Result<Endpoints, FileFault> {
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

    fn own(&self, registry: &str) -> Result<Endpoint, FileFault> {
        let is_plain = self.insecure.iter().any(|host| host == api_host(registry));
        Endpoint::own(registry, is_plain).map_err(|error| error.to_string().into())
    }

    fn read_dir(
        &self,
        dir: &Path,
        registry: &str,
        clients: &Clients,
        watched: &mut Watched,
    ) -> Result<Endpoints, FileFault> {
        let mut watch = |file: &Path| watched.push((file.to_owned(), FileStamp::of(file).ok()));
        let file = dir.join("hosts.toml");
        watch(&file);
        let named = |fault: String| FileFault::from(fault).of(&file);
        let unread = |error: std::io::Error| FileFault::unread(&error).of(&file);
        let entries = match FileStamp::of(&file) {
            Ok(stamp) if stamp.bytes > FILE_BYTES_MAX => {
                return Err(named(format!("it is larger than {FILE_BYTES_MAX} bytes")));
            }
            // An empty one is none, as for containerd.
            Ok(stamp) if stamp.bytes == 0 => vec![certificates_only(dir)?],
            Ok(_) => {
                let text = std::fs::read_to_string(&file).map_err(unread)?;
                file::parse(&text, dir).map_err(named)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                vec![certificates_only(dir)?]
            }
            Err(error) => return Err(unread(error)),
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
            endpoint.map(Arc::new).map_err(|fault| FileFault {
                phrase: format!("in {}: {}", dir.display(), fault.phrase),
                ..fault
            })
        });
        endpoints.collect()
    }

    fn endpoint(
        &self,
        entry: HostEntry,
        registry: &str,
        clients: &Clients,
    ) -> Result<Endpoint, FileFault> {
        let own = self.own(registry)?;
        let clients = match &entry.trust {
            trust if *trust == Trust::default() => None,
            trust => Some(clients.build_both(trust)?),
        };
        Ok(Endpoint {
            root: entry.root.unwrap_or_else(|| own.root.clone()),
            clients,
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
fn certificates_only(dir: &Path) -> Result<HostEntry, FileFault> {
    let fault = |error: std::io::Error| unreadable(dir, &error);
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

/// Directories below `dir`, as many as are reviewed; none where there is no `dir`.
fn directories(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let dirs = paths.filter(|path| path.as_ref().map_or(true, |path| path.is_dir()));
    dirs.take(REVIEWED_MAX).collect()
}

fn unreadable(dir: &Path, error: &std::io::Error) -> FileFault {
    FileFault {
        phrase: format!("{} cannot be read: {error}", dir.display()),
        is_unread: true,
    }
}

fn invalid(fault: FileFault) -> RegistryError {
    RegistryError::lasting(Reason::RegistryConfigInvalid, fault.phrase)
}

#[cfg(test)]
mod tests {
    use super::super::config::RegistryConfig;
    use super::*;
    use crate::lookup::NearAddresses;

    #[test]
    fn a_file_that_could_not_be_read_is_current_at_no_look() {
        let dir = tempfile::tempdir().unwrap();
        let [unread, bad] = ["unread.example", "bad.example"].map(|name| dir.path().join(name));
        std::fs::create_dir_all(unread.join("hosts.toml")).unwrap();
        std::fs::create_dir(&bad).unwrap();
        std::fs::write(bad.join("hosts.toml"), "server = ").unwrap();
        let clients = Clients::new(&RegistryConfig::default(), NearAddresses::default()).unwrap();
        let hosts = CertsDirectory::new(Some(dir.path().to_owned()), Vec::new());
        assert_eq!(hosts.faults(&clients).len(), 2);
        let reviewed = lock(&hosts.reviewed);
        for (dir, expected) in [(unread, false), (bad, true)] {
            let known = &reviewed[&dir];
            let found = is_current(&known.watched, known.fault.as_ref());
            assert_eq!(found, expected, "{}", dir.display());
        }
    }
}
