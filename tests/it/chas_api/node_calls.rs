//! Tests of registrations and reports.

use super::*;

#[tokio::test]
async fn registering_again_changes_nothing_but_the_token() {
    let api = Running::start().await;
    let (first, other) = (api.join("n1").await, api.join("n2").await);
    let second = api
        .call(
            "POST",
            "/nodes/register",
            JOIN,
            Some(&registration("n1", "a")),
        )
        .await;
    assert_eq!(second.body["cluster_size"], 2);
    assert_eq!(
        (&second.body["poll_after_s"], &second.body["health_after_s"]),
        (&json!(15), &json!(30))
    );
    let second = second.body["token"].as_str().unwrap();
    assert!(second != first && second != other);
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &first, Some(&report(1)))
            .await
            .kind(),
        (401, "unauthorized")
    );
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", second, Some(&report(1)))
            .await
            .status,
        204
    );
    // With its own token it keeps that one, and all that is known of it.
    let again = api
        .call(
            "POST",
            "/nodes/register",
            second,
            Some(&registration("n1", "a")),
        )
        .await;
    assert_eq!((again.status, again.body.get("token")), (200, None));
    assert_eq!(
        api.operate("GET", "/nodes/n1", None).await["report"],
        report(1)
    );
    api.stop().await;
}

#[tokio::test]
async fn a_name_is_its_instances_until_that_was_silent_for_three_health_intervals() {
    let api = Running::start().await;
    let token = api.join("n1").await;
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &token, Some(&report(9)))
            .await
            .status,
        204
    );
    let other = registration("n1", "b");
    let refused = (409, "identity_conflict");
    assert_eq!(
        api.call("POST", "/nodes/register", JOIN, Some(&other))
            .await
            .kind(),
        refused
    );
    let mut secret = registration("n1", "instance-of-n2-that-nobody-else-knows");
    secret["node_id"] = json!("n2");
    assert_eq!(
        api.call("POST", "/nodes/register", JOIN, Some(&secret))
            .await
            .status,
        200
    );
    let told = api
        .call(
            "POST",
            "/nodes/register",
            JOIN,
            Some(&registration("n2", "b")),
        )
        .await;
    assert!(
        !told.body.to_string().contains("nobody-else-knows"),
        "who knows it may take its place: {told:?}"
    );
    // A clone has the token, too.
    assert_eq!(
        api.call("POST", "/nodes/register", &token, Some(&other))
            .await
            .kind(),
        refused
    );
    let mut stranger = report(10);
    stranger["instance_uuid"] = json!("b");
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &token, Some(&stranger))
            .await
            .kind(),
        refused
    );

    api.pass(Duration::from_secs(60));
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &token, Some(&report(11)))
            .await
            .status,
        204
    );
    api.pass(Duration::from_secs(60));
    assert_eq!(
        api.call("POST", "/nodes/register", JOIN, Some(&other))
            .await
            .kind(),
        refused,
        "it was heard of since"
    );
    assert_eq!(api.operate("GET", "/nodes/n1", None).await["online"], true);
    api.pass(Duration::from_secs(60));
    assert_eq!(api.operate("GET", "/nodes/n1", None).await["online"], false);
    let taken = api
        .call("POST", "/nodes/register", JOIN, Some(&other))
        .await;
    assert_eq!(
        (taken.status, &taken.body["cluster_size"]),
        (200, &json!(2))
    );
    // What the other one reported is not about this one, and its token is worth nothing.
    assert_eq!(
        api.operate("GET", "/nodes/n1", None).await["report"],
        Value::Null
    );
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &token, Some(&report(12)))
            .await
            .kind(),
        (401, "unauthorized")
    );
    assert_eq!(
        api.call(
            "POST",
            "/nodes/register",
            JOIN,
            Some(&registration("n1", "a"))
        )
        .await
        .kind(),
        refused
    );
    api.stop().await;
}

