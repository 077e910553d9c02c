//! The level of the agent's own log: shown to readers, changed by admins, never by what is none.

use std::time::Duration;

use axum::body::Body;
use serde_json::json;
use state::access::Role;
use state::log_level::LevelOrder;

use super::rights::{call, client, clients};
use super::{Fake, Refusal, ask, get, problem};
use crate::log_level::{LogLevel, LogLevelView};

/// Level of a log that takes all that is given to it.
pub(super) struct FakeLevel(pub(super) LogLevel);

impl Default for FakeLevel {
    fn default() -> Self {
        Self(LogLevel::new("info", |_| true))
    }
}

impl FakeLevel {
    pub(super) fn given(&self, order: &LevelOrder) -> LogLevelView {
        assert!(self.0.set_for(&order.level, order.time));
        self.0.now()
    }
}

#[tokio::test(start_paused = true)]
async fn an_admin_gives_the_log_another_level_for_a_while() {
    let node = Fake::new(Vec::new());
    let keeping = node.level.0.clone().keep();
    let asking = async {
        let as_configured = json!({"level": "info", "configured": "info", "until": null});
        assert_eq!(get(&node, "/log-level").await.json(), as_configured);
        let body = json!({"level": "INFO, h2=Trace", "for": 60}).to_string();
        let answer = ask(&node, "PUT", "/log-level", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let shown = answer.json();
        assert_eq!(shown["level"], "info,h2=Trace");
        assert!(shown["until"].is_string(), "{shown}");
        assert_eq!(get(&node, "/log-level").await.json(), shown);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(get(&node, "/log-level").await.json(), as_configured);
    };
    tokio::select! {
        () = keeping => {}
        () = asking => {}
    }
}

#[tokio::test]
async fn a_level_that_is_none_or_cannot_be_written_down_changes_nothing() {
    let node = Fake::new(Vec::new());
    let many = "info,".repeat(100);
    for (body, says) in [
        (json!({"level": "LOUD"}), "is not a log level"),
        (json!({"level": "deubg", "fro": 3}), "unknown field"),
        (json!({"level": "info", "for": "8 days"}), "1day at most"),
        (json!({"level": many}), "256"),
        (json!({"level": "info\r\nforged"}), "letters"),
        (
            json!({"level": "chas_node_agent[{x=(a+)+$}]=info"}),
            "letters",
        ),
        (json!({"level": ["info"]}), "must be a string"),
        (json!("info"), "object"),
        (json!({}), "is required"),
    ] {
        let answer = ask(&node, "PUT", "/log-level", body.to_string()).await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.text);
        assert!(answer.text.contains(says), "{body}: {}", answer.text);
    }
    assert_eq!(
        ask(&node, "PUT", "/log-level", Body::from("{"))
            .await
            .status,
        400
    );
    let refusal = Refusal::Unavailable("the audit cannot be written".to_owned());
    *node.refusal.lock().unwrap() = Some(refusal);
    let body = json!({"level": "off"}).to_string();
    problem(
        &ask(&node, "PUT", "/log-level", body).await,
        503,
        "the audit",
    );
    assert_eq!(get(&node, "/log-level").await.json()["level"], "info");
}

#[tokio::test]
async fn an_admin_of_some_names_does_not_change_what_the_node_logs() {
    let list = clients([client(Role::Admin, &["web-*"])]);
    let node = Fake::new(Vec::new());
    let body = json!({"level": "off"});
    let answer = call(&node, &list, "admin", ("PUT", "/log-level"), &body).await;
    problem(&answer, 403, "all containers");
    assert_eq!(node.level.0.now().level, "info");
}
