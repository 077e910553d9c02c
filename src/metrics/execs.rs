//! Counts of programs that are run in containers beside their first process.

use std::time::Duration;

use super::{Metrics, OfResult};

impl Metrics {
    /// Counts a program that was started in a container.
    pub fn exec_begun(&self) {
        self.execs_running.inc();
    }

    /// Counts the end of such a program.
    pub fn exec_ended(&self, result: &'static str, took: Duration) {
        self.execs_running.dec();
        self.execs
            .get_or_create(&OfResult { result })
            .observe(took.as_secs_f64());
    }
}
