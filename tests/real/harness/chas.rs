//! A CHaS API server that answers as a test tells it to, and keeps what it was sent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{self, Head, Server};

/// What a poll is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The set, or 304 where it is known.
    Set,
    /// A status, more headers, and a body.
    Status(
        &'static str,
        &'static [(&'static str, &'static str)],
        String,
    ),
    /// These bytes, and the connection is closed.
    Bytes(Vec<u8>),
    /// A head, and then a byte now and then.
    Drip,
    /// Nothing, as long as the agent waits.
    Silence,
}

/// `Chas-Signature` of a set, by it and its bytes.
#[derive(Clone)]
struct Sign(Arc<Signer>);

type Signer = dyn Fn(&Value, &[u8], &str) -> String + Send + Sync;

impl std::fmt::Debug for Sign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sign")
    }
}

#[derive(Debug)]
struct State {
    node_id: String,
    set: Value,
    answer: Answer,
    register: (&'static str, Value),
    /// Makes the signature of a set from its bytes.
    signs: Option<Sign>,
    /// `None`: reports are answered with an empty body.
    announces: bool,
    /// Whether nobody is there: each call is hung up on.
    is_away: bool,
    registrations: Vec<Value>,
    reports: Vec<Value>,
    polls: usize,
    /// What was asked, in order: `register`, `report` and `poll`.
    calls: Vec<&'static str>,
    /// What of it is not as the document of the interface has it.
    undocumented: Vec<String>,
}

/// All that is not as the document has it, fields that it does not know among it.
fn undocumented(name: &str, body: &Value) -> Vec<String> {
    let faults = crate::chas_api::body_errors(name, body, true);
    faults
        .into_iter()
        .map(|fault| format!("{name} {}: {}", fault.field, fault.message))
        .collect()
}

/// The server. It ends with the value.
#[derive(Debug)]
pub(crate) struct Chas {
    state: Arc<Mutex<State>>,
    server: Server,
}

impl Chas {
    /// One that lists nothing yet for the node: its set is empty, of generation 1.
    pub(crate) fn start(node_id: &str) -> Self {
        let set = json!({"schema": 1, "node_id": node_id, "epoch": "e1", "generation": 1, "complete": true,
            "poll_after_s": 1, "containers": []});
        let state = State {
            node_id: node_id.to_owned(),
            set,
            answer: Answer::Set,
            register: ("200 OK", json!({"poll_after_s": 1, "health_after_s": 1})),
            signs: None,
            announces: true,
            is_away: false,
            registrations: Vec::new(),
            reports: Vec::new(),
            polls: 0,
            calls: Vec::new(),
            undocumented: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let server = Server::start(move |head, mut stream| {
            let mut body = vec![0; usize::try_from(head.body_bytes()).unwrap_or(0)];
            stream.read_exact(&mut body)?;
            serve(&shared, &head, &body, stream.into_inner())
        });
        Self { state, server }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Lists these containers, as the next generation; that generation.
    pub(crate) fn list(&self, containers: &[Value]) -> u64 {
        let mut state = self.lock();
        let generation = state.set["generation"].as_u64().unwrap() + 1;
        state.set["generation"] = json!(generation);
        state.set["containers"] = json!(containers);
        generation
    }

    /// Changes a field of the set, and nothing else of it.
    pub(crate) fn set(&self, field: &str, value: Value) {
        self.lock().set[field] = value;
    }

    /// Signs sets so from now on.
    pub(crate) fn sign(
        &self,
        sign: impl Fn(&Value, &[u8], &str) -> String + Send + Sync + 'static,
    ) {
        self.lock().signs = Some(Sign(Arc::new(sign)));
    }

    /// Answers polls so from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        let mut state = self.lock();
        (state.answer, state.polls) = (answer, 0);
    }

    /// Goes away, or comes back.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
    }

    /// Answers registrations so from now on.
    pub(crate) fn register(&self, status: &'static str, body: Value) {
        self.lock().register = (status, body);
    }

    /// Polls since the answer was changed.
    pub(crate) fn polls(&self) -> usize {
        self.lock().polls
    }

    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    pub(crate) fn registrations(&self) -> Vec<Value> {
        self.lock().registrations.clone()
    }

    /// Every report so far.
    pub(crate) fn reports(&self) -> Vec<Value> {
        self.lock().reports.clone()
    }

    /// The newest report, once one is as `wanted`.
    pub(crate) async fn report(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let newest = self.lock().reports.last().cloned().unwrap_or_default();
            assert_eq!(
                self.lock().undocumented,
                Vec::<String>::new(),
                "the agent sends what the document knows"
            );
            if wanted(&newest) {
                return newest;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: no report says so, but {newest:#}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn serve(state: &Mutex<State>, head: &Head, body: &[u8], mut stream: TcpStream) -> io::Result<()> {
    let mut state = state.lock().unwrap();
    let sent = || serde_json::from_slice(body).unwrap_or_default();
    if state.is_away {
        return Ok(());
    }
    let node = state.node_id.clone();
    let (health, desired) = (
        format!("/nodes/{node}/health"),
        format!("/nodes/{node}/desired-state"),
    );
    match (head.method(), head.second()) {
        ("POST", "/nodes/register") => {
            state.calls.push("register");
            let registration = sent();
            state
                .undocumented
                .extend(undocumented("Registration", &registration));
            state.registrations.push(registration);
            let (status, body) = state.register.clone();
            drop(state);
            http::answer(&mut stream, status, &[], &body.to_string())
        }
        ("PUT", path) if path == health => {
            state.calls.push("report");
            let report = sent();
            state.undocumented.extend(undocumented("Report", &report));
            state.reports.push(report);
            let body = json!({"desired_generation": state.set["generation"]}).to_string();
            let body = if state.announces { body } else { String::new() };
            drop(state);
            http::answer(&mut stream, "200 OK", &[], &body)
        }
        ("GET", path) if path == desired => {
            state.calls.push("poll");
            state.polls += 1;
            let (answer, set) = (state.answer.clone(), state.set.clone());
            let signs = state.signs.clone();
            drop(state);
            poll(&answer, &set, signs.as_ref(), head, stream)
        }
        _ => http::answer(&mut stream, "404 Not Found", &[], ""),
    }
}

fn poll(
    answer: &Answer,
    set: &Value,
    signs: Option<&Sign>,
    head: &Head,
    mut stream: TcpStream,
) -> io::Result<()> {
    let body = set.to_string();
    match answer {
        Answer::Set => {
            let parts = ["epoch", "generation", "prune_confirm", "cordon"]
                .map(|field| set[field].to_string());
            let tag = format!("\"{}\"", parts.join("-").replace('"', ""));
            if head.header("if-none-match") == Some(&tag) {
                return http::answer(&mut stream, "304 Not Modified", &[("ETag", &tag)], "");
            }
            let signed = signs.map(|sign| sign.0(set, body.as_bytes(), &tag));
            let signed = signed
                .iter()
                .map(|signed| ("Chas-Signature", signed.as_str()));
            let headers: Vec<_> = signed.chain([("ETag", tag.as_str())]).collect();
            http::answer(&mut stream, "200 OK", &headers, &body)
        }
        Answer::Status(status, headers, body) => http::answer(&mut stream, status, headers, body),
        Answer::Bytes(bytes) => stream.write_all(bytes),
        Answer::Drip => {
            stream.write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
            )?;
            for byte in body.as_bytes().chunks(1) {
                stream.write_all(byte)?;
                thread::sleep(Duration::from_millis(500));
            }
            Ok(())
        }
        Answer::Silence => stream.read_to_end(&mut Vec::new()).map(drop),
    }
}
