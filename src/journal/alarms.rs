//! The alarms that stand at this moment, each with the time it was raised.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use state::alarm::Alarm;
use tokio::time::Instant;

/// Alarms that stand at once, beside the first of each kind, which always has its place: one alarm may
/// be about several subjects, such as registries, and those are not to hide another alarm.
const STANDING_MAX: usize = 64;
/// Changes of a standing alarm that are told within [`CHANGES_SPAN`]. A fault of another kind is
/// news; a number in a sentence, which is another one at each look, soon is not.
const CHANGES_MAX: usize = 4;
/// The time in which so many changes of one alarm are told.
const CHANGES_SPAN: Duration = Duration::from_hours(1);

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
    /// The alarm stood already so, or did not stand.
    None,
    /// The alarm stands now.
    Raised(String),
    /// The alarm stood already, for another fault.
    Changed(String),
    /// The alarm stands no more.
    Cleared(String),
}

/// News of a standing alarm, as they were told.
#[derive(Debug)]
struct ToldAlarm {
    standing: StandingAlarm,
    /// The message that was told last.
    told: String,
    /// The times at which changes were told.
    changes: VecDeque<Instant>,
}

impl ToldAlarm {
    /// Takes in the fault as it is now. True if that is to be told.
    fn change(&mut self, message: &str, now: Instant) -> bool {
        message.clone_into(&mut self.standing.message);
        let is_recent = |at: &Instant| now.duration_since(*at) < CHANGES_SPAN;
        self.changes.retain(is_recent);
        if self.told == message || self.changes.len() >= CHANGES_MAX {
            return false;
        }
        self.changes.push_back(now);
        message.clone_into(&mut self.told);
        true
    }
}

/// The alarms that stand, by alarm and subject.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeMap<(Alarm, String), ToldAlarm>);

impl Alarms {
    pub(super) fn set(&mut self, alarm: Alarm, subject: &str, fault: Option<String>) -> Change {
        let key = (alarm, subject.to_owned());
        let Some(fault) = fault else {
            return match self.0.remove(&key) {
                Some(before) => Change::Cleared(before.standing.message),
                None => Change::None,
            };
        };
        let message = match subject {
            "" => fault,
            subject => format!("{subject}: {fault}"),
        };
        if let Some(told) = self.0.get_mut(&key) {
            let is_news = told.change(&message, Instant::now());
            return if is_news {
                Change::Changed(message)
            } else {
                Change::None
            };
        }
        if self.0.len() >= STANDING_MAX && self.stands(alarm) {
            return Change::None;
        }
        let standing = StandingAlarm {
            alarm,
            since: SystemTime::now(),
            message: message.clone(),
        };
        let told = ToldAlarm {
            standing,
            told: message.clone(),
            changes: VecDeque::new(),
        };
        self.0.insert(key, told);
        Change::Raised(message)
    }

    /// Whether the alarm stands, about whatever subject.
    fn stands(&self, alarm: Alarm) -> bool {
        let mut from = self.0.range((alarm, String::new())..);
        from.next().is_some_and(|((first, _), _)| *first == alarm)
    }

    pub(super) fn all(&self) -> Vec<StandingAlarm> {
        let mut all: Vec<_> = self.0.values().map(|told| told.standing.clone()).collect();
        all.sort_by_key(|standing| Reverse(standing.alarm.weight()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_fault_of_a_standing_alarm_is_news_and_a_number_that_counts_soon_is_not() {
        let mut alarms = Alarms::default();
        let mut set = |fault: &str| alarms.set(Alarm::SweepFailing, "", Some(fault.to_owned()));
        assert_eq!(set("a is busy"), Change::Raised("a is busy".to_owned()));
        assert_eq!(set("a is busy"), Change::None);
        assert_eq!(set("b is busy"), Change::Changed("b is busy".to_owned()));
        let told = (0..100).filter(|n| set(&format!("{n} are busy")) != Change::None);
        assert_eq!(told.count(), CHANGES_MAX - 1);
        assert_eq!(alarms.all()[0].message, "99 are busy");
        let told = alarms.0.values_mut().next().unwrap();
        assert!(told.change("c is busy", Instant::now() + CHANGES_SPAN));
    }

    #[test]
    fn many_subjects_of_one_alarm_hide_no_other_alarm_and_all_of_them_are_bounded() {
        let mut alarms = Alarms::default();
        let fault = || Some("a fault".to_owned());
        for number in 0..STANDING_MAX * 2 {
            alarms.set(Alarm::PortContested, &format!("port {number}"), fault());
        }
        assert_eq!(alarms.0.len(), STANDING_MAX);
        for &alarm in Alarm::ALL {
            for subject in ["a", "b"] {
                let change = alarms.set(alarm, subject, fault());
                let is_first = subject == "a" && alarm != Alarm::PortContested;
                assert_eq!(change != Change::None, is_first, "{alarm} {subject}");
            }
        }
        assert_eq!(alarms.0.len(), STANDING_MAX + Alarm::ALL.len() - 1);
        // What is over makes room.
        for number in 0..STANDING_MAX {
            alarms.set(Alarm::PortContested, &format!("port {number}"), None);
        }
        assert_ne!(alarms.set(Alarm::PortContested, "b", fault()), Change::None);
    }
}
