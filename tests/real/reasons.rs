//! What cannot run ends in a status with a reason of its own and a time for the next attempt, not in a loop without a word.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::Image;
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::{Access, Registry};
use crate::stand::{SOON, Stand};

#[track_caller]
fn check(shown: &Value, reason: &str, part: &str) {
    assert_eq!(shown["reason"], reason, "{shown}");
    assert!(shown["message"].as_str().is_some_and(|message| message.contains(part)), "{shown}");
    assert!(shown["next_attempt"].is_string(), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_own_reason() {
    let stand = Stand::new().await;
    Image::busybox().architecture("s390x").push(&stand.registry, "far:1").await;
    let cases = [
        (json!({"name": "tag", "image": stand.image("web:none")}), "ImageNotFound", "web"),
        (json!({"name": "arch", "image": stand.image("far:1")}), "ImagePlatformMismatch", "s390x"),
        (
            json!({"name": "command", "image": stand.image("box:1"), "command": ["/no/such/program"]}),
            "CommandNotFound",
            "/no/such/program",
        ),
        (json!({"name": "user", "image": stand.image("box:1"), "user": "nobody-here"}), "UserNotFound", "nobody-here"),
        (json!({"name": "never", "image": stand.image("other:1"), "image_pull": "never"}), "ImageNotPresent", "other"),
        (json!({"name": "away", "image": "127.0.0.1:1/web:1"}), "RegistryUnreachable", "127.0.0.1:1"),
    ];
    for (body, reason, part) in &cases {
        let (status, problem) = stand.agent.ask("POST", "/containers/deploy?wait=running&timeout=60s", Some(body)).await;
        assert_eq!((status, &problem["reason"]), (422, &json!(reason)), "{problem}");
        let shown = stand.agent.wait_status(body["name"].as_str().unwrap(), "failed", SOON).await;
        check(&shown, reason, part);
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_credentials_is_named_and_given_them() {
    let bed = Testbed::new();
    let registry = Registry::start(&bed, Access::Password, false);
    Image::web().push(&registry, "web:1").await;
    let auth_file = bed.dir.join("auth.json");
    let variables = [("CHAS_REGISTRY_INSECURE", registry.address()), ("CHAS_REGISTRY_AUTH_FILE", auth_file.to_str().unwrap())];
    std::fs::write(&auth_file, "{\"auths\": {}}").unwrap();
    let agent = Agent::start_with(&bed, &variables).await;
    let body = json!({"name": "web", "image": format!("{}/web:1", registry.address()), "stop": {"timeout": "0s"}});
    agent.deploy(&body).await;
    check(&agent.wait_status("web", "failed", SOON).await, "RegistryUnauthorized", registry.address());
    let auths = json!({"auths": {registry.address(): {"username": crate::harness::registry::USER, "password": crate::harness::registry::PASSWORD}}});
    std::fs::write(&auth_file, auths.to_string()).unwrap();
    agent.ask("POST", "/containers/web/restart", None).await;
    agent.wait_status("web", "running", SOON).await;
    agent.delete_and_wait("web").await;
    bed.assert_no_container_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_is_refused_while_taken_and_found_taken_at_a_start() {
    let stand = Stand::new().await;
    let port = stand.bed.port();
    let body = stand.web("web", &json!({"exposed_ports": [{"container": 80, "host": port}]}));
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let (status, problem) = stand.agent.deploy(&body).await;
    assert_eq!(status, 409, "{problem}");
    drop(listener);
    stand.agent.deploy_and_wait(&body).await;
    let (status, problem) =
        stand.agent.deploy(&stand.web("other", &json!({"exposed_ports": [{"container": 80, "host": port}]}))).await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("container web"), "{problem}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_download_is_refused_and_a_cut_one_goes_on() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let pushed = Image::web().big_layer(crate::harness::image::Packing::Gzip, 3 << 20, 7).push(&registry, "web:1").await;
    let proxy = Proxy::before(registry.address());
    let agent = Agent::start_with(&bed, &[("CHAS_REGISTRY_INSECURE", &proxy.address())]).await;
    let layer = pushed.layers.last().unwrap().clone();
    proxy.inject(&layer, 100, Fault::Corrupt { at_byte: 1 << 20 });
    let body = json!({"name": "web", "image": format!("{}/web:1", proxy.address()), "stop": {"timeout": "0s"}});
    agent.deploy(&body).await;
    check(&agent.wait_status("web", "failed", SOON).await, "DigestMismatch", "sha256");
    proxy.heal();
    proxy.inject(&layer, 1, Fault::Reset { after_bytes: 1 << 20 });
    agent.ask("POST", "/containers/web/restart", None).await;
    agent.delete_and_wait("web").await;
    agent.deploy(&body).await;
    agent.wait_status("web", "running", SOON).await;
    assert!(proxy.requests(&layer).iter().any(|request| request.range.is_some()), "it went on where it stopped");
    agent.delete_and_wait("web").await;
    bed.assert_no_container_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_by_its_policy_stays_ended() {
    let stand = Stand::new().await;
    for (name, policy, script, status, reason) in
        [("done", "on-failure", "exit 0", "stopped", "Completed"), ("never", "never", "exit 4", "failed", "Exited")]
    {
        stand.agent.deploy(&stand.script(name, script, &json!({"restart": {"policy": policy}}))).await;
        let shown = stand.agent.wait_status(name, status, SOON).await;
        assert_eq!(shown["reason"], reason, "{shown}");
    }
    stand.agent.deploy(&stand.script("retries", "exit 4", &json!({"restart": {"policy": "on-failure", "max_retries": 1}}))).await;
    let shown = stand.agent.wait_status("retries", "failed", SOON).await;
    assert_eq!((&shown["reason"], &shown["restart_count"]), (&json!("RetriesExhausted"), &json!(1)), "{shown}");
    stand.end().await;
}
