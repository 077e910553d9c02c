//! Paths of the host that containers mount: opened where the node gives them, and held at a place of
//! the agent's own while a launch lasts. It knows no containerd.
//!
//! A runtime opens the source of a mount by its path, later and by itself: what is renamed meanwhile
//! would lead it anywhere. So what was opened and judged is mounted below the agent's own directory,
//! where nobody else renames, and the runtime is given that place. Once the task is made it has a
//! mount of its own, and the place is taken away.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use state::failure::Failure;
use state::id::InstanceName;
use state::policy::host_paths::HostPathGrant;
use state::reason::Reason;
use state::spec::Propagation;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::opened::OpenedPath;
use self::places::PathPlaces;
use crate::lock::lock;
use crate::mounts::on_host;
use crate::permits::KeyedPermits;

mod host_mounts;
mod opened;
mod places;

/// Longest wait for the host's file systems, of which a lost one answers never.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks at paths of one entry of the configuration at once. One that hangs keeps its thread.
const LOOKS_MAX: usize = 4;

/// Paths of the host, as this node gives them. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct HostPaths {
    grants: Arc<[HostPathGrant]>,
    /// Directories that nobody is given, nor what is above or below them.
    kept: Arc<[PathBuf]>,
    places: Arc<PathPlaces>,
    looks: Arc<KeyedPermits>,
    /// Instances whose paths are looked at or held.
    launching: Arc<Mutex<BTreeSet<InstanceName>>>,
}

/// Path of the host that a container mounts.
#[derive(Clone, Debug)]
pub(crate) struct WantedPath {
    /// Absolute path, without `.` and `..`.
    pub(crate) path: String,
    /// Way in which later mounts are seen.
    pub(crate) propagation: Propagation,
    /// Whether it is only to be read.
    pub(crate) read_only: bool,
}

/// Paths of one instance at places of the agent's own, until this is dropped. Dropping blocks.
#[derive(Debug)]
pub(crate) struct MountedPaths {
    places: Arc<PathPlaces>,
    /// `None`: the instance has none.
    launch: Option<Launch>,
    /// For each path, in the order asked, whether it is anything but a directory.
    are_files: Vec<bool>,
}

/// Mark of an instance whose paths are looked at or held.
#[derive(Debug)]
struct Launch {
    instance: InstanceName,
    launching: Arc<Mutex<BTreeSet<InstanceName>>>,
}

impl Drop for Launch {
    fn drop(&mut self) {
        lock(&self.launching).remove(&self.instance);
    }
}

impl HostPaths {
    /// Paths below `grants`, but none of `kept`. Their places are below `run_dir`.
    pub(crate) fn new(run_dir: &Path, grants: &[HostPathGrant], kept: &[PathBuf]) -> Self {
        Self {
            grants: grants.into(),
            kept: kept.into(),
            places: Arc::new(PathPlaces::new(run_dir)),
            looks: Arc::new(KeyedPermits::new(LOOKS_MAX)),
            launching: Arc::default(),
        }
    }

    /// Puts the paths of an instance at places of the agent's own. `kept`: more directories that
    /// nobody is given.
    ///
    /// # Errors
    /// [`Reason::HostPathUnusable`]: every path that is not there, is not given, or cannot be mounted
    /// so.
    pub(crate) async fn hold(
        &self,
        instance: InstanceName,
        wanted: Vec<WantedPath>,
        kept: Vec<PathBuf>,
    ) -> Result<MountedPaths, Failure> {
        let launch = Launch::begin(instance, &self.launching);
        let launch = launch.ok_or_else(|| unusable(silent(&wanted)))?;
        let places = Arc::clone(&self.places);
        let put = move |opened: Vec<OpenedPath>| put(launch, &opened, &places);
        self.look_and(wanted, kept, put).await
    }

    /// Looks whether the paths can be had.
    ///
    /// # Errors
    /// Those of [`Self::hold`].
    pub(crate) async fn look(
        &self,
        wanted: Vec<WantedPath>,
        kept: Vec<PathBuf>,
    ) -> Result<(), Failure> {
        self.look_and(wanted, kept, |_| Ok(())).await
    }

