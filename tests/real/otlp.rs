//! Traces and metrics of a real node at a collector: what it gets, and what becomes of the node where
//! the collector is slow, gone or hostile. The program was built with the feature `otlp`.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use serde_json::json;
use tokio::time::Instant;

use self::collector::{Collector, Manner, text};
use self::wire::{ExportRequest, MetricPoints, OtlpAttribute, OtlpMetric, OtlpResource, OtlpSpan};
use crate::harness::Testbed;
use crate::harness::agent::TOKEN;
use crate::harness::chas::Chas;
use crate::stand::{SOON, Stand, eventually};

mod collector;
mod strangers;
mod tls;
#[path = "../../src/otlp/wire.rs"]
#[allow(dead_code, unreachable_pub, reason = "a collector reads a part of it")]
mod wire;

/// Value of a variable of a container, which no collector is to see.
const PLANTED: &str = "planted-s3cret";

fn number(span: &OtlpSpan, key: &str) -> i64 {
    text(&span.attributes, key).parse().expect("a number")
}

/// Numbers by series, as the text of `/metrics` writes them.
fn of_text(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    });
    series.collect()
}

/// The same of what the collector got.
fn of_metrics(metrics: &[OtlpMetric]) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let mut put = |name: String, attributes: &[OtlpAttribute], le: Option<String>, value: f64| {
        let le = le.map(|le| format!("le=\"{le}\""));
        let labels = attributes.iter();
        let labels = labels.map(|one| format!("{}=\"{}\"", one.key, text(attributes, &one.key)));
        let labels = le.into_iter().chain(labels).collect::<Vec<_>>().join(",");
        let labels = if labels.is_empty() {
            labels
        } else {
            format!("{{{labels}}}")
        };
        series.insert(format!("{name}{labels}"), value);
    };
    for metric in metrics {
        let name = &metric.name;
        match metric.points.as_ref().unwrap() {
            MetricPoints::Gauge(gauge) => gauge.points.iter().for_each(|point| {
                put(name.clone(), &point.attributes, None, point.value.unwrap());
            }),
            MetricPoints::Sum(sum) => sum.points.iter().for_each(|point| {
                assert!(
                    point.start_time > 0 && point.start_time <= point.time,
                    "{name}"
                );
                put(
                    format!("{name}_total"),
                    &point.attributes,
                    None,
                    point.value.unwrap(),
                );
            }),
            MetricPoints::Histogram(histogram) => histogram.points.iter().for_each(|point| {
                let of = &point.attributes;
                put(format!("{name}_sum"), of, None, point.sum.unwrap());
                #[expect(clippy::cast_precision_loss, reason = "counts of a test are small")]
                put(format!("{name}_count"), of, None, point.count as f64);
                let ends = point.bounds.iter().map(|bound| format!("{bound:?}"));
                let mut smaller = 0;
                for (end, count) in ends.chain(["+Inf".to_owned()]).zip(&point.bucket_counts) {
                    smaller += count;
                    #[expect(clippy::cast_precision_loss, reason = "counts of a test are small")]
                    put(format!("{name}_bucket"), of, Some(end), smaller as f64);
                }
                assert_eq!(smaller, point.count, "{name}");
            }),
        }
    }
    series
}

