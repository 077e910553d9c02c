//! Programs run in an instance beside its first process: started, waited for, killed with their
//! session, and taken away.
//!
//! The directory of a program's pipes is made before all else of it and removed after all else: so
//! the directories tell what an agent that was killed has left.

use std::time::Duration;

use containerd_client::types::v1::Status;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use state::failure::Failure;
use state::id::InstanceName;
use state::observed::Task;
use state::policy::Denial;
use state::reason::Reason;

use tokio::sync::Semaphore;

use self::live::LiveExec;
pub(super) use self::live::LiveExecs;
use self::pipes::ExecPipes;
use super::Instances;
use super::image_lookup;
use super::image_root::ImageRoot;
use crate::exec::{ExecEnd, ExecEngine, ExecName, ExecOrder, ExecRefusal, ExecStreams};
use crate::lock::lock;
use crate::oci;
use crate::oci::exec::AddedProgram;
use crate::oci::user::{Accounts, User, is_numbers, resolve};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::CallError;
use crate::runtime::containerd::rpc::tasks::AddedProcess;
use crate::runtime::containerd::shim::{process, refusals};

mod live;
mod pipes;
mod session;
mod values;

/// Pause before another look or try.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Looks at a program that its shim does not know, while its task runs as far as is known.
const LOST_LOOKS_MAX: u32 = 10;
/// Tries to take away a program that does not end.
const CLEAR_TRIES_MAX: u32 = 5;
/// Programs left by an agent before that are taken away at once.
const LEFT_AT_ONCE: usize = 8;
/// Time for one sweep, which holds up the sweep of everything else.
const SWEEP_MAX: Duration = Duration::from_secs(20);
/// Time for a look into a running container, whose file systems may hang.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Exit code of a program that SIGKILL ended, as it ends all in a container whose first process
/// ends.
const KILLED: u32 = 137;
/// Looks into running containers at once: each holds a thread for as long as a file system hangs.
static LOOKS: Semaphore = Semaphore::const_new(8);

impl From<RuntimeError> for ExecRefusal {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Failed(failure) => Self::Failed(failure),
            RuntimeError::Unavailable(message) => Self::Unavailable(message),
            RuntimeError::ImageLost(_) | RuntimeError::Cancelled => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

impl ExecEngine for Instances {
    fn start<'a>(
        &'a self,
        name: &'a ExecName,
        order: &'a ExecOrder,
    ) -> BoxFuture<'a, Result<ExecStreams, ExecRefusal>> {
        Box::pin(self.start_exec(name, order))
    }

    fn ended<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ExecEnd> {
        Box::pin(self.exec_ended(name))
    }

    /// A program that has ended needs no size.
    fn resize<'a>(&'a self, name: &'a ExecName, size: (u16, u16)) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let resized = self.tasks.resize_exec(name.instance, &name.id, size).await;
            if let Err(error) = resized {
                tracing::debug!(exec = %name, ?error, "terminal not resized");
            }
        })
    }

    /// A program that has ended takes no input.
    fn end_input<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let ended = self.tasks.end_exec_input(name.instance, &name.id).await;
            if let Err(error) = ended {
                tracing::debug!(exec = %name, ?error, "input not ended");
            }
        })
    }

    fn kill<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()> {
        Box::pin(self.kill_exec(name))
    }

    fn clear<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()> {
        Box::pin(self.clear_exec(name))
    }
}

impl Instances {
    async fn start_exec(
        &self,
        name: &ExecName,
        order: &ExecOrder,
    ) -> Result<ExecStreams, ExecRefusal> {
        let container = self.container(name.instance).await?;
        let spec = container.and_then(|container| container.spec);
        let spec = spec.ok_or_else(|| is_gone(name.instance))?;
        let init = self.running(name.instance).await?;
        let user = match &order.user {
            Some(wanted) => Some(user(wanted.clone(), init).await?),
            None => None,
        };
        // Whoever was looked up was so in this very container.
        if self.running(name.instance).await? != init {
            return Err(is_gone(name.instance));
        }
        if let Some(rule) = &order.non_root_rule
            && oci::exec::uid(&spec.value, user.as_ref()) == Some(0)
        {
            let message = "must be another than root; give a user who is";
            return Err(ExecRefusal::Denied(Denial::new(rule, "user", message)));
        }
        let program = AddedProgram {
            command: &order.command,
            user: user.as_ref(),
            working_dir: order.working_dir.as_deref(),
            given: None,
            environment: &order.environment,
            terminal: order.terminal,
        };
        let process = self.process(name, &spec.value, init, program).await?;
        let live = LiveExec {
            init,
            is_own: order.is_own(),
            ..LiveExec::default()
        };
        if !self.execs.add(name, live) {
            return Err(ExecRefusal::NotRunning(
                "the container's own program runs already, for another caller".to_owned(),
            ));
        }
        self.add_and_start(name, order, process).await
    }

