use super::*;

const SECOND: u64 = 1_000_000_000;

const TEXT: &str = "\
# HELP chas_agent_build The agent that runs.
# TYPE chas_agent_build info
chas_agent_build_info{version=\"0.1\"} 1
# HELP chas_alarm 1 while this alarm stands, else 0.
# TYPE chas_alarm gauge
chas_alarm{alarm=\"DiskFull\"} 0
# HELP chas_step_duration_seconds How long.
# TYPE chas_step_duration_seconds histogram
# UNIT chas_step_duration_seconds seconds
chas_step_duration_seconds_sum{step=\"pull\"} 2.5
chas_step_duration_seconds_count{step=\"pull\"} 3
chas_step_duration_seconds_bucket{le=\"0.5\",step=\"pull\"} 1
chas_step_duration_seconds_bucket{le=\"2.0\",step=\"pull\"} 1
chas_step_duration_seconds_bucket{le=\"+Inf\",step=\"pull\"} 3
chas_step_duration_seconds_sum{step=\"launch\"} 0.25
chas_step_duration_seconds_count{step=\"launch\"} 1
chas_step_duration_seconds_bucket{le=\"0.5\",step=\"launch\"} 1
chas_step_duration_seconds_bucket{le=\"2.0\",step=\"launch\"} 1
chas_step_duration_seconds_bucket{le=\"+Inf\",step=\"launch\"} 1
# HELP chas_image_received_bytes Layers.
# TYPE chas_image_received_bytes counter
# UNIT chas_image_received_bytes bytes
chas_image_received_bytes_total 4096
# HELP chas_node_boot_time_seconds When.
# TYPE chas_node_boot_time_seconds gauge
# UNIT chas_node_boot_time_seconds seconds
chas_node_boot_time_seconds 40.0
# HELP chas_node_network_sent_bytes Bytes.
# TYPE chas_node_network_sent_bytes counter
# UNIT chas_node_network_sent_bytes bytes
chas_node_network_sent_bytes_total{interface=\"a\\\"\\\\\\n}, b\"} 1e+3
# HELP chas_container_restarts Restarts.
# TYPE chas_container_restarts counter
chas_container_restarts_total{container=\"web\"} 2.0
# EOF
";

fn metric<'m>(metrics: &'m [OtlpMetric], name: &str) -> &'m OtlpMetric {
    metrics.iter().find(|metric| metric.name == name).unwrap()
}

fn points(metric: &OtlpMetric) -> &[NumberPoint] {
    match metric.points.as_ref().unwrap() {
        MetricPoints::Gauge(gauge) => &gauge.points,
        MetricPoints::Sum(sum) => {
            assert!(sum.is_monotonic && sum.temporality == CUMULATIVE);
            &sum.points
        }
        MetricPoints::Histogram(_) => panic!("{metric:?}"),
    }
}

#[test]
fn every_family_is_there_with_its_kind_its_unit_and_its_numbers() {
    let mut converter = MetricConverter::new(50 * SECOND);
    let metrics = converter.convert(TEXT, 60 * SECOND);
    assert_eq!(metrics.len(), 7);
    let build = &points(metric(&metrics, "chas_agent_build_info"))[0];
    let version = OtlpAttribute::text("version", "0.1");
    assert_eq!(
        (build.value, &build.attributes),
        (Some(1.0), &vec![version])
    );
    let alarm = &points(metric(&metrics, "chas_alarm"))[0];
    assert_eq!((alarm.value, alarm.start_time), (Some(0.0), 0));
    let received = metric(&metrics, "chas_image_received_bytes");
    assert_eq!(
        (received.unit.as_str(), received.description.as_str()),
        ("By", "Layers.")
    );
    let point = &points(received)[0];
    assert_eq!((point.value, point.start_time), (Some(4096.0), 50 * SECOND));
    assert_eq!(point.time, 60 * SECOND);
    let sent = &points(metric(&metrics, "chas_node_network_sent_bytes"))[0];
    assert_eq!((sent.value, sent.start_time), (Some(1000.0), 40 * SECOND));
    let strange = OtlpAttribute::text("interface", "a\"\\\n}, b");
    assert_eq!(sent.attributes, [strange]);
    let steps = metric(&metrics, "chas_step_duration_seconds");
    assert_eq!(steps.unit, "s");
    let Some(MetricPoints::Histogram(steps)) = &steps.points else {
        panic!("{steps:?}");
    };
    let told: Vec<_> = steps
        .points
        .iter()
        .map(|point| (point.count, point.sum))
        .collect();
    assert_eq!(told, [(3, Some(2.5)), (1, Some(0.25))]);
    let pull = &steps.points[0];
    assert_eq!(
        (&pull.bucket_counts[..], &pull.bounds[..]),
        (&[1, 0, 2][..], &[0.5, 2.0][..])
    );
    assert_eq!(pull.attributes, [OtlpAttribute::text("step", "pull")]);
    assert_eq!(pull.start_time, 50 * SECOND);
}

#[test]
fn a_counter_of_a_container_counts_from_where_it_was_seen_or_began_anew() {
    let mut converter = MetricConverter::new(50 * SECOND);
    let mut start = |value: Option<&str>, now: u64| {
        let text = match value {
            Some(value) => TEXT.replace("\"web\"} 2.0", &format!("\"web\"}} {value}")),
            None => String::new(),
        };
        let metrics = converter.convert(&text, now * SECOND);
        let restarts = metrics
            .iter()
            .find(|metric| metric.name == "chas_container_restarts");
        restarts.map(|restarts| points(restarts)[0].start_time / SECOND)
    };
    assert_eq!(start(Some("2.0"), 60), Some(60));
    assert_eq!(start(Some("2.0"), 70), Some(60));
    assert_eq!(start(Some("3.0"), 80), Some(60));
    assert_eq!(start(Some("1.0"), 90), Some(80), "it began anew since then");
    assert_eq!(start(Some("1.5"), 100), Some(80));
    assert_eq!(start(None, 110), None);
    assert_eq!(start(Some("1.5"), 120), Some(120), "it was forgotten");
    assert_eq!(start(Some("2.0"), 30), Some(30), "the clock was set back");
}

#[test]
fn a_text_that_is_none_gives_nothing_and_ends() {
    let mut converter = MetricConverter::new(0);
    for text in [
        "",
        "# EOF",
        "x{",
        "# TYPE a gauge\na{b",
        "# TYPE a gauge\na{b=\"c\\",
        "# TYPE a",
    ] {
        let metrics = converter.convert(text, 1);
        assert!(
            metrics.iter().all(|metric| points(metric).is_empty()),
            "{text:?}"
        );
    }
}
