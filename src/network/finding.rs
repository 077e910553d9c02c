//! Findings: states of the host that keep the network of containers from working although every
//! part that the agent made is right. The agent does not mend what others own; it tells.

use std::fmt::Write as _;

use state::alarm::Alarm;

/// Most findings of one alarm that are told in words; the others are counted.
const TOLD_MAX: usize = 5;

/// State of the host that a person has to change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkFinding {
    /// Alarm that the state raises.
    pub alarm: Alarm,
    /// The state in a sentence, with names.
    pub message: String,
}

impl NetworkFinding {
    /// Alarms that findings raise.
    pub const ALARMS: [Alarm; 5] = [
        Alarm::PortContested,
        Alarm::SubnetShared,
        Alarm::ForwardingBlocked,
        Alarm::ConnectionsFull,
        Alarm::NoNameServer,
    ];

    /// Fault of one alarm, in a text, if any of the findings is of it.
    #[must_use]
    pub fn fault(findings: &[Self], alarm: Alarm) -> Option<String> {
        let mut messages = findings
            .iter()
            .filter(|finding| finding.alarm == alarm)
            .map(|finding| finding.message.as_str());
        let told: Vec<_> = messages.by_ref().take(TOLD_MAX).collect();
        let mut text = told.join("; ");
        let more = messages.count();
        if more > 0 {
            write!(text, "; and {more} more").expect("writing to a string cannot fail");
        }
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fault_of_an_alarm_tells_some_and_counts_the_rest() {
        let finding = |alarm, n| NetworkFinding {
            alarm,
            message: format!("port {n}"),
        };
        let findings: Vec<_> = (1..=7).map(|n| finding(Alarm::PortContested, n)).collect();
        let fault = |alarm| NetworkFinding::fault(&findings, alarm);
        assert_eq!(fault(Alarm::SubnetShared), None);
        assert_eq!(
            fault(Alarm::PortContested).as_deref(),
            Some("port 1; port 2; port 3; port 4; port 5; and 2 more")
        );
    }
}
