//! Memory of the rules in force, in a file that a reboot ends: a new agent has them before it knows any
//! record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use state::id::{ContainerId, ContainerName, InstanceName};
use state::spec::{Names, Network};

use crate::lock::lock;
use crate::network::NetworkError;
use crate::network::directory::Member;

/// Rules in force, until the next reboot: a new agent puts them into its table before it knows any
/// record, and those of containers whose records it cannot read stay.
#[derive(Debug)]
pub(in crate::network::bridge) struct RuleMemory {
    file: PathBuf,
    remembered: Mutex<EarlierRules>,
    /// Content of the file, if it is known.
    in_file: Mutex<Option<BTreeMap<InstanceName, Member>>>,
    /// Held while rules are put in force, one after another.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// Rules that only an earlier agent knew.
#[derive(Clone, Debug, Default)]
pub(in crate::network::bridge) struct EarlierRules {
    /// Instances as an earlier agent knew them.
    pub(super) members: BTreeMap<InstanceName, Member>,
    /// Whether there was something that cannot be read.
    pub(in crate::network::bridge) is_lost: bool,
    /// Instances whose rules may have been there, as the last repair knew.
    pub(in crate::network::bridge) unknown: BTreeSet<InstanceName>,
}

/// Entry of the file.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMember {
    id: ContainerId,
    generation: u64,
    name: ContainerName,
    address: Ipv4Addr,
    network: Network,
}

impl RuleMemory {
    /// Memory below the directory of what a reboot ends.
    pub(in crate::network::bridge) fn below(directory: &Path) -> Self {
        Self {
            file: directory.join("rules"),
            remembered: Mutex::default(),
            in_file: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Reads what an earlier agent wrote. What cannot be read closes containers to each other until
    /// the records are known.
    pub(super) fn load(&self) {
        let read = match fs::read(&self.file) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let read = read.map(|stored: Vec<StoredMember>| {
            let members = stored.into_iter().map(StoredMember::split);
            members.collect::<BTreeMap<_, _>>()
        });
        let mut remembered = self.remembered();
        *remembered = match read {
            Ok(members) => {
                *lock(&self.in_file) = Some(members.clone());
                EarlierRules {
                    members,
                    ..EarlierRules::default()
                }
            }
            Err(error) => {
                *lock(&self.in_file) = None;
                let file = self.file.display();
                tracing::warn!(%file, %error, "rules of an earlier agent not read");
                EarlierRules {
                    is_lost: true,
                    ..EarlierRules::default()
                }
            }
        };
    }

    /// Writes these down, if they are not. A file that could not be read stays while a container may
    /// run whose rules it had: it closes containers to each other for the next agent too.
    pub(super) fn keep(
        &self,
        members: &BTreeMap<InstanceName, Member>,
    ) -> Result<(), NetworkError> {
        let mut in_file = lock(&self.in_file);
        if in_file.as_ref() == Some(members) || self.remembered().is_lost {
            return Ok(());
        }
        *in_file = None;
        let stored: Vec<_> = members.iter().map(StoredMember::of).collect();
        let written = serde_json::to_vec(&stored).map_err(io::Error::from);
        let new = self.file.with_extension("new");
        let written = written.and_then(|text| fs::write(&new, text));
        let written = written.and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|error| {
            let what = format!("cannot write to {}", self.file.display());
            NetworkError::failed(what, error)
        })?;
        *in_file = Some(members.clone());
        Ok(())
    }

    /// Rules that only an earlier agent knew.
    pub(in crate::network::bridge) fn earlier(&self) -> EarlierRules {
        self.remembered().clone()
    }

    /// Forgets what an earlier agent knew of an instance.
    pub(in crate::network::bridge) fn forget(&self, instance: InstanceName) {
        self.remembered().members.remove(&instance);
    }

    /// Forgets what an earlier agent knew of all instances but these. What was lost matters while
    /// one of them `is_unknown`: its rules may have been there. One of which nothing was there has
    /// the rules of its container's other generations: the file may be of the moment before a
    /// redeploy, or of the moment after.
    pub(super) fn retain(
        &self,
        kept: &BTreeSet<InstanceName>,
        is_unknown: impl Fn(InstanceName) -> bool,
    ) {
        let mut remembered = self.remembered();
        let unknown = kept.iter().copied().filter(|one| is_unknown(*one));
        remembered.unknown = unknown.collect();
        remembered.is_lost &= !remembered.unknown.is_empty();
        let unknown = remembered.unknown.iter();
        let unwritten = unknown.filter(|one| !remembered.members.contains_key(one));
        let unwritten: BTreeSet<_> = unwritten.map(|one| one.id).collect();
        remembered
            .members
            .retain(|one, _| kept.contains(one) || unwritten.contains(&one.id));
    }

    /// Forgets everything, the file too.
    pub(in crate::network::bridge) fn clear(&self) {
        *self.remembered() = EarlierRules::default();
        let mut in_file = lock(&self.in_file);
        *in_file = Some(BTreeMap::new());
        if let Err(error) = fs::remove_file(&self.file)
            && error.kind() != io::ErrorKind::NotFound
        {
            *in_file = None;
            let file = self.file.display();
            tracing::warn!(%file, %error, "rules not forgotten");
        }
    }

    fn remembered(&self) -> MutexGuard<'_, EarlierRules> {
        lock(&self.remembered)
    }
}

