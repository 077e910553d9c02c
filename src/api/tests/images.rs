//! Images of the node: listed with their users, pulled with progress, removed unless somebody needs them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use state::access::Role;
use state::failure::Failure;
use state::image_order::ImageOrder;
use state::reason::Reason;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rights::{asking, call, client, clients, served};
use super::{Fake, ask, get, problem, sent};
use crate::api::{ImageFetch, NodeImages, Refusal};
use crate::view::{FetchProgress, ImageView};

/// End of a pull, after a time.
type PullEnd = (Duration, Result<String, Failure>);

/// Images of the fake agent, and what becomes of a pull.
#[derive(Debug, Default)]
pub(super) struct FakeImages {
    views: Mutex<Vec<ImageView>>,
    orders: Mutex<Vec<ImageOrder>>,
    end: Mutex<Option<PullEnd>>,
    cut: Mutex<CancellationToken>,
}

impl NodeImages for Fake {
    async fn images(&self) -> Result<Vec<ImageView>, Refusal> {
        self.refused()?;
        Ok(self.played.images.views.lock().unwrap().clone())
    }

    async fn remove_image(&self, digest: &str) -> Result<ImageView, Refusal> {
        self.refused()?;
        let views = self.played.images.views.lock().unwrap();
        let found = views.iter().find(|view| view.digest == digest);
        let absent = || Refusal::NotFound("there is no image".to_owned());
        let view = found.cloned().ok_or_else(absent)?;
        match view.obstacle() {
            Some(why) => Err(Refusal::Conflict(why)),
            None => Ok(view),
        }
    }

    async fn prune_images(&self, all: bool, _: bool) -> Result<Vec<ImageView>, Refusal> {
        let views = self.played.images.views.lock().unwrap().clone();
        let is_free = |view: &ImageView| view.obstacle().is_none();
        let is_taken = |view: &ImageView| is_free(view) && (all || view.kept_until.is_none());
        Ok(views.into_iter().filter(is_taken).collect())
    }

    async fn fetch_image(&self, order: ImageOrder) -> Result<ImageFetch, Refusal> {
        self.refused()?;
        let images = &self.played.images;
        images.orders.lock().unwrap().push(order.clone());
        let end = images.end.lock().unwrap().take();
        let begun = Instant::now();
        let after = end.as_ref().map_or(Duration::ZERO, |(after, _)| *after);
        let progress = move || FetchProgress {
            fetched_bytes: if begun.elapsed() < after { 0 } else { 100 },
            total_bytes: 100,
            message: None,
        };
        let done = async move {
            tokio::time::sleep(after).await;
            let stopping = Failure::new(Reason::RuntimeUnavailable, "the agent is stopping");
            end.map_or(Err(stopping), |(_, end)| end)
        };
        let cut = images.cut.lock().unwrap().clone();
        Ok(ImageFetch {
            order,
            progress: Box::new(progress),
            done: Box::pin(done),
            _cut: cut.drop_guard(),
        })
    }
}

fn image(digest: &str, users: &[&str], kept: bool) -> ImageView {
    ImageView {
        used_by: users.iter().map(|name| name.parse().unwrap()).collect(),
        digest: digest.to_owned(),
        names: vec![format!("r.example/{digest}:1")],
        managed: digest != "foreign",
        created: Some(SystemTime::UNIX_EPOCH),
        kept_until: kept.then_some(SystemTime::UNIX_EPOCH),
        packed_bytes: Some(7),
    }
}

fn node() -> Arc<Fake> {
    let node = Fake::new(Vec::new());
    *node.played.images.views.lock().unwrap() = vec![
        image("used", &["web-1", "db"], false),
        image("free", &[], false),
        image("kept", &[], true),
        image("foreign", &[], false),
    ];
    node
}

#[tokio::test]
async fn images_are_told_with_their_users_and_removed_unless_somebody_needs_them() {
    let node = node();
    let listed = get(&node, "/images").await.json();
    assert_eq!(listed["images"][0]["used_by"], json!(["db", "web-1"]));
    assert_eq!(
        listed["images"][2]["kept_until"],
        "1970-01-01T00:00:00.000Z"
    );
    for (digest, status, says) in [
        ("used", 409, "is used by db, web-1"),
        ("foreign", 409, "did not make"),
        ("none", 404, "no image"),
    ] {
        let answer = ask(&node, "DELETE", &format!("/images/{digest}"), "").await;
        problem(&answer, status, says);
    }
    let removed = ask(&node, "DELETE", "/images/free", "").await;
    assert_eq!(
        (removed.status, removed.json()["digest"].clone()),
        (200, json!("free"))
    );
    for (query, digests, bytes) in [("", "free", 7), ("?all=true&dry_run=true", "free kept", 14)] {
        let told = ask(&node, "POST", &format!("/images/prune{query}"), "").await;
        let told = told.json();
        let found: Vec<_> = told["images"].as_array().unwrap().iter().collect();
        let found: Vec<_> = found
            .iter()
            .map(|one| one["digest"].as_str().unwrap())
            .collect();
        assert_eq!(
            (found.join(" ").as_str(), &told["packed_bytes"]),
            (digests, &json!(bytes))
        );
    }
}

