//! The set owned by push as a whole, on real containers: replaced, pruned, guarded by its `ETag`; plans, explanations, and a
//! request that comes twice.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::stand::{SOON, Stand};

const SET: &str = "/desired-state";

fn sleeper(stand: &Stand, name: &str) -> Value {
    stand.script(name, "while :; do sleep 1; done", &json!({}))
}

/// The process of what runs, as the agent explains it.
async fn pid(stand: &Stand, name: &str) -> Value {
    let (_, explained) = stand
        .agent
        .get(&format!("/containers/{name}/explain"))
        .await;
    explained["observed"]["instances"][0]["pid"].clone()
}

async fn gone(stand: &Stand, name: &str) {
    let deadline = Instant::now() + SOON;
    while stand.agent.get(&format!("/containers/{name}")).await.0 != 404 {
        assert!(Instant::now() < deadline, "{name} is not gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nothing is left to do.
async fn settled(stand: &Stand) {
    let deadline = Instant::now() + SOON;
    loop {
        let (_, plan) = stand.agent.get("/plan").await;
        if plan["settled"] == true {
            assert_eq!(plan["blocked"], json!(null), "{plan}");
            return;
        }
        assert!(Instant::now() < deadline, "{plan:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_run_pruned_and_guarded() {
    let stand = Stand::new().await;
    let agent = &stand.agent;
    let both = json!({"containers": [sleeper(&stand, "one"), sleeper(&stand, "two")]});
    let one = json!({"containers": [sleeper(&stand, "one")]});
    let (status, _, dry) = agent
        .ask_with("PUT", &format!("{SET}?dry_run=true"), &[], Some(&both))
        .await;
    assert_eq!(
        (status, dry["plan"].as_array().map(Vec::len)),
        (200, Some(2)),
        "{dry}"
    );
    assert_eq!(
        dry["plan"][0]["steps"].as_array().unwrap().len(),
        2,
        "pull and launch: {dry}"
    );
    assert_eq!(agent.get("/containers").await.1["containers"], json!([]));

    let (status, first, answer) = agent.ask_with("PUT", SET, &[], Some(&both)).await;
    assert_eq!((status, &answer["etag"]), (202, &json!(first)), "{answer}");
    for name in ["one", "two"] {
        agent.wait_status(name, "running", SOON).await;
    }
    settled(&stand).await;
    let before = pid(&stand, "one").await;
    assert!(before.is_u64(), "{before}");

    // What is shown is what was asked.
    let (status, shown_tag, shown) = agent.ask_with("GET", SET, &[], None).await;
    assert_eq!((status, &shown_tag), (200, &first));
    assert_eq!(
        agent
            .ask_with("GET", SET, &[("if-none-match", &first)], None)
            .await
            .0,
        304
    );
    let (status, same, answer) = agent
        .ask_with("PUT", SET, &[("if-match", &first)], Some(&shown))
        .await;
    assert_eq!(
        (status, &same, &answer["changed"]),
        (200, &first, &json!(false)),
        "{answer}"
    );

    let (status, _, problem) = agent
        .ask_with("PUT", SET, &[("if-match", "\"another\"")], Some(&one))
        .await;
    assert_eq!(status, 412, "{problem}");
    agent
        .ask_with(
            "PUT",
            &format!("{SET}?dry_run=true"),
            &[("if-match", &first)],
            Some(&one),
        )
        .await;
    assert_eq!(
        agent.ask_with("GET", SET, &[], None).await.1,
        first,
        "neither changed anything"
    );

    let (status, second, answer) = agent
        .ask_with("PUT", SET, &[("if-match", &first)], Some(&one))
        .await;
    assert!(status == 202 && second != first, "{answer}");
    assert_eq!(answer["plan"][0]["name"], "two", "{answer}");
    gone(&stand, "two").await;
    settled(&stand).await;
    assert_eq!(pid(&stand, "one").await, before, "the other is untouched");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_explained_and_planned_to_wait() {
    let stand = Stand::new().await;
    stand
        .agent
        .deploy(&json!({"name": "web", "image": stand.image("web:none")}))
        .await;
    stand.agent.wait_status("web", "failed", SOON).await;
    let (_, explained) = stand.agent.get("/containers/web/explain").await;
    assert_eq!(
        (&explained["reason"], &explained["attempts"]),
        (&json!("ImageNotFound"), &json!(1)),
        "{explained:#}"
    );
    let step = &explained["decision"]["step"];
    assert_eq!(
        (&step["action"], &step["until"]),
        (
            &json!("wait"),
            &explained["decision"]["inputs"]["setback"]["until"]
        )
    );
    assert!(
        explained["next_attempt"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z')),
        "{explained:#}"
    );
    assert!(
        explained["unblock"]
            .as_str()
            .is_some_and(|what| what.contains("image")),
        "{explained:#}"
    );
    let (_, plan) = stand.agent.get("/plan").await;
    assert_eq!(
        (
            &plan["settled"],
            &plan["containers"][0]["steps"][0]["action"]
        ),
        (&json!(false), &json!("wait")),
        "{plan:#}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_comes_again_after_its_removal_brings_nothing_back() {
    let mut stand = Stand::new().await;
    let (body, key) = (
        sleeper(&stand, "app"),
        [("idempotency-key", "one-and-only")],
    );
    let path = "/containers/deploy?wait=running&timeout=40s";
    let (status, _, first) = stand.agent.ask_with("POST", path, &key, Some(&body)).await;
    assert_eq!(status, 200, "{first}");
    let (status, _, again) = stand.agent.ask_with("POST", path, &key, Some(&body)).await;
    assert_eq!(
        (status, &again["id"], &again["replayed"]),
        (200, &first["id"], &json!(true)),
        "{again}"
    );
    stand.agent.delete_and_wait("app").await;
    for _ in 0..2 {
        let (status, _, late) = stand.agent.ask_with("POST", path, &key, Some(&body)).await;
        let expected = json!({"id": first["id"], "name": "app", "generation": 1, "changed": true, "replayed": true});
        assert_eq!((status, &late), (202, &expected));
        assert_eq!(stand.agent.get("/containers/app").await.0, 404);
        // Nor does another life of the agent forget it.
        stand.agent.kill_9();
        stand.agent.start_again().await;
    }
    let other = sleeper(&stand, "other");
    assert_eq!(
        stand
            .agent
            .ask_with("POST", path, &key, Some(&other))
            .await
            .0,
        422
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_make_one_name_at_the_same_moment_one_does() {
    let stand = Stand::new().await;
    let body = |by: u8| {
        let labels = json!({"labels": {"by": by.to_string()}});
        stand.script("web", "while :; do sleep 1; done", &labels)
    };
    let bodies: Vec<_> = (0..8).map(body).collect();
    let (deploy, is_new) = ("/containers/deploy", [("if-none-match", "*")]);
    let asked = bodies
        .iter()
        .map(|body| stand.agent.ask_with("POST", deploy, &is_new, Some(body)));
    let answers = futures_util::future::join_all(asked).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, ..)| *status == 202);
    assert_eq!((made.len(), refused.len()), (1, 7), "{answers:?}");
    for (status, _, problem) in refused {
        assert_eq!(
            (*status, &problem["code"]),
            (412, &json!("ChangedMeanwhile"))
        );
    }
    let (_, tag, shown) = made[0];
    let (_, same, now) = stand
        .agent
        .ask_with("GET", "/containers/web", &[], None)
        .await;
    assert_eq!((&now["labels"], &same), (&shown["labels"], tag));
    // The tag of the answer serves for the next change, and for that alone.
    for status in [202, 412] {
        let stop = "/containers/web/stop";
        let bound = [("if-match", tag.as_str())];
        let (found, ..) = stand.agent.ask_with("POST", stop, &bound, None).await;
        assert_eq!(found, status);
    }
    stand.end().await;
}
