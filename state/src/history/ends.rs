//! Ends of tasks, and the run that each is the end of.

use super::{Cause, History};
use crate::desired::Record;
use crate::observed::{Exit, Task};
use crate::time::unix_ms;

impl History {
    /// The exit that a look found, with what only the history knows of it.
    #[must_use]
    pub fn known_exit<'a>(&'a self, found: &'a Exit) -> &'a Exit {
        let last = self.last_exit.as_ref();
        last.filter(|last| last.is_same_end(found)).unwrap_or(found)
    }

    /// The end of the run that the record asks for, as a look found its task. `None`: it has not ended,
    /// or what ended is a run before, which is dealt with.
    #[must_use]
    pub fn end_of_run<'a>(&'a self, record: &Record, task: &'a Task) -> Option<&'a Exit> {
        let ended = match task {
            Task::Running { .. } | Task::Created { .. } | Task::Unresponsive => None,
            Task::Stopped(exit) if self.is_counted(exit) => self.ended.as_ref(),
            Task::Stopped(exit) => Some(exit),
            Task::Absent => self.ended.as_ref(),
        };
        // What was ended for a restart, or for CHaS's silence, has not ended by itself.
        ended.filter(|exit| {
            !record.restart_pending && !self.is_suspended() && !self.is_of_past_run(record, exit)
        })
    }

    /// Forgets how often it ended before its policy left it so: whoever starts it by hand has it begin
    /// anew.
    pub(super) fn forget_finished(&mut self, record: &Record) {
        if record.finished.is_some() && record.update.is_none() {
            self.exits = 0;
            self.keep_backoff(|cause| cause != Cause::Exit);
        }
    }

    pub(super) fn is_counted(&self, exit: &Exit) -> bool {
        let last = self.last_exit.as_ref();
        last.is_some_and(|last| last.is_same_end(exit))
    }

