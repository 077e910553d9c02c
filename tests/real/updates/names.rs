//! A neighbour that keeps for some seconds what a name meant, as resolvers do.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::load::{Place, ask, body, push_server};
use super::updated;
use crate::stand::Stand;

/// Time for which Go keeps what the hosts file said.
const KEPT: Duration = Duration::from_secs(5);
/// Its `stop.timeout`: the generation before is there no longer than that.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_looked_the_name_up_is_answered_until_it_looks_again() {
    let stand = Stand::new().await;
    push_server(&stand).await;
    let body = |version| {
        let mut body = body(&stand, version);
        body["stop"]["timeout"] = json!(format!("{}s", GRACE.as_secs()));
        body
    };
    let shown = stand.agent.deploy_and_wait(&body(1)).await;
    let address: IpAddr = shown["ip"].as_str().unwrap().parse().unwrap();
    let neighbour = stand.script("neighbour", "sleep 100000 & wait", &json!({}));
    let neighbour = stand.agent.deploy_and_wait(&neighbour).await;
    let pid = stand.pid(&neighbour).unwrap();
    let place = Place {
        name: "a neighbour",
        at: Ok(SocketAddr::new(address, 80)),
        netns: Some(Arc::new(File::open(format!("/proc/{pid}/ns/net")).unwrap())),
    };
    let (status, told) = stand.agent.deploy(&body(2)).await;
    assert_eq!(status, 202, "{told}");
    let path = "/containers/web?wait=applied&generation=2&timeout=40s";
    let (status, told) = stand.agent.get(path).await;
    assert_eq!(status, 200, "{told}");
    let began = Instant::now();
    // A connection of its own each time, over at once: at most looks none is there.
    let asking = thread::spawn(move || {
        place.enter();
        let mut answered = 0;
        while began.elapsed() < KEPT {
            let asked = place.connect();
            let asked = asked.and_then(|mut stream| ask(&mut stream, "Connection: close\r\n"));
            let at = began.elapsed();
            let (version, _) = asked.unwrap_or_else(|error| panic!("after {at:?}: {error}"));
            assert_eq!(version, "1");
            answered += 1;
            thread::sleep(Duration::from_millis(300));
        }
        answered
    });
    let answered = tokio::task::spawn_blocking(|| asking.join()).await;
    assert!(answered.unwrap().unwrap() > 5);
    updated(&stand, 2).await;
    let took = began.elapsed();
    println!("the one before went {took:?} after the switch");
    assert!(took < GRACE - Duration::from_secs(5), "{took:?}");
    stand.end().await;
}
