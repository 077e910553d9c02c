//! Switches by which the host forwards IPv6 packets, and the memory of what they were before.
//!
//! A host that forwards takes no route from a router's announcement, and loses at once the one that it
//! has. So where the kernel can forward by link it is told so of each, and the switch for all is left
//! alone; else links that take routes are told to do so all the same, before that switch is set.
//!
//! What is set is written down before. Nothing is forwarded between the links of that list, and it is
//! set back once IPv6 is not configured any more: the rules go with it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::network::NetworkError;
use crate::network::bridge::routing::{self, LINKS_MAX};
use crate::network::bridge::sysctl;

/// Switches of all links of a netns, a directory for each.
pub(super) const LINKS: &str = "/proc/sys/net/ipv6/conf";

const BY_LINK: &str = "force_forwarding";
const TAKES_ROUTES: &str = "accept_ra";
const FOR_ALL: (&str, &str) = ("all", "forwarding");
/// Mark in the memory of a link that was there, in place of a switch.
const WAS_THERE: &str = "-";

/// Switch that is to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) link: String,
    key: String,
    value: &'static str,
}

/// Switch that the agent set, with its value before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SetSwitch {
    link: String,
    key: String,
    before: String,
}

/// Memory of the switches that the agent set, until the next reboot. It is there while IPv6 is, or was
/// since the last reboot.
#[derive(Clone, Debug)]
pub(in crate::network::bridge) struct SwitchMemory {
    file: PathBuf,
}

impl SwitchMemory {
    /// Memory below the directory of what a reboot ends.
    pub(in crate::network::bridge) fn below(directory: &Path) -> Self {
        Self {
            file: directory.join("ipv6-switches"),
        }
    }

    /// Whether IPv6 was configured since the last reboot.
    pub(in crate::network::bridge) fn exists(&self) -> bool {
        self.file.exists()
    }

    /// Links between which nothing of IPv6 is forwarded: those that the agent switched on.
    pub(in crate::network::bridge) fn links(&self) -> Vec<String> {
        let set = self.read().into_iter();
        let links = set.filter(|set| [BY_LINK, WAS_THERE].contains(&&*set.key));
        let links: BTreeSet<String> = links.map(|set| set.link).collect();
        links
            .into_iter()
            .filter(|link| routing::is_name(link))
            .collect()
    }

    /// Whether the switch for all is the agent's own doing.
    pub(super) fn is_for_all(&self) -> bool {
        let mut set = self.read().into_iter();
        set.any(|set| (&*set.link, &*set.key) == FOR_ALL)
    }

    /// Writes down the present values of these switches, and the `others` where they are for all links.
    /// Answers whether that adds links between which nothing is forwarded.
    ///
    /// # Errors
    /// It cannot be written: then nothing is to be set.
    pub(super) fn note(
        &self,
        switches: &[Switch],
        others: &[String],
    ) -> Result<bool, NetworkError> {
        let (mut all, before) = (self.read(), self.links());
        let is_for_all = |switch: &Switch| (&*switch.link, &*switch.key) == FOR_ALL;
        let there = others.iter().filter(|_| switches.iter().any(is_for_all));
        let there = there.map(|link| SetSwitch {
            link: link.clone(),
            key: WAS_THERE.to_owned(),
            before: WAS_THERE.to_owned(),
        });
        let new = switches.iter().map(|switch| SetSwitch {
            link: switch.link.clone(),
            key: switch.key.clone(),
            before: read(&switch.link, &switch.key).unwrap_or_else(|| WAS_THERE.to_owned()),
        });
        for set in there.chain(new) {
            let is_known = |known: &SetSwitch| (&known.link, &known.key) == (&set.link, &set.key);
            if !all.iter().any(is_known) {
                all.push(set);
            }
        }
        let lines = all
            .iter()
            .map(|set| format!("{} {} {}\n", set.link, set.key, set.before));
        let (text, new) = (lines.collect::<String>(), self.file.with_extension("new"));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|error| {
            let what = format!("cannot write to {}", self.file.display());
            NetworkError::failed(what, error)
        })?;
        Ok(self.links() != before)
    }

    /// Sets back what the agent set, as far as nobody has changed it since, and forgets it. A link that is
    /// gone has no switch.
    pub(super) fn set_back(&self) -> Result<(), NetworkError> {
        let all = self.read();
        // The switch for all first: while it is on, links have to be told to take routes.
        let (for_all, links): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|set| (&*set.link, &*set.key) == FOR_ALL);
        for SetSwitch { link, key, before } in for_all.into_iter().chain(links) {
            let ours = if key == TAKES_ROUTES { "2" } else { "1" };
            if key != WAS_THERE && read(&link, &key).as_deref() == Some(ours) {
                sysctl::set(&format!("net/ipv6/conf/{link}/{key}"), &before)?;
            }
        }
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let what = format!("cannot remove {}", self.file.display());
                Err(NetworkError::failed(what, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn read(&self) -> Vec<SetSwitch> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let file = self.file.display();
                tracing::warn!(%file, %error, "switches that were set for IPv6 not read");
                String::new()
            }
        };
        let read = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some(SetSwitch {
                link: words.next()?,
                key: words.next()?,
                before: words.next()?,
            })
        };
        text.lines().filter_map(read).collect()
    }
}