#[tokio::test]
async fn every_door_has_its_token() {
    let api = Running::start().await;
    let (first, second) = (api.join("n1").await, api.join("n2").await);
    let (none, foreign) = ((401, "unauthorized"), (403, "forbidden"));
    for wrong in ["", "no", ADMIN] {
        assert_eq!(
            api.call(
                "POST",
                "/nodes/register",
                wrong,
                Some(&registration("n1", "a"))
            )
            .await
            .kind(),
            none
        );
    }
    assert_eq!(
        api.call(
            "POST",
            "/nodes/register",
            &second,
            Some(&registration("n1", "a"))
        )
        .await
        .kind(),
        foreign
    );
    for wrong in ["", "no", ADMIN, JOIN] {
        assert_eq!(
            api.call("PUT", "/nodes/n1/health", wrong, Some(&report(1)))
                .await
                .kind(),
            none
        );
        assert_eq!(api.poll("n1", wrong, &[]).await.kind(), none);
    }
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &second, Some(&report(1)))
            .await
            .kind(),
        foreign
    );
    assert_eq!(api.poll("n1", &second, &[]).await.kind(), foreign);
    for (method, path) in [
        ("GET", "/nodes"),
        ("GET", "/nodes/n1"),
        ("DELETE", "/nodes/n1"),
        ("GET", "/nodes/n1/set"),
    ] {
        for (token, expected) in [
            ("", none),
            ("no", none),
            (JOIN, none),
            (first.as_str(), foreign),
        ] {
            assert_eq!(
                api.call(method, path, token, None).await.kind(),
                expected,
                "{method} {path} with {token:?}"
            );
        }
    }
    for path in ["/livez", "/metrics", "/openapi.json"] {
        assert_eq!(api.call("GET", path, "", None).await.status, 200);
    }
    api.stop().await;
}

#[tokio::test]
async fn without_tokens_everybody_may() {
    let api = Running::start_as(Settings::default()).await;
    let joined = api
        .call(
            "POST",
            "/nodes/register",
            "",
            Some(&registration("n1", "a")),
        )
        .await;
    assert_eq!((joined.status, joined.body.get("token")), (200, None));
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", "whatever", Some(&report(1)))
            .await
            .status,
        204
    );
    assert_eq!(
        api.call("PUT", "/nodes/n1/set", "", Some(&set(&["web"])))
            .await
            .status,
        200
    );
    assert_eq!(api.poll("n1", "", &[]).await.status, 200);
    api.stop().await;
}

#[tokio::test]
async fn once_tokens_are_needed_a_node_that_has_none_is_to_register() {
    let state = tempfile::tempdir().unwrap();
    let open = Running::start_as(Settings {
        state: Some(state.path().to_owned()),
        ..Settings::default()
    })
    .await;
    assert_eq!(
        open.call(
            "POST",
            "/nodes/register",
            "",
            Some(&registration("n1", "a"))
        )
        .await
        .status,
        200
    );
    open.stop().await;
    let api = Running::start_on(state.path()).await;
    assert_eq!(
        api.poll("n1", JOIN, &[]).await.kind(),
        (404, "node_unknown")
    );
    assert_eq!(api.poll("n1", "", &[]).await.kind(), (401, "unauthorized"));
    let token = api.join("n1").await;
    assert_eq!(
        api.poll("n1", JOIN, &[]).await.kind(),
        (401, "unauthorized")
    );
    assert_eq!(api.poll("n1", &token, &[]).await.kind(), (404, "no_set"));
    api.stop().await;
}

#[tokio::test]
async fn a_report_that_was_overtaken_is_acknowledged_and_not_kept() {
    let api = Running::start().await;
    let token = api.join("n1").await;
    let seq = async || api.operate("GET", "/nodes/n1", None).await["report"]["seq"].clone();
    for (sent, kept) in [(5, 5), (7, 7), (6, 7), (7, 7), (8, 8)] {
        let answer = api
            .call("PUT", "/nodes/n1/health", &token, Some(&report(sent)))
            .await;
        assert_eq!(
            (answer.status, answer.body),
            (204, json!(null)),
            "there is no set"
        );
        assert_eq!(seq().await, kept);
    }
    let mut after_boot = report(1);
    after_boot["boot_id"] = json!("another");
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &token, Some(&after_boot))
            .await
            .status,
        204
    );
    assert_eq!(seq().await, 1);
    api.operate("PUT", "/nodes/_default/set", Some(&set(&["web"])))
        .await;
    let epoch = api.poll("n1", &token, &[]).await.body["epoch"].clone();
    for (generation, observed, told) in [
        (Value::Null, Value::Null, true),
        (json!(1), json!("another"), true),
        (json!(1), epoch.clone(), false),
    ] {
        (
            after_boot["observed_generation"],
            after_boot["observed_epoch"],
        ) = (generation, observed);
        let answer = api
            .call("PUT", "/nodes/n1/health", &token, Some(&after_boot))
            .await;
        let expected = if told {
            json!({"desired_generation": 1, "desired_epoch": epoch})
        } else {
            Value::Null
        };
        assert_eq!(
            (answer.status, answer.body),
            (if told { 200 } else { 204 }, expected)
        );
        assert_eq!(
            api.operate("GET", "/nodes/n1", None).await["converged"],
            !told,
            "of what it has not seen"
        );
    }
    api.stop().await;
}

