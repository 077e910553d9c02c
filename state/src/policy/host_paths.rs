//! Paths of the host that a node, or a rule, permits as volumes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::ports;
use crate::spec::{Spec, VolumeSource, host_path};

/// Directory or file of the host that containers may mount, and all below it: `PATH`, or `PATH:ro`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPathGrant {
    /// Absolute path, without `.`, `..` and empty parts.
    pub path: PathBuf,
    /// Whether it may only be read.
    pub read_only: bool,
}

impl HostPathGrant {
    /// The grant that a path is below: of several, the one that says most of it.
    #[must_use]
    pub fn of<'a>(grants: &'a [Self], path: &Path) -> Option<&'a Self> {
        let above = grants.iter().filter(|grant| path.starts_with(&grant.path));
        above.max_by_key(|grant| (grant.path.components().count(), grant.read_only))
    }

    /// Whether these grants let a path be a volume: the fault of `host_path` or of `read_only`, or
    /// `None`.
    #[must_use]
    pub fn fault(grants: &[Self], path: &Path, read_only: bool) -> Option<GrantFault> {
        let Some(grant) = Self::of(grants, path) else {
            let message = format!("{} is not below {}", path.display(), ports::list(grants));
            return Some(GrantFault::Path(message));
        };
        let only_read = |grant: &&Self| grant.read_only && !read_only;
        let mut within = grants.iter().filter(|grant| grant.path.starts_with(path));
        let bound = Some(grant)
            .filter(only_read)
            .or_else(|| within.find(only_read));
        bound.map(|bound| {
            let path = path.display();
            let message = format!("{path} may only be read, by {bound}: set read_only to true");
            GrantFault::ReadOnly(message)
        })
    }
}

/// Fault of a volume that grants do not permit; its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantFault {
    /// Fault of its path.
    Path(String),
    /// Fault of its being written to.
    ReadOnly(String),
}

impl FromStr for HostPathGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, read_only) = match text.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        let path = host_path(path).map_err(|fault| {
            format!(
                "{text:?} {fault}; write paths such as /srv/data, or /srv/data:ro to be read only"
            )
        })?;
        let path = path.into();
        Ok(Self { path, read_only })
    }
}

impl fmt::Display for HostPathGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.read_only { ":ro" } else { "" };
        write!(f, "{}{access}", self.path.display())
    }
}

/// Fields and faults of the paths of the host that are beyond these grants.
pub(super) fn faults(grants: &[HostPathGrant], spec: &Spec) -> Vec<(String, String)> {
    let asked = spec.volumes.iter().enumerate();
    let faults = asked.filter_map(|(index, volume)| {
        let VolumeSource::HostPath { path, .. } = &volume.source else {
            return None;
        };
        let fault = HostPathGrant::fault(grants, Path::new(path), volume.read_only)?;
        let (member, message) = match fault {
            GrantFault::Path(message) => ("host_path", message),
            GrantFault::ReadOnly(message) => ("read_only", message),
        };
        Some((format!("volumes[{index}].{member}"), message))
    });
    faults.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grant_that_says_most_of_a_path_counts() {
        let grants: Vec<HostPathGrant> = ["/srv", "/srv/a:ro", "/srv/a/b", "/etc/app.conf:ro"]
            .map(|text| text.parse().unwrap())
            .into();
        for (path, grant) in [
            ("/srv", Some("/srv")),
            ("/srv/ab", Some("/srv")),
            ("/srv/a", Some("/srv/a:ro")),
            ("/srv/a/c/d", Some("/srv/a:ro")),
            ("/srv/a/b/c", Some("/srv/a/b")),
            ("/etc/app.conf", Some("/etc/app.conf:ro")),
            ("/srvs", None),
            ("/etc", None),
            ("/", None),
        ] {
            let found = HostPathGrant::of(&grants, Path::new(path));
            assert_eq!(found.map(ToString::to_string).as_deref(), grant, "{path}");
        }
        for (path, read_only, is_permitted) in [
            ("/srv", false, false),
            ("/srv", true, true),
            ("/srv/ab", false, true),
            ("/srv/a", false, false),
            ("/srv/a/b", false, true),
            ("/srv/a/c", true, true),
            ("/etc", true, false),
        ] {
            let fault = HostPathGrant::fault(&grants, Path::new(path), read_only);
            assert_eq!(fault.is_none(), is_permitted, "{path} {fault:?}");
        }
        for text in [
            "", "srv", "/", "//", "/srv/..", "/proc/1", "/dev", "/sys", ":ro",
        ] {
            assert!(text.parse::<HostPathGrant>().is_err(), "{text}");
        }
    }
}
