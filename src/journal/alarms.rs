//! The alarms that stand at this moment, each with the time it was raised.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::SystemTime;

use state::alarm::Alarm;

/// Alarms that stand at once. One alarm may be about several subjects, such as registries.
const STANDING_MAX: usize = 64;

/// An alarm that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingAlarm {
    /// The alarm.
    pub alarm: Alarm,
    /// The time since which it stands.
    pub since: SystemTime,
    /// The fault as it is now, in a sentence, with its subject in front.
    pub message: String,
}

/// The consequence of an alarm's being set; with a sentence for the event, if it is news.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The alarm stood already, or did not stand.
    None,
    /// The alarm stands now.
    Raised(String),
    /// The alarm stands no more.
    Cleared(String),
}

/// The alarms that stand, by alarm and subject.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeMap<(Alarm, String), StandingAlarm>);

impl Alarms {
    pub(super) fn set(&mut self, alarm: Alarm, subject: &str, fault: Option<String>) -> Change {
        let key = (alarm, subject.to_owned());
        let Some(fault) = fault else {
            return match self.0.remove(&key) {
                Some(before) => Change::Cleared(before.message),
                None => Change::None,
            };
        };
        let message = match subject {
            "" => fault,
            subject => format!("{subject}: {fault}"),
        };
        if let Some(standing) = self.0.get_mut(&key) {
            standing.message = message;
            return Change::None;
        }
        if self.0.len() >= STANDING_MAX {
            return Change::None;
        }
        let standing = StandingAlarm {
            alarm,
            since: SystemTime::now(),
            message: message.clone(),
        };
        self.0.insert(key, standing);
        Change::Raised(message)
    }

    pub(super) fn stands(&self, alarm: Alarm) -> bool {
        self.0.keys().any(|(standing, _)| *standing == alarm)
    }

    pub(super) fn all(&self) -> Vec<StandingAlarm> {
        let mut all: Vec<_> = self.0.values().cloned().collect();
        all.sort_by_key(|standing| Reverse(standing.alarm.weight()));
        all
    }
}
