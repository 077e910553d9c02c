//! Tags that move, on a real registry: followed when asked for, and the way back needs no registry.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::{Image, Packing};
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::Registry;
use crate::stand::{SOON, Stand, eventually};

/// A version of an image whose container prints its name.
async fn push(registry: &Registry, tag: &str, version: &str) -> String {
    let script = format!("trap 'exit 0' TERM; echo version-{version}; sleep 1000 & wait");
    let image = Image::busybox()
        .layer(Packing::Gzip, &[("/version", version.as_bytes())])
        .config("Cmd", json!(["sh", "-c", script]));
    image.push(registry, tag).await.digest
}

/// The container once its question is answered.
async fn answered(agent: &Agent, name: &str) -> Value {
    let path = format!("/containers/{name}");
    eventually("the tag is checked", async || {
        agent.get(&path).await.1["tag_check"]["state"] != "pending"
    })
    .await;
    agent.get(&path).await.1
}

async fn ask(agent: &Agent, name: &str, call: &str) -> Value {
    let path = format!("/containers/{name}/{call}");
    let (status, shown) = agent.ask("POST", &path, None).await;
    assert_eq!(status, 202, "{shown}");
    shown
}

async fn status_of(agent: &Agent, method: &str, path: &str) -> (u16, String) {
    let (status, shown) = agent.ask(method, path, None).await;
    let said = shown["detail"].as_str().unwrap_or_default();
    (status, said.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_followed_when_asked_for_and_the_image_before_needs_no_registry() {
    let stand = Stand::new().await;
    let one = push(&stand.registry, "moving:t", "one").await;
    let body = json!({"name": "plain", "image": stand.image("moving:t")});
    let always =
        json!({"name": "always", "image": stand.image("moving:t"), "image_pull": "always"});
    stand.agent.deploy_and_wait(&body).await;
    stand.agent.deploy_and_wait(&always).await;
    let first = stand.printed("plain", "version-one").await;
    let before = stand.agent.get("/containers/plain").await.1;
    let pid = stand.pid(&before);

    // Nothing moved: nothing restarts.
    ask(&stand.agent, "plain", "pull").await;
    let shown = answered(&stand.agent, "plain").await;
    assert_eq!(shown["tag_check"]["state"], "unchanged", "{shown}");
    assert_eq!(shown["tag_check"]["after"], json!(one), "{shown}");
    assert_eq!(stand.pid(&shown), pid);

    // The same body is no question, and a restart is one with the policy always alone.
    let two = push(&stand.registry, "moving:t", "two").await;
    assert_ne!(one, two);
    for body in [&body, &always] {
        assert_eq!(stand.agent.deploy(body).await.0, 200);
    }
    ask(&stand.agent, "plain", "restart").await;
    ask(&stand.agent, "always", "restart").await;
    stand.printed("always", "version-two").await;
    let shown = answered(&stand.agent, "always").await;
    let check = &shown["tag_check"];
    assert_eq!(
        (&check["state"], &check["before"], &check["after"]),
        (&json!("moved"), &json!(one), &json!(two))
    );
    assert_eq!(
        (&shown["image_digest"], &shown["generation"]),
        (&json!(two), &json!(1))
    );
    let shown = stand.agent.wait_status("plain", "running", SOON).await;
    assert_eq!(
        (&shown["image_digest"], &shown["tag_check"]["state"]),
        (&json!(one), &json!("unchanged")),
        "{shown}"
    );
    let log = stand.agent.logs("plain", "tail=all").await;
    assert!(
        !log.contains("version-two") && log.len() >= first.len(),
        "{log}"
    );

    // A pull follows it whatever the policy, also of what is stopped.
    ask(&stand.agent, "plain", "pull").await;
    stand.printed("plain", "version-two").await;
    let shown = answered(&stand.agent, "plain").await;
    assert_eq!(shown["tag_check"]["state"], "moved", "{shown}");
    ask(&stand.agent, "plain", "stop").await;
    stand.agent.wait_status("plain", "stopped", SOON).await;
    push(&stand.registry, "moving:t", "three").await;
    ask(&stand.agent, "plain", "pull").await;
    let shown = answered(&stand.agent, "plain").await;
    assert_eq!(
        (&shown["tag_check"]["state"], &shown["status"]),
        (&json!("moved"), &json!("stopped"))
    );
    ask(&stand.agent, "plain", "start").await;
    stand.printed("plain", "version-three").await;

    // The registry is gone: a restart happens, and says what it did.
    let Stand {
        agent,
        registry,
        bed,
    } = stand;
    let pinned = format!("{}/moving@{one}", registry.address());
    drop(registry);
    let started = agent.get("/containers/always").await.1["started"].clone();
    ask(&agent, "always", "restart").await;
    let shown = answered(&agent, "always").await;
    assert_eq!(shown["tag_check"]["state"], "failed", "{shown}");
    assert_eq!(
        shown["tag_check"]["reason"], "RegistryUnreachable",
        "{shown}"
    );
    assert_eq!(shown["image_digest"], json!(two), "{shown}");
    eventually("it is restarted", async || {
        let shown = agent.get("/containers/always").await.1;
        shown["status"] == "running" && shown["started"] != started
    })
    .await;
    assert!(agent.log().contains("tag check failed"));
    // `plain` began with `one`, and goes back to it without the registry.
    let back = json!({"name": "plain", "image": pinned});
    agent.deploy_and_wait(&back).await;
    let (status, said) = status_of(&agent, "POST", "/containers/plain/pull").await;
    assert!(
        status == 409 && said.contains("named by its digest"),
        "{said}"
    );
    let (status, _) = status_of(&agent, "POST", "/containers/nobody/pull").await;
    assert_eq!(status, 404);
    let registry = Registry::open(&bed);
    Stand {
        agent,
        registry,
        bed,
    }
    .end()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_the_middle_of_a_download_follows_the_tag_when_it_is_back() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let proxy = Proxy::before(registry.address());
    let address = proxy.address();
    let mut agent = Agent::start_with(&bed, &[("CHAS_REGISTRY_INSECURE", &address)]).await;
    push(&registry, "moving:t", "one").await;
    let body = json!({"name": "web", "image": format!("{address}/moving:t")});
    let deployed = agent.deploy_and_wait(&body).await;
    // A tag that stayed costs the registry one HEAD.
    let asked = proxy.all_requests().len();
    ask(&agent, "web", "pull").await;
    let shown = answered(&agent, "web").await;
    assert_eq!(shown["tag_check"]["state"], "unchanged", "{shown}");
    let methods: Vec<_> = proxy.all_requests()[asked..]
        .iter()
        .map(|request| request.method.clone())
        .collect();
    assert_eq!(methods, ["HEAD"]);
    let two = push(&registry, "moving:t", "two").await;
    // The new layer never comes, and the container before runs on.
    proxy.inject("/blobs/", usize::MAX, Fault::Stall { after_bytes: 10 });
    ask(&agent, "web", "pull").await;
    eventually("a layer is asked for", async || {
        proxy
            .requests("/blobs/")
            .iter()
            .any(|request| request.faulty)
    })
    .await;
    let shown = agent.get("/containers/web").await.1;
    assert_eq!(
        (&shown["status"], &shown["image_digest"]),
        (&json!("running"), &deployed["image_digest"])
    );
    agent.kill_9();
    proxy.heal();
    agent.start_again().await;
    let shown = answered(&agent, "web").await;
    assert_eq!(
        (&shown["tag_check"]["state"], &shown["image_digest"]),
        (&json!("moved"), &json!(two))
    );
    eventually("the new image runs", async || {
        agent.logs("web", "tail=all").await.contains("version-two")
    })
    .await;
    // The restart that it brought is done once, also over another start of the agent.
    let path = "/containers/web/pull?wait=checked";
    let (status, shown) = agent.ask("POST", path, None).await;
    assert_eq!(
        (status, &shown["tag_check"]["state"]),
        (200, &json!("unchanged"))
    );
    agent.kill_9();
    agent.start_again().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    agent.wait_status("web", "running", SOON).await;
    let log = agent.logs("web", "tail=all").await;
    assert_eq!(log.matches("version-two").count(), 1, "{log}");
    Stand {
        agent,
        registry,
        bed,
    }
    .end()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_waits_for_a_silent_registry_only_so_long() {
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    let agent = Agent::start_with(&bed, &[("CHAS_REGISTRY_INSECURE", registry.address())]).await;
    push(&registry, "moving:t", "one").await;
    let image = format!("{}/moving:t", registry.address());
    let body =
        json!({"name": "web", "image": image, "image_pull": "always", "stop": {"timeout": "1s"}});
    agent.deploy_and_wait(&body).await;
    let started = agent.get("/containers/web").await.1["started"].clone();
    let address = registry.address().to_owned();
    drop(registry);
    // Takes connections at the registry's own address, and says nothing.
    let silent = std::net::TcpListener::bind(&address).unwrap();
    let began = tokio::time::Instant::now();
    ask(&agent, "web", "restart").await;
    let shown = answered(&agent, "web").await;
    assert_eq!(
        (&shown["tag_check"]["state"], &shown["tag_check"]["reason"]),
        (&json!("failed"), &json!("RegistryTimeout"))
    );
    assert!(began.elapsed() >= Duration::from_secs(10), "{shown}");
    eventually("it is restarted", async || {
        let shown = agent.get("/containers/web").await.1;
        shown["status"] == "running" && shown["started"] != started
    })
    .await;
    drop(silent);
    let registry = Registry::open(&bed);
    Stand {
        agent,
        registry,
        bed,
    }
    .end()
    .await;
}
