//! Programs run in containers: one body, one answer.

use serde_json::{Value, json};
use state::event::EventSubject;
use state::id::InstanceName;

use state::reason::Reason;

use super::*;
use crate::exec::ExecCall;
use crate::exec::tests::{HostEngine, room};

/// Programs run on this host, or refused.
#[derive(Default)]
pub(super) struct FakeExecs {
    pub(super) engine: Arc<HostEngine>,
    pub(super) refusal: Mutex<Option<ExecRefusal>>,
    pub(super) orders: Mutex<Vec<ExecOrder>>,
}

impl FakeExecs {
    pub(super) async fn begin(
        &self,
        id: ContainerId,
        order: ExecOrder,
        is_local: bool,
    ) -> Result<ExecSession, ExecRefusal> {
        self.orders.lock().unwrap().push(order.clone());
        if let Some(refusal) = self.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        let call = ExecCall {
            instance: InstanceName { id, generation: 1 },
            subject: EventSubject::new(id, None),
            by: "token".to_owned(),
            is_local,
            is_probe: false,
            order,
        };
        room(&self.engine).begin(call).await
    }
}

async fn exec(fake: &Arc<Fake>, body: &Value) -> (u16, Value) {
    let answer = ask(fake, "POST", "/containers/web/exec", body.to_string()).await;
    (answer.status, answer.json())
}

fn web() -> Arc<Fake> {
    Fake::new(vec![view(&named("web", 0xabc), Status::Running)])
}

fn sh(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

#[tokio::test]
async fn a_program_is_answered_with_its_code_and_what_it_printed() {
    let fake = web();
    let body = json!({"command": ["sh", "-c", "cat; echo err >&2; exit 3"], "stdin": "in\n",
        "user": "web", "working_dir": "/srv", "environment": {"A": "1"}});
    let (status, answer) = exec(&fake, &body).await;
    assert_eq!(status, 200, "{answer}");
    let expected = json!({"exit_code": 3, "stdout": "in\n", "stderr": "err\n", "truncated": false});
    assert_eq!(answer, expected);
    let order = fake.execs.orders.lock().unwrap().pop().unwrap();
    assert_eq!(order.user.as_deref(), Some("web"));
    assert_eq!(order.working_dir.as_deref(), Some("/srv"));
    assert!(order.input && !order.terminal && order.environment.len() == 1);
}

#[tokio::test]
async fn a_program_that_does_not_read_its_input_is_heard_to_its_end() {
    let mut body = sh("head -c 300000 /dev/zero | tr '\\0' x; exit 4");
    body["stdin"] = json!("i".repeat(900 << 10));
    let (status, answer) = exec(&web(), &body).await;
    assert_eq!((status, &answer["exit_code"]), (200, &json!(4)));
    assert_eq!(answer["stdout"].as_str().unwrap().len(), 300_000);
}

#[tokio::test]
async fn bytes_come_and_go_in_base64_where_that_is_asked_for() {
    let body = json!({"command": ["cat"], "stdin": "AP8=", "encoding": "base64"});
    let (status, answer) = exec(&web(), &body).await;
    assert_eq!((status, &answer["stdout"]), (200, &json!("AP8=")));
    let body = json!({"command": ["cat"], "stdin": "?", "encoding": "base64"});
    let (status, answer) = exec(&web(), &body).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(answer["errors"][0]["field"], "stdin");
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_killed_and_what_it_printed_is_told() {
    let fake = web();
    let mut body = sh("echo begun; sleep 1000");
    body["timeout"] = json!("300ms");
    let (status, answer) = exec(&fake, &body).await;
    assert_eq!(status, 504, "{answer}");
    assert_eq!(
        (&answer["code"], &answer["stdout"]),
        (&json!("ExecTimedOut"), &json!("begun\n"))
    );
    assert!(fake.execs.engine.running().is_empty());
}

#[tokio::test]
async fn much_output_is_cut_and_its_program_goes_on() {
    let body = sh("head -c 3000000 /dev/zero | tr '\\0' x; echo done >&2");
    let (status, answer) = exec(&web(), &body).await;
    assert_eq!(status, 200);
    assert_eq!(answer["stdout"].as_str().unwrap().len(), 1 << 20);
    assert_eq!(
        (&answer["truncated"], &answer["stderr"]),
        (&json!(true), &json!("done\n"))
    );
}

#[tokio::test]
async fn every_refusal_has_its_status_and_code() {
    use crate::exec::ExecRefusal as Not;
    let denial = state::policy::Denial::new("r", "user", "no");
    let fault = state::failure::Failure::new(Reason::CommandNotFound, "no");
    for (refusal, expected, code) in [
        (Not::NotRunning("no".to_owned()), 409, "Conflict"),
        (Not::Denied(denial), 403, "PolicyDenied"),
        (Not::Busy("no".to_owned()), 429, "TooManyRequests"),
        (Not::Failed(fault), 422, "CommandNotFound"),
        (Not::Gone("no".to_owned()), 404, "NotFound"),
        (Not::Unavailable("no".to_owned()), 503, "Unavailable"),
    ] {
        let fake = web();
        *fake.execs.refusal.lock().unwrap() = Some(refusal);
        let (status, answer) = exec(&fake, &sh("true")).await;
        assert_eq!(
            (status, &answer["code"]),
            (expected, &json!(code)),
            "{answer}"
        );
    }
    let fake = web();
    let (status, answer) = exec(&fake, &json!({"user": "a b"})).await;
    assert_eq!(
        (status, answer["errors"].as_array().unwrap().len()),
        (422, 2)
    );
    let unknown = ask(&fake, "POST", "/containers/db/exec", sh("true").to_string()).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(fake.execs.orders.lock().unwrap().len(), 0);
}
