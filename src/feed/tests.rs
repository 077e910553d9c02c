use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;

fn event(number: u64) -> FeedEvent {
    let data = json!({"id": number, "kind": "k", "container": null});
    FeedEvent {
        number,
        kind: "k".into(),
        id: None,
        name: None,
        data: data.to_string().into(),
    }
}

fn numbers(page: &FeedPage) -> Vec<u64> {
    page.events.iter().map(|event| event.number).collect()
}

#[test]
fn a_reader_is_shown_what_came_after_its_position_and_told_what_it_missed() {
    let feed = EventFeed::default();
    for _ in 0..3 {
        feed.push(event);
    }
    assert_eq!(numbers(&feed.read(1, 9)), [2, 3]);
    assert_eq!(numbers(&feed.read(0, 2)), [1, 2]);
    assert_eq!((feed.newest(), feed.read(3, 9).has_lost), (3, false));
    let ahead = feed.read(4, 9);
    assert_eq!((numbers(&ahead), ahead.has_lost), (vec![1, 2, 3], true));
    for _ in 0..EVENTS_MAX {
        feed.push(event);
    }
    assert!(feed.read(2, 1).has_lost && !feed.read(3, 1).has_lost);
    assert_eq!(numbers(&feed.read(0, 1)), [4]);
}

#[test]
fn another_start_gives_numbers_that_none_before_had() {
    let feed = EventFeed::after(vec![event(3), event(8)], 0);
    feed.push(event);
    assert_eq!(numbers(&feed.read(0, 9)), [3, 8, 1_000_001]);
    assert!(feed.read(1, 9).has_lost && !feed.read(2, 9).has_lost);
    assert!(!feed.read(8, 9).has_lost, "nothing is missing in between");
    // Also where a power cut took all of a start's events.
    for (last, started, first) in [(3, 7, 7_000_001), (9_000_000, 7, 10_000_001)] {
        let feed = EventFeed::after(vec![event(last)], started);
        feed.push(event);
        assert_eq!(feed.newest(), first);
    }
    let empty = EventFeed::after(Vec::new(), 7);
    assert!(empty.read(5, 9).has_lost && !empty.read(0, 9).has_lost);
}

#[test]
fn events_are_bounded_by_their_bytes() {
    let feed = EventFeed::default();
    for _ in 0..10 {
        feed.push(|number| FeedEvent {
            data: vec![b'x'; BYTES_MAX / 4].into(),
            ..event(number)
        });
    }
    assert_eq!(numbers(&feed.read(0, 99)), [7, 8, 9, 10]);
    assert!(feed.read(5, 1).has_lost && !feed.read(6, 1).has_lost);
}

#[tokio::test]
async fn the_files_bring_back_what_was_pushed_also_after_a_torn_line() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("events");
    let mut expected = Vec::new();
    for start in 0..3_u64 {
        let (files, before) = FeedFiles::open(&directory);
        let known: Vec<_> = before.iter().map(|event| event.number).collect();
        assert_eq!(known, expected);
        let feed = EventFeed::after(before, 0);
        let (stop, position) = (CancellationToken::new(), feed.newest());
        let following =
            TaskTracker::new().spawn(files.follow(feed.clone(), position, stop.clone()));
        feed.push(event);
        tokio::time::sleep(Duration::from_millis(20)).await;
        feed.push(event);
        stop.cancel();
        following.await.unwrap();
        expected.extend([1, 2].map(|number| start * NUMBERS_OF_SECOND + number));
        let newer = directory.join("events.jsonl");
        let mut text = std::fs::read(&newer).unwrap();
        let foreign = json!({"id": u64::MAX, "kind": "k"});
        text.extend_from_slice(format!("{foreign}\n{{\"id\":99999999,\"ki").as_bytes());
        std::fs::write(&newer, text).unwrap();
    }
}

#[tokio::test]
async fn the_files_are_bounded() {
    let scratch = tempfile::tempdir().unwrap();
    let (files, _) = FeedFiles::open(scratch.path());
    let feed = EventFeed::default();
    let stop = CancellationToken::new();
    let following = TaskTracker::new().spawn(files.follow(feed.clone(), 0, stop.clone()));
    let long = "x".repeat(16 << 10);
    for _ in 0..600 {
        feed.push(|number| FeedEvent {
            data: json!({"id": number, "kind": "k", "x": long})
                .to_string()
                .into(),
            ..event(number)
        });
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    stop.cancel();
    following.await.unwrap();
    let sizes = std::fs::read_dir(scratch.path()).unwrap().flatten();
    let sizes: Vec<u64> = sizes.map(|entry| entry.metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().sum::<u64>() < 6 << 20, "{sizes:?}");
    let (_, kept) = FeedFiles::open(scratch.path());
    assert_eq!(kept.last().unwrap().number, 600);
    assert!(kept.len() < 600);
}
