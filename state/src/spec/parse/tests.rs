use std::time::Duration;

use serde_json::json;

use super::*;
use crate::desired::RunState;
use crate::quantity::{ByteCount, CpuMillis};
use crate::spec::{PortSpec, Protocol, Resources, Signal, Stop};

#[track_caller]
fn check(body: &Value, faults: &[(&str, &str)]) {
    let mut whole = json!({"name": "web", "image": "nginx"});
    whole
        .as_object_mut()
        .unwrap()
        .extend(body.as_object().unwrap().clone());
    let found: Vec<_> = deploy(&whole).err().unwrap_or_default();
    assert_eq!(found.len(), faults.len(), "{found:#?}");
    for (error, (field, part)) in found.iter().zip(faults) {
        assert_eq!(&error.field, field, "{found:#?}");
        assert!(error.message.contains(part), "{found:#?}");
    }
}

#[test]
fn the_specifications_example_is_taken() {
    let body = json!({
      "image": "nginx:latest", "name": "web-server-1",
      "exposed_ports": [{"container": 80, "protocol": "tcp"}],
      "resources": {"cpu": "0.5", "memory": "512m"},
      "environment": {"ENV_VAR": "value"}
    });
    let deploy = deploy(&body).unwrap();
    assert_eq!(deploy.name.as_str(), "web-server-1");
    assert_eq!(
        deploy.spec.image.to_string(),
        "docker.io/library/nginx:latest"
    );
    assert_eq!(
        deploy.spec.resources,
        Resources {
            cpu: Some(CpuMillis(500)),
            memory: Some(ByteCount(512 << 20)),
            ..Resources::default()
        }
    );
    assert_eq!(
        deploy.spec.ports,
        [PortSpec {
            container: 80,
            protocol: Protocol::Tcp,
            host: None,
            host_ip: None
        }]
    );
}

#[test]
fn every_supported_field_is_taken() {
    let body = json!({
      "name": "a", "image": "b", "command": ["nginx"], "args": ["-g", "daemon off;"], "working_dir": "/", "user": "1000:1000",
      "exposed_ports": [{"container": 80, "host": 8080, "host_ip": "127.0.0.1"}, {"container": 80, "protocol": "udp", "host_ip": "0.0.0.0"}],
      "labels": {"team": "web"}, "state": "stopped", "priority": 100, "revision": 7, "restart": {"policy": "on-failure", "max_retries": null},
      "stop": {"signal": "quit", "timeout": 30}, "security": {"read_only_rootfs": true, "capabilities": {"add": ["kill"], "drop": ["ALL"]}},
      "logs": {"max_size": "1m", "max_files": 2}, "image_pull": "always", "resources": {"cpu": 2, "memory": 6291456, "pids": 1}, "health": null
    });
    let deploy = deploy(&body).unwrap();
    assert_eq!(
        (deploy.run, deploy.priority, deploy.revision),
        (RunState::Stopped, 100, Some(7))
    );
    assert_eq!(
        deploy.spec.stop,
        Stop {
            signal: "SIGQUIT".parse::<Signal>().ok(),
            timeout: Duration::from_secs(30)
        }
    );
    assert_eq!(deploy.spec.security.capabilities.0, ["CAP_KILL"]);
    assert_eq!(deploy.spec.ports[1].host_ip, None);
    assert_eq!(deploy.spec.resources.cpu, Some(CpuMillis(2000)));
}

