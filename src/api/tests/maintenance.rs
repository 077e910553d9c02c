//! Cordon and drain of the node: by admins of all names, told with what still runs.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use state::access::Role;
use state::cordon::{CordonedBy, NodeOrder, OperatorCordon};

use super::rights::{call, client, clients};
use super::{Fake, ask, get, problem};
use crate::api::{NodeMaintenance, Refusal};
use crate::view::{CordonView, LeftView};

/// Cordon of the fake agent, and the orders that it got.
#[derive(Debug, Default)]
pub(super) struct FakeCordon {
    orders: Mutex<Vec<NodeOrder>>,
    view: Mutex<CordonView>,
}

impl NodeMaintenance for Fake {
    async fn order_node(&self, order: NodeOrder) -> Result<(), Refusal> {
        self.refused()?;
        self.played.cordon.orders.lock().unwrap().push(order);
        Ok(())
    }

    fn cordon(&self) -> CordonView {
        self.played.cordon.view.lock().unwrap().clone()
    }
}

fn left(name: &str, managed: bool) -> LeftView {
    LeftView {
        name: name.to_owned(),
        managed: managed.then(|| name.parse().unwrap()),
        why: "is being stopped".to_owned(),
        stays: !managed,
    }
}

fn drained(left: Vec<LeftView>) -> CordonView {
    CordonView {
        by: CordonedBy {
            chas: false,
            operator: true,
        },
        operator: Some(OperatorCordon {
            by: "uid:0".to_owned(),
            at_ms: 0,
            drained_ms: Some(1000),
        }),
        left,
        unsure: None,
    }
}

#[tokio::test]
async fn each_order_is_given_as_it_is_and_answered_with_the_cordon() {
    let node = Fake::new(Vec::new());
    *node.played.cordon.view.lock().unwrap() =
        drained(vec![left("db", true), left("foreign", false)]);
    for (path, order) in [
        ("/node/cordon", NodeOrder::Cordon),
        ("/node/drain", NodeOrder::Drain),
        ("/node/uncordon", NodeOrder::Uncordon),
    ] {
        let answer = ask(&node, "POST", path, "").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let given = std::mem::take(&mut *node.played.cordon.orders.lock().unwrap());
        assert_eq!(given, [order]);
        let operator = json!({"by": "uid:0", "since": "1970-01-01T00:00:00.000Z",
            "drained_since": "1970-01-01T00:00:01.000Z"});
        let told = answer.json();
        assert_eq!(told["operator"], operator, "{told}");
        assert_eq!(
            (&told["cordoned"], &told["chas"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(told["drained"], false, "db runs");
        assert_eq!(told["left"][1]["stays"], true);
    }
    let health = get(&node, "/health").await.json();
    assert!(health["cordon"].is_object(), "{health}");
    for (path, says) in [
        ("/node/cordon?wait=drained", "none is"),
        ("/node/drain?wait=stopped", "is not one of drained"),
        ("/node/drain?timeout=1h", "10m at most"),
    ] {
        problem(&ask(&node, "POST", path, "").await, 400, says);
    }
    assert!(node.played.cordon.orders.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_waited_for_ends_when_only_what_stays_is_left() {
    let stays = vec![left("foreign", false)];
    let moves = vec![left("db", true)];
    for (then, status) in [(drained(stays), 200), (drained(moves), 504)] {
        let node = Fake::new(Vec::new());
        *node.played.cordon.view.lock().unwrap() = drained(vec![left("db", true)]);
        let later = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            *node.played.cordon.view.lock().unwrap() = then;
            node.show(Vec::new());
        };
        let path = "/node/drain?wait=drained&timeout=5s";
        let (answer, ()) = tokio::join!(ask(&node, "POST", path, ""), later);
        assert_eq!(answer.status, status, "{}", answer.text);
        if status == 504 {
            problem(&answer, 504, "db (is being stopped)");
        }
    }
    // Somebody ends it meanwhile.
    let node = Fake::new(Vec::new());
    let answer = ask(&node, "POST", "/node/drain?wait=drained", "").await;
    problem(&answer, 409, "lifted meanwhile");
    // Nothing is known to run, and something may.
    let unsure = Some("containerd does not answer".to_owned());
    *node.played.cordon.view.lock().unwrap() = CordonView {
        unsure,
        ..drained(Vec::new())
    };
    let path = "/node/drain?wait=drained&timeout=5s";
    let answer = ask(&node, "POST", path, "").await;
    problem(&answer, 504, "what runs: containerd does not answer");
    let told = ask(&node, "POST", "/node/drain", "").await.json();
    assert_eq!(told["drained"], false, "{told}");
    assert_eq!(told["unsure"], "containerd does not answer");
}

#[tokio::test]
async fn an_admin_of_some_names_gives_no_order_about_the_node_and_sees_its_own() {
    let list = clients([client(Role::Admin, &["web-*"])]);
    let node = Fake::new(Vec::new());
    *node.played.cordon.view.lock().unwrap() = drained(vec![left("db", true), left("web-1", true)]);
    for path in ["/node/cordon", "/node/drain", "/node/uncordon"] {
        let answer = call(&node, &list, "admin", ("POST", path), &Value::Null).await;
        problem(&answer, 403, "about all containers");
    }
    assert!(node.played.cordon.orders.lock().unwrap().is_empty());
    let refused = Refusal::Unavailable("no disk".to_owned());
    *node.refusal.lock().unwrap() = Some(refused);
    problem(&ask(&node, "POST", "/node/drain", "").await, 503, "no disk");
}
