//! The shipped unit on a systemd that is booted: all that the agent does for a container, within what the unit leaves it.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::harness::image::{Image, Packing};
use crate::harness::registry::Registry;
use crate::harness::systemd::Systemd;
use crate::harness::{Testbed, eventually};
use crate::stand::SOON;

const PORT: u16 = 8080;

/// What a call says that the unit has forbidden.
const FORBIDDEN: [&str; 4] = [
    "Function not implemented",
    "Operation not permitted",
    "Permission denied",
    "Read-only file system",
];

fn is_active(systemd: &Systemd) -> bool {
    systemd.run("systemctl is-active chas-node-agent").is_ok()
}

fn serves(systemd: &Systemd) -> bool {
    let page = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{PORT}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3"
    );
    let page = systemd.run(&page);
    page.is_ok_and(|page| page.contains(" 200 "))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_unit_lets_the_agent_do_all_that_a_container_needs() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    // Whose users are looked up in a view of two layers.
    let web = Image::web().layer(Packing::Plain, &[("/more", b"more")]);
    web.config("User", json!("root"))
        .push(&registry, "web:1")
        .await;
    let configuration = format!(
        "registry:\n  insecure: [{}]\ncontainers:\n  host_paths: [/srv]\n",
        registry.address()
    );
    let program = Path::new(PROGRAM);
    let systemd = Systemd::boot(&bed, program, &configuration, registry.configuration());
    eventually("the agent is active", SOON, || is_active(&systemd));
    let namespaces = systemd.run(
        "readlink /proc/1/ns/mnt /proc/$(systemctl show -p MainPID --value chas-node-agent)/ns/mnt",
    );
    let namespaces = namespaces.unwrap();
    let (host, own) = namespaces.trim().split_once('\n').unwrap();
    assert_ne!(host, own, "the unit gives it a mount namespace of its own");

    let image = format!("{}/web:1", registry.address());
    systemd
        .run("mkdir -p /srv/of-host && touch /srv/of-host/mark")
        .unwrap();
    let volumes =
        json!([{"host_path": "/srv/of-host", "path": "/of-host", "propagation": "rslave"}]);
    let mut web = json!({"name": "web", "image": image, "exposed_ports": [{"container": 80, "host": PORT}], "stop": {"timeout": "0s"}, "volumes": volumes});
    systemd.ask("POST", "/containers/deploy", Some(&web)).await;
    eventually("it serves", SOON, || serves(&systemd));
    let of_host = "test -e /proc/$(pgrep -x -o httpd)/root/of-host/mark && ! ls /run/chas/host-paths | grep .";
    systemd.run(of_host).unwrap();

    // Where containerd maps ids, within the unit too: of what the unit hides, containerd sees all.
    let health = systemd.ask("GET", "/health", None).await;
    let layer = &health["confinement"]["user_namespaces"];
    let map = systemd
        .run("cat /proc/$(pgrep -x -o httpd)/uid_map")
        .unwrap();
    let is_own = map.split_whitespace().nth(1) != Some("0");
    assert_eq!(layer["in_force"], is_own, "{layer} {map}");
    let detail = layer["detail"].as_str().unwrap();
    // systemd-nspawn covers parts of /proc.
    let reasons = [" cannot ", "is mounted over"];
    assert!(
        is_own || reasons.iter().any(|reason| detail.contains(reason)),
        "{detail}"
    );

    let says = "systemctl show -p StatusText --value chas-node-agent | grep ': 1 running'";
    eventually("systemctl status says so", SOON, || {
        systemd.run(says).is_ok()
    });

    // Another agent in another mount namespace takes over what the first made, and replaces it.
    systemd
        .run("systemctl kill --signal KILL chas-node-agent")
        .unwrap();
    eventually("it is back", SOON, || is_active(&systemd));
    web["environment"] = json!({"GENERATION": "2"});
    let shown = systemd.ask("POST", "/containers/deploy", Some(&web)).await;
    assert_eq!(shown["generation"], 2);
    let replaced = format!(
        "test -e /run/chas/netns/{}-2",
        shown["id"].as_str().unwrap()
    );
    eventually("the second runs", SOON, || systemd.run(&replaced).is_ok());
    eventually("the second serves", SOON, || serves(&systemd));

    // What a killed shim leaves is taken away, and the container is started again.
    systemd
        .run("pkill -KILL -f containerd-shim-runc-v2")
        .unwrap();
    eventually("it does not serve", SOON, || !serves(&systemd));
    eventually("it serves again", SOON, || serves(&systemd));

    systemd.ask("DELETE", "/containers/web", None).await;
    let left = "grep /run/chas /proc/1/mountinfo; ls -A /run/chas/netns /run/chas/files/.memory | grep -- -; \
        find /sys/fs/cgroup -path '*/chas/*' -type d -not -name '*.log'";
    let nothing = || systemd.run(&format!("! {{ {left}; }} | grep .")).is_ok();
    eventually("nothing is left on the host", SOON, nothing);
    let log = systemd
        .run("journalctl -u chas-node-agent -o cat --no-pager")
        .unwrap();
    for forbidden in FORBIDDEN {
        assert!(!log.contains(forbidden), "{forbidden}: {log}");
    }
    assert!(log.contains("step finished"), "{log}");

    // The journal knows the facts of an entry as fields.
    let entries = |query: &str| -> Vec<Value> {
        let query = format!("journalctl -u chas-node-agent --no-pager -o json {query}");
        let found = systemd.run(&query).unwrap();
        let entries = found.lines().map(serde_json::from_str);
        entries.map(Result::unwrap).collect()
    };
    let of_web = entries("CONTAINER=web");
    assert!(of_web.len() > 3, "{of_web:?}");
    for entry in &of_web {
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "chas-node-agent", "{entry}");
        for field in ["MESSAGE", "PRIORITY", "TARGET", "CODE_FILE", "CODE_LINE"] {
            assert!(entry[field].is_string(), "{field}: {entry}");
        }
    }
    let lost = entries("CONTAINER=web REASON=ShimLost -p warning");
    assert!(!lost.is_empty(), "{of_web:?}");
    // A request is found in the journal and in the audit by the same id.
    let deploys = entries("METHOD=POST PATH=/containers/deploy");
    let request = deploys.first().unwrap()["REQUEST_ID"].as_str().unwrap();
    let audited = format!("grep -h '\"request\":\"{request}\"' /var/lib/chas/node-agent/audit/*");
    let audited = systemd.run(&audited).unwrap();
    assert!(audited.contains("\"kind\":\"deploy\""), "{audited}");
}
