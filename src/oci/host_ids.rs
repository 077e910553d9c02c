//! Ids of the host for which the users and groups of a container stand, where it has a user
//! namespace of its own. Pure.
//!
//! Root in there is nobody on the host: of what it reaches past the container, nothing is its own.
//! A container keeps the ids that its OCI spec names for as long as it exists.

use serde_json::{Value, json};
use state::desired::Record;
use state::spec::{DEFAULT_CAPABILITIES, OWN_IDS as IDS, UserNamespace};

use super::ImageFacts;
use super::volumes::FoundDirectory;

/// Capabilities that count in the host's user namespace only: for devices, in a network whose
/// namespace is the host's, and for what all of the host shares. `SYS_ADMIN` is none of them: with
/// ids of its own a container may mount with it, and does not rule the host.
const OF_THE_HOST: [&str; 23] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_DAC_READ_SEARCH",
    "CAP_IPC_LOCK",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// Range of the host's ids that are a container's own. Groups have the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostIds {
    /// Id of the container's root on the host.
    pub(crate) first: u32,
}

impl HostIds {
    /// Range of a container with this OCI spec; `None`: its ids are the host's.
    pub(crate) fn of(oci_spec: &Value) -> Option<Self> {
        let first = oci_spec["linux"]["uidMappings"][0]["hostID"].as_u64()?;
        Some(Self {
            first: first.try_into().ok()?,
        })
    }

    /// Id on the host of the container's own `id`; `None`: it has none.
    pub(crate) fn on_host(self, id: u32) -> Option<u32> {
        (id < IDS).then(|| self.first.checked_add(id)).flatten()
    }

    /// Whether an id of the host is one of these.
    pub(crate) const fn has(self, id: u32) -> bool {
        matches!(id.checked_sub(self.first), Some(at) if at < IDS)
    }

    /// The mapping, as containerd's snapshots have it: own first, first of the host, number.
    pub(crate) fn label(self) -> String {
        format!("0:{}:{IDS}", self.first)
    }

    /// The section `linux.uidMappings`, and that of the groups.
    pub(super) fn mappings(self) -> Value {
        json!([{"containerID": 0, "hostID": self.first, "size": IDS}])
    }
}

/// The reason why a container with these capabilities cannot have ids of its own; `None`: it can.
pub(crate) fn obstacle(
    record: &Record,
    facts: &ImageFacts,
    capabilities: &[String],
) -> Option<String> {
    if record.spec.security.user_namespace == UserNamespace::Host {
        return Some("security.user_namespace is \"host\"".to_owned());
    }
    if let Some(class) = &record.spec.runtime {
        return Some(format!(
            "of the runtime {class} it is not known whether it maps ids"
        ));
    }
    let has = |name: &&&str| capabilities.iter().any(|granted| granted == **name);
    let granted: Vec<_> = OF_THE_HOST.iter().filter(has).copied().collect();
    if !granted.is_empty() {
        let granted = granted.join(" and ");
        return Some(format!("{granted} would have no effect with other ids"));
    }
    let user = &facts.user;
    let found = facts.volumes.iter().filter_map(|volume| volume.found);
    let of_volumes = found.flat_map(|FoundDirectory { uid, gid, .. }| [uid, gid]);
    let ids = [user.uid, user.gid].into_iter().chain(of_volumes);
    let mut ids = ids.chain(user.groups.iter().copied());
    let beyond = ids.find(|id| *id >= IDS)?;
    Some(format!(
        "its id {beyond} is not among the {IDS} that a container has"
    ))
}

/// Capabilities of these for whose sake containers that ask for nothing are given the host's ids.
pub(crate) fn for_hosts_ids(capabilities: &[String]) -> Vec<&str> {
    let names = capabilities.iter().map(String::as_str);
    let is_given = |name: &&str| DEFAULT_CAPABILITIES.contains(name) && OF_THE_HOST.contains(name);
    names.filter(is_given).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::tests::record;
    use crate::oci::user::User;
    use crate::oci::volumes::ImageVolume;

    #[test]
    fn a_range_is_65536_ids_and_is_read_from_the_spec_that_has_it() {
        let ids = HostIds { first: 1_000_000 };
        assert_eq!(ids.on_host(65_535), Some(1_065_535));
        assert_eq!(ids.on_host(65_536), None);
        let inside = [999_999, 1_000_000, 1_065_535, 1_065_536].map(|id| ids.has(id));
        assert_eq!(inside, [false, true, true, false]);
        assert_eq!(ids.label(), "0:1000000:65536");
        let spec = json!({"linux": {"uidMappings": ids.mappings()}});
        assert_eq!(HostIds::of(&spec), Some(ids));
        for none in [json!({"linux": {}}), json!({}), Value::Null] {
            assert_eq!(HostIds::of(&none), None, "{none}");
        }
    }

    #[test]
    fn who_would_lose_by_ids_of_its_own_keeps_the_hosts() {
        #[track_caller]
        fn check(asked: &Value, facts: &ImageFacts, capabilities: &[&str], part: Option<&str>) {
            let capabilities: Vec<_> = capabilities.iter().map(|&name| name.to_owned()).collect();
            let found = obstacle(&record(asked), facts, &capabilities);
            match (part, found) {
                (None, found) => assert_eq!(found, None),
                (Some(part), found) => assert!(found.unwrap().contains(part), "{part}"),
            }
        }
        let any = ImageFacts::default();
        let user = |uid, gid, groups: &[u32]| ImageFacts {
            user: User {
                uid,
                gid,
                groups: groups.to_vec(),
                home: None,
            },
            ..ImageFacts::default()
        };
        let asked = json!({});
        check(&asked, &any, &["CAP_CHOWN"], None);
        check(&asked, &user(65_535, 65_535, &[65_535]), &[], None);
        for facts in [
            user(65_536, 0, &[]),
            user(0, 70_000, &[]),
            user(0, 0, &[1, 65_536]),
        ] {
            check(&asked, &facts, &[], Some("is not among"));
        }
        let volume = |uid| ImageVolume {
            path: "/data".to_owned(),
            found: Some(FoundDirectory { uid, gid: 0 }),
        };
        let with_volume = |uid| ImageFacts {
            volumes: vec![volume(uid)],
            ..ImageFacts::default()
        };
        check(&asked, &with_volume(999), &[], None);
        check(&asked, &with_volume(100_000), &[], Some("its id 100000"));
        check(&asked, &any, &["CAP_NET_RAW"], Some("CAP_NET_RAW would"));
        check(&asked, &any, &["CAP_SYS_NICE"], Some("CAP_SYS_NICE would"));
        check(&asked, &any, &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"], None);
        let host = json!({"security": {"user_namespace": "host"}});
        check(&host, &any, &[], Some("security.user_namespace"));
        let auto = json!({"security": {"user_namespace": "auto"}});
        check(&auto, &any, &[], None);
    }
}
