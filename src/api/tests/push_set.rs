//! The set owned by push as a whole, and requests that come twice.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use state::desired::answer::{Answer, Outcome};
use state::id::ContainerId;
use state::status::Status;
use state::store::ExpectedTag;
use state::time::BootTime;

use super::{Fake, ask, get, named, nginx, problem, send, view};
use crate::api::{NodeApi as _, Refusal};

const PATH: &str = "/desired-state";

pub(super) async fn with(
    node: &std::sync::Arc<Fake>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> super::Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(node, None, request.body(Body::from(body)).unwrap()).await
}

fn set(names: &[&str]) -> String {
    let bodies: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "image": "nginx"}))
        .collect();
    json!({"containers": bodies}).to_string()
}

#[tokio::test]
async fn the_set_is_shown_with_a_strong_etag_and_parses_as_what_it_was() {
    let records = [named("db", 1), named("web", 2)];
    let node = Fake::new(
        records
            .iter()
            .map(|record| view(record, Status::Running))
            .collect(),
    );
    let answer = get(&node, PATH).await;
    assert_eq!(
        (answer.status, &answer.headers[header::ETAG]),
        (200, &"\"0a1b\"".parse().unwrap())
    );
    let answer = get(&node, "/desired-state?reveal=true").await;
    let deploys = state::spec::parse::set(&answer.json()).unwrap();
    let specs: Vec<_> = deploys
        .into_iter()
        .map(|deploy| (deploy.name, deploy.spec))
        .collect();
    assert_eq!(specs, records.map(|record| (record.name, record.spec)));
}

#[tokio::test]
async fn a_set_that_is_known_is_304() {
    let node = Fake::new(Vec::new());
    for (known, status) in [
        ("\"0a1b\"", 304),
        ("\"x\", W/\"0a1b\"", 304),
        ("*", 304),
        ("\"x\"", 200),
        ("W/\"x\"", 200),
        ("0a1b", 400),
    ] {
        let answer = with(
            &node,
            "GET",
            PATH,
            &[("if-none-match", known)],
            String::new(),
        )
        .await;
        assert_eq!(answer.status, status, "{known}");
        assert_eq!(answer.headers.contains_key(header::ETAG), status != 400);
        assert_eq!(answer.text.is_empty(), status == 304);
    }
}

#[tokio::test]
async fn a_replacement_is_202_with_its_plan_or_200_when_nothing_changes() {
    let node = Fake::new(Vec::new());
    let answer = ask(&node, "PUT", PATH, set(&["a", "b"])).await;
    assert_eq!(
        (answer.status, &answer.headers[header::ETAG]),
        (202, &"\"2c3d\"".parse().unwrap())
    );
    let shown = answer.json();
    assert_eq!(
        (&shown["etag"], &shown["changed"]),
        (&json!("\"2c3d\""), &json!(true))
    );
    let step = json!({"action": "pull", "instance": "000000000abc-1", "why": "it is not resolved"});
    assert_eq!(
        shown["plan"][1],
        json!({"id": "000000000abc", "name": "b", "steps": [step]})
    );
    let same = ask(&node, "PUT", PATH, set(&[])).await;
    assert_eq!((same.status, &same.json()["changed"]), (200, &json!(false)));
    let dry = ask(&node, "PUT", &format!("{PATH}?dry_run=true"), set(&["a"])).await;
    assert_eq!(
        (
            dry.status,
            &dry.json()["dry_run"],
            dry.json()["plan"].as_array().unwrap().len()
        ),
        (200, &json!(true), 1)
    );
    let asked: Vec<_> = node
        .replaced
        .lock()
        .unwrap()
        .iter()
        .map(|replace| replace.dry_run)
        .collect();
    assert_eq!(asked, [false, false, true]);
}

