//! Many clients at once, of every slow kind, on a real socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use state::subnet::Ipv4Subnet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{TcpDoor, serve};

struct Server {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    /// Lets the requests to `/wait` be answered.
    go: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An answer that no socket takes at once.
const LARGE_BYTES: usize = 32 << 20;

/// An answer without an end.
fn endless() -> Body {
    let chunk = || Ok::<_, std::io::Error>(vec![b'x'; 16 << 10]);
    Body::from_stream(futures_util::stream::repeat_with(chunk))
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let go = Arc::new(Notify::new());
    let waiting = Arc::clone(&go);
    let wait = async move || {
        waiting.notified().await;
        "done"
    };
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/deploy", post(async |body: String| body))
        .route("/endless", get(async || endless()))
        .route("/large", get(async || "x".repeat(LARGE_BYTES)))
        .route("/wait", get(wait));
    let door = TcpDoor::new(
        listener,
        "10.231.0.0/24".parse::<Ipv4Subnet>().unwrap().into(),
        None,
    );
    let serving = serve(door, router, stop.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(serving);
    Server {
        address,
        stop,
        go,
        _tasks: tasks,
    }
}

/// Sends bytes on a connection of its own, which stays open.
async fn send(server: &Server, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the connection ends.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    match tokio::time::timeout(Duration::from_secs(10), read).await {
        Ok(Ok(_)) => text,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it stays open".to_owned(),
    }
}

const PROBE: &str = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const DEPLOY: &str =
    "POST /deploy HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn three_hundred_slow_clients_of_any_kind_keep_nobody_out() {
    for slow in [
        "",
        "GET /livez HTTP/1.1\r\nX: ",
        "POST /deploy HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let server = server().await;
        let mut clients = Vec::new();
        for _ in 0..300 {
            clients.push(send(&server, slow).await);
        }
        // What was sent is read by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        for (request, says) in [(PROBE, "alive"), (DEPLOY, "{}")] {
            let began = Instant::now();
            let answer = rest(send(&server, request).await).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains(says),
                "{slow:?}: {answer}"
            );
            assert!(began.elapsed() < Duration::from_secs(2), "{slow:?}");
        }
    }
}

#[tokio::test]
async fn requests_that_are_waited_for_are_not_cut_and_leave_a_place_for_probes() {
    let server = server().await;
    let wait = "GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut waiting = Vec::new();
    for _ in 0..200 {
        waiting.push(send(&server, wait).await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let probe = rest(send(&server, PROBE).await).await;
    assert!(probe.starts_with("HTTP/1.1 200"), "{probe}");
    let refused = rest(send(&server, DEPLOY).await).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    for header in ["retry-after", "x-request-id"] {
        assert!(refused.contains(header), "{refused}");
    }
    server.go.notify_waiters();
    let mut done = 0;
    for stream in waiting {
        done += usize::from(rest(stream).await.ends_with("done"));
    }
    assert_eq!(done, 192);
}

#[tokio::test]
async fn a_stop_ends_what_rests_at_once_and_lets_what_is_under_way_be_answered() {
    let server = server().await;
    let silent = send(&server, "").await;
    let waiting = send(&server, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.cancel();
    assert_eq!(rest(silent).await, "");
    server.go.notify_waiters();
    let answer = rest(waiting).await;
    assert!(answer.ends_with("done"), "{answer}");
}

#[tokio::test]
async fn a_stop_lets_an_answer_be_taken_that_is_made_and_not_yet_sent() {
    let server = server().await;
    let asked = send(&server, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.stop.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = rest(asked).await;
    let body = answer
        .split_once("\r\n\r\n")
        .map_or(0, |(_, body)| body.len());
    assert_eq!(body, LARGE_BYTES);
}
