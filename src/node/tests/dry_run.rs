//! Dry runs of sets whose containers wait for each other.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_dry_run_of_a_set_has_the_others_of_the_set_in_it() {
    let agent = agent().await;
    let set = |image: &str, after: &str| {
        let after = json!([{"name": after}]);
        replacing(&[
            json!({"name": "web", "image": image, "after": after}),
            json!({"name": "db", "image": image}),
        ])
    };
    let dry = async |set: ReplaceRequest| {
        let dry_run = true;
        let shown = now(agent.node.replace(ReplaceRequest { dry_run, ..set }).await);
        let of_web = |course: &&ContainerPlanView| course.name.as_ref().unwrap().as_str() == "web";
        shown
            .plan
            .iter()
            .find(of_web)
            .unwrap()
            .steps
            .last()
            .unwrap()
            .why
            .clone()
    };
    // None of the set is there yet, and who is not in it is missing all the same.
    let why = dry(set("x", "db")).await;
    assert!(why.contains("db to be started, which is pending"), "{why}");
    let why = dry(set("x", "other")).await;
    assert!(why.contains("which is no container of this node"), "{why}");
    let first = now(agent.node.replace(set("x", "db")).await);
    for course in &first.plan {
        until(&agent.node, course.id, runs(1)).await;
    }
    // The next generation waits for the next one of the other.
    let why = dry(set("y", "db")).await;
    assert!(why.contains("waits for db to be started"), "{why}");
    let circle = replacing(&[
        json!({"name": "web", "image": "x", "after": [{"name": "db"}]}),
        json!({"name": "db", "image": "x", "after": [{"name": "web"}]}),
    ]);
    let dry_run = true;
    let refused = agent
        .node
        .replace(ReplaceRequest { dry_run, ..circle })
        .await;
    assert!(
        matches!(&refused, Err(Refusal::Conflict(text)) if text.contains("db -> web -> db") || text.contains("web -> db -> web")),
        "{refused:?}"
    );
}
