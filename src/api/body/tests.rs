//! Large bodies: slow ones keep nobody out, and the time that the agent takes is not the client's.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::task::JoinSet;

use super::places::WAIT_MAX;
use super::*;

const CHUNK: usize = 100 << 10;
const PLACES: usize = 16;

fn chunk() -> Result<Vec<u8>, Infallible> {
    Ok(vec![b' '; CHUNK])
}

/// A body of two chunks, of which the second comes after a while.
fn slow(after: Duration) -> Body {
    Body::from_stream(two(after))
}

fn two(after: Duration) -> impl Stream<Item = Result<Vec<u8>, Infallible>> + Send {
    let second = stream::once(async move {
        tokio::time::sleep(after).await;
        chunk()
    });
    stream::once(async { chunk() }).chain(second)
}

fn length(read: Result<(Bytes, Option<SemaphorePermit<'static>>), Problem>) -> usize {
    read.unwrap().0.len()
}

#[tokio::test(start_paused = true)]
async fn a_large_body_gets_its_place_from_the_oldest_that_does_not_come() {
    static ALL: Places = Places::new(PLACES);
    let mut silent = JoinSet::new();
    for _ in 0..PLACES {
        silent.spawn(bytes(slow(BODY_MAX * 2), &ALL));
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    // It has its own time from when it has its place.
    let last = BODY_MAX.checked_sub(Duration::from_millis(1)).unwrap();
    assert_eq!(length(bytes(slow(last), &ALL).await), 2 * CHUNK);
    let took = began.elapsed();
    assert!(took > BODY_MAX && took < BODY_MAX + WAIT_MAX, "{took:?}");
    let mut problems = Vec::new();
    while let Some(ended) = silent.join_next().await {
        problems.push(ended.unwrap().unwrap_err());
    }
    let is_busy = |problem: &&Problem| matches!(problem, Problem::Busy(_));
    assert_eq!(problems.iter().filter(is_busy).count(), 1);
    let is_slow = |problem: &&Problem| **problem == Problem::Slow;
    assert_eq!(problems.iter().filter(is_slow).count(), PLACES - 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_read_keeps_its_place_and_who_waits_too_long_is_told() {
    static ALL: Places = Places::new(PLACES);
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(bytes(slow(Duration::ZERO), &ALL).await.unwrap());
    }
    let began = Instant::now();
    let refused = bytes(slow(Duration::ZERO), &ALL).await.map(|_| ());
    assert!(matches!(refused, Err(Problem::Busy(_))), "{refused:?}");
    assert_eq!(began.elapsed(), WAIT_MAX);
    held.pop();
    assert_eq!(length(bytes(slow(Duration::ZERO), &ALL).await), 2 * CHUNK);
}

#[test]
fn no_body_from_the_network_has_the_place_of_one_by_the_socket() {
    let [network, socket] = [
        CallerPeer::Tcp([127, 0, 0, 1].into()),
        CallerPeer::Socket { uid: 0, pid: None },
    ]
    .map(places);
    assert!(!std::ptr::eq(network, socket));
}
