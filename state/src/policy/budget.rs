//! Budget of CHaS: how many running containers it may change or end within an hour, by whatever
//! means. It cannot lift it itself; only an operator of the node can.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::time::BootTime;

/// Name of the rule that denies what is beyond the budget.
pub const RULE: &str = "changes-per-hour";
/// Time that a change counts.
pub const WINDOW: Duration = Duration::from_hours(1);

/// Running containers that may be changed or ended within an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeBudget {
    /// Number of containers.
    Count(u32),
    /// Part in percent, of one container at least.
    Percent(u8),
}

impl ChangeBudget {
    /// The number of containers, of so many that run.
    #[must_use]
    pub fn of(self, running: usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Percent(percent) => (running * usize::from(percent) / 100).max(1),
        }
    }
}

impl FromStr for ChangeBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is neither a number of containers, nor a part such as \"50%\" (1 to 100)"
            )
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (number, is_part) = text
            .strip_suffix('%')
            .map_or((text, false), |number| (number, true));
        if !is_number(number) {
            return Err(wrong());
        }
        if is_part {
            let percent = number
                .parse()
                .ok()
                .filter(|percent| (1..=100).contains(percent));
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        number.parse().map(Self::Count).map_err(|_| wrong())
    }
}

impl fmt::Display for ChangeBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Changes of running containers by CHaS within the last hour.
#[derive(Clone, Debug, Default)]
pub struct ChangeLedger {
    spent: VecDeque<SpentChanges>,
}

/// Changes that were made at once.
#[derive(Clone, Copy, Debug)]
struct SpentChanges {
    at: BootTime,
    count: usize,
    /// Containers that ran before.
    running: usize,
}

impl ChangeLedger {
    /// The number of running containers that may still be changed or ended now. A part of what runs
    /// is a part of what ran before the first change of the hour: neither what was ended since nor
    /// what came since counts.
    #[must_use]
    pub fn allowance(&mut self, budget: ChangeBudget, running: usize, now: BootTime) -> usize {
        let is_over = |spent: &SpentChanges| now.since(spent.at) >= WINDOW;
        while self.spent.front().is_some_and(is_over) {
            self.spent.pop_front();
        }
        let ran = self.spent.front().map_or(running, |first| first.running);
        let spent: usize = self.spent.iter().map(|spent| spent.count).sum();
        budget.of(ran).saturating_sub(spent)
    }

    /// Notes so many changes, of so many containers that ran before.
    pub fn note(&mut self, count: usize, running: usize, now: BootTime) {
        if count > 0 {
            let at = now;
            self.spent.push_back(SpentChanges { at, count, running });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_number_or_a_part_of_what_runs() {
        for (text, of_ten) in [("0", 0), ("3", 3), ("50%", 5), ("1%", 1), ("100%", 10)] {
            let budget: ChangeBudget = text.parse().unwrap();
            assert_eq!(
                (budget.of(10), budget.to_string()),
                (of_ten, text.to_owned())
            );
        }
        for text in ["", "%", "-1", "0%", "101%", "1.5", "all", "+3"] {
            assert!(text.parse::<ChangeBudget>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_spent_comes_back_after_an_hour_and_not_before() {
        let at = |seconds| BootTime(Duration::from_secs(seconds));
        let (mut ledger, half) = (ChangeLedger::default(), ChangeBudget::Percent(50));
        assert_eq!(ledger.allowance(half, 10, at(0)), 5);
        ledger.note(3, 10, at(0));
        // Three of them are gone: it is still half of ten. What came meanwhile does not count.
        for running in [7, 100] {
            assert_eq!(ledger.allowance(half, running, at(60)), 2);
        }
        ledger.note(2, 7, at(60));
        assert_eq!(ledger.allowance(half, 5, at(3599)), 0);
        assert_eq!(ledger.allowance(half, 5, at(3600)), 1);
        assert_eq!(ledger.allowance(half, 5, at(3660)), 2);
    }
}
