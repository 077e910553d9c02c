//! Checks for things of the agent that nobody has a record of.

use std::collections::BTreeSet;
use std::path::Path;

use state::id::{ContainerId, InstanceName};

use super::check::{CheckAnswer, DoctorCheck};
use crate::mountinfo::MountLine;

/// Left-overs that are named; the others are counted.
const NAMED_MAX: usize = 10;

/// Message where containers run of which nothing is stored: mostly they are wanted.
const NO_STATE: &str = "containers of the agent run, but the state directory is empty: is its disk mounted, \
                        and state.dir right?";
const NO_STATE_REMEDY: &str = "mount the disk, or correct state.dir, before an agent is started; if the \
                               containers are to go, chas-node-agent uninstall removes them";

/// Things of the agent as one look found them.
#[derive(Clone, Debug)]
pub(super) struct SeenLeftovers {
    /// Containers with a record; an error: they are not known. `None`: nothing was ever stored.
    pub(super) recorded: Result<Option<BTreeSet<ContainerId>>, String>,
    /// Managed instances in containerd; an error: containerd does not answer.
    pub(super) managed: Result<Vec<InstanceName>, String>,
    /// Instances with a netns.
    pub(super) netns: Result<Vec<InstanceName>, String>,
    /// Mounts below the runtime directory.
    pub(super) mounts: Vec<String>,
    pub(super) has_bridge: bool,
    pub(super) agent_runs: bool,
}

impl SeenLeftovers {
    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        let check = DoctorCheck::Unrecorded;
        let recorded = match &self.recorded {
            Ok(recorded) => recorded.clone(),
            Err(fault) => return vec![check.warn(format!("the records are not known: {fault}"))],
        };
        let is_new = recorded.is_none();
        if is_new && self.managed.as_ref().is_ok_and(|found| !found.is_empty()) {
            return vec![check.fail(NO_STATE).with_remedy(NO_STATE_REMEDY)];
        }
        let recorded = recorded.unwrap_or_default();
        let instances = |what: &str, found: &Result<Vec<InstanceName>, String>| {
            let found = found.iter().flatten();
            let left = found.filter(|instance| !recorded.contains(&instance.id));
            left.map(|instance| format!("{what} {instance}"))
                .collect::<Vec<_>>()
        };
        let mut left = instances("container", &self.managed);
        left.extend(instances("netns", &self.netns));
        left.extend(self.mounts.iter().filter_map(|mount| {
            let name = Path::new(mount).file_name()?.to_str()?;
            let instance: InstanceName = name.parse().ok()?;
            (!recorded.contains(&instance.id)).then(|| format!("mount {mount}"))
        }));
        // A netns is a mount as well.
        left.sort();
        left.dedup();
        if is_new && self.has_bridge && !self.agent_runs {
            left.push("its bridge, though nothing was ever stored".to_owned());
        }
        if left.is_empty() {
            return vec![self.none()];
        }
        let more = left.len().saturating_sub(NAMED_MAX);
        left.truncate(NAMED_MAX);
        let mut told = format!("without a record: {}", left.join(", "));
        if more > 0 {
            told += &format!(", and {more} more");
        }
        let answer = check.warn(told);
        vec![match self.agent_runs {
            true => answer.with_remedy(
                "the agent removes them within minutes; if they stay, its log and the alarm \
                 SweepFailing say what holds them",
            ),
            false => answer,
        }]
    }

    fn none(&self) -> CheckAnswer {
        let check = DoctorCheck::Unrecorded;
        match self.managed.as_ref().err().or(self.netns.as_ref().err()) {
            Some(fault) => check.skipped(format!("not all could be listed: {fault}")),
            None => check.ok("none"),
        }
    }
}

/// Mounts below a directory.
pub(super) fn mounts_below(list: &str, directory: &Path) -> Vec<String> {
    let mounts =
        MountLine::all(list).filter(|mount| Path::new(&mount.point).starts_with(directory));
    mounts.map(|mount| mount.point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{Planted, check_rows};

    const KNOWN: &str = "0123456789ab-1";
    const OTHER: &str = "ffffffffffff-1";

    fn well() -> SeenLeftovers {
        let known: InstanceName = KNOWN.parse().unwrap();
        SeenLeftovers {
            recorded: Ok(Some([known.id].into())),
            managed: Ok(vec![known]),
            netns: Ok(vec![known]),
            mounts: vec![format!("/run/chas/netns/{KNOWN}")],
            has_bridge: true,
            agent_runs: false,
        }
    }

    #[test]
    fn each_thing_without_a_record_is_found() {
        use DoctorCheck::Unrecorded;
        let rows: &[Planted<SeenLeftovers>] = &[
            (Unrecorded, "warn", "container ffffffffffff-1", |seen| {
                seen.managed = Ok(vec![OTHER.parse().unwrap()]);
            }),
            (Unrecorded, "warn", "netns ffffffffffff-1", |seen| {
                seen.netns = Ok(vec![OTHER.parse().unwrap()]);
            }),
            (
                Unrecorded,
                "warn",
                "mount /run/chas/sysfs/ffffffffffff-1",
                |seen| {
                    seen.mounts = vec![format!("/run/chas/sysfs/{OTHER}")];
                },
            ),
            (Unrecorded, "warn", "its bridge", |seen| {
                seen.recorded = Ok(None);
                (seen.managed, seen.netns) = (Ok(Vec::new()), Ok(Vec::new()));
                seen.mounts.clear();
            }),
            (
                Unrecorded,
                "FAIL",
                "the state directory is empty: is its disk mounted",
                |seen| seen.recorded = Ok(None),
            ),
            (Unrecorded, "warn", "not known: damaged", |seen| {
                seen.recorded = Err("damaged".to_owned());
            }),
            (Unrecorded, "skip", "does not answer", |seen| {
                seen.managed = Err("containerd does not answer".to_owned());
            }),
            (Unrecorded, "warn", "and 2 more", |seen| {
                let one = |n: u32| format!("ffffffffffff-{n}").parse().unwrap();
                seen.netns = Ok((1..=12).map(one).collect());
            }),
        ];
        check_rows(&well(), SeenLeftovers::judge, rows);
    }

    #[test]
    fn mounts_below_the_directory_are_listed_and_no_others() {
        let list = "1 0 0:1 / /run/chas/netns/a rw - nsfs nsfs rw\n\
                    2 1 0:2 / /run/chasm rw - tmpfs t rw\n";
        let found = mounts_below(list, Path::new("/run/chas"));
        assert_eq!(found, ["/run/chas/netns/a"]);
    }
}
