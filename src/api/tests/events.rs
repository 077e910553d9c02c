//! Events, as their readers get them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use state::access::Role;
use state::id::ContainerId;
use tower::ServiceExt as _;

use super::rights::{call, client, clients};
use super::{Fake, ROOT, get, of, problem, router, rules, send};
use crate::feed::{EVENTS_MAX, FeedEvent};

impl Fake {
    fn tell(&self, kind: &str, name: Option<&str>) {
        self.feed.push(|number| FeedEvent {
            number,
            kind: kind.into(),
            id: name.map(|_| ContainerId::from_bits(7)),
            name: name.map(|name| name.parse().unwrap()),
            data: json!({"id": number, "kind": kind}).to_string().into(),
        });
    }
}

fn told() -> std::sync::Arc<Fake> {
    let node = Fake::new(Vec::new());
    node.tell("container_ready", Some("web"));
    node.tell("runtime_lost", None);
    node.tell("container_exited", Some("db"));
    node
}

/// Numbers in an answer, without the position that stands at its head.
fn ids(text: &str) -> Vec<u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("id: "));
    lines.skip(1).map(|line| line.parse().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_read_from_a_position_and_filtered() {
    let node = told();
    for (query, expected) in [
        ("follow=false", vec![1, 2, 3]),
        ("follow=false&after=1", vec![2, 3]),
        ("follow=false&container=web", vec![1]),
        ("follow=false&container=web,000000000007", vec![1, 3]),
        (
            "follow=false&kind=runtime_lost,container_exited",
            vec![2, 3],
        ),
        ("follow=false&kind=runtime_lost&container=web", vec![]),
    ] {
        let answer = get(&node, &format!("/events?{query}")).await;
        assert_eq!(ids(&answer.text), expected, "{query}");
    }
    let answer = get(&node, "/events?follow=false&after=2").await;
    let expected = ": events follow\nid: 2\n\nid: 3\nevent: container_exited\n\
                    data: {\"id\":3,\"kind\":\"container_exited\"}\n\n";
    assert_eq!(answer.text, expected);
    for (query, fault) in [
        ("kind=nonsense", "kind=nonsense is not one of"),
        ("after=x", "after"),
        ("since=1m", "unknown parameter since"),
    ] {
        problem(&get(&node, &format!("/events?{query}")).await, 400, fault);
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_says_where_a_reader_stood_and_another_one_asks_for_lines() {
    let node = told();
    let request = Request::get("/events?follow=false&after=0")
        .header("last-event-id", "2")
        .header(header::ACCEPT, "application/x-ndjson")
        .body(Body::empty())
        .unwrap();
    let answer = send(&node, None, request).await;
    let line: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(line, json!({"id": 3, "kind": "container_exited"}));
    let request = Request::get("/events")
        .header("last-event-id", "2x")
        .body(Body::empty())
        .unwrap();
    problem(&send(&node, None, request).await, 400, "Last-Event-ID");
}

#[tokio::test(start_paused = true)]
async fn a_caller_hears_of_the_containers_it_has_to_do_with_and_not_of_the_node() {
    let list = clients([client(Role::Read, &["web*"])]);
    let asked = ("GET", "/events?follow=false");
    let answer = call(&told(), &list, "read", asked, &Value::Null).await;
    assert_eq!(ids(&answer.text), [1], "{}", answer.text);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_too_late_or_from_another_node_is_told_so_and_goes_on() {
    let node = told();
    for _ in 0..EVENTS_MAX {
        node.tell("container_ready", Some("web"));
    }
    for position in [1, 1_000_000] {
        let query = format!("/events?follow=false&after={position}&kind=container_exited");
        let text = get(&node, &query).await.text;
        assert!(text.contains("event: events_lost"), "{text}");
        assert_eq!(ids(&text), [3], "the position to resume at");
    }
    for position in [0, 3] {
        let text = get(&node, &format!("/events?follow=false&after={position}"))
            .await
            .text;
        assert!(!text.contains("events_lost"));
        assert_eq!(ids(&text).len(), EVENTS_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_hears_what_comes_and_comments_in_between() {
    let node = told();
    let later = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        node.tell("container_exited", Some("db"));
    };
    let listening = tokio::time::timeout(Duration::from_secs(60), async {
        let request = Request::get("/events").body(Body::empty()).unwrap();
        let answer = router(std::sync::Arc::clone(&node), rules(None), None);
        let answer = answer.oneshot(of(ROOT, request)).await.unwrap();
        let pieces = answer.into_body().into_data_stream().take(4);
        let pieces = pieces.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap());
        pieces.collect::<Vec<_>>().await
    });
    let (pieces, ()) = tokio::join!(listening, later);
    let pieces = pieces.unwrap();
    assert_eq!(
        pieces[..3],
        [": events follow\nid: 3\n\n", ":\nid: 3\n\n", ":\nid: 3\n\n"]
    );
    assert!(
        pieces[3].starts_with("id: 4\nevent: container_exited"),
        "{pieces:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_after_hours_with_the_position_of_its_reader() {
    let node = told();
    let hours = Duration::from_hours(6);
    for (query, last) in [
        ("after=1", "\n:\nid: 3\n\n"),
        ("container=none", "\n:\nid: 3\n\n"),
    ] {
        let began = tokio::time::Instant::now();
        let answer = get(&node, &format!("/events?{query}")).await;
        assert!(answer.text.ends_with(last), "{}", answer.text);
        let lasted = began.elapsed();
        assert!(
            lasted >= hours && lasted < hours + Duration::from_mins(1),
            "{lasted:?}"
        );
    }
    // Nor does one go on to whom there is always something to tell, or never anything of all that comes.
    for query in ["", "?container=none"] {
        let (began, path) = (tokio::time::Instant::now(), format!("/events{query}"));
        tokio::select! {
            () = tell_for_ever(&node) => {}
            answer = get(&node, &path) => assert!(answer.text.ends_with("\n\n")),
        }
        assert!(
            began.elapsed() < hours + Duration::from_mins(1),
            "{query}: {:?}",
            began.elapsed()
        );
    }
}

async fn tell_for_ever(node: &Fake) {
    loop {
        tokio::time::sleep(Duration::from_secs(7)).await;
        node.tell("container_ready", Some("web"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_is_shown_nothing_of_a_busy_feed_hears_its_position_nevertheless() {
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let (node, began) = (told(), tokio::time::Instant::now());
        let listening = async {
            let request = Request::get("/events?container=db").header(header::ACCEPT, accept);
            let request = of(ROOT, request.body(Body::empty()).unwrap());
            let answer = router(std::sync::Arc::clone(&node), rules(None), None);
            let pieces = answer.oneshot(request).await.unwrap().into_body();
            let pieces = pieces.into_data_stream().take(3);
            let pieces = pieces.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap());
            pieces.collect::<Vec<_>>().await
        };
        let pieces = tokio::select! {
            () = tell_for_ever(&node) => unreachable!(),
            pieces = tokio::time::timeout(Duration::from_mins(5), listening) => pieces,
        };
        let expected = match accept {
            "text/event-stream" => [": events follow\nid: 3\n\n", ":\nid: 5\n\n", ":\nid: 7\n\n"],
            _ => ["\n"; 3],
        };
        assert_eq!(pieces.expect("something in five minutes"), expected);
        let comments = if accept == "text/event-stream" { 2 } else { 3 };
        assert_eq!(began.elapsed(), Duration::from_secs(15 * comments));
    }
}
