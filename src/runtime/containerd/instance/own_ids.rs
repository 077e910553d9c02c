//! Ids of the host for instances that have a user namespace: whether containerd maps them, which
//! range is free, and what of the host's an instance with such ids must be given.
//!
//! The OCI spec of a container is the only ledger: what it names stays taken until the container is
//! deleted, over restarts of the agent and of the host.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1 as api;
use state::desired::Record;
use state::id::InstanceName;
use state::policy;
use state::reason::Reason;
use state::spec::OWN_IDS as IDS;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::host_accounts::{overlaps, reserved};
use super::program::Program;
use super::{ContainerdConfig, Instances};
use crate::oci::confinement::IdMapping;
use crate::oci::host_ids::{HostIds, obstacle};
use crate::oci::{self, ImageFacts};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::{ContainerdClient, quick};
use crate::runtime::containerd::rpc::snapshots::SNAPSHOTTER;
use crate::runtime::containerd::shim::version;

/// Capability of a snapshotter that maps the owners of a snapshot's files.
const REMAPS: &str = "remap-ids";

/// Time for which a runtime that cannot tell its version holds containers up. An upgrade takes seconds;
/// what lasts longer is no reason to start nothing.
const UPGRADE_TIME: Duration = Duration::from_mins(1);

/// Places below `/proc` on which the kernel expects mounts; one elsewhere hides a part of it.
const MOUNT_POINTS: [&str; 4] = ["sys/fs/binfmt_misc", "fs/nfsd", "xen", "openprom"];

/// Ranges of instances that exist.
type Taken = BTreeMap<InstanceName, HostIds>;

/// Ids for instances with a user namespace.
#[derive(Debug)]
pub(super) struct OwnIds {
    /// Ids that instances may have. `None`: they have the host's.
    pool: Option<RangeInclusive<u32>>,
    mapping: watch::Sender<IdMapping>,
    /// `None`: containerd's containers have not been looked at yet.
    taken: Mutex<Option<Taken>>,
    /// Time since which the OCI runtime has not told its version.
    silent_since: Mutex<Option<Instant>>,
}

impl OwnIds {
    pub(super) fn of(pool: Option<RangeInclusive<u32>>) -> Self {
        Self {
            pool,
            mapping: watch::Sender::default(),
            taken: Mutex::default(),
            silent_since: Mutex::default(),
        }
    }

    /// Ability of containerd and the kernel, as far as it is known.
    pub(super) fn mapping(&self) -> watch::Receiver<IdMapping> {
        self.mapping.subscribe()
    }

    /// Notes that nothing of what was known counts any more.
    pub(super) fn forget(&self) {
        self.mapping.send_replace(IdMapping::Unknown);
    }

    /// Asks containerd and the kernel.
    pub(super) async fn learn(
        &self,
        client: &ContainerdClient,
        config: &ContainerdConfig,
    ) -> Result<IdMapping, RuntimeError> {
        let asked = self.ask(client, config).await;
        let found = match &asked {
            Ok(found) => found.clone(),
            Err(error) => IdMapping::Unanswered(error.to_string()),
        };
        self.mapping.send_if_modified(|known| {
            let differs = *known != found;
            *known = found;
            differs
        });
        asked
    }

    /// Ability of containerd, its OCI runtime and this host's kernel.
    async fn ask(
        &self,
        client: &ContainerdClient,
        config: &ContainerdConfig,
    ) -> Result<IdMapping, RuntimeError> {
        let obstacle = tokio::task::spawn_blocking(|| obstacle_of(Path::new("/proc")));
        if let Ok(Some(obstacle)) = obstacle.await {
            return Ok(IdMapping::Unable(obstacle));
        }
        let filter = format!("type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}");
        let request = api::PluginsRequest {
            filters: vec![filter],
        };
        let reply = quick(client.introspection().plugins(request))
            .await
            .map_err(|error| error.into_error(Reason::CreateFailed, "tell what it can"))?;
        let mut capabilities = reply.plugins.iter().flat_map(|plugin| &plugin.capabilities);
        if capabilities.any(|capability| capability == REMAPS) {
            return self.ask_runtime(config).await;
        }
        let version = client.probe().await?;
        Ok(IdMapping::Unable(format!(
            "containerd {version} cannot map the owners of a container's files: 2.0 and later do, on \
             a kernel from 5.19, where the file system of its directory lets them"
        )))
    }

    async fn ask_runtime(&self, config: &ContainerdConfig) -> Result<IdMapping, RuntimeError> {
        let program = config.oci_runtime.binary_name.as_deref().unwrap_or("runc");
        let told = version::own_ids_obstacle(program, &config.search_path).await;
        let mut silent_since = self.silent_since.lock().await;
        let error = match told {
            Ok(obstacle) => {
                *silent_since = None;
                return Ok(obstacle.map_or(IdMapping::Able, IdMapping::Unable));
            }
            Err(error) => error,
        };
        let since = silent_since.get_or_insert_with(Instant::now);
        let fault = format!("{program} --version failed: {error}");
        if version::may_last(&error) && since.elapsed() > UPGRADE_TIME {
            return Ok(IdMapping::Unable(format!(
                "{fault}; what it can is not known"
            )));
        }
        let message = format!(
            "whether containers can have ids of their own is not known: {fault}; it is asked again"
        );
        Err(RuntimeError::failed(Reason::CreateFailed, message))
    }

