//! Programs run in containers, as the API asks for them: written down first, and run in whatever
//! instance runs.

use state::digest::sha256;
use state::event::EventSubject;
use state::failure::Failure;
use state::id::{ContainerId, InstanceName};
use state::policy;
use state::reason::Reason;
use state::store::AuditedExec;

use super::AgentNode;
use super::refusal::unnoted;
use crate::api;
use crate::exec::{ExecCall, ExecOrder, ExecRefusal, ExecSession};

impl AgentNode {
    /// Runs a program in a container.
    pub(super) async fn exec(
        &self,
        id: ContainerId,
        mut order: ExecOrder,
        is_local: bool,
    ) -> Result<ExecSession, ExecRefusal> {
        let Some(execs) = &self.execs else {
            let none = "this agent runs no programs in containers";
            return Err(ExecRefusal::Unavailable(none.to_owned()));
        };
        let Some(view) = self.container(id) else {
            return Err(ExecRefusal::Gone(format!("container {id} was removed")));
        };
        let name = view.record.name.clone();
        let running = self.board().known(id).seen.serving_instance(&view.record);
        let Some(generation) = running else {
            return Err(ExecRefusal::NotRunning(format!(
                "{name} does not run (its status is {}), so no program can run in it; start it first",
                view.condition.status.as_str()
            )));
        };
        if let Some(denial) = order
            .working_dir
            .as_deref()
            .and_then(policy::working_directory)
        {
            return Err(ExecRefusal::Denied(denial));
        }
        let policy = self.writer.store().policy();
        let instance = InstanceName { id, generation };
        let own = view.record.of_instance(instance).unwrap_or(&view.record);
        if order.is_own() && !own.spec.interactive {
            let message = format!(
                "{name} is not \"interactive\", so its own program runs already; say what to run under \"command\""
            );
            return Err(ExecRefusal::Failed(Failure::new(
                Reason::NoCommand,
                message,
            )));
        }
        order.non_root_rule = policy.non_root_rule(own).map(str::to_owned);
        let (by, audited) = (api::current_call().by, audited(&order));
        let noted = self.write(move |store| store.note_exec(name, id, audited));
        noted
            .await
            .map_err(|refusal| ExecRefusal::Unavailable(unnoted(refusal)))?;
        let call = ExecCall {
            instance,
            subject: EventSubject::new(id, Some(&view.record)),
            by,
            is_local,
            is_probe: false,
            order,
        };
        execs.begin(call).await
    }
}

/// The program as the audit has it.
fn audited(order: &ExecOrder) -> AuditedExec {
    let words = order.command.iter();
    let words: Vec<u8> = words.flat_map(|word| word.bytes().chain([0])).collect();
    AuditedExec {
        command: order.told(),
        command_hash: sha256(&words),
        user: order.user.clone(),
        working_dir: order.working_dir.clone(),
    }
}
