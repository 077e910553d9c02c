//! Containers off the bridge: with no network, and with the host's.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::http;
use crate::stand::{SOON, Stand, eventually};

async fn told(stand: &Stand, name: &str, script: &str) -> String {
    let body = json!({"command": ["sh", "-c", script]});
    let path = format!("/containers/{name}/exec");
    let (status, answer) = stand.agent.ask("POST", &path, Some(&body)).await;
    assert_eq!(status, 200, "{answer}");
    answer["stdout"].as_str().unwrap().to_owned()
}

const LINKS: &str = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\\n' ' '";

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_network_has_loopback_and_its_names_also_after_a_restart() {
    let mut stand = Stand::new().await;
    let published = stand.web("a", &json!({"network": "none"}));
    let (status, refused) = stand.agent.deploy(&published).await;
    assert_eq!(
        (status, &refused["errors"][0]["field"]),
        (422, &json!("exposed_ports")),
        "{refused}"
    );
    let more = json!({"network": "none", "hosts": {"db.internal": "10.0.0.5"}, "hostname": "alone.example"});
    let body = stand.script("a", "sleep 1000 & wait", &more);
    let shown = stand.agent.deploy_and_wait(&body).await;
    assert_eq!(
        (&shown["spec"]["network"], &shown["ip"]),
        (&json!("none"), &Value::Null),
        "{shown}"
    );
    assert_eq!(told(&stand, "a", LINKS).await, "lo ");
    let inside = "cat /etc/hosts; hostname; ping -c 1 -w 2 127.0.0.1 >/dev/null 2>&1; cat /sys/class/net/lo/operstate";
    let expected = |text: &str| {
        for part in [
            "127.0.0.1\talone.example a\n",
            "10.0.0.5\tdb.internal\n",
            "alone.example\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    expected(&told(&stand, "a", inside).await);
    let before = stand.pid(&shown);
    stand.agent.kill_9();
    stand.agent.start_again().await;
    stand.agent.wait_status("a", "running", SOON).await;
    // A neighbour comes, and a resync goes by.
    stand
        .agent
        .deploy_and_wait(&stand.web("b", &json!({})))
        .await;
    expected(&told(&stand, "a", inside).await);
    assert_eq!(stand.pid(&shown), before, "the same process");
    // Onto the bridge, and off it again.
    let bridged = stand.script("a", "sleep 1000 & wait", &json!({}));
    let shown = stand.agent.deploy_and_wait(&bridged).await;
    assert!(shown["ip"].is_string(), "{shown}");
    assert_eq!(told(&stand, "a", LINKS).await, "eth0 lo ");
    let shown = stand.agent.deploy_and_wait(&body).await;
    assert_eq!(shown["ip"], Value::Null, "{shown}");
    assert_eq!(told(&stand, "a", LINKS).await, "lo ");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_s_network_is_had_by_permission_alone_and_stays_as_it_is() {
    let denying = Stand::new().await;
    let body = denying.script("a", "sleep 1000 & wait", &json!({"network": "host"}));
    let (status, denied) = denying.agent.deploy(&body).await;
    assert_eq!(
        (status, &denied["rule"]),
        (403, &json!("host-network")),
        "{denied}"
    );
    denying.end().await;

    let mut stand = Stand::with(Testbed::new(), &[("CHAS_ALLOW_HOST_NETWORK", "true")]).await;
    let switch =
        || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let before = switch();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let script = format!("mkdir /w; echo hello > /w/index.html; httpd -f -p {port} -h /w & wait");
    let body = stand.script("a", &script, &json!({"network": "host"}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    assert_eq!(
        (&shown["spec"]["network"], &shown["ip"]),
        (&json!("host"), &Value::Null),
        "{shown}"
    );
    let reached = async || {
        let answer = http::client()
            .get(format!("http://127.0.0.1:{port}/"))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    eventually("the container's page on the host", reached).await;
    let netns = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let pid = stand.pid(&shown).unwrap();
    assert_eq!(netns(&pid), netns("self"));
    let names = told(&stand, "a", "hostname; cat /etc/hosts").await;
    assert!(
        names.starts_with("a\n") && names.contains("127.0.0.1\ta\n"),
        "{names}"
    );
    let servers = told(&stand, "a", "cat /etc/resolv.conf").await;
    let of_host = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    assert!(servers.contains(&of_host), "{servers}");
    assert_eq!(switch(), before, "no switch of the host's was changed");
    stand.agent.kill_9();
    stand.agent.start_again().await;
    stand.agent.wait_status("a", "running", SOON).await;
    assert_eq!(
        stand.pid(&shown).as_deref(),
        Some(pid.as_str()),
        "the same process"
    );
    eventually("the page after a restart of the agent", reached).await;
    stand.end().await;
    assert_eq!(switch(), before);
}
