use serde_json::json;

use super::*;
use crate::spec::parse::deploy;

fn with(health: &Value, more: &Value) -> Result<Option<Health>, Vec<(String, String)>> {
    let mut body = json!({"name": "a", "image": "nginx", "health": health});
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    let read = deploy(&body).map(|deploy| deploy.spec.health);
    read.map_err(|faults| {
        let pair = |fault: crate::spec::fields::FieldError| (fault.field, fault.message);
        faults.into_iter().map(pair).collect()
    })
}

#[test]
fn each_kind_of_probe_is_read_with_its_defaults_and_shown_again() {
    for (health, shown) in [
        (json!(null), json!(null)),
        (json!("none"), json!("none")),
        (
            json!({"tcp": {"port": 65535}}),
            json!({"tcp": {"port": 65535}, "interval": "10s", "timeout": "2s", "retries": 3, "start_period": "0s", "success_threshold": 1, "on_failure": "none"}),
        ),
        (
            json!({"http": {"port": 80}, "interval": 1, "timeout": "100ms", "retries": 1, "start_period": "1h", "success_threshold": 2, "on_failure": "restart"}),
            json!({"http": {"path": "/", "port": 80, "headers": {}, "status": "200-399"}, "interval": "1s", "timeout": "100ms", "retries": 1, "start_period": "1h", "success_threshold": 2, "on_failure": "restart"}),
        ),
        (
            json!({"http": {"path": "/a?b=c", "port": 1, "headers": {"Host": "a.example"}, "status": 204}, "interval": "1h", "timeout": "1m"}),
            json!({"http": {"path": "/a?b=c", "port": 1, "headers": {"Host": "a.example"}, "status": "204-204"}, "interval": "1h", "timeout": "1m", "retries": 3, "start_period": "0s", "success_threshold": 1, "on_failure": "none"}),
        ),
        (
            json!({"exec": {"command": ["a", "", "b c"]}}),
            json!({"exec": {"command": ["a", "", "b c"]}, "interval": "10s", "timeout": "2s", "retries": 3, "start_period": "0s", "success_threshold": 1, "on_failure": "none"}),
        ),
    ] {
        let read = with(&health, &json!({})).unwrap();
        assert_eq!(to_json(read.as_ref()), shown);
        assert_eq!(with(&shown, &json!({})).unwrap(), read);
        let stored = serde_json::to_value(&read).unwrap();
        let again: Option<Health> = serde_json::from_value(stored).unwrap();
        assert_eq!(again, read);
    }
}

#[test]
fn every_fault_of_a_health_section_is_named_at_once() {
    let long = "x".repeat(3000);
    for (health, faults) in [
        (json!("NONE"), vec![("health", "\"none\"")]),
        (json!(true), vec![("health", "must be an object")]),
        (json!([]), vec![("health", "must be an object")]),
        (json!({}), vec![("health.http", "exactly one")]),
        (
            json!({"http": {}, "tcp": {}, "exec": {}}),
            vec![
                ("health.http", "exactly one"),
                ("health.http.port", "is required"),
                ("health.tcp.port", "is required"),
                ("health.exec.command", "is required"),
            ],
        ),
        (
            json!({"tcp": {"port": 0, "host": "x"}, "interval": "10ms", "timeout": "99ms", "retries": 0, "start_period": "2h", "success_threshold": 101, "on_failure": "reboot", "intervall": 1}),
            vec![
                ("health.tcp.port", "1 to 65535"),
                ("health.tcp.host", "unknown"),
                ("health.interval", "1s at least"),
                ("health.timeout", "100ms at least"),
                ("health.retries", "1 to 100"),
                ("health.start_period", "1h at most"),
                ("health.success_threshold", "1 to 100"),
                ("health.on_failure", "\"none\" or \"restart\""),
                ("health.intervall", "did you mean \"interval\""),
            ],
        ),
        (
            json!({"tcp": {"port": 65536}, "interval": "2h", "timeout": "2m"}),
            vec![
                ("health.tcp.port", "1 to 65535"),
                ("health.interval", "1h at most"),
                ("health.timeout", "1m at most"),
            ],
        ),
        (
            json!({"http": {"port": "80", "path": "x", "status": "2xx", "headers": {"A b": "1", "connection": "close", "X": "a\r\nY: b", "x": "1", "Z": 1}}}),
            vec![
                ("health.http.path", "must begin with"),
                ("health.http.port", "whole number"),
                ("health.http.headers.Z", "must be a string"),
                ("health.http.headers.A b", "no name"),
                ("health.http.headers.X", "visible ASCII"),
                ("health.http.headers.connection", "agent's own"),
                ("health.http.headers.x", "twice"),
                ("health.http.status", "range"),
            ],
        ),
        (
            json!({"http": {"port": 80, "path": "/ HTTP/1.1\r\nX: y", "status": "399-200"}}),
            vec![
                ("health.http.path", "visible ASCII"),
                ("health.http.status", "range"),
            ],
        ),
        (
            json!({"exec": {"command": [long]}}),
            vec![("health.exec.command", "2 KiB")],
        ),
        (
            json!({"exec": {"command": [""]}}),
            vec![("health.exec.command", "begin with the name")],
        ),
        (
            json!({"exec": {"command": "true"}}),
            vec![("health.exec.command", "array")],
        ),
    ] {
        let found = with(&health, &json!({})).unwrap_err();
        assert_eq!(found.len(), faults.len(), "{health}: {found:#?}");
        for ((field, message), (expected, part)) in found.iter().zip(faults) {
            assert_eq!(field, expected, "{found:#?}");
            assert!(message.contains(part), "{found:#?}");
        }
    }
}

