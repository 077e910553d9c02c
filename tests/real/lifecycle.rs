//! The whole agent: a container comes, serves, is read, dies, is restarted, is adopted, and goes without a trace.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::Image;
use crate::harness::registry::Registry;

const SOON: Duration = Duration::from_secs(30);

async fn web(bed: &Testbed) -> (Registry, String) {
    let registry = Registry::open(bed);
    Image::web().push(&registry, "web:1").await;
    let reference = format!("{}/web:1", registry.address());
    (registry, reference)
}

async fn page(shown: &Value) -> String {
    let url = format!("http://127.0.0.1:{}/", shown["ports"][0]["host"]);
    let answer = crate::harness::http::client().get(url).send().await.unwrap();
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_serves_survives_the_agent_and_leaves_nothing() {
    let bed = Testbed::new();
    let (registry, image) = web(&bed).await;
    let mut agent = Agent::start_with(&bed, &[("CHAS_REGISTRY_INSECURE", registry.address())]).await;
    let body = json!({"name": "web", "image": image, "exposed_ports": [{"container": 80}],
        "resources": {"cpu": "0.5", "memory": "64m"}, "stop": {"timeout": "1s"}});
    let shown = agent.deploy_and_wait(&body).await;
    assert!(page(&shown).await.contains("hello"), "{shown}");
    agent.kill_9();
    assert!(page(&shown).await.contains("hello"), "without the agent");
    agent.start_again().await;
    let again = agent.wait_status("web", "running", SOON).await;
    assert_eq!((&again["id"], &again["restart_count"], &again["ports"]), (&shown["id"], &json!(0), &shown["ports"]));
    assert_eq!(agent.deploy(&body).await.0, 200, "the same again changes nothing");
    agent.delete_and_wait("web").await;
    bed.assert_no_container_left();
    agent.terminate();
}
