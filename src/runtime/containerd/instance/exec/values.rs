//! Values of a program that is run in an instance which takes its own from memory: containerd's shim
//! writes the section of such a program to a disk for a moment, so that none may be in it.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};
use state::failure::Failure;
use state::reason::Reason;

use crate::exec::{ExecName, ExecRefusal};
use crate::oci::exec::AddedProgram;
use crate::oci::{self, Given};
use crate::runtime::containerd::instance::Instances;
use crate::runtime::containerd::instance::given::Owners;
use crate::runtime::containerd::instance::program::Program;
use crate::secrets;

impl Instances {
    /// Section of a program in the container with this OCI spec and first process. Its variables are
    /// put into memory, if the container's own are there.
    pub(super) async fn process(
        &self,
        name: &ExecName,
        oci_spec: &[u8],
        init: u32,
        program: AddedProgram<'_>,
    ) -> Result<Vec<u8>, ExecRefusal> {
        let owners = Owners::of(oci_spec);
        if program.command.is_empty() && !owners.as_ref().is_some_and(|own| own.awaits_caller) {
            // Whatever the record says by now: an agent that knew no such containers may have made it.
            let message = "its own program runs already as its first process";
            let failure = Failure::new(Reason::NoCommand, message);
            return Err(ExecRefusal::Failed(failure));
        }
        let owners = owners.filter(|owners| owners.begins_with_init);
        let Some(owners) = owners.filter(|_| !program.command.is_empty()) else {
            // Without words, the very ones of the first process, which waits for them.
            return oci::exec::process(oci_spec, program).map_err(ExecRefusal::Failed);
        };
        let memory = &self.config.values.memory;
        let variables = memory.variables(name.instance);
        let mut variables = variables.map_err(|error| unreadable(&error))?;
        variables.extend(program.environment.clone());
        let owner = program
            .user
            .map_or(owners.process, |user| (user.uid, user.gid));
        let owner = owners.on_host(owner).ok_or_else(|| {
            let message = "its user is none of the container's ids, which end at 65535";
            ExecRefusal::Failed(Failure::new(Reason::UserNotFound, message))
        })?;
        let file = memory.give_exec(name.instance, &name.id, &variables, owner);
        let words = [
            secrets::INIT.to_owned(),
            file.map_err(|error| unreadable(&error))?,
        ];
        let section = self
            .section(oci_spec, init, program, &words, &variables)
            .await;
        if section.is_err() {
            memory.take_exec(name.instance, &name.id);
        }
        section
    }

    async fn section(
        &self,
        oci_spec: &[u8],
        init: u32,
        program: AddedProgram<'_>,
        words: &[String],
        variables: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, ExecRefusal> {
        let given = Given {
            mounts: &[],
            init: words,
            variables,
        };
        let program = AddedProgram {
            given: Some(given),
            ..program
        };
        let section = oci::exec::process(oci_spec, program).map_err(ExecRefusal::Failed)?;
        let read: Value = serde_json::from_slice(&section).unwrap_or_default();
        let mut looked_for = Program::of(json!({"process": read}).to_string().as_bytes());
        if let Some(path) = variables.get("PATH") {
            looked_for = looked_for.searched_in(path);
        }
        // The OCI runtime looks only for the program that sets the variables.
        let look = tokio::task::spawn_blocking(move || looked_for.refusal(init));
        match look.await.ok().flatten() {
            Some(refusal) => Err(ExecRefusal::Failed(refusal)),
            None => Ok(section),
        }
    }
}

fn unreadable(error: &io::Error) -> ExecRefusal {
    let message = format!("the container's values cannot be read or given on: {error}");
    ExecRefusal::Failed(Failure::new(Reason::SecretUnavailable, message))
}