    async fn add_and_start(
        &self,
        name: &ExecName,
        order: &ExecOrder,
        process: Vec<u8>,
    ) -> Result<ExecStreams, ExecRefusal> {
        let pipes = ExecPipes::make(&self.config.run_dir, name, order).map_err(|error| {
            let message = format!("the pipes of a program cannot be made: {error}");
            ExecRefusal::Failed(Failure::new(Reason::CreateFailed, message))
        })?;
        let added = AddedProcess {
            pipes: pipes.paths(),
            terminal: order.terminal,
            process,
        };
        let started = async {
            self.tasks.add_exec(name.instance, &name.id, added).await?;
            self.tasks.start_exec(name.instance, &name.id).await
        };
        match started.await {
            Ok(leader) => {
                self.execs.change(name, |live| live.leader = leader);
                Ok(pipes.streams())
            }
            Err(error) => Err(self.refused(name.instance, error).await),
        }
    }

    /// Refusal for a call that did not start a program.
    async fn refused(&self, instance: InstanceName, error: CallError) -> ExecRefusal {
        match error {
            CallError::Unavailable(message) => ExecRefusal::Unavailable(message),
            CallError::ShimUnresponsive(message) => {
                ExecRefusal::Failed(Failure::new(Reason::ShimUnresponsive, message))
            }
            CallError::AlreadyExists => is_gone(instance),
            CallError::NotFound(message) | CallError::Refused(message) => {
                match self.running(instance).await {
                    Ok(_) => ExecRefusal::Failed(refusals::exec_refusal(&message)),
                    Err(refusal) => refusal,
                }
            }
        }
    }

    /// First process of an instance that runs.
    async fn running(&self, instance: InstanceName) -> Result<u32, ExecRefusal> {
        let found = self.tasks.get(instance).await;
        let found = found.map_err(|error| {
            let error = error.into_error(Reason::CreateFailed, "look at a task");
            ExecRefusal::from(error)
        })?;
        let process = found.ok_or_else(|| is_gone(instance))?;
        match process.status() {
            Status::Running => Ok(process.pid),
            Status::Paused | Status::Pausing => Err(ExecRefusal::NotRunning(format!(
                "{instance} is paused, so no program can run in it; resume it first"
            ))),
            Status::Created | Status::Stopped => Err(is_gone(instance)),
            Status::Unknown => {
                let message = format!("the shim of {instance} does not answer");
                let failure = Failure::new(Reason::ShimUnresponsive, message);
                Err(ExecRefusal::Failed(failure))
            }
        }
    }