#[tokio::test]
async fn a_caller_of_some_names_sees_its_own_users_and_removes_no_image() {
    let list = clients([client(Role::Admin, &["web-*"])]);
    let node = node();
    let seen = call(&node, &list, "admin", ("GET", "/images"), &Value::Null)
        .await
        .json();
    assert_eq!(seen["images"][0]["used_by"], json!(["web-1"]));
    assert_eq!(seen["images"][0]["used"], true);
    assert_eq!(seen["images"].as_array().unwrap().len(), 1, "{seen}");
    for (method, path) in [("DELETE", "/images/free"), ("POST", "/images/prune")] {
        let answer = call(&node, &list, "admin", (method, path), &Value::Null).await;
        problem(&answer, 403, "everybody's");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_tells_how_far_it_has_come_and_how_it_ended() {
    let node = node();
    let failure = Failure::new(Reason::ImageNotFound, "no such tag");
    for (end, lines, status) in [
        (Ok("sha256:00".to_owned()), 3, "pulled"),
        (Err(failure), 3, "failed"),
    ] {
        *node.played.images.end.lock().unwrap() = Some((Duration::from_millis(2500), end));
        let body = json!({"image": "nginx", "keep": "1h"}).to_string();
        let answer = ask(&node, "POST", "/images/pull", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let told: Vec<Value> = answer
            .text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(told.len(), lines, "{}", answer.text);
        assert_eq!(
            (&told[0]["status"], &told[0]["total_bytes"]),
            (&json!("pulling"), &json!(100))
        );
        let last = told.last().unwrap();
        assert_eq!(last["status"], status, "{last}");
        assert_eq!(last["fetched_bytes"], 100);
        let has = if status == "pulled" {
            "digest"
        } else {
            "reason"
        };
        assert!(last[has].is_string(), "{last}");
        let cut = std::mem::take(&mut *node.played.images.cut.lock().unwrap());
        assert!(cut.is_cancelled(), "nothing of it goes on");
    }
    assert_eq!(
        node.played.images.orders.lock().unwrap()[0].keep,
        Duration::from_hours(1)
    );
    // One that nobody ends is over when the agent is.
    let body = json!({"image": "nginx"}).to_string();
    let answer = ask(&node, "POST", "/images/pull", body).await;
    assert!(
        answer.text.contains("the agent is stopping"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn a_pull_that_is_refused_is_a_problem_and_not_a_line() {
    let node = node();
    for (body, status, says) in [
        (json!({}), 422, "image"),
        (json!({"image": "nginx", "keep": "31d"}), 422, "keep"),
        (
            json!({"image": "nginx", "image_pull": "never"}),
            422,
            "image_pull",
        ),
    ] {
        let answer = ask(&node, "POST", "/images/pull", body.to_string()).await;
        problem(&answer, status, says);
    }
    let denial = state::policy::Denial::new("no-hub", "image", "is not among r.example/*");
    *node.refusal.lock().unwrap() = Some(Refusal::Denied(vec![denial]));
    let body = json!({"image": "nginx"}).to_string();
    problem(
        &ask(&node, "POST", "/images/pull", body).await,
        403,
        "no-hub",
    );
    assert!(node.played.images.orders.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_some_names_takes_neither_all_places_nor_the_disk() {
    let list = clients([client(Role::Deploy, &["web-*"])]);
    let node = node();
    let router = served(&node, &list);
    let order =
        |image: usize, keep: &str| json!({"image": format!("r.example/{image}:1"), "keep": keep});
    let pull = async |end: u64, body: Value| {
        let end = (Duration::from_secs(end), Ok("sha256:00".to_owned()));
        *node.played.images.end.lock().unwrap() = Some(end);
        let request = asking("deploy", ("POST", "/images/pull"), &body);
        sent(router.clone(), request).await
    };
    for image in 0..10 {
        let keep = if image == 7 { "1h" } else { "24h" };
        assert_eq!(pull(0, order(image, keep)).await.status, 200);
    }
    assert_eq!(pull(0, order(3, "24h")).await.status, 200, "known already");
    problem(&pull(0, order(10, "24h")).await, 409, "ends in 1h");
    tokio::time::advance(Duration::from_hours(1)).await;
    assert_eq!(pull(0, order(10, "24h")).await.status, 200);
}