#[tokio::test]
async fn a_condition_is_handed_on_and_a_failed_one_is_412() {
    let node = Fake::new(Vec::new());
    let tags = |given: &[&str]| Some(given.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>());
    // A weak tag never matches strongly; an empty one is no set's.
    for (given, expected) in [
        ("\"a\", \"b\"", tags(&["a", "b"])),
        ("W/\"a\"", tags(&[""])),
        ("*", None),
    ] {
        with(&node, "PUT", PATH, &[("if-match", given)], set(&[])).await;
        assert_eq!(
            node.replaced.lock().unwrap().pop().unwrap().if_match,
            expected,
            "{given}"
        );
    }
    problem(
        &with(&node, "PUT", PATH, &[("if-match", "a")], set(&[])).await,
        400,
        "if-match",
    );
    *node.refusal.lock().unwrap() = Some(Refusal::Unmatched("its ETag is \"0a1b\"".to_owned()));
    problem(
        &with(&node, "PUT", PATH, &[("if-match", "\"a\"")], set(&[])).await,
        412,
        "0a1b",
    );
}

#[tokio::test]
async fn every_fault_of_a_set_is_told_at_once_and_nothing_is_asked() {
    let node = Fake::new(Vec::new());
    let bodies = json!([{"name": "a", "image": "x", "resources": {"memory": "x"}}, {"name": "a", "image": "y"}, {"image": "z"}]);
    let answer = ask(
        &node,
        "PUT",
        PATH,
        json!({"containers": bodies, "prune": true}).to_string(),
    )
    .await;
    problem(&answer, 422, "containers[0].resources.memory");
    let faults: Vec<Value> = answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["field"].clone())
        .collect();
    assert_eq!(
        faults,
        [
            "prune",
            "containers[0].resources.memory",
            "containers[1].name",
            "containers[2].name"
        ]
    );
    problem(&ask(&node, "PUT", PATH, "{").await, 400, "not JSON");
    problem(
        &ask(&node, "PUT", PATH, " ".repeat((1 << 20) + 1)).await,
        413,
        "1 MiB",
    );
    problem(
        &ask(&node, "PUT", &format!("{PATH}?wait=running"), set(&[])).await,
        400,
        "wait",
    );
    assert!(node.replaced.lock().unwrap().is_empty());
}

fn before(outcome: Outcome, changed: bool) -> Answer {
    Answer {
        seq: 1,
        boot_id: String::new(),
        at: BootTime::default(),
        request: String::new(),
        changed,
        outcome,
    }
}

const KEY: (&str, &str) = ("idempotency-key", "k-1");

#[tokio::test]
async fn a_request_that_came_before_is_answered_as_then() {
    let node = Fake::new(Vec::new());
    let outcome = Outcome::Container {
        id: ContainerId::from_bits(7),
        name: "web".parse().unwrap(),
        generation: 3,
    };
    assert_eq!(
        with(&node, "POST", "/containers/deploy", &[KEY], nginx())
            .await
            .status,
        202
    );
    *node.before.lock().unwrap() = Some(before(outcome, true));
    for path in ["/containers/deploy", "/containers/deploy?wait=running"] {
        let again = with(&node, "POST", path, &[KEY], nginx()).await;
        let expected = json!({"id": "000000000007", "name": "web", "generation": 3, "changed": true, "replayed": true});
        assert_eq!((again.status, again.json()), (202, expected));
    }
    // One that is still there is waited for again.
    let outcome = Outcome::Container {
        id: ContainerId::from_bits(0xabc),
        name: "web".parse().unwrap(),
        generation: 1,
    };
    *node.before.lock().unwrap() = Some(before(outcome, false));
    assert_eq!(
        with(&node, "POST", "/containers/deploy", &[KEY], nginx())
            .await
            .status,
        200
    );
    node.show(vec![view(&named("web", 0xabc), Status::Running)]);
    let again = with(
        &node,
        "POST",
        "/containers/deploy?wait=running",
        &[KEY],
        nginx(),
    )
    .await;
    assert_eq!(
        (
            again.status,
            &again.json()["status"],
            &again.json()["replayed"]
        ),
        (200, &json!("running"), &json!(true))
    );
    *node.before.lock().unwrap() = Some(before(
        Outcome::Set {
            etag: "4e".to_owned(),
        },
        false,
    ));
    let again = with(&node, "PUT", PATH, &[KEY], set(&["a"])).await;
    assert_eq!(
        (again.status, again.json()),
        (
            200,
            json!({"etag": "\"4e\"", "changed": false, "replayed": true})
        )
    );
}

