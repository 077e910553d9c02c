//! Tests of the example server over a real socket, in this process. Every call is checked against
//! its OpenAPI document.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::contract::Call;
use server::{Server, Settings, serve};

mod document;
mod files;
mod node_calls;
mod operators;
mod polls;

#[allow(dead_code, reason = "the tests use it over HTTP, as everybody does")]
#[path = "../../examples/chas-api/server.rs"]
mod server;

const JOIN: &str = "join-token";
const ADMIN: &str = "admin-token";

/// A server on a port of its own, and its clock.
struct Running {
    base: String,
    server: Arc<Server>,
    /// Milliseconds by which the server's clock is ahead.
    ahead_ms: Arc<AtomicU64>,
    stop: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
    http: reqwest::Client,
}

/// An answer of the server.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn etag(&self) -> String {
        self.header("etag").unwrap().to_owned()
    }

    /// The status, and the code of an error.
    fn kind(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

impl Running {
    async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    async fn start_on(state: &Path) -> Self {
        Self::start_with(Settings {
            state: Some(state.to_owned()),
            ..Settings::default()
        })
        .await
    }

    /// Starts a server with both tokens and these settings.
    async fn start_with(settings: Settings) -> Self {
        Self::start_as(Settings {
            join_token: Some(JOIN.to_owned()),
            admin_token: Some(ADMIN.to_owned()),
            ..settings
        })
        .await
    }

    async fn start_as(settings: Settings) -> Self {
        Self::start_later(settings, Duration::ZERO).await
    }

    /// Starts a server whose clock is ahead from the start.
    async fn start_later(settings: Settings, ahead: Duration) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            rustls::crypto::ring::default_provider()
                .install_default()
                .unwrap_or_default();
        });
        let ahead_ms = Arc::new(AtomicU64::new(u64::try_from(ahead.as_millis()).unwrap()));
        let ahead = Arc::clone(&ahead_ms);
        let clock = Arc::new(move || {
            SystemTime::now() + Duration::from_millis(ahead.load(Ordering::Relaxed))
        });
        let server = Server::open(Settings { clock, ..settings }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        #[allow(clippy::disallowed_methods, reason = "a test waits for it by hand")]
        let served = tokio::spawn(serve(listener, Arc::clone(&server), stop.clone()));
        Self {
            base,
            server,
            ahead_ms,
            stop,
            served,
            http: reqwest::Client::new(),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.served.await.unwrap().unwrap();
    }

    fn pass(&self, time: Duration) {
        self.ahead_ms
            .fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Makes a call with these headers. The document must allow what the server accepts and what it
    /// answers.
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: HeaderMap,
        body: Option<&Value>,
    ) -> Answer {
        let call = Call::find(method, path);
        let request_faults = call.request_faults(&headers, body);
        let mut request = self
            .http
            .request(method.parse().unwrap(), format!("{}{path}", self.base))
            .headers(headers);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        call.check_response(status, &headers, &bytes);
        // The document says that such a set is taken although it is none.
        if status < 400 && !path.contains("force=true") {
            assert!(
                request_faults.is_empty(),
                "{method} {path} was taken: {request_faults:?}"
            );
        }
        Answer {
            status,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
        }
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Answer {
        self.send(method, path, with(token, &[]), body).await
    }

    /// Makes a call of an operator, which must succeed.
    async fn operate(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.call(method, path, ADMIN, body).await;
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer.body
    }

    /// Registers a node with the join token, and returns the node's own.
    async fn join(&self, node_id: &str) -> String {
        let answer = self
            .call(
                "POST",
                "/nodes/register",
                JOIN,
                Some(&registration(node_id, "a")),
            )
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["token"].as_str().unwrap().to_owned()
    }

    /// Polls for the node's set with these headers.
    async fn poll(&self, node_id: &str, token: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(
            "GET",
            &format!("/nodes/{node_id}/desired-state"),
            with(token, headers),
            None,
        )
        .await
    }

    /// Waits until the server keeps this many polls open, which only its metrics show.
    async fn until_held(&self, count: usize) {
        let line = format!("chas_api_polls_held {count}\n");
        let text = async || {
            self.http
                .get(format!("{}/metrics", self.base))
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap()
        };
        while !text().await.contains(&line) {
            tokio::task::yield_now().await;
        }
    }
}

fn with(token: &str, headers: &[(&str, &str)]) -> HeaderMap {
    let all = headers.iter().map(|(name, value)| {
        (
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    });
    let mut all: HeaderMap = all.collect();
    if !token.is_empty() {
        all.insert(
            "authorization",
            HeaderValue::from_str(&format!("Bearer {token}")).unwrap(),
        );
    }
    all
}

/// The registration of an instance of a node.
fn registration(node_id: &str, instance: &str) -> Value {
    json!({
        "node_id": node_id, "hostname": format!("{node_id}.example"), "ip_address": "10.0.0.7", "port": 9090,
        "resources": {"cpu_cores": 4, "memory_total": "8GB", "disk_total": "100GB"}, "instance_uuid": instance,
        "boot_id": "boot", "agent_version": "0.1.0", "api": {"desired_state": 1}, "labels": {"zone": "a"},
    })
}

/// A report of the instance `a` with every member there is.
fn report(seq: u64) -> Value {
    let container = json!({
        "id": "0123456789ab", "name": "web", "owner": "chas", "revision": 3, "generation": 2, "spec_hash": "c0ffee",
        "status": "running", "ready": true, "reason": null, "message": null, "restart_count": 0, "exit_code": null,
        "next_attempt": null, "image_digest": "sha256:00",
        "ports": [{"host_ip": null, "host": 8081, "container": 80, "protocol": "tcp"}],
    });
    json!({
        "status": "healthy", "resources": {"cpu_usage": 12.5, "memory_usage": 40, "disk_available": "50GB", "container_count": 1},
        "uptime": 86400, "load_average": [0.1, 0.2, 0.3], "boot_id": "boot", "instance_uuid": "a", "seq": seq,
        "observed_generation": 1, "observed_epoch": null, "applied_generation": 1, "converged": true,
        "desired": {"source": "chas", "age_s": 5, "stale": false, "fault": {"code": "not_stored", "message": "full", "count": 1}},
        "pending_prune": {"count": 1, "names": ["old"], "generation": 1}, "cordoned": false, "containers": [container],
        "conflicts": [{"name": "web", "winner": "push", "why": "it is newer"}],
        "rejected": [{"name": null, "index": 0, "errors": [{"field": "image", "message": "is required"}]}],
        "losses": ["the store was damaged"], "errors": ["ImageNotFound: web"],
    })
}

/// A heartbeat after [`report`].
fn heartbeat(seq: u64) -> Value {
    let mut beat = report(seq);
    let kept = [
        "status",
        "resources",
        "uptime",
        "load_average",
        "boot_id",
        "seq",
        "desired",
    ];
    beat.as_object_mut()
        .unwrap()
        .retain(|name, _| kept.contains(&name.as_str()));
    beat["unchanged"] = json!(true);
    beat["uptime"] = json!(86400 + seq);
    beat
}

/// A set with a container for each name.
fn set(names: &[&str]) -> Value {
    let containers: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "image": "nginx:1.29"}))
        .collect();
    json!({"containers": containers})
}
