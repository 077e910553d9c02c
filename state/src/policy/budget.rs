//! Budget of CHaS: how many running containers it may change or end within an hour, by whatever
//! means. It cannot lift it itself; only an operator of the node can.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::id::ContainerId;
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

/// Running containers of CHaS, and its changes of them within the last hour.
#[derive(Clone, Debug, Default)]
pub struct ChangeLedger {
    spent: VecDeque<(BootTime, ContainerId)>,
    /// Containers that are to run, each with the time since when. `None`: since before the first
    /// look.
    running: BTreeMap<ContainerId, Option<BootTime>>,
    has_looked: bool,
}

impl ChangeLedger {
    /// Notes which containers are to run now.
    pub fn look(&mut self, running: impl Iterator<Item = ContainerId>, now: BootTime) {
        let since = self.has_looked.then_some(now);
        let mut before = std::mem::take(&mut self.running);
        self.running = running
            .map(|id| (id, before.remove(&id).unwrap_or(since)))
            .collect();
        self.has_looked = true;
    }

    /// The number of running containers that may still be changed or ended now. Of a part, the
    /// whole is what has proven to run for an hour, and what was changed or ended within it:
    /// nobody raises it by adding containers, or takes from it by ending some.
    #[must_use]
    pub fn allowance(
        &mut self,
        budget: ChangeBudget,
        proven: impl Iterator<Item = ContainerId>,
        now: BootTime,
    ) -> usize {
        let is_over = |at: BootTime| now.since(at) >= WINDOW;
        while self.spent.front().is_some_and(|(at, _)| is_over(*at)) {
            self.spent.pop_front();
        }
        let is_old = |id: &ContainerId| {
            let since = self.running.get(id);
            since.is_some_and(|since| since.is_none_or(is_over))
        };
        let mut ran: BTreeSet<_> = proven.filter(is_old).collect();
        ran.extend(self.spent.iter().map(|(_, id)| *id));
        budget.of(ran.len()).saturating_sub(self.spent.len())
    }

    /// Notes changes of running containers.
    pub fn note(&mut self, changed: &[ContainerId], now: BootTime) {
        self.spent.extend(changed.iter().map(|id| (now, *id)));
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

    const HALF: ChangeBudget = ChangeBudget::Percent(50);

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn ids(numbers: std::ops::Range<u64>) -> Vec<ContainerId> {
        numbers.map(ContainerId::from_bits).collect()
    }

    /// The allowance of half of what runs, all of which has proven to.
    fn left(ledger: &mut ChangeLedger, running: &[ContainerId], now: BootTime) -> usize {
        ledger.look(running.iter().copied(), now);
        ledger.allowance(HALF, running.iter().copied(), now)
    }

    #[test]
    fn what_was_spent_comes_back_after_an_hour_and_not_before() {
        let (mut ledger, all) = (ChangeLedger::default(), ids(0..10));
        assert_eq!(left(&mut ledger, &all, at(0)), 5);
        ledger.note(&all[..3], at(0));
        // Three of them are gone: it is still half of ten.
        assert_eq!(left(&mut ledger, &all[3..], at(60)), 2);
        ledger.note(&all[3..5], at(60));
        assert_eq!(left(&mut ledger, &all[5..], at(3599)), 0);
        assert_eq!(left(&mut ledger, &all[5..], at(3600)), 1);
        assert_eq!(left(&mut ledger, &all[5..], at(3660)), 2);
    }

    #[test]
    fn nobody_lifts_a_part_by_adding_containers_first() {
        let (mut ledger, before) = (ChangeLedger::default(), ids(0..10));
        let more = ids(0..30);
        assert_eq!(left(&mut ledger, &before, at(0)), 5);
        // Twenty that never ran: not now, and not in a day either.
        for seconds in [1, 3600, 86_400] {
            ledger.look(more.iter().copied(), at(seconds));
            let proven = before.iter().copied();
            assert_eq!(ledger.allowance(HALF, proven, at(seconds)), 5, "{seconds}");
        }
        // Twenty that run count once they have done so for an hour.
        let (mut ledger, start) = (ChangeLedger::default(), at(100));
        assert_eq!(left(&mut ledger, &before, at(0)), 5);
        for (now, most) in [(start, 5), (at(3699), 5), (at(3700), 15)] {
            assert_eq!(left(&mut ledger, &more, now), most);
        }
        // One that was ended and comes again is a new one.
        assert_eq!(left(&mut ledger, &[], at(3800)), 1);
        assert_eq!(left(&mut ledger, &before, at(3900)), 1);
    }
}