#[test]
fn a_probe_that_cannot_be_asked_or_not_be_followed_is_refused() {
    let tcp = json!({"tcp": {"port": 80}, "on_failure": "restart"});
    for (health, more, field) in [
        (&tcp, json!({"network": "none"}), Some("health.tcp")),
        (
            &tcp,
            json!({"restart": {"policy": "never"}}),
            Some("health.on_failure"),
        ),
        (&tcp, json!({"network": "host"}), None),
        (
            &json!({"exec": {"command": ["a"]}}),
            json!({"network": "none"}),
            None,
        ),
        (
            &json!("none"),
            json!({"network": "none", "restart": {"policy": "never"}}),
            None,
        ),
    ] {
        let found = with(health, &more).err().unwrap_or_default();
        let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, field.into_iter().collect::<Vec<_>>());
    }
}

fn of_image(healthcheck: &Value) -> Result<Option<HealthCheck>, String> {
    HealthCheck::of_image(healthcheck, &[])
}

#[test]
fn an_images_healthcheck_is_read_as_docker_reads_it() {
    for none in [
        json!(null),
        json!({}),
        json!({"Test": null, "Interval": 1}),
        json!({"Test": []}),
        json!({"Test": ["NONE"]}),
    ] {
        assert_eq!(of_image(&none), Ok(None), "{none}");
    }
    let check = of_image(&json!({"Test": ["CMD", "pg_isready", "-q"]})).unwrap();
    let shown = check.unwrap().to_json();
    let usual = json!({"exec": {"command": ["pg_isready", "-q"]}, "interval": "30s", "timeout": "30s", "retries": 3, "start_period": "0s", "success_threshold": 1, "on_failure": "none"});
    assert_eq!(shown, usual);
    let said = json!({"Test": ["CMD-SHELL", "curl -f x || exit 1"], "Interval": 5_000_000_000_u64, "Timeout": 1_000_000_000, "StartPeriod": 7_000_000_000_u64, "Retries": 5});
    let check = of_image(&said).unwrap().unwrap();
    let command = ["/bin/sh", "-c", "curl -f x || exit 1"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(check.probe, Probe::Exec { command });
    let times = [check.interval, check.timeout, check.start_period].map(|time| time.as_secs());
    assert_eq!((times, check.retries), ([5, 1, 7], 5));
    let shell = ["/bin/bash", "-lc"].map(str::to_owned);
    let check = HealthCheck::of_image(&said, &shell).unwrap().unwrap();
    let Probe::Exec { command } = check.probe else {
        panic!()
    };
    assert_eq!(command[..2], shell);
}

#[test]
fn what_an_image_says_of_its_health_is_bounded_and_never_more_than_a_fault() {
    for (bad, part) in [
        (json!([]), "no object"),
        (json!({"Test": "true"}), "no list"),
        (json!({"Test": ["CMD", 1]}), "no list"),
        (json!({"Test": ["CMD"]}), "without a command"),
        (json!({"Test": ["CMD", ""]}), "without a command"),
        (json!({"Test": ["CMD-SHELL"]}), "without a command"),
        (json!({"Test": ["HTTP", "x"]}), "unknown kind"),
        (json!({"Test": ["CMD", "a\0"]}), "NUL"),
        (json!({"Test": ["CMD", "x".repeat(4000)]}), "2 KiB"),
        (json!({"Test": vec!["CMD"; 200]}), "100 words"),
    ] {
        let fault = of_image(&bad).unwrap_err();
        assert!(fault.contains(part), "{bad}: {fault}");
    }
    let odd = json!({"Test": ["CMD", "a"], "Interval": 1, "Timeout": u64::MAX, "StartPeriod": u64::MAX, "Retries": u64::MAX});
    let check = of_image(&odd).unwrap().unwrap();
    assert_eq!(
        (check.interval, check.timeout),
        (Duration::from_secs(5), TIMEOUT_MAX)
    );
    assert_eq!(
        (check.start_period, check.retries),
        (START_PERIOD_MAX, COUNT_MAX)
    );
    let negative = json!({"Test": ["CMD", "a"], "Interval": -5, "Retries": "x"});
    assert_eq!(of_image(&negative).unwrap().unwrap().retries, 3);
}