    /// Gives back what an instance had that does not exist any more.
    pub(super) async fn release(&self, instance: InstanceName) {
        if let Some(taken) = self.taken.lock().await.as_mut() {
            taken.remove(&instance);
        }
    }
}

impl Instances {
    /// Ids for a new container; `None`: it has the host's, by configuration, by its record, or since
    /// they cannot be mapped.
    pub(super) async fn own_ids(
        &self,
        record: &Record,
        facts: &ImageFacts,
    ) -> Result<Option<HostIds>, RuntimeError> {
        let Some(pool) = self.ids.pool.clone() else {
            return Ok(None);
        };
        let instance = record.instance();
        if let Some(reason) = self.own_ids_obstacle(record, facts) {
            tracing::info!(%instance, reason, "user namespace withheld");
            return Ok(None);
        }
        if self.can_map().await? {
            self.take(instance, &pool).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Whether ids can be mapped. Where nobody knows it is asked again, and a container waits for the
    /// answer: it keeps for its life what it is made with.
    async fn can_map(&self) -> Result<bool, RuntimeError> {
        let known = self.ids.mapping.borrow().clone();
        match known {
            IdMapping::Able => Ok(true),
            IdMapping::Unable(_) => Ok(false),
            IdMapping::Unknown | IdMapping::Unanswered(_) => {
                let found = self.ids.learn(&self.client, &self.config).await?;
                Ok(found == IdMapping::Able)
            }
        }
    }

    /// Judges what the image of `record` says by the policy, before anything is ended for it.
    pub(crate) async fn judge_image(
        &self,
        record: &Record,
        own_ids: Option<&str>,
    ) -> Result<(), RuntimeError> {
        let Some(digest) = record.image_digest.as_deref() else {
            return Ok(());
        };
        let image = match self.images.local(&record.spec.image, digest).await {
            Err(RuntimeError::ImageLost(_)) => return Ok(()),
            image => image?,
        };
        Program::in_directory(&oci::working_dir(&image.config, record)).denial()?;
        let Some(rule) = own_ids.filter(|_| self.ids.pool.is_some()) else {
            return Ok(());
        };
        let facts = self.facts(record, &image).await;
        if let Err(RuntimeError::ImageLost(_)) = facts {
            self.images.invalidate(digest);
        }
        let facts = facts?;
        // The start may read what this look could not: a volume's owner that gives the host's ids.
        if let Some(fault) = facts.unread {
            return Err(RuntimeError::failed(Reason::CreateFailed, fault));
        }
        if let Some(obstacle) = self.own_ids_obstacle(record, &facts)
            && self.can_map().await?
        {
            let denial = policy::own_ids_denial(rule, &obstacle);
            let denied = policy::told(&[denial]);
            return Err(RuntimeError::failed(Reason::PolicyDenied, denied));
        }
        Ok(())
    }

    /// The reason why a container of this image cannot have ids of its own; `None`: it can.
    fn own_ids_obstacle(&self, record: &Record, facts: &ImageFacts) -> Option<String> {
        let confinement = &self.config.confinement;
        let granted = confinement.granted(&record.spec.security.capabilities);
        obstacle(record, facts, &granted)
    }

    /// Takes a free range for an instance, or finds the one that it has.
    async fn take(
        &self,
        instance: InstanceName,
        pool: &RangeInclusive<u32>,
    ) -> Result<HostIds, RuntimeError> {
        let mut ledger = self.ids.taken.lock().await;
        let taken = match &mut *ledger {
            Some(taken) => taken,
            unread => unread.insert(self.with_own_ids().await?),
        };
        if let Some(ids) = taken.get(&instance) {
            return Ok(*ids);
        }
        let reserved = tokio::task::spawn_blocking(|| reserved(Path::new("/etc"))).await;
        let reserved = reserved.unwrap_or_else(|error| Err(io::Error::other(error)));
        let reserved = reserved.map_err(|error| {
            let message = format!(
                "ids of this host's accounts, which no container may have, cannot be read: {error}"
            );
            RuntimeError::failed(Reason::CreateFailed, message)
        })?;
        let is_free = |ids: HostIds| {
            let is_apart = |other: &HostIds| other.first.abs_diff(ids.first) >= IDS;
            taken.values().all(is_apart) && !reserved.iter().any(|range| overlaps(range, ids))
        };
        let Some(ids) = choose(pool, instance, is_free) else {
            let message = format!(
                "no {IDS} ids are free in containers.user_ids ({}-{}): {} containers have such a range, \
                 and accounts of this host others; widen it, or ask for security.user_namespace \
                 \"host\"",
                pool.start(),
                pool.end(),
                taken.len()
            );
            return Err(RuntimeError::failed(Reason::CreateFailed, message));
        };
        taken.insert(instance, ids);
        Ok(ids)
    }

    /// Ranges of all managed containers.
    async fn with_own_ids(&self) -> Result<Taken, RuntimeError> {
        let managed = self.managed().await?.into_iter();
        let ranges = managed.filter_map(|(instance, container)| {
            let spec = serde_json::from_slice(&container.spec?.value).ok()?;
            Some((instance, HostIds::of(&spec)?))
        });
        Ok(ranges.collect())
    }

    /// Failure of a container whose files containerd has mounted without its ids. A new one is
    /// removed, so that the next try makes one with the host's.
    pub(super) async fn unmapped(
        &self,
        instance: InstanceName,
        is_new: bool,
    ) -> Result<RuntimeError, RuntimeError> {
        self.ids.forget();
        if is_new {
            self.discard(instance).await?;
        }
        let message = format!(
            "{instance} has ids of its own, and containerd mounts its files without them, as one \
             before 2.0 does; go back to the containerd that it was made with, or deploy the \
             container with another variable in its environment, which makes it anew"
        );
        Ok(RuntimeError::failed(Reason::SnapshotFailed, message))
    }
}

/// The reason why no user namespace can be made on a host whose `/proc` this is. containerd has the
/// mounts of the first process; the agent's service may have its own.
fn obstacle_of(proc: &Path) -> Option<String> {
    let read = |file: &str| std::fs::read_to_string(proc.join(file)).unwrap_or_default();
    match read("sys/user/max_user_namespaces").trim() {
        "" => return Some("the kernel has no user namespaces".to_owned()),
        "0" => return Some("the sysctl user.max_user_namespaces is 0".to_owned()),
        _ => {}
    }
    let mounts = read("1/mountinfo");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut hidden = points.filter_map(|point| point.strip_prefix("/proc/"));
    let hidden = hidden.find(|point| !MOUNT_POINTS.contains(point))?;
    Some(format!(
        "/proc/{hidden} is mounted over on this host, and the kernel then lets no user namespace \
         have a /proc of its own"
    ))
}

/// Free range of the pool. An instance's id says where the search begins: a range is soon taken
/// again by its own container's next generation only.
fn choose(
    pool: &RangeInclusive<u32>,
    instance: InstanceName,
    is_free: impl Fn(HostIds) -> bool,
) -> Option<HostIds> {
    let number = pool.end().checked_sub(*pool.start())?.checked_add(1)? / IDS;
    let id = u64::from_str_radix(&instance.id.to_string(), 16).ok()?;
    let begin = id.checked_rem(u64::from(number))?;
    let begin = u32::try_from(begin).ok()?;
    let ranges = (0..number).map(|n| HostIds {
        first: pool.start() + (begin + n) % number * IDS,
    });
    ranges.into_iter().find(|ids| is_free(*ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: RangeInclusive<u32> = 2_000_224_256..=2_147_352_575;

    #[test]
    fn a_range_is_the_same_for_a_container_while_it_is_free_and_else_the_next() {
        let instance: InstanceName = "000000000003-1".parse().unwrap();
        let all = |_| true;
        let first = choose(&POOL, instance, all).unwrap();
        assert_eq!(first.first, POOL.start() + 3 * IDS);
        let again = InstanceName {
            generation: 9,
            ..instance
        };
        assert_eq!(choose(&POOL, again, all), Some(first));
        let next = choose(&POOL, instance, |ids| ids != first).unwrap();
        assert_eq!(next.first, first.first + IDS);
        assert_eq!(choose(&POOL, instance, |_| false), None);
        // The search goes round, and never past the end.
        let last: InstanceName = format!("{:012x}-1", 2244).parse().unwrap();
        let last = choose(&POOL, last, all).unwrap();
        assert_eq!(last.on_host(65_535), Some(*POOL.end()));
        let round: InstanceName = format!("{:012x}-1", 2244).parse().unwrap();
        let round = choose(&POOL, round, |ids| ids != last).unwrap();
        assert_eq!(round.first, *POOL.start());
        assert_eq!(choose(&(5..=70), instance, all), None, "too small for one");
    }

    #[test]
    fn a_kernel_that_would_refuse_is_known_before() {
        let proc = tempfile::tempdir().unwrap();
        let told = |limit: &str, mounts: &str| {
            for (file, text) in [
                ("sys/user/max_user_namespaces", limit),
                ("1/mountinfo", mounts),
            ] {
                let path = proc.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            obstacle_of(proc.path())
        };
        let plain =
            "24 1 0:5 / /proc rw - proc proc rw\n25 24 0:6 / /proc/sys/fs/binfmt_misc rw - a b\n";
        assert_eq!(told("96365\n", plain), None);
        assert!(told("0\n", plain).unwrap().contains("max_user_namespaces"));
        let hidden = format!("{plain}26 24 0:7 / /proc/cpuinfo rw - fuse lxcfs rw\n");
        assert!(told("1\n", &hidden).unwrap().contains("/proc/cpuinfo is"));
        let none = tempfile::tempdir().unwrap();
        assert!(obstacle_of(none.path()).unwrap().contains("no user"));
    }
}
