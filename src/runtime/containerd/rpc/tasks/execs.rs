//! Calls about programs that are run in a container beside its first process.

use containerd_client::services::v1 as api;
use containerd_client::types::v1::{Process, Status};
use prost_types::Any;
use state::id::InstanceName;
use state::spec::Signal;

use super::{DELETE_TIMEOUT, SHIM_TIMEOUT, TaskCalls};
use crate::runtime::containerd::rpc::client::CallError;

/// Type of a process in an OCI spec, as containerd names it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// Program to be added to a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddedProcess {
    /// Pipes for its input, output and errors; empty for those that it has not. One with output and
    /// no terminal must have errors, too.
    pub(crate) pipes: [String; 3],
    /// Whether it has a terminal.
    pub(crate) terminal: bool,
    /// Section `process` of the OCI spec.
    pub(crate) process: Vec<u8>,
}

impl TaskCalls {
    /// Adds a program, which is not started yet.
    pub(crate) async fn add_exec(
        &self,
        instance: InstanceName,
        exec_id: &str,
        added: AddedProcess,
    ) -> Result<(), CallError> {
        let [stdin, stdout, stderr] = added.pipes;
        let request = api::ExecProcessRequest {
            container_id: instance.to_string(),
            stdin,
            stdout,
            stderr,
            terminal: added.terminal,
            spec: Some(Any {
                type_url: PROCESS_TYPE.to_owned(),
                value: added.process,
            }),
            exec_id: exec_id.to_owned(),
        };
        let mut tasks = self.client.tasks();
        let call = self.by_shim("add the program", SHIM_TIMEOUT, tasks.exec(request));
        call.await
    }

    /// Starts an added program, and answers its process.
    pub(crate) async fn start_exec(
        &self,
        instance: InstanceName,
        exec_id: &str,
    ) -> Result<u32, CallError> {
        let request = api::StartRequest {
            container_id: instance.to_string(),
            exec_id: exec_id.to_owned(),
        };
        let mut tasks = self.client.tasks();
        // A loaded node takes seconds, in which the OCI runtime enters the container.
        let call = self.by_shim("start the program", DELETE_TIMEOUT, tasks.start(request));
        call.await.map(|reply| reply.pid)
    }

    /// Process of a program. `None`: there is no such program.
    pub(crate) async fn find_exec(
        &self,
        instance: InstanceName,
        exec_id: &str,
    ) -> Result<Option<ExecProcess>, CallError> {
        let request = api::GetRequest {
            container_id: instance.to_string(),
            exec_id: exec_id.to_owned(),
        };
        let mut tasks = self.client.tasks();
        let call = self.by_shim("tell of the program", SHIM_TIMEOUT, tasks.get(request));
        match call.await {
            Ok(reply) => Ok(reply.process.as_ref().map(ExecProcess::of)),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until a program has ended, and answers its exit code.
    pub(crate) async fn exec_ended(
        &self,
        instance: InstanceName,
        exec_id: &str,
    ) -> Result<u32, CallError> {
        let request = api::WaitRequest {
            container_id: instance.to_string(),
            exec_id: exec_id.to_owned(),
        };
        let reply = self.client.tasks().wait(request).await;
        Ok(reply?.into_inner().exit_status)
    }

    /// Kills a program's first process.
    pub(crate) async fn kill_exec(
        &self,
        instance: InstanceName,
        exec_id: &str,
    ) -> Result<(), CallError> {
        let request = api::KillRequest {
            container_id: instance.to_string(),
            exec_id: exec_id.to_owned(),
            signal: Signal::KILL.number(),
            all: false,
        };
        let mut tasks = self.client.tasks();
        self.by_shim("kill the program", SHIM_TIMEOUT, tasks.kill(request))
            .await
    }

    /// Gives a program's terminal a size.
    pub(crate) async fn resize_exec(
        &self,
        instance: InstanceName,
        exec_id: &str,
        (width, height): (u16, u16),
    ) -> Result<(), CallError> {
        let request = api::ResizePtyRequest {
            container_id: instance.to_string(),
            exec_id: exec_id.to_owned(),
            width: width.into(),
            height: height.into(),
        };
        let mut tasks = self.client.tasks();
        self.by_shim(
            "resize the terminal",
            SHIM_TIMEOUT,
            tasks.resize_pty(request),
        )
        .await
    }

    /// Ends a program's input: the shim holds the pipe open until then.
    pub(crate) async fn end_exec_input(
        &self,
        instance: InstanceName,
        exec_id: &str,
    ) -> Result<(), CallError> {
        let request = api::CloseIoRequest {
            container_id: instance.to_string(),
            exec_id: exec_id.to_owned(),
            stdin: true,
        };
        let mut tasks = self.client.tasks();
        self.by_shim("end the input", SHIM_TIMEOUT, tasks.close_io(request))
            .await
    }

    /// Deletes a program that has ended, or was never started. One that is absent is no error.
    pub(crate) async fn delete_exec(
        &self,
        instance: InstanceName,
        exec_id: &str,
    ) -> Result<(), CallError> {
        let request = api::DeleteProcessRequest {
            container_id: instance.to_string(),
            exec_id: exec_id.to_owned(),
        };
        let mut tasks = self.client.tasks();
        let call = tasks.delete_process(request);
        match self.by_shim("delete the program", SHIM_TIMEOUT, call).await {
            Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Process of a program, as a shim tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExecProcess {
    /// Number on the host; 0: it was not started.
    pub(crate) pid: u32,
    /// Whether it has ended.
    pub(crate) has_ended: bool,
}

impl ExecProcess {
    fn of(process: &Process) -> Self {
        Self {
            pid: process.pid,
            has_ended: process.status() == Status::Stopped,
        }
    }
}
