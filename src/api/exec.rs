//! Programs run in containers: one body and one answer, or watched over a `WebSocket`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use state::spec::exec::ExecSpec;
use state::spec::parse::FieldError;

use super::access::Access;
use super::body;
use super::containers::find_managed;
use super::error::Problem;
use super::query::{Named, Parameters, RawQuery};
use super::{NodeApi, Refusal, operations};
use crate::exec::{ExecOrder, ExecRefusal};
use crate::view::Naming;

mod answer;
mod channels;
mod socket;

pub(super) use socket::watch;

impl From<ExecRefusal> for Problem {
    fn from(refusal: ExecRefusal) -> Self {
        match refusal {
            ExecRefusal::NotRunning(text) => Self::Refused(Refusal::Conflict(text)),
            ExecRefusal::Busy(text) => Self::Busy(text),
            ExecRefusal::Denied(denial) => Self::Refused(Refusal::Denied(vec![denial])),
            ExecRefusal::Failed(failure) => Self::Failed(failure.reason, failure.message),
            ExecRefusal::Gone(text) => Self::Refused(Refusal::NotFound(text)),
            ExecRefusal::Unavailable(text) => Self::Refused(Refusal::Unavailable(text)),
        }
    }
}

/// Runs a program to its end, and answers what it printed; or, where a `WebSocket` is asked for,
/// lets it be watched.
pub(super) async fn run<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    if socket::is_asked(&parts.headers) {
        return socket::run(&*node, access, &name, query, parts).await;
    }
    Parameters::of(query, &operations::EXEC)?;
    let id = find_managed(&*node, &access, &name, Naming::Exact)?;
    let made = body::read(&access, &parts.headers, body, |body| {
        let mut spec = ExecSpec::parse(&body).map_err(Problem::Invalid)?;
        let stdin = stdin(&mut spec)?;
        Ok((spec, stdin))
    });
    let (spec, stdin) = made.await?;
    let order = ExecOrder {
        command: spec.command,
        user: spec.user,
        working_dir: spec.working_dir,
        environment: spec.environment,
        input: stdin.is_some(),
        terminal: spec.tty,
        non_root_rule: None,
    };
    let is_local = access.peer.is_local();
    let session = node.exec(id, order, is_local).await?;
    let kept = answer::Printed::within(is_local);
    answer::of(session, stdin, spec.timeout, (kept, spec.base64)).await
}

/// The program's input, as it is to get it.
///
/// A terminal is no empty input: its reader waits until it is told of the end.
fn stdin(spec: &mut ExecSpec) -> Result<Option<Bytes>, Problem> {
    let Some(text) = spec.stdin.take() else {
        return Ok(spec.tty.then(Bytes::new));
    };
    if !spec.base64 {
        return Ok(Some(text.into()));
    }
    let decoded = BASE64_STANDARD.decode(&text).map_err(|error| {
        Problem::Invalid(vec![FieldError {
            field: "stdin".to_owned(),
            message: format!("is not base64, as \"encoding\" says: {error}"),
        }])
    });
    decoded.map(|bytes| Some(bytes.into()))
}
