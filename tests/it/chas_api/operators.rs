//! Tests of operators' calls, also over a restart.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

async fn generation(api: &Running, node_id: &str, token: &str) -> u64 {
    api.poll(node_id, token, &[]).await.body["generation"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn each_change_of_what_a_node_is_to_have_raises_its_generation_by_one() {
    let api = Running::start().await;
    let (follower, own) = (api.join("n1").await, api.join("n2").await);
    let put = async |name: &str, names: &[&str]| {
        api.operate("PUT", &format!("/nodes/{name}/set"), Some(&set(names)))
            .await
    };
    assert_eq!(
        put("_default", &["a"]).await,
        json!({"generation": 1, "changed": true})
    );
    assert_eq!(
        put("_default", &["a"]).await,
        json!({"generation": 1, "changed": false}),
        "it is so already"
    );
    assert_eq!(put("_default", &["a", "b"]).await["generation"], 2);
    assert_eq!(put("n2", &["c"]).await["generation"], 3);
    assert_eq!(
        (
            generation(&api, "n1", &follower).await,
            generation(&api, "n2", &own).await
        ),
        (2, 3)
    );
    assert_eq!(put("_default", &["a"]).await["generation"], 3);
    assert_eq!(
        (
            generation(&api, "n1", &follower).await,
            generation(&api, "n2", &own).await
        ),
        (3, 3)
    );
    // Back to the one for all, which is of a lower number than what the node has seen.
    put("n2", &["c", "d"]).await;
    put("n2", &["d"]).await;
    assert_eq!(
        api.operate("DELETE", "/nodes/n2/set", None).await,
        json!({"generation": 6, "changed": true})
    );
    assert_eq!(
        (
            generation(&api, "n1", &follower).await,
            generation(&api, "n2", &own).await
        ),
        (3, 6)
    );
    put("_default", &["e"]).await;
    assert_eq!(
        (
            generation(&api, "n1", &follower).await,
            generation(&api, "n2", &own).await
        ),
        (4, 7)
    );
    // It is gone and comes back: the count goes on.
    api.operate("DELETE", "/nodes/_default/set", None).await;
    put("_default", &["e"]).await;
    assert_eq!(
        (
            generation(&api, "n1", &follower).await,
            generation(&api, "n2", &own).await
        ),
        (6, 9)
    );
    api.stop().await;
}

#[tokio::test]
async fn a_confirmation_is_for_one_generation() {
    let api = Running::start().await;
    let (first, second) = (api.join("n1").await, api.join("n2").await);
    let confirmed =
        async |id: &str, token: &str| api.poll(id, token, &[]).await.body["prune_confirm"].clone();
    assert_eq!(
        api.call("POST", "/nodes/n1/confirm?generation=0", ADMIN, None)
            .await
            .kind(),
        (404, "no_set")
    );
    api.operate("PUT", "/nodes/_default/set", Some(&set(&["a"])))
        .await;
    for wrong in ["", "?generation=", "?generation=x", "?force=true"] {
        let refused = api
            .call("POST", &format!("/nodes/n1/confirm{wrong}"), ADMIN, None)
            .await;
        assert_eq!(refused.kind(), (422, "invalid"), "{wrong}");
    }
    for other in [0, 2] {
        let refused = api
            .call(
                "POST",
                &format!("/nodes/n1/confirm?generation={other}"),
                ADMIN,
                None,
            )
            .await;
        assert_eq!(
            refused.kind(),
            (412, "precondition_failed"),
            "whoever confirms has seen another set"
        );
    }
    let answer = api
        .operate("POST", "/nodes/n1/confirm?generation=1", None)
        .await;
    assert_eq!(
        answer,
        json!({"generation": 1, "changed": true}),
        "it is no change of the set"
    );
    assert_eq!(
        (
            confirmed("n1", &first).await,
            confirmed("n2", &second).await
        ),
        (json!(1), json!(null))
    );
    api.operate("PUT", "/nodes/_default/set", Some(&set(&["b"])))
        .await;
    assert_eq!(confirmed("n1", &first).await, json!(null));
    api.operate("PUT", "/nodes/n2/set", Some(&set(&["c"])))
        .await;
    api.operate("POST", "/nodes/_default/confirm?generation=2", None)
        .await;
    assert_eq!(
        (
            confirmed("n1", &first).await,
            confirmed("n2", &second).await
        ),
        (json!(2), json!(null))
    );
    api.operate("PUT", "/nodes/_default/set", Some(&set(&["c"])))
        .await;
    assert_eq!(confirmed("n1", &first).await, json!(null));
    api.stop().await;
}

#[tokio::test]
async fn a_set_is_refused_with_every_fault_unless_it_is_forced() {
    let api = Running::start().await;
    let token = api.join("n1").await;
    let body = json!({
        "containers": [{"name": "A b"}, {"name": "web", "image": "nginx"}, {"name": "web", "image": "nginx"}, 7],
        "remove": [{"name": "web"}],
    });
    let refused = api.call("PUT", "/nodes/n1/set", ADMIN, Some(&body)).await;
    assert_eq!(refused.kind(), (422, "invalid"));
    let fields: Vec<_> = refused.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "containers[0].name",
            "containers[0].image",
            "containers[2].name",
            "containers[3]",
            "remove[0].name"
        ]
    );
    assert_eq!(api.poll("n1", &token, &[]).await.kind(), (404, "no_set"));
    api.operate("PUT", "/nodes/n1/set?force=true", Some(&body))
        .await;
    assert_eq!(
        api.poll("n1", &token, &[]).await.body["containers"],
        body["containers"]
    );
    for wrong in [
        json!({}),
        json!({"containers": {}}),
        json!({"containers": [], "x": 1}),
        json!({"containers": [], "remove": ["a"]}),
    ] {
        assert_eq!(
            api.call("PUT", "/nodes/n1/set?force=true", ADMIN, Some(&wrong))
                .await
                .kind(),
            (422, "invalid"),
            "{wrong}"
        );
    }
    for path in [
        "/nodes/-/set",
        "/nodes/_other/set",
        "/nodes/a%2Fb/set",
        "/nodes/n1/set?forse=true",
        "/nodes/register/set",
    ] {
        assert_eq!(
            api.call("PUT", path, ADMIN, Some(&set(&[]))).await.kind(),
            (422, "invalid"),
            "{path}"
        );
    }
    api.stop().await;
}