    /// Opens paths in the host's mount namespace, and does `work` with them there, on a thread of its
    /// own: a file system that is lost keeps it for as long as it likes.
    async fn look_and<T: Send + 'static>(
        &self,
        wanted: Vec<WantedPath>,
        mut kept: Vec<PathBuf>,
        work: impl FnOnce(Vec<OpenedPath>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let no_answer = unusable(silent(&wanted));
        let mut turns = Vec::new();
        for key in self.keys(&wanted) {
            let turn = self.looks.of(&key).acquire_owned();
            let turn = tokio::time::timeout_at(deadline, turn).await;
            turns.push(turn.map_err(|_| no_answer.clone())?);
        }
        let grants = Arc::clone(&self.grants);
        kept.extend(self.kept.iter().cloned());
        let (sender, answer) = oneshot::channel();
        let look = move || {
            let _turns = turns;
            let looked = on_host(|| match opened(&wanted, &grants, &kept) {
                Ok(opened) => work(opened).map(Ok).map_err(|error| {
                    let message = format!("paths of the host cannot be mounted: {error}");
                    io::Error::new(error.kind(), message)
                }),
                Err(faults) => Ok(Err(faults)),
            });
            // Where nobody waits any more it is dropped here.
            drop(sender.send(looked.unwrap_or_else(|error| Err(error.to_string()))));
        };
        let thread = std::thread::Builder::new().name("host paths".to_owned());
        let begun = thread.spawn(look);
        begun.map_err(|error| unusable(format!("paths of the host are not looked at: {error}")))?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(looked)) => looked.map_err(unusable),
            Ok(Err(_)) | Err(_) => Err(no_answer),
        }
    }

    /// Keys of the turns to look at paths: those that one entry of the configuration gives, which are
    /// mostly of one file system, hold up no others.
    fn keys(&self, wanted: &[WantedPath]) -> BTreeSet<String> {
        let above = |wanted: &WantedPath| HostPathGrant::of(&self.grants, Path::new(&wanted.path));
        let keys = wanted.iter().filter_map(above).map(ToString::to_string);
        keys.collect()
    }

    /// Takes away what launches left that were cut off. Answers the instances.
    pub(crate) async fn sweep(&self) -> Vec<InstanceName> {
        let (places, launching) = (Arc::clone(&self.places), Arc::clone(&self.launching));
        let sweep = move || {
            let left = places.listed()?;
            if left.is_empty() {
                return Ok(Vec::new());
            }
            on_host(|| {
                let mut swept = Vec::new();
                for instance in left {
                    // It is launched, or not before this is done.
                    let Some(_launch) = Launch::begin(instance, &launching) else {
                        continue;
                    };
                    match places.take_away(instance) {
                        Ok(()) => swept.push(instance),
                        Err(error) => {
                            tracing::warn!(%instance, %error, "place of a host path not taken away");
                        }
                    }
                }
                Ok(swept)
            })
        };
        let swept = tokio::task::spawn_blocking(sweep).await;
        let swept = swept.map_err(io::Error::other).flatten();
        swept.unwrap_or_else(|error| {
            tracing::warn!(%error, "places of host paths not looked at");
            Vec::new()
        })
    }
}

impl Launch {
    /// Marks an instance. `None`: it is marked already.
    fn begin(
        instance: InstanceName,
        launching: &Arc<Mutex<BTreeSet<InstanceName>>>,
    ) -> Option<Self> {
        let launching = Arc::clone(launching);
        let is_new = lock(&launching).insert(instance);
        is_new.then(|| Self {
            instance,
            launching,
        })
    }
}

impl MountedPaths {
    /// Paths of an instance that has none.
    pub(crate) fn none(host_paths: &HostPaths) -> Self {
        Self {
            places: Arc::clone(&host_paths.places),
            launch: None,
            are_files: Vec::new(),
        }
    }

    /// Place on the host of each path, in the order asked, and whether it is no directory.
    pub(crate) fn places(&self) -> impl Iterator<Item = (PathBuf, bool)> {
        let places = self.are_files.iter().enumerate();
        places.filter_map(|(number, is_file)| {
            let launch = self.launch.as_ref()?;
            Some((self.places.of(launch.instance, number), *is_file))
        })
    }

    /// Takes the places away.
    pub(crate) async fn release(self) {
        if self.launch.is_some() {
            drop(tokio::task::spawn_blocking(move || drop(self)).await);
        }
    }
}

impl Drop for MountedPaths {
    fn drop(&mut self) {
        let Some(Launch { instance, .. }) = &self.launch else {
            return;
        };
        // What stays is swept.
        if let Err(error) = on_host(|| self.places.take_away(*instance)) {
            tracing::warn!(%instance, %error, "place of a host path not taken away");
        }
    }
}

/// Opens paths; else every fault of them.
fn opened(
    wanted: &[WantedPath],
    grants: &[HostPathGrant],
    kept: &[PathBuf],
) -> Result<Vec<OpenedPath>, String> {
    let (mut opened, mut faults) = (Vec::new(), Vec::new());
    for wanted in wanted {
        match OpenedPath::open(wanted, grants, kept) {
            Ok(path) => opened.push(path),
            Err(fault) => faults.push(format!("{}: {fault}", wanted.path)),
        }
    }
    if faults.is_empty() {
        Ok(opened)
    } else {
        Err(faults.join("; "))
    }
}

fn put(
    launch: Launch,
    opened: &[OpenedPath],
    places: &Arc<PathPlaces>,
) -> io::Result<MountedPaths> {
    let instance = launch.instance;
    // Of a launch that was cut off.
    places.take_away(instance)?;
    let mounted = MountedPaths {
        places: Arc::clone(places),
        launch: Some(launch),
        are_files: opened.iter().map(|path| !path.is_directory).collect(),
    };
    places.put(instance, opened)?;
    Ok(mounted)
}

fn silent(wanted: &[WantedPath]) -> String {
    let names: Vec<_> = wanted.iter().map(|wanted| wanted.path.as_str()).collect();
    let names = names.join(", ");
    format!("{names}: the host's file system does not answer, or a look at it is under way")
}

fn unusable(message: String) -> Failure {
    Failure::new(Reason::HostPathUnusable, message)
}

#[cfg(test)]
mod tests;
