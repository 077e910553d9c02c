//! Adoption of loggers: after the agent's start, and at each resync, every container that runs and
//! is not watched gets a watch, and a logger where its own is gone.

use std::collections::BTreeSet;

use state::desired::Record;
use state::id::InstanceName;

use super::{Kept, Loggers, Post};
use crate::lock::lock;
use crate::logs::pipes::OutputPipes;
use crate::logs::process::{self, LoggerProcess};

/// Container that runs.
#[derive(Clone, Debug)]
pub(crate) struct RunningContainer<'a> {
    /// Instance that runs.
    pub(crate) instance: InstanceName,
    /// First process of the instance.
    pub(crate) first: u32,
    /// Record of the container, if one is known.
    pub(crate) record: Option<&'a Record>,
}

impl Loggers {
    /// Looks after the output of every container that runs, of which `running` is the whole list.
    pub(crate) async fn adopt(&self, running: &[RunningContainer<'_>]) {
        let names: BTreeSet<_> = running.iter().map(|running| running.instance).collect();
        let unwatched = {
            let mut kept = lock(&self.0.kept);
            // One that is not watched has no end that anybody would see.
            kept.retain(|name, kept| kept.is_watched() || names.contains(name));
            let is_unknown =
                |running: &&RunningContainer<'_>| !kept.contains_key(&running.instance);
            running.iter().filter(is_unknown).collect::<Vec<_>>()
        };
        if !unwatched.is_empty() {
            let all = tokio::task::spawn_blocking(process::all).await;
            let loggers = all.unwrap_or_default();
            for running in unwatched {
                let logger = loggers.iter().find(|logger| {
                    logger.instance == running.instance && logger.is_below(&self.0.logs)
                });
                let post = Post::new(running.instance, running.record, running.first);
                self.adopt_one(post, logger);
            }
        }
        self.look_at_writing();
        self.set_alarms();
    }

    fn adopt_one(&self, post: Post, logger: Option<&LoggerProcess>) {
        let found = match logger {
            Some(logger) => OutputPipes::of(logger.pid, logger.descriptors),
            None => OutputPipes::without_reader(post.first),
        };
        match found {
            Ok(Some(pipes)) => self.watch(post, pipes, logger.cloned(), false),
            Ok(None) => {
                let fault = "no process writes the log, and the container has closed or redirected \
                             its output; it is written again from its next start";
                let kept = Kept {
                    subject: post.subject.clone(),
                    watch: Kept::UNWATCHED,
                    logger: None,
                    limits: post.limits,
                    fault: Some(fault.to_owned()),
                };
                lock(&self.0.kept).entry(post.instance).or_insert(kept);
                self.tell(&post, fault.to_owned());
            }
            // It has ended meanwhile, or the next resync tries again.
            Err(error) => {
                tracing::debug!(instance = %post.instance, %error, "logger not adopted");
            }
        }
    }

    /// Notes whose output cannot be written: their loggers say so by their names.
    ///
    /// One that was root's no more cannot make its directory again when somebody removed it: it is
    /// ended, and the one that takes over makes it. The pipes stay open meanwhile.
    fn look_at_writing(&self) {
        for kept in lock(&self.0.kept).values_mut() {
            let Some(logger) = &kept.logger else { continue };
            let is_losing = logger.is_losing();
            if is_losing && kept.is_watched() && logger.has_lost_directory() {
                tracing::warn!(
                    container = %kept.subject, dir = %logger.dir.display(),
                    "log directory removed by somebody; logger replaced"
                );
                if let Err(error) = logger.kill() {
                    tracing::debug!(%error, "logger without a directory not ended");
                }
            }
            kept.fault = is_losing.then(|| {
                format!(
                    "what the container prints cannot be written to {} and is lost; make room on \
                     its disk, or make it writable",
                    logger.dir.display()
                )
            });
        }
    }
}
