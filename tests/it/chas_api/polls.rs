//! Tests of polls and their waits.

use super::*;

#[tokio::test]
async fn without_a_set_there_is_nothing_to_pull_and_above_all_no_empty_one() {
    let api = Running::start().await;
    let token = api.join("n1").await;
    assert_eq!(
        api.poll("n1", &token, &[("prefer", "wait=60")])
            .await
            .kind(),
        (404, "no_set"),
        "and at once"
    );
    api.operate("PUT", "/nodes/n1/set", Some(&set(&[]))).await;
    let wanted = api.poll("n1", &token, &[]).await;
    assert_eq!(
        (&wanted.body["complete"], &wanted.body["containers"]),
        (&json!(true), &json!([])),
        "somebody wrote it"
    );
    api.operate("DELETE", "/nodes/n1/set", None).await;
    assert_eq!(api.poll("n1", &token, &[]).await.kind(), (404, "no_set"));
    api.stop().await;
}

#[tokio::test]
async fn the_tag_stands_for_all_of_the_answer() {
    let api = Running::start().await;
    let token = api.join("n1").await;
    let body = json!({"containers": [{"name": "web", "image": "nginx"}], "remove": [{"name": "old"}], "cordon": true});
    api.operate("PUT", "/nodes/n1/set", Some(&body)).await;
    let first = api.poll("n1", &token, &[]).await;
    for field in ["containers", "remove", "cordon"] {
        assert_eq!(first.body[field], body[field]);
    }
    assert_eq!(
        (&first.body["node_id"], &first.body["generation"]),
        (&json!("n1"), &json!(1))
    );
    assert_eq!(first.header("preference-applied"), None);
    let etag = first.etag();
    for same in [
        etag.clone(),
        format!("\"x\", {etag}"),
        format!("W/{etag}"),
        "*".to_owned(),
    ] {
        let unchanged = api.poll("n1", &token, &[("if-none-match", &same)]).await;
        assert_eq!((unchanged.status, unchanged.etag()), (304, etag.clone()));
    }
    assert_eq!(
        api.poll("n1", &token, &[("if-none-match", "\"x\"")])
            .await
            .status,
        200
    );
    let mut tags = vec![etag];
    api.operate("POST", "/nodes/n1/confirm?generation=1", None)
        .await;
    tags.push(api.poll("n1", &token, &[]).await.etag());
    for change in [
        json!({"cordon": false}),
        json!({"remove": []}),
        json!({"containers": []}),
    ] {
        let mut body = body.clone();
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        api.operate("PUT", "/nodes/n1/set", Some(&body)).await;
        tags.push(api.poll("n1", &token, &[]).await.etag());
    }
    let count = tags.len();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), count);
    api.stop().await;
}

#[tokio::test]
async fn a_poll_is_held_until_something_changes_and_only_then() {
    let api = Running::start().await;
    let (first, second) = (api.join("n1").await, api.join("n2").await);
    api.operate("PUT", "/nodes/_default/set", Some(&set(&["web"])))
        .await;
    let etags = (
        api.poll("n1", &first, &[]).await.etag(),
        api.poll("n2", &second, &[]).await.etag(),
    );
    let (one, two) = (
        [("if-none-match", etags.0.as_str()), ("prefer", "wait=60")],
        [
            ("if-none-match", etags.1.as_str()),
            ("Prefer", "respond-async, wait=\"100\"; x=1"),
        ],
    );
    let both = async { tokio::join!(api.poll("n1", &first, &one), api.poll("n2", &second, &two)) };
    let changes = async {
        api.until_held(2).await;
        // Of one of them: it is answered, and the other goes on waiting.
        api.operate("PUT", "/nodes/n1/set", Some(&set(&["db"])))
            .await;
        api.until_held(1).await;
        let changed = api
            .server
            .put_set("_default", &set(&["web", "more"]), false)
            .await
            .unwrap();
        assert_eq!((changed.generation, changed.is_changed), (2, true));
    };
    let ((own, shared), ()) = tokio::join!(both, changes);
    assert_eq!(
        (
            own.status,
            &own.body["generation"],
            own.header("preference-applied")
        ),
        (200, &json!(2), Some("wait=60"))
    );
    assert_eq!(own.body["containers"][0]["name"], "db");
    assert_eq!(
        (
            shared.status,
            &shared.body["generation"],
            shared.header("preference-applied")
        ),
        (200, &json!(2), Some("wait=100"))
    );
    assert_eq!(shared.body["containers"][1]["name"], "more");
    // It is behind already: there is nothing to wait for.
    let behind = api.poll("n2", &second, &two).await;
    assert_eq!(
        (behind.status, behind.header("preference-applied")),
        (200, None)
    );
    api.stop().await;
}

#[tokio::test]
async fn a_poll_that_is_held_ends_with_its_time_its_node_or_the_server() {
    let api = Running::start().await;
    let (first, second) = (api.join("n1").await, api.join("n2").await);
    api.operate("PUT", "/nodes/_default/set", Some(&set(&["web"])))
        .await;
    let etag = api.poll("n1", &first, &[]).await.etag();
    let timed_out = api
        .poll(
            "n1",
            &first,
            &[("if-none-match", &etag), ("prefer", "wait=1")],
        )
        .await;
    assert_eq!(
        (timed_out.status, timed_out.header("preference-applied")),
        (304, Some("wait=1"))
    );
    for at_once in ["wait=0", "wait=soon", "handling=strict"] {
        let answer = api
            .poll(
                "n1",
                &first,
                &[("if-none-match", &etag), ("prefer", at_once)],
            )
            .await;
        assert_eq!(
            (answer.status, answer.header("preference-applied")),
            (304, None)
        );
    }
    let long = [("if-none-match", etag.as_str()), ("prefer", "wait=100000")];
    let forget = async {
        api.until_held(2).await;
        api.operate("DELETE", "/nodes/n1", None).await;
        api.until_held(1).await;
        api.stop.cancel();
    };
    let (gone, stopped, ()) = tokio::join!(
        api.poll("n1", &first, &long),
        api.poll("n2", &second, &long),
        forget
    );
    assert_eq!(gone.kind(), (404, "node_unknown"));
    assert_eq!(
        (stopped.status, stopped.header("preference-applied")),
        (304, Some("wait=120")),
        "no longer than that"
    );
    api.stop().await;
}
