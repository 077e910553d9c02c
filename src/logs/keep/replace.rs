//! Replacement of loggers: waits for the end of one, and starts another on the same pipes.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::{Loggers, Post};
use crate::lock::lock;
use crate::logs::call::{CONTAINER_VARIABLE, NAMESPACE_VARIABLE, Takeover};
use crate::logs::pipes::OutputPipes;
use crate::logs::process::{self, LoggerProcess};

/// Wait before a logger that could not be started is tried again; it doubles.
const RETRY: Duration = Duration::from_millis(100);

/// Longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Pause between two looks at the pipes of a container without a logger. Its output is thrown away
/// then: a container must not block, and a megabyte a second goes through in this way.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// A logger that took over and ends sooner than this is followed by another one after a wait.
const TOO_SOON: Duration = Duration::from_millis(50);

/// Pause between two looks at a logger of which no handle can be had.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Loggers {
    /// Sees to it that the pipes have a logger, until nothing comes from them any more.
    pub(super) async fn keep_going(
        &self,
        post: &Post,
        pipes: &OutputPipes,
        logger: Option<LoggerProcess>,
        watch: u64,
    ) {
        let mut running = match logger {
            Some(logger) => Some((logger, None)),
            None => self.find(post, true).await.map(|logger| (logger, None)),
        };
        let mut wait = Duration::ZERO;
        loop {
            if let Some((logger, child)) = running.take() {
                self.note(post, watch, Some(&logger), None);
                let (began, took_over) = (Instant::now(), child.is_some());
                ended(&logger, child).await;
                wait = if took_over && began.elapsed() < TOO_SOON {
                    longer(wait)
                } else {
                    Duration::ZERO
                };
            }
            if pipes.are_ended() {
                return;
            }
            // One that this agent does not know may read the pipes: two would share the lines.
            running = match self.find(post, false).await {
                Some(logger) => Some((logger, None)),
                None => self.replace(post, pipes, watch, wait).await,
            };
            if running.is_none() {
                return;
            }
        }
    }

    /// Starts another logger. `None`: the output has ended meanwhile.
    async fn replace(
        &self,
        post: &Post,
        pipes: &OutputPipes,
        watch: u64,
        mut wait: Duration,
    ) -> Option<(LoggerProcess, Option<Child>)> {
        let mut lost_bytes = drain_for(wait, pipes).await;
        let mut is_told = false;
        loop {
            match self.take_over(post, pipes, lost_bytes) {
                Ok((logger, child)) => {
                    let lost = "the process that writes the log ended; another one took over, and \
                                lines before that may be missing";
                    if !is_told {
                        self.tell(post, lost.to_owned());
                    }
                    return Some((logger, Some(child)));
                }
                Err(error) => {
                    let fault = format!(
                        "no process writes the log, and none can be started ({error}); what the \
                         container prints is lost until one can"
                    );
                    self.note(post, watch, None, Some(fault.clone()));
                    if !is_told {
                        self.tell(post, fault);
                    }
                    is_told = true;
                }
            }
            wait = longer(wait);
            lost_bytes += drain_for(wait, pipes).await;
            if pipes.are_ended() || !self.is_current(post, watch) {
                return None;
            }
        }
    }

    /// Logger of a post; with `by_shim`, first among those that its shim started, which costs less than
    /// a look at every process.
    async fn find(&self, post: &Post, by_shim: bool) -> Option<LoggerProcess> {
        let (first, instance, this) = (post.first, post.instance, self.clone());
        let is_its = move |logger: &LoggerProcess| {
            logger.instance == instance && logger.is_below(&this.0.logs)
        };
        let look = move || {
            let mut near = if by_shim {
                process::of_shim(first)
            } else {
                Vec::new()
            };
            near.retain(&is_its);
            near.pop()
                .or_else(|| process::all().into_iter().find(|logger| is_its(logger)))
        };
        tokio::task::spawn_blocking(look).await.ok().flatten()
    }

    /// Starts a logger on the pipes.
    fn take_over(
        &self,
        post: &Post,
        pipes: &OutputPipes,
        lost_bytes: u64,
    ) -> io::Result<(LoggerProcess, Child)> {
        let takeover = Takeover { lost_bytes };
        let told = lock(&self.0.kept)
            .get(&post.instance)
            .map(|kept| kept.limits);
        let limits = told.unwrap_or(post.limits);
        let call = self.call(post.instance, limits, Some(takeover));
        let [stdout, stderr] = pipes.for_takeover()?;
        let child = Command::new(self.0.program.path())
            .args(call.arguments())
            .env_clear()
            .env(CONTAINER_VARIABLE, post.instance.to_string())
            .env(NAMESPACE_VARIABLE, &self.0.namespace)
            .current_dir("/")
            .stdin(stdout)
            .stdout(stderr)
            .stderr(Stdio::null())
            .spawn()?;
        let logger = LoggerProcess {
            pid: child.id(),
            instance: post.instance,
            descriptors: call.descriptors(),
            dir: call.dir,
        };
        Ok((logger, child))
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe; this handle owns its descriptor, which is all that is asked for"
)]
fn readiness(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(handle, Interest::READABLE)
}

/// Waits for the end of a logger, which is `child` if this agent started it.
async fn ended(logger: &LoggerProcess, child: Option<Child>) {
    let open = || match &child {
        Some(_) => logger.open_child(),
        None => logger.open(),
    };
    match open().and_then(|handle| handle.map(readiness).transpose()) {
        Ok(Some(handle)) => drop(handle.readable().await),
        Ok(None) => {}
        Err(error) => {
            // Without a descriptor left it is looked at.
            tracing::debug!(instance = %logger.instance, %error, "logger looked at by its number");
            while child.is_none() && logger.is_there() {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
    }
    // Takes away its entry in the process table; never by a wait that blocks.
    if let Some(mut child) = child {
        while matches!(child.try_wait(), Ok(None)) {
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
    }
}

fn longer(wait: Duration) -> Duration {
    (wait * 2).clamp(RETRY, RETRY_MAX)
}

/// Waits, and throws away what would block the container meanwhile; answers the bytes.
async fn drain_for(wait: Duration, pipes: &OutputPipes) -> u64 {
    let until = Instant::now() + wait;
    let mut bytes = 0;
    while Instant::now() < until && !pipes.are_ended() {
        bytes += pipes.drain();
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
    bytes
}
