//! What is counted of requests, and who may see it.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use state::access::NameScope;
use state::alarm::Alarm;
use state::desired::Record;
use state::desired::job::Job;
use state::status::Status;
use tower::ServiceExt as _;

use super::{Fake, ROOT, STRANGE, get, named, of, problem, rules, view};
use crate::api::caller::CallerPeer;
use crate::api::{metrics_text, router};
use crate::metrics::{Metrics, MetricsFormat, VolumeNumbers};

async fn status(router: &Router, method: &str, path: &str) -> u16 {
    status_of(ROOT, router, method, path).await
}

async fn status_of(peer: CallerPeer, router: &Router, method: &str, path: &str) -> u16 {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    router
        .clone()
        .oneshot(of(peer, request))
        .await
        .unwrap()
        .status()
        .as_u16()
}

async fn scrape(router: &Router) -> String {
    let response = router
        .clone()
        .oneshot(of(
            ROOT,
            Request::get("/metrics").body(Body::empty()).unwrap(),
        ))
        .await
        .unwrap();
    assert!(
        response.headers()[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    String::from_utf8(
        to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap()
            .to_vec(),
    )
    .unwrap()
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(
        text.lines().any(|shown| shown == line),
        "{line} is not in\n{text}"
    );
}

#[tokio::test]
async fn requests_are_counted_by_the_routers_patterns_and_never_by_what_callers_make_up() {
    let node = Fake::new(vec![
        view(&named("web", 1), Status::Running),
        view(&named("db", 2), Status::Failed),
    ]);
    let router = router(node, rules(None), Some(Metrics::new()));
    for (method, path, answer) in [
        ("GET", "/containers/web", 200),
        ("GET", "/containers/db", 200),
        ("GET", "/containers/none", 404),
        ("POST", "/containers/deploy", 400),
        ("DELETE", "/containers", 405),
        ("BREW", "/containers", 405),
        ("GET", "/made/up", 404),
        ("GET", "/made-up", 404),
        ("GET", "/metrics?x=1", 400),
    ] {
        assert_eq!(
            status(&router, method, path).await,
            answer,
            "{method} {path}"
        );
    }
    let text = scrape(&router).await;
    for line in [
        r#"chas_api_requests_total{method="GET",route="/containers/{id}",status="200"} 2"#,
        r#"chas_api_requests_total{method="GET",route="/containers/{id}",status="404"} 1"#,
        r#"chas_api_requests_total{method="POST",route="/containers/deploy",status="400"} 1"#,
        r#"chas_api_requests_total{method="DELETE",route="/containers",status="405"} 1"#,
        r#"chas_api_requests_total{method="other",route="/containers",status="405"} 1"#,
        r#"chas_api_requests_total{method="GET",route="none",status="404"} 2"#,
        r#"chas_api_request_duration_seconds_count{method="GET",route="/containers/{id}"} 3"#,
        r#"chas_containers{status="running"} 1"#,
        r#"chas_containers{status="failed"} 1"#,
        r#"chas_containers{status="pending"} 0"#,
        "chas_containerd_up 1",
    ] {
        has(&text, line);
    }
}

#[tokio::test]
async fn what_is_not_ours_and_what_has_gone_is_not_among_the_containers() {
    let views = vec![view(&named("web", 1), Status::Running)];
    let node = Fake::with(views).beside("k8s-1", "pause");
    let router = router(Arc::clone(&node), rules(None), Some(Metrics::new()));
    has(
        &scrape(&router).await,
        r#"chas_containers{status="running"} 1"#,
    );
    node.show(Vec::new());
    has(
        &scrape(&router).await,
        r#"chas_containers{status="running"} 0"#,
    );
}

#[tokio::test]
async fn a_panic_is_answered_logged_and_counted_as_the_500_it_became() {
    let node = Fake::new(vec![view(&named("web", 1), Status::Running)]);
    let router = router(Arc::clone(&node), rules(None), Some(Metrics::new()));
    let poisoned = Arc::clone(&node);
    std::thread::spawn(move || {
        let _held = poisoned.views.lock().unwrap();
        panic!("on purpose");
    })
    .join()
    .unwrap_err();
    assert_eq!(status(&router, "GET", "/containers").await, 500);
    node.views.clear_poison();
    has(
        &scrape(&router).await,
        r#"chas_api_requests_total{method="GET",route="/containers",status="500"} 1"#,
    );
}

#[tokio::test]
async fn metrics_need_the_token_and_are_not_there_when_switched_off() {
    let node = Fake::new(Vec::new());
    let guarded = router(
        Arc::clone(&node),
        rules(Some("0123456789abcdef")),
        Some(Metrics::new()),
    );
    assert_eq!(status_of(STRANGE, &guarded, "GET", "/metrics").await, 401);
    // Every other test's router has none.
    problem(&get(&node, "/metrics").await, 404, "/metrics");
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_asks_for_and_refusals_are_counted() {
    let node = Fake::new(vec![view(&named("web", 1), Status::Failed)]);
    let router = router(node, rules(Some("0123456789abcdef")), Some(Metrics::new()));
    let refused = status_of(STRANGE, &router, "GET", "/containers").await;
    assert_eq!(refused, 401);
    let request = Request::get("/metrics").header(header::ACCEPT, "application/openmetrics-text");
    let request = of(ROOT, request.body(Body::empty()).unwrap());
    let response = router.clone().oneshot(request).await.unwrap();
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let open = String::from_utf8(body.to_vec()).unwrap();
    assert!(open.ends_with("# EOF\n"), "{open}");
    let text = scrape(&router).await;
    assert!(
        !text.contains("# EOF") && !text.contains("# UNIT"),
        "{text}"
    );
    has(&text, "# TYPE chas_api_problems_total counter");
    has(&text, "chas_api_problems_total{code=\"Unauthorized\"} 1");
    has(&text, "chas_containers_unsettled 1.0");
    for name in [
        "process_start_time_seconds ",
        "chas_node_cpus ",
        "chas_api_connections{",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name} in\n{text}"
        );
    }
    let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(samples(&open) > 50, "{open}");
}

#[tokio::test]
async fn a_caller_of_some_names_gets_neither_schedules_nor_volumes_of_others() {
    let with_schedule = |name: &str, bits| Record {
        job: Some(Job {
            last_success_ms: Some(1_700_000_000_900),
            ..Job::default()
        }),
        ..named(name, bits)
    };
    let records = [with_schedule("web-1", 1), with_schedule("db", 2)];
    let node = Fake::new(records.map(|record| view(&record, Status::Running)).into());
    let metrics = Metrics::new();
    let volume = |volume: &str| VolumeNumbers {
        volume: volume.to_owned(),
        used: 5,
        limit: 9,
    };
    metrics.show_volume_sizes(["web-data", "db-data"].map(volume).into_iter());
    let shown =
        async |names: &NameScope| metrics_text(&*node, &metrics, names, MetricsFormat::Text).await;
    let mine = [
        "chas_job_last_success_timestamp_seconds{container=\"web-1\"} 1700000000.0",
        "chas_volume_used_bytes{volume=\"web-data\"} 5.0",
        "chas_volume_limit_bytes{volume=\"web-data\"} 9.0",
    ];
    let other = |line: &str| line.replace("web-1", "db").replace("web-data", "db-data");
    let all = shown(&NameScope::All).await;
    let some = NameScope::Some(vec!["web-*".parse().unwrap()]);
    let some = shown(&some).await;
    for line in mine {
        has(&all, line);
        has(&all, &other(line));
        has(&some, line);
    }
    assert!(!some.contains("\"db"), "{some}");
}

#[tokio::test]
async fn every_alarm_is_in_the_metrics_whoever_notices_it() {
    let away = Arc::new(Fake {
        containerd: false,
        ..Fake::with(Vec::new())
    });
    let router = router(away, rules(None), Some(Metrics::new()));
    let text = scrape(&router).await;
    for alarm in Alarm::ALL {
        let stands = u8::from(*alarm == Alarm::ContainerdUnreachable);
        has(&text, &format!("chas_alarm{{alarm=\"{alarm}\"}} {stands}"));
    }
}
