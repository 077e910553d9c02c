//! The node as a router: which networks it does not connect although it forwards for containers.
//!
//! Containers need the kernel's forwarding, and the kernel has one switch for all links. A node
//! that did not forward before would become a way between the networks that it is in. Those links
//! are written down before the switch is set: links that others make later (of docker, a VPN,
//! virtual machines) are made by programs that forward on purpose, and are none of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::network::NetworkError;

/// Most links between which nothing is forwarded.
pub(super) const LINKS_MAX: usize = 256;

/// The kernel's switch for forwarding.
pub(super) const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Memory of the links that the node had when it did not forward, until the next reboot.
#[derive(Clone, Debug)]
pub(super) struct RoutingMemory {
    file: PathBuf,
}

impl RoutingMemory {
    /// Memory below the directory of what a reboot ends.
    pub(super) fn below(directory: &Path) -> Self {
        Self {
            file: directory.join("unrouted"),
        }
    }

    /// Writes down these links of the host, if nothing is written yet and the kernel does not
    /// forward; none if it does. Must come before forwarding is switched on.
    ///
    /// # Errors
    /// It cannot be written: after a restart the node would be taken for a router.
    pub(super) fn note<'a>(
        &self,
        links: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), NetworkError> {
        if self.file.exists() {
            return Ok(());
        }
        let forwards = fs::read_to_string(IP_FORWARD).is_ok_and(|text| text.trim() != "0");
        let links = links.into_iter().filter(|_| !forwards);
        let text: String = links.map(|link| format!("{link}\n")).collect();
        let new = self.file.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|error| {
            let what = format!("cannot write to {}", self.file.display());
            NetworkError::failed(what, error)
        })
    }

    /// Links between which nothing is forwarded. One that cannot be written in a rule is left out.
    pub(super) fn links(&self) -> Vec<String> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let file = self.file.display();
                tracing::warn!(%file, %error, "links that are not connected not read");
                String::new()
            }
        };
        let links = text.lines().filter(|line| is_name(line)).take(LINKS_MAX);
        links.map(str::to_owned).collect()
    }
}

/// Whether it is a link's name that can be written in a rule.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    (1..=15).contains(&text.len()) && text.chars().all(plain)
}

/// Rules of the chain `forward` against new connections from one of these links to another.
/// Packets that stay on one link are not among them: a bridge of the host forwards its own so,
/// where the kernel shows bridged packets to these rules.
pub(super) fn between(links: &[String]) -> String {
    if links.len() < 2 {
        return String::new();
    }
    let quoted: Vec<_> = links.iter().map(|link| format!("\"{link}\"")).collect();
    let set = quoted.join(", ");
    format!("    iifname {{ {set} }} oifname {{ {set} }} ct state new jump between\n")
}

/// Chain for what [`between`] hands to it; nothing if that is nothing.
pub(super) fn between_chain(links: &[String]) -> String {
    if links.len() < 2 {
        return String::new();
    }
    let same = links.iter();
    let same = same.map(|link| format!("    iifname \"{link}\" oifname \"{link}\" return\n"));
    format!(
        "  chain between {{\n{}    drop\n  }}\n",
        same.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_rule_can_hold_are_links() {
        let dir = tempfile::tempdir().unwrap();
        let memory = RoutingMemory::below(dir.path());
        assert_eq!(memory.links(), Vec::<String>::new());
        let text = "eth0\neth0.100\na\"b\n\n*\nan-interface-longer-than-any\nwg0\n";
        fs::write(dir.path().join("unrouted"), text).unwrap();
        assert_eq!(memory.links(), ["eth0", "eth0.100", "wg0"]);
    }

    #[test]
    fn what_was_written_first_stays() {
        let dir = tempfile::tempdir().unwrap();
        let memory = RoutingMemory::below(dir.path());
        memory.note(["eth0", "eth1"]).unwrap();
        let first = memory.links();
        memory.note(["docker0"]).unwrap();
        assert_eq!(memory.links(), first);
    }

    #[test]
    fn one_network_needs_no_rule() {
        for links in [vec![], vec!["eth0".to_owned()]] {
            assert_eq!(between(&links) + &between_chain(&links), "");
        }
    }
}
