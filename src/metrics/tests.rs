use std::collections::BTreeSet;
use std::path::Path;

use state::alarm::Alarm;
use state::capacity::{Amounts, Capacity};
use state::reason::Reason;

use super::*;

/// Metrics of which every family has been counted.
fn counted() -> Metrics {
    let metrics = Metrics::new();
    metrics.containers("running", 2);
    metrics.containerd(true);
    metrics.store(true, 2);
    metrics.polled("taken");
    metrics.reported("away");
    metrics.link(true, 3, false);
    metrics.restarted();
    metrics.killed_for_memory(2);
    metrics.logger_lost();
    metrics.exec_begun();
    metrics.exec_begun();
    metrics.archived("written", "done", 5);
    metrics.show_volumes(2);
    metrics.exec_ended("exited", Duration::from_millis(70));
    metrics.step_done("launch", Duration::from_millis(150));
    metrics.step_failed("pull", "ImageNotFound");
    metrics.pulled(4096);
    metrics.tag_checked("moved");
    metrics.probed("tcp", "failure");
    metrics.judged("unhealthy");
    metrics.show_ready(3, 1);
    metrics.request("GET", "/containers/{id}", 404, Duration::from_millis(3));
    metrics.clone().written(Duration::from_millis(1));
    metrics
}

#[test]
fn every_number_is_shown_under_its_name_with_its_help() {
    let metrics = counted();
    let text = metrics.text();
    for line in [
        "chas_containers{status=\"running\"} 2",
        "chas_containerd_up 1",
        "chas_store_writable 1",
        "chas_store_losses 2",
        "chas_link_polls_total{result=\"taken\"} 1",
        "chas_link_reports_total{result=\"away\"} 1",
        "chas_link_up 1",
        "chas_link_pending_prune 3",
        "chas_cordoned 0",
        "chas_restarts_total 1",
        "chas_memory_kills_total 2",
        "chas_loggers_lost_total 1",
        "chas_execs_running 1",
        "chas_exec_duration_seconds_bucket{le=\"0.1\",result=\"exited\"} 1",
        "chas_step_duration_seconds_count{step=\"launch\"} 1",
        "chas_step_duration_seconds_bucket{le=\"0.2\",step=\"launch\"} 1",
        "chas_step_failures_total{step=\"pull\",reason=\"ImageNotFound\"} 1",
        "chas_image_received_bytes_total 4096",
        "chas_image_tag_checks_total{result=\"moved\"} 1",
        "chas_api_requests_total{method=\"GET\",route=\"/containers/{id}\",status=\"404\"} 1",
        "chas_api_request_duration_seconds_bucket{le=\"0.005\",method=\"GET\",route=\"/containers/{id}\"} 1",
        "chas_store_write_duration_seconds_count 1",
        "chas_archives_total{direction=\"written\",result=\"done\"} 1",
        "chas_archived_bytes_total{direction=\"written\"} 5",
        "chas_volumes 2",
        "chas_health_probes_total{probe=\"tcp\",result=\"failure\"} 1",
        "chas_health_changes_total{verdict=\"unhealthy\"} 1",
        "chas_containers_ready 3",
        "chas_containers_health_stale 1",
        concat!(
            "chas_agent_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line} is not in\n{text}"
        );
    }
    let of_kind = |kind: &str| text.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!((of_kind("# HELP"), of_kind("# TYPE")), (34, 34), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

/// Words of a text that begin so.
fn words<'t>(text: &'t str, beginning: &'t str) -> impl Iterator<Item = &'t str> {
    let is_of_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    text.split(move |char| !is_of_name(char))
        .filter(move |word| word.starts_with(beginning))
}

#[test]
fn rules_and_dashboards_name_only_metrics_and_reasons_that_there_are() {
    let metrics = counted();
    metrics.problem("Unauthorized");
    metrics.show_capacity(Capacity::ENDLESS, Amounts::NONE);
    metrics.job_ran("failed");
    metrics.show_connections("network", 1, 2);
    metrics.alarm("DiskFull", true);
    let text = metrics.text_with(&NodeNumbers::default(), &[], MetricsFormat::Text);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut known: BTreeSet<String> = types
        .flat_map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffixes: &[&str] = match kind {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
        })
        .collect();
    let process = [
        "cpu_seconds_total",
        "resident_memory_bytes",
        "open_fds",
        "start_time_seconds",
    ];
    known.extend(process.map(|name| format!("process_{name}")));
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/monitoring");
    let read = |file: &str| std::fs::read_to_string(monitoring.join(file)).unwrap();
    let rules = read("rules.yml");
    let recorded = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "));
    known.extend(recorded.map(ToOwned::to_owned));
    let mut seen = 0;
    for file in [
        "rules.yml",
        "alerts.yml",
        "dashboards/node.json",
        "dashboards/containers.json",
        "dashboards/fleet.json",
    ] {
        let text = read(file);
        for beginning in ["chas_", "chas:", "process_"] {
            for name in words(&text, beginning) {
                assert!(known.contains(name), "{file} names {name}");
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn each_alert_has_a_runbook_whose_codes_there_are() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/monitoring/alerts.yml");
    let alerts = std::fs::read_to_string(file).unwrap();
    let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
    let alarms = Alarm::ALL.iter().map(|alarm| alarm.as_str());
    let codes: BTreeSet<_> = reasons
        .chain(alarms)
        .chain(["Unavailable", "NodeFull"])
        .collect();
    let runbooks: Vec<_> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: "))
        .collect();
    assert_eq!(runbooks.len(), alerts.matches("- alert: ").count());
    let is_code = |word: &&str| {
        let upper = word.chars().filter(char::is_ascii_uppercase).count();
        upper > 1 && word.chars().any(|char| char.is_ascii_lowercase()) && *word != "CHaS"
    };
    for runbook in runbooks {
        let words = words(runbook, "").map(|word| word.trim_matches(':'));
        for code in words.filter(is_code) {
            assert!(codes.contains(code), "{code} in {runbook}");
        }
    }
}

#[test]
fn counters_that_are_not_the_agent_s_own_tell_by_their_name_since_when_they_count() {
    let metrics = counted();
    let own = metrics.text();
    let numbers = NodeNumbers::default();
    let text = metrics.text_with(&numbers, &[], MetricsFormat::OpenMetrics);
    let taken = &text[own.len() - "# EOF\n".len()..];
    let types = taken
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: Vec<_> = types
        .filter_map(|line| line.strip_suffix(" counter"))
        .collect();
    assert!(counters.len() > 20, "{counters:?}");
    // A collector is told so (`otlp`).
    let kernel = ["chas_node_", "chas_container_"];
    // The agent's own process began when the agent did.
    for name in counters.iter().filter(|name| !name.starts_with("process_")) {
        assert!(kernel.iter().any(|of| name.starts_with(of)), "{name}");
    }
    for line in own.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(!kernel.iter().any(|of| line.starts_with(of)), "{line}");
    }
}
