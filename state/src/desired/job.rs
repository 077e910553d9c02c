//! Runs of a container with a schedule, as they are stored: the one under way, and the last ones.

use serde::{Deserialize, Serialize};

use super::{Finished, Record, RunState};
use crate::spec::is_default;

/// Runs of a container, and the times that are dealt with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Time until which all times of the schedule are dealt with, milliseconds since 1970. Stored
    /// before a run begins, so that no time has two.
    pub until_ms: u64,
    /// Run under way. `None`: the container waits for its next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<JobRun>,
    /// Number of runs that were begun, and so the number of the last one. 0: none since agents count
    /// them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub begun: u64,
    /// Last runs, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<PastRun>,
    /// End of the last run that ended with exit code 0, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_success_ms: Option<u64>,
    /// Number of times left out, since a run was under way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub skipped: u64,
    /// Number of occasions at which times had passed while nobody could run it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub missed: u64,
}

/// Run under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// Time of the schedule that it is for, milliseconds since 1970. `None`: a person asked for it.
    pub scheduled_ms: Option<u64>,
}

/// Run that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRun {
    /// Time of the schedule that it was for, milliseconds since 1970. `None`: a person asked for it.
    pub scheduled_ms: Option<u64>,
    /// Result of the run.
    pub result: RunResult,
    /// Exit code. `None`: it did not end by itself.
    pub code: Option<u32>,
    /// End of it, milliseconds since 1970. `None`: it did not end by itself.
    pub ended_ms: Option<u64>,
    /// Length of its last process in milliseconds. `None`: nobody knows.
    pub took_ms: Option<u64>,
}

/// Result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunResult {
    /// The run ended with exit code 0.
    Succeeded,
    /// The run ended otherwise.
    Failed,
    /// The run was ended for another one.
    Replaced,
    /// The run was ended by a stop.
    Stopped,
}

impl RunResult {
    /// The result in a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Replaced => "replaced",
            Self::Stopped => "stopped",
        }
    }
}

impl Job {
    /// A job whose times count from this one on.
    #[must_use]
    pub fn from(now_ms: u64) -> Self {
        Self {
            until_ms: now_ms,
            ..Self::default()
        }
    }

    fn end(&mut self, result: RunResult, kept: u8) {
        if let Some(run) = self.run.take() {
            let past = PastRun {
                scheduled_ms: run.scheduled_ms,
                result,
                code: None,
                ended_ms: None,
                took_ms: None,
            };
            self.keep(past, kept);
        }
    }

    fn keep(&mut self, past: PastRun, kept: u8) {
        self.past.push(past);
        let surplus = self.past.len().saturating_sub(usize::from(kept));
        self.past.drain(..surplus);
    }
}

impl Record {
    /// Whether the container waits for the next time of its schedule.
    #[must_use]
    pub fn is_between_runs(&self) -> bool {
        let has_run = self.job.as_ref().is_some_and(|job| job.run.is_some());
        self.run == RunState::Running && self.spec.schedule.is_some() && !has_run
    }

    /// Number of the last run that was begun; 0 where there was none.
    #[must_use]
    pub fn run_number(&self) -> u64 {
        self.job.as_ref().map_or(0, |job| job.begun)
    }

    fn kept_runs(&self) -> u8 {
        let schedule = self.spec.schedule.as_ref();
        schedule.map_or(1, |schedule| schedule.history)
    }

    /// Begins a run, in place of the one that may be under way; `floor` as in
    /// [`ask_restart`](Self::ask_restart).
    pub fn begin_run(&mut self, scheduled_ms: Option<u64>, floor: u64) {
        let kept = self.kept_runs();
        let job = self.job.get_or_insert_default();
        let is_in_place_of_another = job.run.is_some();
        job.end(RunResult::Replaced, kept);
        job.run = Some(JobRun { scheduled_ms });
        job.begun = job.begun.saturating_add(1);
        if is_in_place_of_another {
            self.ask_restart(floor);
        }
        self.finished = None;
    }

    /// Ends the run under way, if there is one, because the container is to stop.
    pub fn stop_run(&mut self) {
        let kept = self.kept_runs();
        if let Some(job) = &mut self.job {
            job.end(RunResult::Stopped, kept);
        }
    }

    /// Notes the end of the run under way, if there is one. The result of the run, if so.
    pub fn finish_run(&mut self, finished: &Finished, took_ms: Option<u64>) -> Option<RunResult> {
        let kept = self.kept_runs();
        let job = self.job.as_mut()?;
        let run = job.run.take()?;
        let result = match finished.code {
            0 => RunResult::Succeeded,
            _ => RunResult::Failed,
        };
        if result == RunResult::Succeeded {
            job.last_success_ms = Some(finished.at_ms);
        }
        let past = PastRun {
            scheduled_ms: run.scheduled_ms,
            result,
            code: Some(finished.code),
            ended_ms: Some(finished.at_ms),
            took_ms,
        };
        job.keep(past, kept);
        Some(result)
    }
}