#[tokio::test]
async fn a_heartbeat_stands_for_the_report_that_was_acknowledged_last() {
    let state = tempfile::tempdir().unwrap();
    let api = Running::start_on(state.path()).await;
    let token = api.join("n1").await;
    let beat = async |api: &Running, body: Value| {
        let answer = api
            .call("PUT", "/nodes/n1/health", &token, Some(&body))
            .await;
        assert_eq!(
            answer.status,
            if answer.body.is_null() { 204 } else { 200 },
            "{answer:?}"
        );
        answer.body
    };
    let nothing = || Value::Null;
    let shown = async |api: &Running| {
        let report = api.operate("GET", "/nodes/n1", None).await["report"].clone();
        (
            report["seq"].clone(),
            report["uptime"].clone(),
            report["containers"].as_array().map_or(0, Vec::len),
        )
    };
    let send_all = json!({"send_all": true});
    assert_eq!(beat(&api, heartbeat(1)).await, send_all, "there is none");
    assert_eq!(beat(&api, report(2)).await, nothing());
    assert_eq!(beat(&api, heartbeat(4)).await, nothing());
    assert_eq!(shown(&api).await, (json!(4), json!(86404), 1));
    // Both were overtaken.
    assert_eq!(
        (beat(&api, heartbeat(3)).await, beat(&api, report(3)).await),
        (nothing(), nothing())
    );
    assert_eq!(shown(&api).await, (json!(4), json!(86404), 1));
    let mut after_boot = heartbeat(5);
    after_boot["boot_id"] = json!("another");
    assert_eq!(beat(&api, after_boot).await, send_all);
    api.stop().await;
    // Whether the report on the disk is the last one, nobody knows after a crash.
    let api = Running::start_on(state.path()).await;
    assert_eq!(beat(&api, heartbeat(6)).await, send_all);
    assert_eq!(
        (beat(&api, report(7)).await, beat(&api, heartbeat(8)).await),
        (nothing(), nothing())
    );
    assert_eq!(shown(&api).await, (json!(8), json!(86408), 1));
    api.stop().await;
}

#[tokio::test]
async fn a_node_that_is_not_known_is_told_so_whatever_its_token() {
    let api = Running::start().await;
    let unknown = (404, "node_unknown");
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", "old", Some(&report(1)))
            .await
            .kind(),
        unknown
    );
    assert_eq!(api.poll("n1", "old", &[]).await.kind(), unknown);
    assert_eq!(
        api.call("GET", "/nodes/n1", ADMIN, None).await.kind(),
        unknown
    );
    let token = api.join("n1").await;
    assert_eq!(
        api.call("DELETE", "/nodes/n1", ADMIN, None).await.status,
        204
    );
    assert_eq!(api.poll("n1", &token, &[]).await.kind(), unknown);
    assert_eq!(
        api.call(
            "POST",
            "/nodes/register",
            &token,
            Some(&registration("n1", "a"))
        )
        .await
        .kind(),
        (401, "unauthorized")
    );
    api.stop().await;
}

#[tokio::test]
async fn a_body_is_refused_with_every_fault_at_once() {
    let api = Running::start().await;
    let body = json!({"node_id": "_default", "port": 0, "ip_address": "here", "labels": {"a": 1}, "api": {}});
    let refused = api.call("POST", "/nodes/register", JOIN, Some(&body)).await;
    assert_eq!(refused.kind(), (422, "invalid"));
    let fields: Vec<_> = refused.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["field"].as_str().unwrap())
        .collect();
    for field in [
        "node_id",
        "port",
        "ip_address",
        "labels.a",
        "api.desired_state",
        "hostname",
        "instance_uuid",
    ] {
        assert_eq!(
            fields.iter().filter(|named| **named == field).count(),
            1,
            "{field} in {fields:?}"
        );
    }
    let token = api.join("n1").await;
    let send = async |body: String| {
        let request = api
            .http
            .put(format!("{}/nodes/n1/health", api.base))
            .bearer_auth(&token)
            .body(body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send("{".to_owned()).await, 400);
    assert_eq!(send(" ".repeat((1 << 20) + 1)).await, 413);
    assert_eq!(send(report(1).to_string() + &" ".repeat(1000)).await, 204);
    api.stop().await;
}
