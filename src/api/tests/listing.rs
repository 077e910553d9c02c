//! The list of containers: its filters and pages.

use serde_json::Value;
use state::status::Status;

use super::{Fake, get, named, problem, view};

#[tokio::test]
async fn the_list_is_filtered_and_keeps_secrets() {
    let node = Fake::with(vec![
        view(&named("db", 1), Status::Failed),
        view(&named("web", 2), Status::Running),
    ])
    .beside("k8s-1", "pause");
    for (query, names) in [
        ("", &["db", "web", "k8s-1"][..]),
        ("?status=running", &["web", "k8s-1"]),
        ("?owner=unmanaged", &["k8s-1"]),
        ("?label=team%3Ddb", &["db"]),
        ("?label=team", &["db", "web"]),
        ("?status=stopped", &[]),
        ("?status=failed,running", &["db", "web", "k8s-1"]),
        ("?status=failed&status=running", &["db", "web", "k8s-1"]),
        ("?label=team&label=team%3Dweb", &["web"]),
        ("?name=we*", &["web"]),
        ("?name=web", &["web"]),
        ("?limit=2", &["db", "web"]),
        ("?limit=2&after=web", &["k8s-1"]),
        // Whoever was listed last may be gone.
        ("?after=gone", &["web", "k8s-1"]),
        ("?after=unmanaged/k8s-1", &[]),
    ] {
        let answer = get(&node, &format!("/containers{query}")).await;
        let list = answer.json()["containers"].as_array().unwrap().clone();
        assert_eq!(
            list.iter()
                .map(|c| c["name"].as_str().unwrap())
                .collect::<Vec<_>>(),
            names,
            "{query}"
        );
        assert!(!answer.text.contains("hunter2"));
    }
    problem(
        &get(&node, "/containers?status=runing").await,
        400,
        "status=runing",
    );
    problem(&get(&node, "/containers?owner=me").await, 400, "owner=me");
    problem(&get(&node, "/containers?limit=0").await, 400, "limit=0");
    let next = async |query: &str| get(&node, query).await.json()["next"].clone();
    assert_eq!(next("/containers?limit=2").await, "web");
    assert_eq!(next("/containers?limit=3").await, Value::Null);
    assert_eq!(next("/containers").await, Value::Null);
}

#[tokio::test]
async fn keys_of_an_answer_stand_in_the_order_in_which_people_look_for_them() {
    let node = Fake::with(vec![view(&named("db", 1), Status::Failed)]).beside("k8s-1", "pause");
    let keys = async |path: &str, member: &str| {
        let answer = get(&node, path).await;
        let text: Value = serde_json::from_str(&answer.text).unwrap();
        let keys = text.pointer(member).unwrap().as_object().unwrap();
        keys.keys().take(5).cloned().collect::<Vec<_>>()
    };
    let listed = ["id", "name", "image", "status", "ports"];
    for of in ["/containers/0", "/containers/1"] {
        assert_eq!(keys("/containers", of).await, listed, "{of}");
    }
    let spec = ["name", "image", "exposed_ports", "resources", "environment"];
    assert_eq!(keys("/containers/db", "/spec").await, spec);
    let faulty = ["type", "title", "status", "detail", "code"];
    assert_eq!(keys("/containers/none", "").await, faulty);
}
