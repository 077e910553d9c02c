//! Finding and listing, health, who may call, and requests that mean nothing.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::json;
use state::alarm::Alarm;
use state::desired::Record;
use state::reason::Reason;
use state::spec::parse::Deploy;
use state::status::Status;
use tower::ServiceExt as _;

use super::{Fake, ROOT, STRANGE, ask, get, named, nginx, of, problem, record, rules, send, view};
use crate::api::caller::CallerPeer;
use crate::view::{AlarmView, HealthView, ManagedView};

const TOKEN: &str = "0123456789abcdef";

pub(super) fn failed(record: &Record, status: Status) -> ManagedView {
    let mut view = view(record, status);
    view.condition.reason = Some(Reason::ImageNotFound);
    view.condition.message = Some("no such tag".to_owned());
    view
}

#[tokio::test]
async fn a_container_is_found_by_name_id_and_unique_prefix() {
    let views = vec![
        view(&named("web", 0xabc_0000_0001), Status::Running),
        view(&named("db", 0xabc_0000_0002), Status::Failed),
    ];
    let node = Fake::new(views);
    for name in ["db", "0abc00000002"] {
        assert_eq!(
            get(&node, &format!("/containers/{name}")).await.json()["name"],
            "db"
        );
    }
    // An id comes before a name that looks like it.
    let node = Fake::new(vec![
        view(&named("0abc00000002", 1), Status::Running),
        view(&named("db", 0xabc_0000_0002), Status::Failed),
    ]);
    assert_eq!(
        get(&node, "/containers/0abc00000002").await.json()["name"],
        "db"
    );
    assert_eq!(
        get(&node, "/containers/0000").await.json()["name"],
        "0abc00000002"
    );
    problem(&get(&node, "/containers/000").await, 404, "000");
    // A name comes before the beginning of an id, and before an unmanaged container's id.
    let node = Fake::with(vec![
        view(&named("0abc", 1), Status::Running),
        view(&named("db", 0xabc_0000_0002), Status::Failed),
    ])
    .beside("db", "pause");
    for (asked, found) in [("0abc", "000000000001"), ("db", "0abc00000002")] {
        let shown = get(&node, &format!("/containers/{asked}")).await.json();
        assert_eq!(shown["id"], found, "{asked}");
    }
    let node = Fake::new(vec![
        view(&named("web", 0xabc_0000_0001), Status::Running),
        view(&named("db", 0xabc_0000_0002), Status::Failed),
    ]);
    problem(&get(&node, "/containers/0abc").await, 400, "several");
    problem(&get(&node, "/containers/ffff").await, 404, "ffff");
    problem(&get(&node, "/containers/%ff").await, 400, "UTF-8");
}

#[tokio::test]
async fn a_call_that_changes_something_names_its_container_exactly() {
    let views = vec![
        view(&named("keep-me", 0xdb00_0000_0001), Status::Running),
        view(&named("db000000000f", 2), Status::Running),
        view(&named("twin", 0xdb00_0000_000f), Status::Running),
    ];
    let node = Fake::with(views).beside("k8s-1", "pause");
    let calls = [
        ("DELETE", ""),
        ("POST", "/stop"),
        ("POST", "/start"),
        ("POST", "/restart"),
    ];
    for (method, call) in calls {
        for (text, status, says) in [
            ("db", 404, "the name or the id \"db\""),
            ("db0000000001", 202, ""),
            ("keep-me", 202, ""),
            ("db000000000", 404, "\"db000000000\""),
            ("db0000000001%20", 404, "db0000000001 "),
            ("DB0000000001", 404, "DB0000000001"),
            ("00000000000", 404, "000000000002 (db000000000f)"),
            ("db000000000f", 409, "say twin or 000000000002"),
            ("000000000002", 202, ""),
            ("k8s-1", 409, "not managed"),
            ("k8s-", 404, "k8s-1"),
        ] {
            let path = format!("/containers/{text}{call}");
            let answer = ask(&node, method, &path, Body::empty()).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
            if status > 202 {
                problem(&answer, status, says);
            }
        }
    }
    assert_eq!(node.ordered.lock().unwrap().len(), calls.len() * 3);
}