#[tokio::test]
async fn whoever_changes_a_set_can_make_sure_that_nobody_else_did() {
    let api = Running::start().await;
    let change = async |method: &str, header: (&str, &str), names: &[&str]| {
        let body = set(names);
        api.send(
            method,
            "/nodes/n1/set",
            with(ADMIN, &[header]),
            (method == "PUT").then_some(&body),
        )
        .await
    };
    let lost = (412, "precondition_failed");
    assert_eq!(change("PUT", ("if-match", "*"), &["a"]).await.kind(), lost);
    let first = change("PUT", ("if-none-match", "*"), &["a"]).await;
    assert_eq!(first.status, 200);
    assert_eq!(
        change("PUT", ("if-none-match", "*"), &["b"]).await.kind(),
        lost
    );
    let read = api.call("GET", "/nodes/n1/set", ADMIN, None).await;
    assert_eq!(
        (read.etag(), &read.body),
        (
            first.etag(),
            &json!({"containers": set(&["a"])["containers"], "remove": [], "cordon": false})
        )
    );
    assert_eq!(
        change("PUT", ("if-match", &first.etag()), &["b"])
            .await
            .status,
        200
    );
    assert_eq!(
        change("PUT", ("if-match", &first.etag()), &["c"])
            .await
            .kind(),
        lost
    );
    assert_eq!(
        change("DELETE", ("if-match", &first.etag()), &[])
            .await
            .kind(),
        lost
    );
    let etag = api.call("GET", "/nodes/n1/set", ADMIN, None).await.etag();
    assert_eq!(change("DELETE", ("if-match", &etag), &[]).await.status, 200);
    assert_eq!(
        api.call("GET", "/nodes/n1/set", ADMIN, None).await.kind(),
        (404, "no_set")
    );
    assert_eq!(
        api.call("DELETE", "/nodes/n1/set", ADMIN, None)
            .await
            .kind(),
        (404, "no_set")
    );
    api.stop().await;
}