fn is_of_this_node(resource: Option<&OtlpResource>, node: &str) {
    let attributes = &resource.expect("a resource").attributes;
    for (key, value) in [
        ("service.name", "chas-node-agent"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("chas.node.id", node),
        ("deployment.environment.name", "a test"),
    ] {
        assert_eq!(text(attributes, key), value, "{key}");
    }
    assert!(!text(attributes, "host.name").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_is_seen_by_its_spans_and_the_metrics_are_those_of_a_scrape() {
    let collector = Collector::start(Manner::Takes).await;
    let bed = Testbed::new();
    let chas = Chas::start(&bed.namespace);
    let (url, node) = (chas.url(), bed.namespace.clone());
    let variables = [
        ("CHAS_API_URL", url.as_str()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k%203y"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=a%20test",
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ];
    let mut stand = Stand::with(bed, &variables).await;
    let web = stand.web("web", &json!({"environment": {"KEY": PLANTED}}));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [("traceparent", parent.as_str()), ("x-request-id", "req-1")];
    let deploy = "/containers/deploy";
    let (status, ..) = stand
        .agent
        .ask_with("POST", deploy, &headers, Some(&web))
        .await;
    assert!(status < 300, "{status}");
    let shown = stand.agent.wait_status("web", "running", SOON).await;
    let request = [("chas.request_id", "req-1")];
    let request = collector.span("POST /containers/deploy", &request).await;
    assert_eq!(request.trace_id[..2], [0x0a, 0xf7]);
    assert_eq!(request.parent_span_id[..2], [0xb7, 0xad]);
    assert_eq!(
        number(&request, "http.response.status_code"),
        i64::from(status)
    );
    let of_web = [("chas.container.name", "web")];
    let pull = collector.span("step pull", &of_web).await;
    assert_eq!(
        text(&pull.attributes, "chas.container.id"),
        shown["id"].as_str().unwrap()
    );
    let launch = collector.span("step launch", &of_web).await;
    let image = [("chas.image", stand.image("web:1"))];
    let image = image.each_ref().map(|(key, value)| (*key, value.as_str()));
    let image = collector.span("pull image", &image).await;
    assert_eq!(
        (&image.trace_id, &image.parent_span_id),
        (&pull.trace_id, &pull.span_id)
    );
    assert!(image.start_time >= pull.start_time && image.end_time <= pull.end_time);
    assert!(number(&image, "chas.image.received_bytes") >= 0);
    assert!(launch.start_time >= pull.end_time && launch.status.is_none());

    let none = json!({"name": "none", "image": stand.image("none:1")});
    stand.agent.deploy(&none).await;
    let reason = [
        ("chas.container.name", "none"),
        ("chas.reason", "ImageNotFound"),
    ];
    let failed = collector.span("step pull", &reason).await;
    assert_eq!(failed.status.unwrap().code, 2);
    collector.span("pull image", &reason[1..]).await;
    for call in ["register", "report", "poll"] {
        let span = collector
            .span(&format!("chas {call}"), &[("chas.call", call)])
            .await;
        assert_eq!(span.kind, 3);
    }

    same_as_a_scrape(&stand, &collector).await;
    // A query is told to nobody.
    stand
        .agent
        .ask_with("GET", &format!("/containers?{PLANTED}=1"), &[], None)
        .await;
    // The last spans and numbers come with the end.
    let last = [("x-request-id", "req-last")];
    stand
        .agent
        .ask_with("GET", "/containers", &last, None)
        .await;
    let before = collector.bodies("/v1/metrics").len();
    stand.agent.terminate();
    let is_last = |span: &OtlpSpan| text(&span.attributes, "chas.request_id") == "req-last";
    assert!(
        collector.spans().iter().any(is_last),
        "{}",
        stand.agent.log()
    );
    assert!(collector.bodies("/v1/metrics").len() > before);
    for body in collector.bodies("/v1/traces") {
        let request = ExportRequest::<OtlpSpan>::decode(body).unwrap();
        is_of_this_node(request.resources[0].resource.as_ref(), &node);
    }
    for (path, headers, body) in collector.all() {
        assert_eq!(headers["content-type"], "application/x-protobuf", "{path}");
        assert_eq!(headers["x-key"], "k 3y", "{path}");
        for secret in [PLANTED, TOKEN] {
            let found = body
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "{path} tells {secret}");
        }
    }
    stand.agent.start_again().await;
    stand.end().await;
}

/// Compares what was the same before and after a sending with what was sent.
async fn same_as_a_scrape(stand: &Stand, collector: &Collector) {
    let scrape = async || {
        let accept = [("accept", "application/openmetrics-text")];
        let (status, _, text) = stand.agent.ask_with("GET", "/metrics", &accept, None).await;
        assert_eq!(status, 200);
        of_text(text.as_str().expect("text"))
    };
    let count = || collector.bodies("/v1/metrics").len();
    let before = scrape().await;
    let sent = count();
    // The first may have been collected before.
    eventually("metrics are sent", async || count() >= sent + 2).await;
    let body = collector.bodies("/v1/metrics").swap_remove(sent + 1);
    let after = scrape().await;
    let request = ExportRequest::<OtlpMetric>::decode(body).unwrap();
    let metrics = &request.resources[0].scopes[0].items;
    let told = of_metrics(metrics);
    let mut same = 0;
    for (series, value) in before
        .iter()
        .filter(|(series, value)| after.get(*series) == Some(value))
    {
        assert_eq!(told.get(series), Some(value), "{series} of\n{told:#?}");
        same += 1;
    }
    assert!(same > 200, "{same} of {} series", before.len());
    assert!(
        told.len() >= before.len(),
        "{} of {}",
        told.len(),
        before.len()
    );
    let running = told["chas_containers{status=\"running\"}"];
    assert!((running - 1.0).abs() < f64::EPSILON, "{running}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_floods_or_is_away_delays_nothing_and_gets_the_rest_when_it_is_back()
{
    let collector = Collector::start(Manner::Hangs).await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
    ];
    let mut stand = Stand::with(Testbed::new(), &variables).await;
    eventually("it is called", async || collector.calls() > 1).await;
    for (manner, name) in [
        (Manner::Hangs, "hangs"),
        (Manner::Floods, "floods"),
        (Manner::IsAway, "away"),
    ] {
        collector.behave(manner);
        let (calls, begun) = (collector.calls(), Instant::now());
        stand
            .agent
            .deploy_and_wait(&stand.web(name, &json!({})))
            .await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{manner:?}: {:?}",
            begun.elapsed()
        );
        eventually("it is called", async || collector.calls() > calls).await;
    }
    let log = stand.agent.log();
    let told = log
        .lines()
        .filter(|line| line.contains("OTLP export failed"))
        .count();
    assert!((1..=6).contains(&told), "{told} lines in\n{log}");
    // Spans that no answer was had for wait.
    collector.behave(Manner::Takes);
    collector
        .span("step launch", &[("chas.container.name", "away")])
        .await;
    eventually("it is told", async || {
        stand.agent.log().contains("OTLP export works again")
    })
    .await;
    collector.behave(Manner::Hangs);
    stand.agent.get("/containers").await;
    let begun = Instant::now();
    stand.agent.terminate();
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    stand.agent.set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let calls = collector.calls();
    stand.agent.start_again().await;
    let refusal = "OTLP export refused; nothing is sent fault=\"OTEL_EXPORTER_OTLP_PROTOCOL is";
    let log = stand.agent.log();
    assert_eq!(log.matches(refusal).count(), 1, "{log}");
    stand.end().await;
    assert_eq!(collector.calls(), calls, "nothing is sent");
}
