//! Admission: what containers reserve has to fit into the node beside the system's part.

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::stand::{SOON, Stand};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

/// Memory of this machine, in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = kib.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

fn body(stand: &Stand, name: &str, memory: &str) -> Value {
    let more = json!({"resources": {"memory_reservation": memory}});
    stand.script(name, "sleep 1000 & wait", &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_beside_the_others_is_refused_with_the_numbers_and_nothing_ends_for_it() {
    let mine = 100 << 20;
    let system = (memory() - mine).to_string();
    let variables = [("CHAS_SYSTEM_MEMORY", system.as_str())];
    let mut stand = Stand::with(Testbed::new(), &variables).await;
    let first = stand.agent.deploy_and_wait(&body(&stand, "a", "64m")).await;
    let (_, shown) = stand.agent.get("/capacity").await;
    assert_eq!(number(&shown["memory"]["total"]), memory());
    assert_eq!(number(&shown["memory"]["reserved"]), 64 << 20);
    assert_eq!(number(&shown["memory"]["free"]), 36 << 20);
    assert!(number(&shown["memory"]["used"]) > 0, "{shown}");

    for path in ["/containers/deploy", "/containers/deploy?dry_run=true"] {
        let refused = stand
            .agent
            .ask("POST", path, Some(&body(&stand, "b", "37m")))
            .await;
        assert_eq!((refused.0, &refused.1["code"]), (507, &json!("NodeFull")));
        let told = refused.1["detail"].as_str().unwrap();
        assert!(told.contains("36m are free"), "{told}");
    }
    assert_eq!(stand.agent.get("/containers/b").await.0, 404);
    stand.agent.deploy_and_wait(&body(&stand, "b", "36m")).await;

    // A node that has less than before ends nothing, and brings all of it back.
    stand.agent.kill_9();
    let smaller = (memory() - (32 << 20)).to_string();
    stand.agent.set("CHAS_SYSTEM_MEMORY", &smaller);
    stand.agent.start_again().await;
    let again = stand.agent.wait_status("a", "running", SOON).await;
    assert_eq!(again["restart_count"], first["restart_count"]);
    let (_, shown) = stand.agent.get("/capacity").await;
    assert_eq!(number(&shown["memory"]["reserved"]), 100 << 20);
    assert_eq!(number(&shown["memory"]["free"]), 0);
    let (_, metrics) = stand.agent.get("/metrics").await;
    assert!(
        metrics.as_str().unwrap_or_default().contains(&format!(
            "chas_capacity_memory_bytes{{part=\"reserved\"}} {}",
            100 << 20
        )),
        "{metrics}"
    );
    stand.agent.delete_and_wait("b").await;
    assert_eq!(stand.agent.deploy(&body(&stand, "c", "16m")).await.0, 507);
    stand.agent.delete_and_wait("a").await;
    stand.agent.deploy_and_wait(&body(&stand, "c", "32m")).await;
    stand.end().await;
}