    /// Whether this end of a task is that of a run which is over, and not of one that was begun since. Of
    /// tasks that vanished one is as the other, but for the number of their run.
    fn is_of_past_run(&self, record: &Record, exit: &Exit) -> bool {
        let last = record.job.as_ref().and_then(|job| job.past.last());
        let end = (Some(exit.code), Some(unix_ms(exit.at)));
        let is_same = last.is_some_and(|last| (last.code, last.ended_ms) == end);
        is_same && (*exit != Exit::LOST || self.ended_run != record.run_number())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde_json::json;

    use super::*;
    use crate::desired::Finished;
    use crate::desired::job::Job;
    use crate::desired::tests::record;
    use crate::observed::Seen;
    use crate::phase::{Phase, Stage};
    use crate::reason::Reason;
    use crate::surroundings::Surroundings;
    use crate::time::BootTime;

    const RUNNING: Task = Task::Running {
        pid: 1,
        since: None,
    };

    fn exit(second: u64) -> Exit {
        Exit {
            code: 1,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            out_of_memory: false,
        }
    }

    fn job() -> Record {
        let body = json!({"name": "a", "image": "x", "restart": {"policy": "never"}, "schedule": "@daily"});
        let spec = crate::spec::parse::deploy(&body).unwrap().spec;
        let mut record = Record {
            spec,
            job: Some(Job::from(0)),
            image_digest: Some("sha256:1".to_owned()),
            ..record("a", 1)
        };
        record.begin_run(Some(1), 0);
        record
    }

    /// Takes in a look, and answers the stage that follows.
    fn looked(history: &mut History, record: &Record, task: Task) -> Stage {
        let seen = Seen {
            instances: [(1, task.into())].into(),
        };
        history.record_observation(record, &seen, BootTime::default(), |_| Duration::ZERO);
        Phase::of(record.id, Some(record), &seen, history, &Surroundings::NONE).stage
    }

    fn finish(record: &mut Record, exit: &Exit) {
        let end = Finished {
            code: exit.code,
            reason: exit.reason(),
            at_ms: unix_ms(exit.at),
        };
        record.finish_run(&end, None);
        record.finished = Some(end);
    }

    #[test]
    fn the_end_of_one_run_is_not_that_of_the_next() {
        // What the history knew when the agent was killed, and whether its task was deleted by then.
        for (knew_the_end, is_deleted, is_looked_between) in [
            (true, false, false),
            (true, true, false),
            (false, false, false),
            (false, false, true),
            (false, true, true),
            (true, true, true),
        ] {
            let (mut record, mut history) = (job(), History::default());
            assert_eq!(looked(&mut history, &record, RUNNING), Stage::Running);
            let left = match is_deleted {
                true => Task::Absent,
                false => Task::Stopped(exit(5)),
            };
            if knew_the_end {
                let stage = looked(&mut history, &record, Task::Stopped(exit(5)));
                assert!(matches!(stage, Stage::Ended(_)), "{stage:?}");
            }
            finish(&mut record, &exit(5));
            if is_looked_between {
                let at_rest = looked(&mut history, &record, left.clone());
                assert_eq!(at_rest == Stage::Scheduled, is_deleted, "{at_rest:?}");
            }
            record.begin_run(Some(2), 0);
            assert_eq!(
                looked(&mut history, &record, left),
                Stage::Due,
                "{knew_the_end} {is_deleted} {is_looked_between}"
            );
            history.record_start(BootTime::default());
            let stage = looked(&mut history, &record, Task::Stopped(exit(6)));
            assert!(matches!(stage, Stage::Ended(_)), "{stage:?}");
        }
    }

    #[test]
    fn a_run_that_was_lost_is_not_taken_for_the_end_of_the_next() {
        let (mut record, mut history) = (job(), History::default());
        for run in 2..5 {
            assert_eq!(looked(&mut history, &record, RUNNING), Stage::Running);
            let lost = looked(&mut history, &record, Task::Absent);
            let end = Finished {
                code: Exit::KILLED,
                reason: Reason::ShimLost,
                at_ms: 0,
            };
            assert_eq!(lost, Stage::Ended(end), "and not started again");
            // The agent is killed once that is stored, and the next run begins before anybody looks.
            finish(&mut record, &Exit::LOST);
            record.begin_run(Some(run), 0);
            let stored = serde_json::to_string(&history).unwrap();
            history = serde_json::from_str(&stored).unwrap();
            assert_eq!(looked(&mut history, &record, Task::Absent), Stage::Due);
            history.record_start(BootTime::default());
        }
    }

    #[test]
    fn what_its_policy_leaves_ended_begins_anew_when_it_is_started_by_hand() {
        let (mut record, mut history) = (job(), History::default());
        (record.spec.schedule, record.job) = (None, None);
        record.spec.restart.policy = crate::spec::RestartPolicy::OnFailure;
        record.spec.restart.max_retries = Some(1);
        let mut second = 1;
        for _by_hand in 0..2 {
            looked(&mut history, &record, RUNNING);
            for stage in ["Due", "Ended"] {
                let found = looked(&mut history, &record, Task::Stopped(exit(second)));
                assert!(format!("{found:?}").starts_with(stage), "{found:?}");
                if let Stage::Ended(end) = found {
                    assert_eq!(end.reason, Reason::RetriesExhausted);
                    record.finished = Some(end);
                    let rest = looked(&mut history, &record, Task::Stopped(exit(second)));
                    assert_eq!(rest, Stage::Stopping);
                    history.record_stop(None, BootTime::default());
                } else {
                    history.record_start(BootTime::default());
                    looked(&mut history, &record, RUNNING);
                }
                second += 1;
            }
            record.finished = None;
            assert_eq!(looked(&mut history, &record, Task::Absent), Stage::Due);
            assert_eq!(history.backoff, None, "nor is anything waited out");
            history.record_start(BootTime::default());
        }
    }

    #[test]
    fn what_was_stopped_and_is_started_again_has_not_ended_by_itself() {
        let (mut record, mut history) = (job(), History::default());
        (record.spec.schedule, record.job) = (None, None);
        looked(&mut history, &record, RUNNING);
        record.run = crate::desired::RunState::Stopped;
        looked(&mut history, &record, Task::Stopped(exit(5)));
        record.run = crate::desired::RunState::Running;
        let stage = looked(&mut history, &record, Task::Stopped(exit(5)));
        assert_eq!(stage, Stage::Due, "its task is still there");
    }
}