#[tokio::test]
async fn the_list_says_who_is_there_and_how_far() {
    let api = Running::start().await;
    let token = api.join("n2").await;
    api.join("n1").await;
    api.operate("PUT", "/nodes/n2/set", Some(&set(&["a"])))
        .await;
    assert_eq!(
        api.call("PUT", "/nodes/n2/health", &token, Some(&report(1)))
            .await
            .status,
        204
    );
    let list = api.operate("GET", "/nodes", None).await;
    let [first, second] = list["nodes"].as_array().unwrap().as_slice() else {
        panic!("{list}")
    };
    assert_eq!(
        (&first["id"], &first["status"], &first["converged"]),
        (&json!("n1"), &json!(null), &json!(false))
    );
    assert_eq!(
        second["generation"],
        json!({"wanted": 1, "observed": 1, "applied": 1})
    );
    assert_eq!(
        (&second["address"], &second["hostname"]),
        (&json!("10.0.0.7:9090"), &json!("n2.example"))
    );
    assert_eq!(
        (
            &second["containers"],
            &second["conflicts"],
            &second["rejected"]
        ),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(
        (&second["pending_prune"]["count"], &second["converged"]),
        (&json!(1), &json!(true))
    );
    // It says that it has converged, but not to what is wanted now.
    api.operate("PUT", "/nodes/n2/set", Some(&set(&["b"])))
        .await;
    assert_eq!(
        api.operate("GET", "/nodes/n2", None).await["converged"],
        false
    );
    api.stop().await;
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_a_lost_state_is_another_epoch() {
    let (state, lost) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let api = Running::start_on(state.path()).await;
    let token = api.join("n1").await;
    assert_eq!(
        api.call("PUT", "/nodes/n1/health", &token, Some(&report(5)))
            .await
            .status,
        204
    );
    api.operate("PUT", "/nodes/_default/set", Some(&set(&["a"])))
        .await;
    api.operate("PUT", "/nodes/n1/set", Some(&set(&["b"])))
        .await;
    api.operate("DELETE", "/nodes/n1/set", None).await;
    api.operate("POST", "/nodes/n1/confirm?generation=3", None)
        .await;
    let before = api.poll("n1", &token, &[]).await;
    assert_eq!(
        (&before.body["generation"], &before.body["prune_confirm"]),
        (&json!(3), &json!(3))
    );
    let node = api.operate("GET", "/nodes/n1", None).await;
    assert!(
        Server::open(Settings {
            state: Some(state.path().to_owned()),
            ..Settings::default()
        })
        .is_err(),
        "one at a time"
    );
    api.stop().await;

    let api = Running::start_on(state.path()).await;
    let after = api.poll("n1", &token, &[]).await;
    assert_eq!((after.etag(), &after.body), (before.etag(), &before.body));
    assert_eq!(api.operate("GET", "/nodes/n1", None).await, node);
    assert_eq!(
        api.operate("PUT", "/nodes/_default/set", Some(&set(&["c"])))
            .await["generation"],
        2
    );
    assert_eq!(generation(&api, "n1", &token).await, 4);
    api.operate("POST", "/nodes/n1/confirm?generation=4", None)
        .await;
    api.stop().await;
    for (name, mode) in [
        ("sets", 0o700),
        ("sets/n1.json", 0o600),
        ("nodes.json", 0o600),
    ] {
        let kept = std::fs::metadata(state.path().join(name)).unwrap();
        assert_eq!(
            kept.permissions().mode() & 0o777,
            mode,
            "environment values may be secrets: {name}"
        );
    }
    let kept = std::fs::read_to_string(state.path().join("nodes.json")).unwrap();
    assert!(
        kept.contains("token_sha256") && !kept.contains(&token),
        "the token itself is nowhere"
    );

    // Set back to a backup, as --help says: another epoch, and no word of before counts for it.
    std::fs::remove_file(state.path().join("epoch")).unwrap();
    for (confirmed, changed) in [(Value::Null, json!(true)), (json!(4), json!(false))] {
        let api = Running::start_on(state.path()).await;
        let restored = api.poll("n1", &token, &[]).await.body;
        assert_ne!(restored["epoch"], before.body["epoch"]);
        assert_eq!(
            (&restored["generation"], &restored["prune_confirm"]),
            (&json!(4), &confirmed)
        );
        assert_eq!(
            api.operate("POST", "/nodes/n1/confirm?generation=4", None)
                .await["changed"],
            changed
        );
        api.stop().await;
    }

    let api = Running::start_on(lost.path()).await;
    assert_eq!(
        api.poll("n1", &token, &[]).await.kind(),
        (404, "node_unknown"),
        "and not 401: it is to register again"
    );
    let token = api.join("n1").await;
    api.operate("PUT", "/nodes/n1/set", Some(&set(&["a"])))
        .await;
    assert_ne!(
        api.poll("n1", &token, &[]).await.body["epoch"],
        before.body["epoch"]
    );
    api.stop().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_stored_does_not_happen() {
    let state = tempfile::tempdir().unwrap();
    let api = Running::start_on(state.path()).await;
    let token = api.join("n1").await;
    api.operate("PUT", "/nodes/n1/set", Some(&set(&["a"])))
        .await;
    let sets = state.path().join("sets");
    std::fs::rename(&sets, state.path().join("away")).unwrap();
    let refused = api
        .call("PUT", "/nodes/n1/set", ADMIN, Some(&set(&["b"])))
        .await;
    assert_eq!(
        (refused.kind(), refused.header("retry-after")),
        ((503, "not_stored"), Some("5"))
    );
    let wanted = api.poll("n1", &token, &[]).await.body;
    assert_eq!(
        (&wanted["generation"], &wanted["containers"][0]["name"]),
        (&json!(1), &json!("a"))
    );
    std::fs::rename(state.path().join("away"), &sets).unwrap();
    assert_eq!(
        api.operate("PUT", "/nodes/n1/set", Some(&set(&["b"])))
            .await["generation"],
        2
    );
    api.stop().await;
    std::fs::write(sets.join("n1.json"), "{").unwrap();
    let refused = Server::open(Settings {
        state: Some(state.path().to_owned()),
        ..Settings::default()
    });
    assert!(refused.err().unwrap().to_string().contains("n1.json"));
}

#[tokio::test]
async fn while_the_server_is_away_no_node_is_silent() {
    let state = tempfile::tempdir().unwrap();
    let api = Running::start_on(state.path()).await;
    api.join("n1").await;
    api.stop().await;
    let settings = Settings {
        join_token: Some(JOIN.to_owned()),
        admin_token: Some(ADMIN.to_owned()),
        state: Some(state.path().to_owned()),
        ..Settings::default()
    };
    let api = Running::start_later(settings, Duration::from_hours(1)).await;
    let other = registration("n1", "b");
    assert_eq!(
        api.call("POST", "/nodes/register", JOIN, Some(&other))
            .await
            .kind(),
        (409, "identity_conflict")
    );
    api.pass(Duration::from_secs(91));
    assert_eq!(
        api.call("POST", "/nodes/register", JOIN, Some(&other))
            .await
            .status,
        200
    );
    api.stop().await;
}