impl StoredMember {
    fn of((instance, member): (&InstanceName, &Member)) -> Self {
        let Member {
            name,
            address,
            address6: _,
            network,
            asked: _,
            stands_back: _,
        } = member.clone();
        Self {
            id: instance.id,
            generation: instance.generation,
            name,
            address,
            network,
        }
    }

    fn split(self) -> (InstanceName, Member) {
        let member = Member {
            name: self.name,
            address: self.address,
            address6: None,
            network: self.network,
            asked: Names::default(),
            stands_back: false,
        };
        let instance = InstanceName {
            id: self.id,
            generation: self.generation,
        };
        (instance, member)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use state::spec::parse;

    use super::*;

    #[test]
    fn rules_outlast_the_agent_and_what_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let memory = RuleMemory::below(dir.path());
        memory.load();
        assert!(!memory.earlier().is_lost && memory.earlier().members.is_empty());
        let network = json!({"groups": ["db"], "allow": {"ingress": [
            {"cidr": "192.0.2.0/24", "ports": ["tcp/80"]},
        ]}});
        let body = json!({"name": "web", "image": "nginx", "network": network});
        let member = Member {
            name: "web".parse().unwrap(),
            address: Ipv4Addr::new(10, 231, 0, 2),
            address6: None,
            network: parse::deploy(&body).unwrap().spec.network,
            asked: Names::default(),
            stands_back: false,
        };
        let [one, other] = ["0123456789ab-1", "0123456789ac-1"].map(|name| name.parse().unwrap());
        let members = BTreeMap::from([(one, member.clone()), (other, member)]);
        memory.keep(&members).unwrap();
        let again = RuleMemory::below(dir.path());
        again.load();
        assert_eq!(again.earlier().members, members);
        again.retain(&BTreeSet::from([one]), |_| false);
        assert_eq!(again.earlier().members.keys().next(), Some(&one));

        // A file that is as it should be is not written again; one that could not be written is.
        let file = dir.path().join("rules");
        fs::remove_file(&file).unwrap();
        memory.keep(&members).unwrap();
        assert!(!file.exists());
        fs::create_dir(&file).unwrap();
        memory.keep(&BTreeMap::new()).unwrap_err();
        fs::remove_dir(&file).unwrap();
        memory.keep(&members).unwrap();
        assert!(file.exists());
    }

    #[test]
    fn rules_of_another_generation_stay_while_one_runs_of_which_none_are_known() {
        let member = || Member {
            name: "web".parse().unwrap(),
            address: Ipv4Addr::new(10, 231, 0, 2),
            address6: None,
            network: Network::default(),
            asked: Names::default(),
            stands_back: false,
        };
        let [first, second, third, other] = [
            "0123456789ab-1",
            "0123456789ab-2",
            "0123456789ab-3",
            "0123456789ac-1",
        ]
        .map(|name| name.parse().unwrap());
        let left = |written: &[InstanceName], is_unknown: bool| {
            let dir = tempfile::tempdir().unwrap();
            let memory = RuleMemory::below(dir.path());
            let members = written.iter().map(|one| (*one, member()));
            memory.keep(&members.collect()).unwrap();
            memory.load();
            memory.retain(&BTreeSet::from([second]), |_| is_unknown);
            memory.earlier().members.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(left(&[first, other], true), [first]);
        assert_eq!(left(&[third, other], true), [third]);
        assert_eq!(left(&[first, second, third], true), [second]);
        assert_eq!(left(&[first, other], false), [], "its record is known");
    }

    #[test]
    fn what_was_lost_matters_while_a_container_runs_whose_rules_it_may_have_been() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules");
        fs::write(&file, "[{").unwrap();
        let memory = RuleMemory::below(dir.path());
        memory.load();
        let [unreadable, known] =
            ["0123456789ab-1", "0123456789ac-1"].map(|it| it.parse().unwrap());
        let kept = BTreeSet::from([unreadable, known]);
        memory.retain(&kept, |instance| instance == unreadable);
        assert!(memory.earlier().is_lost);
        memory.keep(&BTreeMap::new()).unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "[{",
            "for the next agent"
        );
        memory.retain(&BTreeSet::from([known]), |instance| instance == unreadable);
        assert!(!memory.earlier().is_lost, "the records are known");
        memory.keep(&BTreeMap::new()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "[]");
    }
}
