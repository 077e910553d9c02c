//! Section `containers`: bounds and privileges of containers on this node.

use std::str::FromStr;

use super::super::*;
use state::policy::host_paths::HostPathGrant;
use state::policy::patterns::TextPattern;
use state::quantity::InvalidQuantity;
use state::spec::OWN_IDS as IDS;

use super::Layers;
use super::keys::{self, ConfigKey, DefaultValue, KEYS};
use super::parse::Parsed;
use crate::config::containers::OWN_PLACES;

/// Keys of files that others use as well, in directories that many are given: a log, and certificates
/// of authorities.
const OPEN_FILES: [&str; 3] = ["logging.file", "registry.ca_file", "chas.ca_file"];

/// Largest id: above it are numbers that programs take for negative ones, and users that may not
/// ping.
const ID_MAX: u32 = i32::MAX.unsigned_abs();

impl Layers {
    pub(super) fn containers(&mut self) -> ContainersSection {
        ContainersSection {
            max: self.value("containers.max", parse::number(1..=10_000)),
            system_cpu: self.value("containers.system_cpu", quantity),
            system_memory: self.value("containers.system_memory", quantity),
            allow_new_privileges: self.value("containers.allow_new_privileges", parse::flag),
            allow_host_network: self.value("containers.allow_host_network", parse::flag),
            devices: self
                .optional("containers.devices", devices)
                .unwrap_or_default(),
            host_paths: self.host_paths(),
            kept: self.own_files(),
            runtimes: self
                .optional("containers.runtimes", runtimes::read)
                .unwrap_or_default(),
            capabilities: self.value("containers.capabilities", parse::capabilities),
            allow_socketcall: self.value("containers.allow_socketcall", parse::flag),
            user_namespaces: self
                .by_age("containers.user_namespaces", ["off", "auto"], auto)
                .unwrap_or_default(),
            user_ids: self.value("containers.user_ids", ids),
        }
    }
}

impl Layers {
    /// Paths of the host that are given, none of which is or holds what is the agent's own.
    fn host_paths(&mut self) -> Vec<HostPathGrant> {
        let kept = self.own_files();
        let read = |text: &str| host_paths(text, &kept);
        self.optional("containers.host_paths", read)
            .unwrap_or_default()
    }

    /// Files and directories that are the agent's own, and containerd's as far as they are known here.
    fn own_files(&self) -> Vec<PathBuf> {
        let set = |key: &&ConfigKey| key.value == "PATH" && !OPEN_FILES.contains(&key.name);
        let named = KEYS.iter().filter(set).map(|key| self.text(key.name));
        let named = named
            .filter(|path| path.starts_with('/'))
            .map(PathBuf::from);
        let read_from = self.values.values().filter_map(|(_, origin)| match origin {
            Origin::File { path, .. } => Some(path.clone()),
            Origin::Default | Origin::Environment(_) | Origin::Flag(_) => None,
        });
        let socket = PathBuf::from(self.text("containerd.socket"));
        let beside = socket.parent().filter(|above| *above != Path::new("/"));
        let beside = beside.map(Path::to_owned).into_iter();
        let all = named
            .chain(read_from)
            .chain(beside)
            .chain(self.secret_files());
        let all: BTreeSet<_> = all.chain(OWN_PLACES.map(PathBuf::from)).collect();
        all.into_iter().collect()
    }

    /// Text of a key that has a default.
    fn text(&self, name: &'static str) -> &str {
        let default = keys::find(name).map_or("", |key| match key.default {
            DefaultValue::Text(text) => text,
            DefaultValue::Computed(_) | DefaultValue::Unset => "",
        });
        let set = self.values.get(name);
        set.map_or(default, |(text, _)| text.trim())
    }
}

/// Paths of the host, separated by commas; every fault of them at once.
fn host_paths(text: &str, kept: &[PathBuf]) -> Parsed<Vec<HostPathGrant>> {
    let entries = text.split(',').map(str::trim);
    let (mut grants, mut faults) = (Vec::new(), Vec::new());
    for entry in entries.filter(|entry| !entry.is_empty()) {
        match entry.parse::<HostPathGrant>() {
            Ok(grant) => {
                // By their names alone: a lost file system must keep no agent from its start. Each
                // start of a container looks at what is there.
                let given = &grant.path;
                let meets = |kept: &&PathBuf| given.starts_with(kept) || kept.starts_with(given);
                if let Some(kept) = kept.iter().find(meets) {
                    let kept = kept.display();
                    faults.push(format!(
                        "{entry:?} is, holds or lies in {kept}, which no container may have"
                    ));
                }
                grants.push(grant);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        Ok(grants)
    } else {
        Err(faults.join("; "))
    }
}

/// An amount of CPU time or memory.
fn quantity<T: FromStr<Err = InvalidQuantity>>(text: &str) -> Parsed<T> {
    text.parse()
        .map_err(|error: InvalidQuantity| error.to_string())
}

fn auto(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither auto nor off")),
    }
}

/// Patterns of devices, separated by commas.
fn devices(text: &str) -> Parsed<Vec<TextPattern>> {
    let entries = text.split(',').map(str::trim);
    let patterns = entries.filter(|entry| !entry.is_empty()).map(|entry| {
        let names_one = entry.starts_with("/dev/") || entry.contains('/') && entry.contains(['=', '*']);
        let pattern = entry.parse().ok().filter(|_| names_one);
        pattern.ok_or_else(|| {
            format!(
                "{entry:?} is no device: write device nodes and CDI names, or the beginning of some and \
                 '*', such as /dev/fuse,/dev/snd/*,vendor.com/gpu=*"
            )
        })
    });
    patterns.collect()
}

fn ids(text: &str) -> Parsed<RangeInclusive<u32>> {
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match ends {
        Some((first, last)) if first >= IDS && last <= ID_MAX && first + (IDS - 1) <= last => {
            Ok(first..=last)
        }
        _ => Err(format!(
            "{text:?} is no range of ids for containers: write two numbers from {IDS} to {ID_MAX} with \
             {IDS} ids or more, such as \"2000224256-2147352575\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_the_host_is_given_that_is_the_agent_s_and_every_fault_is_told() {
        let kept = ["/var/lib/chas", "/run/containerd"].map(PathBuf::from);
        let given = host_paths(" /srv/data , /etc/app.conf:ro,,/var/lib/chaste", &kept).unwrap();
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        assert_eq!(given, ["/srv/data", "/etc/app.conf:ro", "/var/lib/chaste"]);
        let wrong = "/var,/var/lib/chas/volumes,/run/containerd:ro,/,/proc/1,srv,/dev/fuse,/srv";
        let told = host_paths(wrong, &kept).unwrap_err();
        assert_eq!(told.split("; write").count(), 5, "{told}");
        assert_eq!(told.matches("no container may have").count(), 3, "{told}");
    }

    #[test]
    fn a_range_holds_one_container_at_least_and_nobody_s_negative_ids() {
        for (text, range) in [
            ("65536-131071", Some(65_536..=131_071)),
            (" 100000 - 2147483647 ", Some(100_000..=2_147_483_647)),
            ("65536-131070", None),
            ("65535-200000", None),
            ("65536-2147483648", None),
            ("4294967295-4294967295", None),
            ("100000", None),
            ("", None),
        ] {
            assert_eq!(ids(text).ok(), range, "{text}");
        }
        let words = ["auto", "OFF", "on"].map(|text| auto(text).ok());
        assert_eq!(words, [Some(true), Some(false), None]);
    }
}
