//! Exec probe: a program in the container, which shows by its exit code whether that works.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::exec::{ExecCall, ExecEnd, ExecOrder, ExecOutput, ExecRefusal, ExecRoom, ExecSession};

use super::{ProbeOrder, ProbeResult};

/// Bytes of its output that are kept.
const KEPT_BYTES_MAX: usize = 1 << 10;
/// Bytes after which a program that prints without end is ended.
const PRINTED_BYTES_MAX: usize = 1 << 20;

/// Runs the program. Of one that takes too long, nothing is left.
pub(super) async fn ask(execs: &ExecRoom, wanted: &ProbeOrder, command: &[String]) -> ProbeResult {
    let call = ExecCall {
        instance: wanted.instance,
        subject: wanted.subject.clone(),
        by: "health probe".to_owned(),
        is_local: false,
        is_probe: true,
        order: ExecOrder {
            command: command.to_vec(),
            non_root_rule: wanted.non_root_rule.clone(),
            ..ExecOrder::default()
        },
    };
    let timeout = wanted.check.timeout;
    let session = match execs.begin(call).await {
        Ok(session) => session,
        // Nothing of it says that the container does not work.
        Err(
            ExecRefusal::NotRunning(_)
            | ExecRefusal::Busy(_)
            | ExecRefusal::Gone(_)
            | ExecRefusal::Unavailable(_),
        ) => return None,
        Err(ExecRefusal::Denied(denial)) => return Some(Err(denial.to_string())),
        Err(ExecRefusal::Failed(failure)) => return Some(Err(failure.to_string())),
    };
    run(session, timeout).await
}

async fn run(mut session: ExecSession, timeout: Duration) -> ProbeResult {
    let (mut kept, mut printed) = (Vec::new(), 0);
    let printing = async {
        while let Some(ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)) =
            session.output.recv().await
        {
            let room = KEPT_BYTES_MAX.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[..room]);
            printed += bytes.len();
            if printed > PRINTED_BYTES_MAX {
                return false;
            }
        }
        true
    };
    let deadline = Instant::now() + timeout;
    let fault = match timeout_at(deadline, printing).await {
        // One that only closes its output is ended by being dropped.
        Ok(true) => match timeout_at(deadline, session.end()).await {
            Ok(end) => return ended(&end, &kept),
            Err(_) => return Some(Err(with_output(&silence(timeout), &kept))),
        },
        Ok(false) => "the program prints without end".to_owned(),
        Err(_) => silence(timeout),
    };
    session.cut().end().await;
    Some(Err(with_output(&fault, &kept)))
}

fn ended(end: &ExecEnd, kept: &[u8]) -> ProbeResult {
    match end {
        ExecEnd::Exited(0) => Some(Ok(with_output("exit code 0", kept))),
        ExecEnd::Exited(code) => Some(Err(with_output(&format!("exit code {code}"), kept))),
        ExecEnd::ContainerEnded | ExecEnd::Cut | ExecEnd::AgentStopped | ExecEnd::Lost(_) => None,
    }
}

fn with_output(said: &str, kept: &[u8]) -> String {
    let output = String::from_utf8_lossy(kept);
    let output = output.trim();
    if output.is_empty() {
        said.to_owned()
    } else {
        format!("{said}: {output}")
    }
}

/// The fault of a container that does not answer in time.
pub(super) fn silence(timeout: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(timeout))
}
