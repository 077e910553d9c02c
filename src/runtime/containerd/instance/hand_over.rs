//! Things of the host's that a container with ids of its own writes to, given to those ids: the
//! pipes of its output, which it may open again as `/dev/stdout`, and its hosts files.
//!
//! The OCI runtime does so for the pipes where it can: not across user namespaces.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use serde_json::Value;
use state::id::InstanceName;

use crate::oci::host_ids::HostIds;
use crate::oci::mounts;

/// Things to be given to a created container, before it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandOver {
    ids: HostIds,
    /// User that its process runs as.
    user: u32,
    /// Files that it may write to.
    files: Vec<PathBuf>,
}

impl HandOver {
    /// Things to be given to a container with this OCI spec; `None`: its ids are the host's.
    pub(super) fn of(oci_spec: &[u8]) -> Option<Self> {
        let spec: Value = serde_json::from_slice(oci_spec).ok()?;
        let ids = HostIds::of(&spec)?;
        let user = spec["process"]["user"]["uid"].as_u64().unwrap_or_default();
        Some(Self {
            ids,
            user: ids.on_host(user.try_into().ok()?)?,
            files: mounts::writable_sources(&spec),
        })
    }

    /// Ids of the container.
    pub(super) const fn ids(&self) -> HostIds {
        self.ids
    }

    /// Gives them to the instance, of which `pid` is the first process. It can do without them: a
    /// failure is told, and no more. Blocks.
    pub(super) fn give(&self, instance: InstanceName, pid: u32) {
        // Root's group: who is root in there may open what all of its owners are in there.
        let group = self.ids.first;
        let pipes = [1, 2].map(|number| PathBuf::from(format!("/proc/{pid}/fd/{number}")));
        let pipes = pipes.iter().filter(|path| is_pipe(path));
        let pipes = pipes.map(|path| (path, give(path, self.user, group)));
        let files = self.files.iter();
        let files = files.map(|path| (path, give(path, group, group)));
        for (path, given) in pipes.chain(files) {
            if let Err(error) = given {
                let path = path.display();
                tracing::warn!(%instance, %path, %error, "file not given to its container");
            }
        }
    }
}

fn is_pipe(path: &Path) -> bool {
    let name = std::fs::read_link(path).unwrap_or_default();
    name.as_os_str().as_encoded_bytes().starts_with(b"pipe:[")
}

fn give(path: &Path, user: u32, group: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    Ok(chownat(
        CWD,
        path,
        Some(user),
        Some(group),
        AtFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_container_writes_to_is_given_to_its_own_ids() {
        let bind = |source: &str, access: &str| json!({"type": "bind", "source": source, "options": ["rbind", access]});
        let mut spec = json!({
            "process": {"user": {"uid": 1000}},
            "linux": {"uidMappings": [{"containerID": 0, "hostID": 70_000, "size": 65_536}]},
            "mounts": [bind("/run/hosts", "rw"), bind("/run/sys", "ro"), {"type": "tmpfs", "source": "tmpfs", "options": ["rw"]}],
        });
        let of = |spec: &Value| HandOver::of(spec.to_string().as_bytes());
        let expected = HandOver {
            ids: HostIds { first: 70_000 },
            user: 71_000,
            files: vec!["/run/hosts".into()],
        };
        assert_eq!(of(&spec), Some(expected));
        spec["linux"] = json!({});
        assert_eq!(of(&spec), None, "the OCI runtime does it");
    }
}
