//! Rules after an attempt to put them in force, and who may be connected with them.

use crate::network::NetworkError;
use crate::network::bridge::nftables::groups::RuledContainers;
use crate::network::directory::Member;

/// Rules after an attempt to put them in force. They say who may be connected: a container whose own
/// rules are in force, or one without any at an address that no rule is about.
#[derive(Debug, Default)]
pub(in crate::network::bridge) struct AppliedRules {
    /// Line for each difference that the table had.
    pub(in crate::network::bridge) lines: Vec<String>,
    /// First fault of what was to be done, other than this one.
    pub(in crate::network::bridge) fault: Option<NetworkError>,
    /// Fault that leaves a link open. A repair mends all links itself, and tells of those that it
    /// cannot mend.
    pub(super) open_link: Option<NetworkError>,
    /// Rules of the table.
    pub(super) in_force: RuledContainers,
    /// Whether they hold: the table is there, they are written down, and no packet from one container
    /// to another passes them by.
    pub(super) are_sure: bool,
}

impl AppliedRules {
    /// Whether a container may be connected.
    pub(in crate::network::bridge) fn admits(&self, member: &Member) -> bool {
        match self.in_force.get(&member.address) {
            None => !member.network.is_ruled(),
            Some((name, network)) => {
                self.are_sure && *name == member.name && *network == member.network
            }
        }
    }

    /// The same as a result. A fault that does not keep this container back is told to nobody else.
    pub(in crate::network::bridge) fn admit(self, member: &Member) -> Result<(), NetworkError> {
        let (is_admitted, name) = (self.admits(member), &member.name);
        match self.fault.or(self.open_link) {
            None if is_admitted => Ok(()),
            Some(error) if is_admitted => {
                tracing::warn!(container = %name, %error, "network rules of others not in force");
                Ok(())
            }
            Some(error) => Err(error),
            None => Err(NetworkError::failed(
                format!("cannot connect {name}"),
                format!("the rules in force for {} are another's", member.address),
            )),
        }
    }
}
