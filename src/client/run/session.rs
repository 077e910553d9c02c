//! `run` with `-i` or `-t`: a container whose first process waits for its program's caller, and a session
//! by exec's channels in which this client is the one. The container ends with the session, however that
//! ends.

use std::io::{self, IsTerminal as _};
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use reqwest::RequestBuilder;
use tokio::time::Instant;

use super::stop;
use crate::client::agent::Agent;
use crate::client::change::end_of;
use crate::client::exec;
use crate::client::fault::{EXIT_FAILED, is_away, is_unread, refusal};
use crate::client::interrupted;
use crate::client::order::{ExecFlags, RunFlags};
use crate::client::screen::Screen;

/// Time in which a container ends with its program.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// Roles that may make a container, and run nothing in it.
const TOO_FEW: [&str; 2] = ["read", "deploy"];

/// Remark that somebody else has the container's session, which is left to him.
#[derive(Debug, thiserror::Error)]
#[error("another caller made {0} at the same time, or joined it: it is left to him")]
pub(super) struct OtherCaller(String);

/// Whether a session can be had, asked before anything is made.
pub(super) async fn may_begin(agent: &Agent, flags: &RunFlags) -> anyhow::Result<()> {
    if flags.tty && flags.interactive && !io::stdin().is_terminal() {
        bail!("the input is no terminal: leave out --tty");
    }
    let caller = match agent.see(&["whoami"]).await {
        Ok(caller) => caller,
        // It does not know callers; what it refuses it says itself.
        Err(error) if refusal(&error).is_some_and(|refusal| refusal.status == 404) => return Ok(()),
        Err(error) => return Err(error),
    };
    match caller["role"].as_str() {
        Some(role) if TOO_FEW.contains(&role) => bail!(
            "run with -i or -t needs the role exec at {agent}, and this caller's is {role}: nothing was made; \
             without -i and -t the container runs for itself"
        ),
        Some(_) | None => Ok(()),
    }
}

/// Makes the container, and runs its program in a session; answers the exit code.
pub(super) async fn run(
    agent: &Agent,
    name: &str,
    flags: &RunFlags,
    request: RequestBuilder,
    screen: Screen,
) -> anyhow::Result<u8> {
    // One for all of it: a signal that comes between two waits is not lost.
    let mut signal = pin!(interrupted());
    let made = tokio::select! {
        made = agent.open_answer(request) => made,
        signal = &mut signal => return stop(agent, name, signal, screen).await,
    };
    if let Err(error) = made {
        return Err(match lacks_sessions(&error) {
            true => error.context(
                "this agent is of an older version, which runs no program in a session: leave out -i and -t",
            ),
            false => error,
        });
    }
    let own = ExecFlags::of_own(name, flags);
    let ended = tokio::select! {
        // Once it runs, it hears the signal itself.
        biased;
        ended = Box::pin(exec::exec(agent, &own, screen)) => ended,
        signal = &mut signal => return stop(agent, name, signal, screen).await,
    };
    let is_others = match &ended {
        Err(error) => is_others(agent, name, error).await,
        Ok(_) => false,
    };
    let error = match ended {
        Ok(code) => {
            let _it_ends_with_its_program = end(agent, name).await;
            return Ok(code);
        }
        Err(error) if is_unread(&error) => return Err(error),
        Err(error) if is_away(&error) => {
            return Err(error.context(format!("{name} ends with its session, which is lost")));
        }
        Err(error) if is_others => {
            return Err(error.context(OtherCaller(name.to_owned())));
        }
        Err(error) if refusal(&error).is_some() => {
            let begun =
                format!("{name} runs, its program could not be run, and so it ends by itself");
            return Err(error.context(begun));
        }
        Err(error) => error,
    };
    // Somebody else has ended it, say: its exit code is the program's.
    match end(agent, name).await {
        Ok(code) => {
            screen.tell(&format!("{error:#}"));
            Ok(code)
        }
        Err(_) => Err(error),
    }
}

/// Whether a session was refused because somebody else has it: the container runs.
async fn is_others(agent: &Agent, name: &str, error: &anyhow::Error) -> bool {
    if refusal(error).is_none_or(|refusal| refusal.status != 409) {
        return false;
    }
    let one = agent.see(&["containers", name]).await;
    one.is_ok_and(|one| one["status"] == "running")
}

/// Waits for the end of the container; answers its exit code.
async fn end(agent: &Agent, name: &str) -> anyhow::Result<u8> {
    let code = end_of(agent, name, Some(Instant::now() + ENDED_WITHIN)).await?;
    Ok(u8::try_from(code).unwrap_or(EXIT_FAILED))
}

/// Whether the agent does not know what a session needs.
fn lacks_sessions(error: &anyhow::Error) -> bool {
    let faults = refusal(error).map(|refusal| &refusal.problem["errors"]);
    let mut faults = faults
        .and_then(|faults| faults.as_array())
        .into_iter()
        .flatten();
    faults.any(|fault| {
        let says = fault["message"].as_str().unwrap_or_default();
        fault["field"] == "interactive" && says.starts_with("unknown field")
    })
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::client::fault::{AgentFault, AgentRefusal};

    #[test]
    fn an_agent_that_knows_no_sessions_is_told_apart_from_one_that_refuses_this_one() {
        let lacks = |field: &str, message: &str| {
            let problem = json!({"errors": [{"field": "x", "message": "unknown field"},
                {"field": field, "message": message}]});
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            let refused = AgentFault::Refused(AgentRefusal { status, problem });
            lacks_sessions(&refused.into())
        };
        assert!(lacks(
            "interactive",
            "unknown field; did you mean \"init\"?"
        ));
        assert!(!lacks("interactive", "give restart the policy \"never\""));
        assert!(!lacks("image", "unknown field"));
        assert!(!lacks_sessions(&anyhow::anyhow!("no agent")));
    }
}
