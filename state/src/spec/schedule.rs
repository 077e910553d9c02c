//! Schedule section: the times at which a container runs, and what becomes of those that it cannot.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, duration, integer, text};
use super::{RestartPolicy, Spec};
use crate::timetable::Timetable;

/// Most past runs that are kept; they stand in the record, which is written with each.
const HISTORY_MAX: u64 = 50;
const HISTORY: u8 = 10;
/// Longest lateness with which a missed run is made up for.
const WITHIN_MAX: Duration = Duration::from_hours(24 * 366);

/// Times at which a container runs, and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Cron line, as it was written.
    pub cron: String,
    /// Time zone of the line.
    pub timezone: String,
    /// Rule for a time at which a run is still under way.
    pub concurrency: Concurrency,
    /// Rule for times that passed while nobody could run it.
    pub missed: MissedRuns,
    /// Lateness up to which a missed run is made up for. `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_within: Option<Duration>,
    /// Past runs that are kept, 1 to 50.
    pub history: u8,
}

/// Rule for a time at which a run is still under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concurrency {
    /// The time is left out.
    #[default]
    Skip,
    /// The run under way is ended for the new one.
    Replace,
}

/// Rule for times that passed while nobody could run the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissedRuns {
    /// Times that passed are left out.
    #[default]
    Skip,
    /// A single run makes up for all of them.
    RunOnce,
}

impl Schedule {
    /// The times that it stands for. `None`: its time zone is not known here any more.
    #[must_use]
    pub fn timetable(&self) -> Option<Timetable> {
        Timetable::parse(&self.cron, Timetable::zone(&self.timezone).ok()?).ok()
    }

    /// Whether it stands for the same times as another one.
    #[must_use]
    pub fn has_times_of(&self, other: &Self) -> bool {
        (&self.cron, &self.timezone) == (&other.cron, &other.timezone)
    }

    fn of_line(line: &str) -> Result<Self, String> {
        Timetable::parse(line, jiff::tz::TimeZone::UTC)?;
        Ok(Self {
            cron: line.to_owned(),
            timezone: "UTC".to_owned(),
            concurrency: Concurrency::default(),
            missed: MissedRuns::default(),
            missed_within: None,
            history: HISTORY,
        })
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let line = fields.required("cron", |value| Self::of_line(text(value)?));
        let timezone = fields.read("timezone", |value| {
            let name = text(value)?;
            Timetable::zone(name).map(|_| name.to_owned())
        });
        let concurrency = [
            ("skip", Concurrency::Skip),
            ("replace", Concurrency::Replace),
        ];
        let concurrency = fields.choice("concurrency", &concurrency);
        let missed = [
            ("skip", MissedRuns::Skip),
            ("run-once", MissedRuns::RunOnce),
        ];
        let missed = fields.choice("missed", &missed).unwrap_or_default();
        let within = fields.read("missed_within", |value| duration(value, WITHIN_MAX));
        if within.is_some() && missed == MissedRuns::Skip {
            fields.fault(
                "missed_within",
                "means nothing unless missed is \"run-once\"",
            );
        }
        let history = fields.read("history", |value| integer(value, 1..=HISTORY_MAX));
        let plain = line?;
        Some(Self {
            timezone: timezone.unwrap_or_else(|| plain.timezone.clone()),
            concurrency: concurrency.unwrap_or_default(),
            missed,
            missed_within: within,
            history: history
                .and_then(|history| u8::try_from(history).ok())
                .unwrap_or(HISTORY),
            ..plain
        })
    }

    fn to_json(&self) -> Value {
        let within = self.missed_within.map(humantime::format_duration);
        json!({
            "cron": self.cron, "timezone": self.timezone, "concurrency": self.concurrency, "missed": self.missed,
            "missed_within": within.map(|within| within.to_string()), "history": self.history,
        })
    }
}

/// Reads the member `schedule`: a cron line, or an object with more about it.
pub(super) fn read(top: &mut Fields<'_>) -> Option<Schedule> {
    if top.may_be_text("schedule") {
        let read = top.read("schedule", |value| Schedule::of_line(text(value)?));
        if !top.is_sketched() {
            return read;
        }
    }
    top.object("schedule", Schedule::read)
}

/// Notes a schedule of a container that never ends.
pub(super) fn check(spec: &Spec, top: &mut Fields<'_>) {
    if spec.schedule.is_some() && spec.restart.policy == RestartPolicy::Always {
        let fault =
            "needs a container that ends: give restart the policy \"never\" or \"on-failure\"";
        top.fault("schedule", fault);
    }
}

pub(super) fn to_json(schedule: Option<&Schedule>) -> Value {
    schedule.map_or(Value::Null, Schedule::to_json)
}