#[tokio::test]
async fn the_shown_spec_deployed_again_is_the_same_spec() {
    let body = json!({
        "name": "web", "image": "nginx:1.27", "exposed_ports": [{"container": 80, "host": 8080, "protocol": "udp"}],
        "resources": {"cpu": "0.5", "memory": "512m"}, "environment": {"A": "b"}, "command": ["nginx"], "args": ["-g"],
        "working_dir": "/srv", "user": "1000:1000", "labels": {"a": "b"}, "state": "stopped", "priority": 7, "revision": 9,
        "restart": {"policy": "on-failure", "max_retries": 3}, "stop": {"signal": "SIGINT", "timeout": "1m"},
        "security": {"read_only_rootfs": true, "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}},
        "logs": {"max_size": "1m", "max_files": 2}, "image_pull": "always",
    });
    for body in [body, json!({"name": "web", "image": "nginx"})] {
        let deploy = state::spec::parse::deploy(&body).unwrap();
        let node = Fake::new(vec![view(&record(deploy.clone(), 1), Status::Running)]);
        let shown = get(&node, "/containers/web?reveal=true").await.json()["spec"].clone();
        let again = state::spec::parse::deploy(&shown).unwrap();
        let body_hash = deploy.body_hash.clone();
        assert_eq!(Deploy { body_hash, ..again }, deploy, "{shown}");
    }
}

#[tokio::test]
async fn parameters_that_mean_nothing_are_named() {
    let node = Fake::new(vec![view(&named("web", 1), Status::Running)]);
    for (method, path, says) in [
        ("POST", "/containers/deploy?wiat=running", "wiat"),
        ("POST", "/containers/deploy?wait=removed", "wait=removed"),
        ("POST", "/containers/deploy?timeout=11m", "timeout=11m"),
        ("POST", "/containers/web/stop?now=1", "now"),
        ("GET", "/health?x=1", "x"),
        ("GET", "/containers?name=a&name=b", "name is given twice"),
        (
            "GET",
            "/containers/web?wait=applied&generation=x",
            "generation=x",
        ),
        ("GET", "/containers/web/logs?tail=some", "tail=some"),
        (
            "GET",
            "/containers/web/logs?since=yesterday",
            "since=yesterday",
        ),
        ("GET", "/containers/web/logs?stream=stdin", "stream=stdin"),
        ("GET", "/containers/web/logs?follow=maybe", "follow=maybe"),
    ] {
        problem(&ask(&node, method, path, nginx()).await, 400, says);
    }
    assert!(node.ordered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn all_but_the_probes_needs_the_token() {
    let node = Fake::new(Vec::new());
    let request = |path: &str, given: &str| {
        Request::get(path)
            .header("authorization", given)
            .body(Body::empty())
            .unwrap()
    };
    for path in [
        "/containers",
        "/containers/x",
        "/containers/x/logs",
        "/health",
    ] {
        for given in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcdee",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
        ] {
            let answer = send(&node, Some(TOKEN), request(path, given)).await;
            problem(&answer, 401, "Bearer");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
        }
    }
    let huge = Request::post("/containers/deploy")
        .body(Body::from(nginx()))
        .unwrap();
    problem(&send(&node, Some(TOKEN), huge).await, 401, "Bearer");
    for given in [format!("Bearer {TOKEN}"), format!("bearer {TOKEN}")] {
        assert_eq!(
            send(&node, Some(TOKEN), request("/containers", &given))
                .await
                .status,
            200
        );
    }
    for path in ["/livez", "/readyz", "/version"] {
        assert_eq!(
            send(&node, Some(TOKEN), request(path, "")).await.status,
            200
        );
    }
}

#[tokio::test]
async fn on_the_socket_root_needs_none_and_over_the_network_nobody_passes_without() {
    let node = Fake::new(Vec::new());
    let request = || Request::get("/containers").body(Body::empty()).unwrap();
    // There is no token yet: not even the empty one lets anybody in.
    for (peer, given, status) in [
        (ROOT, None, 200),
        (STRANGE, None, 401),
        (STRANGE, Some("Bearer "), 401),
        (STRANGE, Some("Bearer 0123456789abcdef"), 401),
    ] {
        let mut request = of(peer, request());
        if let Some(given) = given.and_then(|given| given.parse().ok()) {
            request.headers_mut().insert(header::AUTHORIZATION, given);
        }
        let router = crate::api::router(Arc::clone(&node), rules(None), None);
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status, "{peer} {given:?}");
    }
    let told = send(&node, Some(TOKEN), request()).await;
    problem(&told, 401, "/run/agent.sock");
    problem(&told, 401, "/state/admin-token");
}

#[tokio::test(start_paused = true)]
async fn a_guess_costs_time() {
    let router = crate::api::router(Fake::new(Vec::new()), rules(Some(TOKEN)), None);
    let ask = async |peer: CallerPeer, token: &str| {
        let request = Request::get("/containers").header("authorization", token);
        let request = of(peer, request.body(Body::empty()).unwrap());
        let answer = router.clone().oneshot(request).await.unwrap();
        let wait = answer.headers().get(header::RETRY_AFTER).cloned();
        (answer.status().as_u16(), wait)
    };
    let right = format!("Bearer {TOKEN}");
    for number in 0..10 {
        let wrong = format!("Bearer 0123456789abcde-{number}");
        assert_eq!(ask(STRANGE, &wrong).await, (401, None), "{number}");
        // No credentials, and others, are no guess.
        assert_eq!(ask(STRANGE, "Basic cm9vdDpyb290").await, (401, None));
    }
    // One more is not even refused at once; the right one, of whoever is behind the same address,
    // comes through.
    let minute = Some(header::HeaderValue::from(61));
    let began = tokio::time::Instant::now();
    assert_eq!(
        ask(STRANGE, "Bearer 0123456789abcde-x").await,
        (429, minute)
    );
    assert_eq!(ask(STRANGE, &right).await.0, 200);
    assert_eq!(began.elapsed().as_secs(), 2);
    let other = CallerPeer::Tcp([192, 0, 2, 2].into());
    assert_eq!(ask(other, &right).await.0, 200);
    assert_eq!(ask(ROOT, "").await.0, 200);
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(ask(STRANGE, &right).await.0, 200);
}

#[tokio::test]
async fn a_page_or_a_name_of_somebody_else_s_gets_not_even_a_probe_answered() {
    let node = Fake::new(Vec::new());
    for path in ["/livez", "/readyz", "/version", "/containers", "/none"] {
        for (name, value, status, says) in [
            ("origin", "http://evil.example", 403, "evil.example"),
            ("sec-fetch-site", "cross-site", 403, "cross-site"),
            ("host", "evil.example:9090", 421, "api.hosts"),
        ] {
            let request = Request::get(path)
                .header(name, value)
                .header("authorization", format!("Bearer {TOKEN}"))
                .body(Body::empty())
                .unwrap();
            problem(&send(&node, Some(TOKEN), request).await, status, says);
        }
    }
}

#[tokio::test]
async fn health_has_the_specifications_fields_and_readiness_follows_containerd() {
    let node = Fake::new(Vec::new());
    let health = get(&node, "/health").await.json();
    assert_eq!(
        (&health["status"], &health["resources"]["container_count"]),
        (&json!("degraded"), &json!(3))
    );
    let worst = json!([{"name": "db", "status": "failed", "reason": "ImageNotFound", "message": "no such tag", "since": "1970-01-01T00:00:00.000Z"}]);
    assert_eq!(
        (&health["unsettled"], &health["unsettled_containers"]),
        (&json!(1), &worst)
    );
    assert_eq!(
        (&health["alarms"], &health["errors"][0]["count"]),
        (&json!([]), &json!(7))
    );
    for field in [
        "cpu_usage",
        "memory_usage",
        "disk_available",
        "memory_total_bytes",
        "disk_available_bytes",
    ] {
        assert!(!health["resources"][field].is_null(), "{field}");
    }
    for field in ["uptime", "load_average", "interfaces"] {
        assert!(!health[field].is_null(), "{field}");
    }
    assert_eq!(
        (
            &health["containerd"]["reachable"],
            &health["errors"][0]["reason"]
        ),
        (&json!(true), &json!("PortTaken"))
    );
    let away = Arc::new(Fake {
        containerd: false,
        ..Fake::with(Vec::new())
    });
    let health = get(&away, "/health").await.json();
    assert_eq!(health["status"], "unhealthy");
    let alarm = json!({
        "name": "ContainerdUnreachable", "since": "1970-01-01T00:00:00.000Z", "message": "connection refused",
        "meaning": "containerd is unreachable; no container can be looked at, started or stopped.",
        "remedy": "start containerd, and read its log", "health": "unhealthy",
    });
    assert_eq!(health["alarms"], json!([alarm]));
    assert_eq!(
        (
            get(&away, "/readyz").await.status,
            get(&away, "/livez").await.status
        ),
        (503, 200)
    );
}

#[test]
fn a_node_that_is_not_ready_says_why() {
    let mut health = super::health_seen::seen(false, &[]);
    let text = |health: &HealthView| crate::api::health::without_containerd(health);
    assert_eq!(text(&health), "containerd is unreachable\n");
    health.containerd_asked = false;
    health.alarms.clear();
    assert_eq!(text(&health), "containerd is not asked yet\n");
    health.alarms.push(AlarmView {
        alarm: Alarm::NetworkNotReady,
        since: SystemTime::UNIX_EPOCH,
        message: String::new(),
    });
    let network = "the network for containers cannot be set up\n";
    assert_eq!(text(&health), network);
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_a_problem_too() {
    let node = Fake::new(Vec::new());
    problem(&get(&node, "/pods").await, 404, "/pods");
    let answer = ask(&node, "PUT", "/containers", "").await;
    problem(&answer, 405, "PUT");
    assert!(
        answer.headers[header::ALLOW]
            .to_str()
            .unwrap()
            .contains("GET")
    );
}

#[tokio::test]
async fn a_body_is_judged_by_its_head_before_a_byte_of_it_is_read() {
    let node = Fake::new(Vec::new());
    // One that would panic if anybody asked for it.
    let unread = || {
        Body::from_stream(futures_util::stream::poll_fn(
            |_| -> std::task::Poll<Option<Result<Vec<u8>, std::io::Error>>> {
                panic!("it is read")
            },
        ))
    };
    let send_with = async |headers: &[(&str, &str)], body: Body| {
        let mut request = Request::builder()
            .method("POST")
            .uri("/containers/deploy?dry_run=True");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&node, None, request.body(body).unwrap()).await
    };
    for (kind, says) in [
        (None, "no Content-Type"),
        (Some("text/plain"), "\"text/plain\""),
        (Some("application/x-www-form-urlencoded"), "form"),
        (Some("application/json; charset=latin1"), "latin1"),
        (Some("application/jsonp"), "jsonp"),
    ] {
        let headers: Vec<_> = kind
            .map(|kind| ("content-type", kind))
            .into_iter()
            .collect();
        let answer = send_with(&headers, unread()).await;
        problem(&answer, 415, says);
        assert!(answer.text.contains("Content-Type: application/json"));
    }
    for kind in ["application/json", "Application/JSON; charset=UTF-8"] {
        let answer = send_with(&[("content-type", kind)], nginx().into()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let json = ("content-type", "application/json");
    let answer = send_with(&[json, ("expect", "200-maybe")], unread()).await;
    problem(&answer, 417, "100-continue");
    let large = Body::from(vec![b' '; (1 << 20) + 1]);
    problem(&send_with(&[json], large).await, 413, "1 MiB");
    problem(&send_with(&[json], Body::empty()).await, 400, "empty");
    let twice = r#"{"name": "a", "image": "b", "image": "c"}"#;
    problem(
        &send_with(&[json], twice.into()).await,
        400,
        "image is given twice",
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let node = Fake::new(Vec::new());
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let answer = ask(
        &node,
        "POST",
        "/containers/deploy",
        Body::from_stream(never),
    )
    .await;
    problem(&answer, 408, "within 30s");
}
