//! Confinement of a node's containers: what the node withholds, whatever their records ask for.

use state::spec::Capabilities;

/// Limits that the node sets to every container. They take effect when its OCI spec is made: a
/// record keeps what was asked for, and a running container what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Capabilities that a container may have (`CAP_…`), if its record has them too.
    pub capabilities: Vec<String>,
    /// Whether 32 bit programs on x86 may make sockets by `socketcall`, where a filter cannot see
    /// their family.
    pub socketcall: bool,
}

impl Confinement {
    /// Capabilities of those asked for that the node grants.
    pub(super) fn granted(&self, asked: &Capabilities) -> Vec<String> {
        let is_granted = |name: &&String| self.capabilities.contains(name);
        asked.0.iter().filter(is_granted).cloned().collect()
    }
}
