//! Findings: states of the host that keep the network of containers from working although every
//! part that the agent made is right. The agent does not mend what others own; it tells.

use std::collections::BTreeMap;

use state::alarm::Alarm;
use state::id::InstanceName;

/// Most subjects of one alarm that are told; the others are counted.
const TOLD_MAX: usize = 5;

/// State of the host that a person has to change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkFinding {
    /// Alarm that the state raises.
    pub alarm: Alarm,
    /// The thing of which several may be in such a state, such as a port; empty if there is one
    /// only.
    pub subject: String,
    /// The state in a sentence, with names, to be read after the subject.
    pub message: String,
}

/// Network of the host as a look finds it that changes nothing. What could not be looked at is an error
/// in words.
#[derive(Clone, Debug)]
pub(crate) struct HostSurvey {
    /// Whether the bridge is there.
    pub(crate) bridge: Result<bool, String>,
    /// Others on the host that have addresses of the containers' subnet.
    pub(crate) shared: Result<Vec<String>, String>,
    /// Chains of nftables that drop the packets of containers, with the remedy of each.
    pub(crate) closed: Result<Vec<NetworkFinding>, String>,
    /// Rules that `iptables` lacks for the packets of containers to pass; empty: nothing drops them.
    pub(crate) lacking: Vec<String>,
    /// The kernel's switch for forwarding, `None`: it cannot be read.
    pub(crate) forwards: Option<bool>,
    /// Name servers and the table of connections, where something is at fault with them.
    pub(crate) findings: Vec<NetworkFinding>,
    /// Instances that have a netns.
    pub(crate) netns: Result<Vec<InstanceName>, String>,
    /// Whether somebody listens at the port of the API, on any address that it would have.
    pub(crate) api_taken: bool,
}

/// Faults that findings are, by alarm and subject.
pub type NetworkFaults = BTreeMap<(Alarm, String), String>;

impl NetworkFinding {
    /// Faults to be told, some of each alarm; those that `standing` tells already come first. The
    /// others are counted in a fault without a subject.
    #[must_use]
    pub fn faults(findings: &[Self], standing: &NetworkFaults) -> NetworkFaults {
        let mut by_alarm: BTreeMap<Alarm, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for finding in findings {
            let subjects = by_alarm.entry(finding.alarm).or_default();
            let messages = subjects.entry(&finding.subject).or_default();
            messages.push(&finding.message);
        }
        let mut faults = NetworkFaults::new();
        for (alarm, subjects) in by_alarm {
            let stands = |subject: &str| standing.contains_key(&(alarm, subject.to_owned()));
            let (old, new): (Vec<_>, Vec<_>) = subjects
                .into_iter()
                .partition(|(subject, _)| stands(subject));
            let mut all = old.into_iter().chain(new);
            let told = all.by_ref().take(TOLD_MAX);
            faults.extend(
                told.map(|(subject, messages)| ((alarm, subject.to_owned()), messages.join("; "))),
            );
            let more = all.count();
            if more > 0 {
                faults.insert((alarm, String::new()), format!("{more} more of these"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contested(port: u16) -> NetworkFinding {
        NetworkFinding {
            alarm: Alarm::PortContested,
            subject: format!("port {port}"),
            message: "held".to_owned(),
        }
    }

    fn subjects(faults: &NetworkFaults) -> Vec<&str> {
        faults.keys().map(|(_, subject)| &**subject).collect()
    }

    #[test]
    fn each_subject_is_a_fault_of_its_own_and_one_that_stands_stays() {
        let later = NetworkFinding::faults(&[contested(9)], &NetworkFaults::new());
        assert_eq!(subjects(&later), ["port 9"]);
        let many: Vec<_> = (1..=9).map(contested).collect();
        let told = NetworkFinding::faults(&many, &later);
        assert_eq!(told.len(), TOLD_MAX + 1);
        assert!(subjects(&told).contains(&"port 9"), "{told:?}");
        assert_eq!(
            told[&(Alarm::PortContested, String::new())],
            "4 more of these"
        );
        assert_eq!(NetworkFinding::faults(&[], &told), NetworkFaults::new());
    }

    #[test]
    fn findings_of_one_subject_are_one_fault() {
        let shared = |message: &str| NetworkFinding {
            alarm: Alarm::SubnetShared,
            subject: String::new(),
            message: message.to_owned(),
        };
        let told = NetworkFinding::faults(&[shared("a"), shared("b")], &NetworkFaults::new());
        assert_eq!(told[&(Alarm::SubnetShared, String::new())], "a; b");
    }
}