/// Switches that are to be set so that the host forwards from and for the bridge; none if it does.
pub(super) fn missing(memory: &SwitchMemory, bridge: &str, others: &[String]) -> Vec<Switch> {
    let (link, key) = FOR_ALL;
    let by_link = read(bridge, BY_LINK).is_some();
    let is_on = read(link, key).as_deref() == Some("1");
    if is_on && !memory.is_for_all() {
        return Vec::new();
    }
    let others: Vec<&str> = others.iter().map(String::as_str).take(LINKS_MAX).collect();
    let wanted = plan(by_link && !is_on, &others, bridge);
    let is_missing = |switch: &Switch| match read(&switch.link, &switch.key).as_deref() {
        // A link that takes no routes is left so.
        Some(now) if switch.key == TAKES_ROUTES => now == "1",
        Some(now) => now != switch.value,
        None => false,
    };
    wanted.into_iter().filter(is_missing).collect()
}

/// All switches by which a host forwards, in their order.
fn plan(by_link: bool, others: &[&str], bridge: &str) -> Vec<Switch> {
    let switch = |link: &str, key: &str, value| Switch {
        link: link.to_owned(),
        key: key.to_owned(),
        value,
    };
    let others = others.iter().copied();
    if by_link {
        let links = others.chain([bridge]);
        return links.map(|link| switch(link, BY_LINK, "1")).collect();
    }
    let links = others.chain(["default"]);
    let keep = links.map(|link| switch(link, TAKES_ROUTES, "2"));
    keep.chain([switch(FOR_ALL.0, FOR_ALL.1, "1")]).collect()
}

impl Switch {
    /// Sets the switch; of a link that is gone by now there is none. Answers a line if it was wrong.
    pub(super) fn set(&self) -> Result<Option<String>, NetworkError> {
        set(&self.link, &self.key, self.value)
    }

    /// Whether it makes the whole host forward.
    pub(super) fn is_for_all(&self) -> bool {
        (&*self.link, &*self.key) == FOR_ALL
    }
}

/// Value of a switch of a link. `None`: the kernel has none.
fn read(link: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(LINKS).join(link).join(key)).ok()?;
    Some(text.trim().to_owned())
}

/// Sets a switch of a link that may be gone by now, and answers a line if it was wrong.
pub(super) fn set(link: &str, key: &str, value: &str) -> Result<Option<String>, NetworkError> {
    let key = format!("net/ipv6/conf/{link}/{key}");
    let is_changed = sysctl::set(&key, value)?;
    Ok(is_changed.then(|| format!("sysctl {key}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_begins_to_forward_only_once_its_uplinks_keep_their_routes() {
        let others = ["eth0", "eth1"];
        let shown = |by_link| {
            let all = plan(by_link, &others, "chas0").into_iter();
            let shown = all.map(|one| format!("{}.{}={}", one.link, one.key, one.value));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(
            shown(true),
            ["eth0", "eth1", "chas0"].map(|link| format!("{link}.force_forwarding=1"))
        );
        assert_eq!(
            shown(false),
            [
                "eth0.accept_ra=2",
                "eth1.accept_ra=2",
                "default.accept_ra=2",
                "all.forwarding=1"
            ]
        );
    }

    #[test]
    fn what_is_set_is_written_down_with_the_links_that_are_not_connected() {
        let dir = tempfile::tempdir().unwrap();
        let memory = SwitchMemory::below(dir.path());
        assert!(!memory.exists() && memory.links().is_empty());
        let others = ["gone0".to_owned(), "gone1".to_owned()];
        let by_link = plan(true, &["gone0", "a b"], "gone9");
        assert!(memory.note(&by_link[..1], &others).unwrap());
        assert!(
            !memory.note(&by_link[..1], &others).unwrap(),
            "known already"
        );
        assert_eq!(memory.links(), ["gone0"]);
        assert!(!memory.is_for_all());
        memory.note(&plan(false, &[], "gone9"), &others).unwrap();
        assert!(memory.is_for_all());
        assert_eq!(memory.links(), others);
        fs::write(&memory.file, "gone0\n\na\"b force_forwarding 0\n").unwrap();
        assert_eq!(memory.links(), Vec::<String>::new());
        memory.set_back().unwrap();
        assert!(!memory.exists());
    }
}