#[test]
fn every_fault_is_named_at_once() {
    let body = json!({
      "name": "Web", "image": "a b", "resources": {"memory": "1m", "cpu": "much", "swp": "1g"},
      "exposed_ports": [{"container": 0}, {"protocol": "sctp"}, 80], "enviroment": {}, "volumes": [{}], "health": {}
    });
    let fields: Vec<_> = deploy(&body)
        .unwrap_err()
        .into_iter()
        .map(|error| error.field)
        .collect();
    let expected = [
        "name",
        "image",
        "exposed_ports[0].container",
        "exposed_ports[1].container",
        "exposed_ports[1].protocol",
        "exposed_ports[2]",
        "resources.cpu",
        "resources.memory",
        "resources.swp",
        "volumes[0].path",
        "volumes[0].volume",
        "health.http",
        "enviroment",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn bodies_that_are_no_objects_and_empty_ones_are_refused() {
    for body in [json!(null), json!([]), json!("x"), json!(1)] {
        assert_eq!(
            deploy(&body).unwrap_err(),
            [FieldError {
                field: String::new(),
                message: "must be an object".to_owned()
            }]
        );
    }
    let fields: Vec<_> = deploy(&json!({}))
        .unwrap_err()
        .into_iter()
        .map(|error| error.field)
        .collect();
    assert_eq!(fields, ["name", "image"]);
}

#[test]
fn each_rule_of_what_runs_has_its_own_sentence() {
    check(
        &json!({"comand": ["x"]}),
        &[("comand", "did you mean \"command\"?")],
    );
    check(
        &json!({"on_disconnect": {"stop_after": "9s"}}),
        &[("on_disconnect.stop_after", "must be 10s at least")],
    );
    check(&json!({"init": "yes"}), &[("init", "true or false")]);
    check(&json!({"init": false}), &[]);
    check(
        &json!({"interactive": true}),
        &[("interactive", "give restart the policy \"never\"")],
    );
    check(
        &json!({"interactive": true, "restart": {"policy": "on-failure"}, "schedule": "@daily"}),
        &[
            ("interactive", "waits for a caller"),
            ("interactive", "no caller at the times"),
        ],
    );
    check(
        &json!({"interactive": true, "restart": {"policy": "never"}}),
        &[],
    );
    for hostile in [json!("true"), json!(1), json!([true]), json!({"tty": true})] {
        check(
            &json!({"interactive": hostile}),
            &[("interactive", "true or false")],
        );
    }
    check(
        &json!({"tty": true, "stdin_open": true}),
        &[
            ("tty", "\"interactive\": true"),
            ("stdin_open", "\"interactive\": true"),
        ],
    );
    check(
        &json!({"on_disconnect": {"stop": "1m", "stop_after": "400d"}}),
        &[
            ("on_disconnect.stop_after", "a duration of 30days"),
            ("on_disconnect.stop", "did you mean \"stop_after\"?"),
        ],
    );
    check(&json!({"on_disconnect": {"stop_after": null}}), &[]);
    check(
        &json!({"on_disconnect": "never"}),
        &[("on_disconnect", "must be an object")],
    );
    check(
        &json!({"exposed_ports": [{"container": 1}, {"container": 1}]}),
        &[("exposed_ports[1].container", "already listed")],
    );
    for twice in [
        json!([{"container": 1, "host": 5}, {"container": 1, "host": 6}]),
        json!([{"container": 1, "host": 5, "host_ip": "10.0.0.1"}, {"container": 1, "host": 5, "host_ip": "10.0.0.2"}]),
        json!([{"container": 1}, {"container": 1, "host": 5}]),
    ] {
        check(&json!({"exposed_ports": twice}), &[]);
    }
    check(
        &json!({"environment": {"A": 1, "B": "x", "C": null}, "labels": {"a": true}}),
        &[
            ("environment.A", "must be a string"),
            ("environment.C", "?reveal=true"),
            ("labels.a", "must be a string"),
        ],
    );
    check(
        &json!({"exposed_ports": [{"container": 1, "host": 5}, {"container": 2, "host": 5}]}),
        &[("exposed_ports[1].host", "already listed")],
    );
    check(
        &json!({"exposed_ports": [{"container": 1, "host_ip": "::1"}]}),
        &[("exposed_ports[0].host_ip", "127.0.0.1")],
    );
    for local in ["fe80::1", "::ffff:192.0.2.1", "ff02::1"] {
        check(
            &json!({"exposed_ports": [{"container": 1, "host_ip": local}]}),
            &[("exposed_ports[0].host_ip", "global")],
        );
    }
    for good in ["::", "2001:db8::1", "fd00::1"] {
        check(
            &json!({"exposed_ports": [{"container": 1, "host_ip": good}]}),
            &[],
        );
    }
    check(
        &json!({"resources": {"cpu": 0.001}}),
        &[("resources.cpu", "0.01")],
    );
    check(
        &json!({"resources": {"memory": "5m"}}),
        &[("resources.memory", "6m")],
    );
    check(
        &json!({"resources": {"pids": 0}}),
        &[("resources.pids", "1 to 4194304")],
    );
    check(
        &json!({"resources": {"cpu": 1, "cpu_reservation": "1.5", "memory": "64m", "memory_reservation": "65m"}}),
        &[
            (
                "resources.cpu_reservation",
                "1.5 must not be above the limit cpu, 1",
            ),
            (
                "resources.memory_reservation",
                "above the limit memory, 64m",
            ),
        ],
    );
    check(
        &json!({"resources": {"swap": "0", "cpu_shares": 1, "cpuset": "3-1", "io": {"weight": 9, "rate": 1}}}),
        &[
            ("resources.cpu_shares", "2 to 262144"),
            ("resources.cpuset", "\"0-3\""),
            ("resources.io.weight", "10 to 1000"),
            ("resources.io.rate", "unknown field"),
            ("resources.swap", "requires memory"),
        ],
    );
    check(
        &json!({"resources": {"io": {"read_bps": {"/dev/sda": "1k", "/dev/../sda": "1m", "sdb": "1m"}, "write_bps": 7,
            "read_iops": {"/dev/sda": 0}, "write_iops": {"/dev/": 1, "/dev/sda": "1.5"}}}}),
        &[
            ("resources.io.read_bps./dev/sda", "at least 4k"),
            ("resources.io.read_bps", "\"/dev/sda\""),
            ("resources.io.read_bps", "\"/dev/sda\""),
            ("resources.io.write_bps", "an object"),
            ("resources.io.read_iops./dev/sda", "1 to 1000000000"),
            ("resources.io.write_iops", "\"/dev/sda\""),
            ("resources.io.write_iops./dev/sda", ""),
        ],
    );
    check(
        &json!({"ulimits": {"nofile": 63, "nproc": "15:16", "stack": "256k", "data": 1, "core": 0}}),
        &[
            ("ulimits.nofile", "at least 64"),
            ("ulimits.nproc", "at least 16"),
            ("ulimits.stack", "1024:65536"),
            ("ulimits.data", "at least 33554432"),
        ],
    );
    check(
        &json!({"ulimits": {"nofile": "2:1", "nofiles": 1, "core": -1}, "shm_size": "0", "oom_score": -1}),
        &[
            ("ulimits.nofile", "1024:65536"),
            ("ulimits", "\"nofiles\" is not among core, cpu"),
            ("shm_size", "from 4k"),
            ("oom_score", "0 to 1000"),
        ],
    );
    check(
        &json!({"groups": ["a b"], "hostname": "a".repeat(64), "sysctls": {"vm.swappiness": "1", "net.core.somaxconn": 1},
            "dns": {"servers": ["::1"], "search": ["a b"], "options": ["x y"]}, "hosts": {"localhost": "10.0.0.1", "a": "b", "_": "1.1.1.1"}}),
        &[
            ("groups", "\"audio\""),
            ("sysctls.net.core.somaxconn", "quotes"),
            ("sysctls.vm.swappiness", "whole host's"),
            ("hostname", "such as \"db.internal\""),
            ("dns.servers", "IPv4"),
            ("dns.search", "253"),
            ("dns.options", "ndots:2"),
            ("hosts.a", "host-gateway"),
            ("hosts.localhost", "the container itself"),
        ],
    );
    check(
        &json!({"hostname": format!("{}.a", "a".repeat(63)), "hosts": {"a": "1.1.1.1", "A": "2.2.2.2"},
            "dns": {"servers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
        &[
            ("hostname", "63 characters"),
            ("dns.servers", "more than 3"),
            ("hosts.a", "already listed"),
        ],
    );
    check(
        &json!({"environment": {"A=B": "x"}}),
        &[("environment.A=B", "'='")],
    );
    check(
        &json!({"environment": {"A": 1}}),
        &[("environment.A", "quotes")],
    );
    check(
        &json!({"environment": {"A": "x".repeat(200_000)}}),
        &[("environment", "128 KiB")],
    );
    check(&json!({"command": []}), &[("command", "1 to 1000")]);
    check(&json!({"command": "nginx"}), &[("command", "array")]);
    check(
        &json!({"working_dir": "etc"}),
        &[("working_dir", "absolute")],
    );
    check(&json!({"user": "a:b:c"}), &[("user", "USER:GROUP")]);
}

#[test]
fn each_rule_of_how_it_runs_has_its_own_sentence() {
    check(
        &json!({"labels": {"chas.io/id": "x"}}),
        &[("labels.chas.io/id", "chas.io/")],
    );
    check(
        &json!({"state": "paused"}),
        &[("state", "\"running\" or \"stopped\"")],
    );
    check(&json!({"priority": 101}), &[("priority", "0 to 100")]);
    check(&json!({"revision": -1}), &[("revision", "whole number")]);
    check(
        &json!({"restart": {"policy": "never", "max_retries": 3}}),
        &[("restart.max_retries", "never")],
    );
    check(
        &json!({"stop": {"signal": "SIGFOO"}}),
        &[("stop.signal", "SIGTERM")],
    );
    check(
        &json!({"stop": {"timeout": "2h"}}),
        &[("stop.timeout", "1h at most")],
    );
    check(
        &json!({"security": {"capabilities": {"add": ["SYS_ADMIN", "ALL", "SYS_ADMN", "x y"]}}}),
        &[
            ("security.capabilities.add[3]", "is not the name"),
            ("security.capabilities.add[1]", "name each"),
            (
                "security.capabilities.add[2]",
                "CAP_SYS_ADMN is not a capability of Linux",
            ),
        ],
    );
    check(
        &json!({"security": {"capabilities": {"drop": ["x y"]}}}),
        &[("security.capabilities.drop[0]", "capability")],
    );
    check(
        &json!({"logs": {"max_size": "1k", "max_files": 0}}),
        &[("logs.max_size", "64k"), ("logs.max_files", "1 to 100")],
    );
    check(
        &json!({"image_pull": "sometimes"}),
        &[("image_pull", "\"always\"")],
    );
}

#[test]
fn capabilities_are_the_default_ones_less_those_dropped_and_those_added() {
    let has = |capabilities: Value| {
        let body = json!({"name": "a", "image": "b", "security": {"capabilities": capabilities}});
        deploy(&body).unwrap().spec.security.capabilities.0
    };
    let few = json!({"add": ["NET_ADMIN", "CAP_KILL"], "drop": ["ALL"]});
    assert_eq!(has(few), ["CAP_KILL", "CAP_NET_ADMIN"]);
    let more = has(json!({"add": ["sys_nice"], "drop": ["MKNOD"]}));
    assert_eq!(more.len(), crate::spec::DEFAULT_CAPABILITIES.len());
    assert!(more.is_sorted() && more.contains(&"CAP_SYS_NICE".to_owned()));
    let none = has(json!({"drop": ["SYS_NICE", "ALL"]}));
    assert!(none.is_empty(), "{none:?}");
}

#[test]
fn the_hash_tells_specs_apart_and_nothing_else() {
    let hash = |body: Value| deploy(&body).unwrap().spec.hash();
    let plain = hash(json!({"name": "a", "image": "nginx"}));
    assert_eq!(
        plain,
        hash(
            json!({"image": "docker.io/library/nginx:latest", "name": "b", "priority": 1, "revision": 3, "state": "stopped"})
        )
    );
    assert_ne!(
        plain,
        hash(json!({"name": "a", "image": "nginx", "args": []}))
    );
    assert_ne!(
        plain,
        hash(json!({"name": "a", "image": "nginx", "environment": {"A": "1"}}))
    );
}