#[tokio::test]
async fn the_fingerprint_of_a_request_is_of_its_call_and_its_body_in_any_order() {
    let node = Fake::new(Vec::new());
    let swapped = "{\"image\": \"nginx\",  \"name\": \"web\"}".to_owned();
    for body in [nginx(), swapped, set(&["a"]).replace("nginx", "caddy")] {
        with(&node, "POST", "/containers/deploy", &[KEY], body).await;
    }
    with(&node, "PUT", PATH, &[KEY], set(&["a"])).await;
    let keys = node.keys.lock().unwrap().clone();
    assert_eq!((keys.len(), &keys[0]), (3, &keys[1]));
    assert_ne!(keys[0].1, keys[2].1);
}

#[tokio::test]
async fn a_key_that_is_none_is_400_and_one_used_otherwise_422() {
    let node = Fake::new(Vec::new());
    let long = "k".repeat(256);
    for key in ["", "a b", &long, "ä"] {
        problem(
            &with(
                &node,
                "POST",
                "/containers/deploy",
                &[("idempotency-key", key)],
                nginx(),
            )
            .await,
            400,
            "Idempotency-Key",
        );
    }
    problem(
        &with(&node, "POST", "/containers/deploy", &[KEY, KEY], nginx()).await,
        400,
        "twice",
    );
    assert!(node.containers().is_empty());
    // A dry run takes no key.
    assert_eq!(
        with(
            &node,
            "POST",
            "/containers/deploy?dry_run=true",
            &[KEY],
            nginx()
        )
        .await
        .status,
        200
    );
    assert!(node.keys.lock().unwrap().is_empty());
    *node.refusal.lock().unwrap() = Some(Refusal::Reused("take another key".to_owned()));
    problem(
        &with(&node, "POST", "/containers/deploy", &[KEY], nginx()).await,
        422,
        "another key",
    );
}

#[tokio::test]
async fn a_deploy_hands_on_which_container_it_expects() {
    let node = Fake::new(Vec::new());
    let one = |tag: &str| ExpectedTag::OneOf(vec![tag.to_owned()]);
    let path = "/containers/deploy";
    ask(&node, "POST", path, nginx()).await;
    for given in ["\"a\"", "*", "W/\"a\""] {
        with(&node, "POST", path, &[("if-match", given)], nginx()).await;
    }
    // A weak tag never matches strongly.
    let expected = [ExpectedTag::Any, one("a"), ExpectedTag::There, one("")];
    assert_eq!(*node.expected.lock().unwrap(), expected);
    let faulty = with(&node, "POST", path, &[("if-match", "a")], nginx()).await;
    problem(&faulty, 400, "if-match");
}

#[tokio::test]
async fn a_deploy_may_be_bound_to_there_being_no_container_of_its_name() {
    let node = Fake::new(Vec::new());
    let path = "/containers/deploy";
    let with = async |headers: &[(&str, &str)]| with(&node, "POST", path, headers, nginx()).await;
    assert_eq!(with(&[("if-none-match", "*")]).await.status, 202);
    assert_eq!(*node.expected.lock().unwrap(), [ExpectedTag::Absent]);
    for (headers, says) in [
        (&[("if-none-match", "\"a\"")][..], "a new container alone"),
        (
            &[("if-none-match", "*"), ("if-match", "*")],
            "without If-Match",
        ),
        (&[("if-none-match", "a")], "if-none-match"),
    ] {
        problem(&with(headers).await, 400, says);
    }
    assert_eq!(node.expected.lock().unwrap().len(), 1);
}
