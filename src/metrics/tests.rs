use super::*;

#[test]
fn every_number_is_shown_under_its_name_with_its_help() {
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