    async fn exec_ended(&self, name: &ExecName) -> ExecEnd {
        let mut looks = 0;
        loop {
            match self.tasks.exec_ended(name.instance, &name.id).await {
                Ok(code) => {
                    self.execs.change(name, |live| live.has_ended = true);
                    // Whoever kills the container kills what runs in it a moment before.
                    let live = self.execs.of(name).unwrap_or_default();
                    return if code == KILLED && process::is_ending(live.init) {
                        ExecEnd::ContainerEnded
                    } else {
                        ExecEnd::Exited(code)
                    };
                }
                // Its shim and it live on without containerd.
                Err(CallError::Unavailable(_)) => {}
                Err(error) => {
                    if let Ok(Task::Absent | Task::Stopped(_)) = self.task(name.instance).await {
                        return ExecEnd::ContainerEnded;
                    }
                    looks += 1;
                    if looks == LOST_LOOKS_MAX {
                        let error = error.into_error(Reason::StopFailed, "wait for the program");
                        return ExecEnd::Lost(error.to_string());
                    }
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn kill_exec(&self, name: &ExecName) {
        let known = self.execs.of(name).unwrap_or_default();
        let (leader, has_ended) = if known.leader != 0 {
            (known.leader, known.has_ended)
        } else {
            match self.tasks.find_exec(name.instance, &name.id).await {
                Ok(Some(found)) => (found.pid, found.has_ended),
                Ok(None) | Err(_) => return,
            }
        };
        if leader == 0 {
            return;
        }
        let (cgroup, path) = (self.host.cgroup, self.cgroups_path(name.instance));
        let killing = tokio::task::spawn_blocking(move || {
            session::kill(leader, has_ended, || cgroup.processes(&path))
        });
        if !killing.await.unwrap_or(false) {
            tracing::warn!(exec = %name, "processes of an exec not killed");
        }
    }

    /// Takes away what is left of a program. Where it cannot, the next sweep does.
    async fn clear_exec(&self, name: &ExecName) {
        if let Err(error) = self.try_clear_exec(name).await {
            tracing::warn!(exec = %name, ?error, "exec not cleared, left to the next sweep");
        }
        self.execs.remove(name);
    }

    async fn try_clear_exec(&self, name: &ExecName) -> Result<(), CallError> {
        let mut tries = 1;
        while let Err(error) = self.tasks.delete_exec(name.instance, &name.id).await {
            let may_pass = matches!(
                error,
                CallError::Refused(_) | CallError::ShimUnresponsive(_)
            );
            if tries == CLEAR_TRIES_MAX || !may_pass {
                return Err(error);
            }
            tries += 1;
            // It runs still: it was started after its start was given up, say.
            self.kill_exec(name).await;
            let _it_may_have_ended = self.tasks.kill_exec(name.instance, &name.id).await;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.config.values.memory.take_exec(name.instance, &name.id);
        pipes::remove(&self.config.run_dir, name)
            .map_err(|error| CallError::Refused(error.to_string()))
    }

    /// Ends the programs that nobody looks after: those of an agent that was killed, and those that
    /// could not be taken away before. Answers a line for each. Whose shim does not answer waits for
    /// a later sweep.
    pub(crate) async fn sweep_execs(&self) -> Vec<String> {
        let mut left = pipes::left(&self.config.run_dir);
        left.retain(|name| {
            let is_silent = lock(&self.silent).contains_key(&name.instance);
            !is_silent && self.execs.of(name).is_none()
        });
        let clearing = left.into_iter().map(|name| async move {
            self.kill_exec(&name).await;
            let cleared = self.try_clear_exec(&name).await;
            if let Err(error) = &cleared {
                tracing::warn!(exec = %name, ?error, "left exec not cleared");
            }
            cleared.is_ok().then(|| format!("exec {name}"))
        });
        let mut cleared = stream::iter(clearing).buffer_unordered(LEFT_AT_ONCE);
        let mut lines = Vec::new();
        let sweeping = async {
            while let Some(line) = cleared.next().await {
                lines.extend(line);
            }
        };
        let _the_rest_later = tokio::time::timeout(SWEEP_MAX, sweeping).await;
        self.execs.let_go_left();
        lines
    }
}

fn is_gone(instance: InstanceName) -> ExecRefusal {
    ExecRefusal::NotRunning(format!(
        "{instance} does not run, so no program can run in it; start the container first"
    ))
}

/// Identity that `wanted` stands for in the running container, by its own files as they are now.
async fn user(wanted: String, init: u32) -> Result<User, ExecRefusal> {
    let hangs = || {
        let message = "the container's /etc/passwd and /etc/group cannot be read: its file system \
                       does not answer; give user and group as numbers";
        ExecRefusal::Failed(Failure::new(Reason::CreateFailed, message))
    };
    let turn = tokio::time::timeout(LOOK_MAX, LOOKS.acquire()).await;
    let turn = turn.map_err(|_| hangs())?;
    let look = tokio::task::spawn_blocking(move || {
        let _until_it_has_looked = turn;
        let root = ImageRoot::of_process(init).map_err(|error| {
            let message = format!("the container's users cannot be read: {error}");
            Failure::new(Reason::CreateFailed, message)
        })?;
        let accounts = match image_lookup::accounts(&root) {
            // Two numbers are who they are.
            Err(_) if is_numbers(&wanted) => Accounts::default(),
            read => read?,
        };
        resolve(&wanted, &accounts)
    });
    let looked = tokio::time::timeout(LOOK_MAX, look).await;
    let looked = looked.map_err(|_| hangs())?;
    let looked =
        looked.unwrap_or_else(|error| Err(Failure::new(Reason::CreateFailed, error.to_string())));
    looked.map_err(ExecRefusal::Failed)
}
