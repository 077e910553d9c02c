//! The answer to what the policy denies; and a way to ask any node, for tests of other rooms.

use state::policy::Denial;

use super::*;

/// Status and body of the answer to a request with a JSON body.
pub(crate) async fn asked<N: NodeApi>(
    node: &Arc<N>,
    (method, path): (&str, &str),
    body: Vec<u8>,
) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .unwrap();
    let routes = router(Arc::clone(node), rules(None), None);
    let answer = routes.oneshot(of(ROOT, request)).await.unwrap();
    let status = answer.status().as_u16();
    let bytes = to_bytes(answer.into_body(), 8 << 20).await.unwrap();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

pub(super) fn denial() -> Denial {
    Denial {
        rule: "small".to_owned(),
        field: "resources.memory".to_owned(),
        message: "taken".to_owned(),
    }
}

#[tokio::test]
async fn a_denial_names_its_rule_and_field() {
    let node = Fake::new(Vec::new());
    *node.refusal.lock().unwrap() = Some(Refusal::Denied(vec![denial()]));
    let answer = ask(&node, "POST", "/containers/deploy", nginx()).await;
    let problem = answer.json();
    assert_eq!(
        (&problem["code"], &problem["rule"], &problem["errors"]),
        (
            &json!("PolicyDenied"),
            &json!("small"),
            &json!([{"rule": "small", "field": "resources.memory", "message": "taken"}])
        )
    );
}

#[tokio::test]
async fn what_is_to_be_confirmed_has_a_code_and_its_number() {
    let node = Fake::new(Vec::new());
    *node.refusal.lock().unwrap() = Some(Refusal::Unconfirmed(7, "7 would end".to_owned()));
    let set = json!({"containers": []}).to_string();
    let answer = ask(&node, "PUT", "/desired-state", set).await;
    let problem = answer.json();
    assert_eq!(
        (&problem["status"], &problem["code"], &problem["confirm"]),
        (&json!(409), &json!("Unconfirmed"), &json!(7))
    );
}
