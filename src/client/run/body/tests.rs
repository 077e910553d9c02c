use clap::{FromArgMatches as _, Subcommand as _};

use super::*;
use crate::client::ClientOrder;

/// The body of a command line.
fn body(line: &[&str]) -> anyhow::Result<Value> {
    let command = ClientOrder::augment_subcommands(clap::Command::new("agent"));
    let words = ["agent", "run"].iter().chain(line);
    let matches = command.try_get_matches_from(words)?;
    let ClientOrder::Run(flags) = ClientOrder::from_arg_matches(&matches)? else {
        panic!()
    };
    flags.body("web", &|name| (name == "HOME").then(|| "/root".to_owned()))
}

#[test]
fn dockers_flags_make_a_body_that_the_agent_takes() {
    let line = "-d -p 8080:80 -p 127.0.0.1:53:53/udp -p [2001:db8::1]:81:80 -p 90 -e A=1 -e B=x=y -e HOME -e NONE -v data:/data:ro \
        -v /srv/x:/x --tmpfs /run:size=1m --tmpfs /tmp --restart on-failure:3 --cpus 0.5 -m 512m --memory-reservation 64m \
        --pids-limit 10 -u 1000:1000 --group-add audio -w /srv --hostname web -l team=a -l alone --entrypoint /bin/sh \
        --read-only --cap-drop ALL --cap-add CAP_KILL --network bridge --dns 192.0.2.53 --add-host db:10.0.0.5 \
        --device /dev/fuse --ulimit nofile=1024:2048 --sysctl net.core.somaxconn=1024 --shm-size 1g --init \
        --stop-signal SIGQUIT --stop-timeout 5 --health-cmd true --health-interval 5s --health-retries 2 --pull always \
        --cpu-shares 512 --cpuset-cpus 0-1 nginx:1.27 -c -x";
    let words: Vec<_> = line.split_whitespace().collect();
    let body = body(&words).unwrap();
    let expected = json!({
        "name": "web", "image": "nginx:1.27", "command": ["/bin/sh"], "args": ["-c", "-x"],
        "exposed_ports": [
            {"container": 80, "host": 8080, "protocol": "tcp"},
            {"container": 53, "host": 53, "host_ip": "127.0.0.1", "protocol": "udp"},
            {"container": 80, "host": 81, "host_ip": "2001:db8::1", "protocol": "tcp"},
            {"container": 90, "protocol": "tcp"},
        ],
        "environment": {"A": "1", "B": "x=y", "HOME": "/root"},
        "volumes": [
            {"volume": "data", "path": "/data", "read_only": true}, {"host_path": "/srv/x", "path": "/x"},
            {"tmpfs": "1m", "path": "/run"}, {"tmpfs": "64m", "path": "/tmp"},
        ],
        "restart": {"policy": "on-failure", "max_retries": 3},
        "resources": {"cpu": "0.5", "memory": "512m", "memory_reservation": "64m", "pids": 10, "cpu_shares": 512, "cpuset": "0-1"},
        "user": "1000:1000", "groups": ["audio"], "working_dir": "/srv", "hostname": "web",
        "labels": {"team": "a", "alone": ""},
        "security": {"read_only_rootfs": true, "capabilities": {"add": ["CAP_KILL"], "drop": ["ALL"]}},
        "network": "bridge", "dns": {"servers": ["192.0.2.53"]}, "hosts": {"db": "10.0.0.5"}, "devices": ["/dev/fuse"],
        "ulimits": {"nofile": "1024:2048"}, "sysctls": {"net.core.somaxconn": "1024"}, "shm_size": "1g", "init": true,
        "stop": {"signal": "SIGQUIT", "timeout": "5s"},
        "health": {"exec": {"command": ["/bin/sh", "-c", "true"]}, "interval": "5s", "retries": 2}, "image_pull": "always",
    });
    assert_eq!(body, expected, "{body:#}");
    let read = state::spec::parse::deploy(&body);
    assert!(read.is_ok(), "{read:?}");
}

#[test]
fn what_is_given_alone_is_all_that_is_said() {
    let is_kept = body(&["-d", "nginx"]).unwrap();
    assert_eq!(
        is_kept,
        json!({"name": "web", "image": "nginx", "restart": {"policy": "always"}})
    );
    let once = body(&["nginx", "nginx", "-t"]).unwrap();
    assert_eq!(once["restart"], json!({"policy": "never"}));
    assert_eq!(once["args"], json!(["nginx", "-t"]));
    for line in [
        &["-it", "--rm", "nginx"][..],
        &["-i", "nginx"],
        &["-t", "nginx"],
    ] {
        let session = body(line).unwrap();
        let expected = json!({"name": "web", "image": "nginx", "interactive": true,
            "restart": {"policy": "never"}});
        assert_eq!(session, expected, "{line:?}");
        assert!(state::spec::parse::deploy(&session).is_ok());
    }
    assert_eq!(
        body(&["--no-healthcheck", "nginx"]).unwrap()["health"],
        "none"
    );
}

#[test]
fn a_flag_of_another_form_is_refused_with_the_right_one() {
    for (line, told) in [
        (&["-p", "80:", "nginx"][..], "[[IP:]HOST:]CONTAINER"),
        (&["-p", "web:80", "nginx"], "[[IP:]HOST:]CONTAINER"),
        (&["-v", "/data", "nginx"], "NAME:PATH"),
        (&["-v", "a:/b:zz", "nginx"], "ro and rw"),
        (&["--restart", "sometimes", "nginx"], "unless-stopped"),
        (&["--restart", "on-failure:x", "nginx"], "is no number"),
        (&["--ulimit", "nofile", "nginx"], "NAME=VALUE"),
        (&["--env-file", "/nonexistent", "nginx"], "--env-file"),
    ] {
        let error = body(line).unwrap_err();
        assert!(format!("{error:#}").contains(told), "{error:#}");
    }
    for line in [
        &["--health-retries", "3", "nginx"][..],
        &["-d", "--rm", "nginx"],
        &["-dit", "nginx"],
        &[],
    ] {
        assert!(body(line).is_err(), "{line:?}");
    }
}
