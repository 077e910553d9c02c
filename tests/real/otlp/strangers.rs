//! Callers that name a trace: it counts for those who are let in.

use tokio::net::UnixStream;

use super::collector::{Collector, Manner, text};
use super::wire::OtlpSpan;
use crate::doors::{exchange, over_tcp, socket_of, status};
use crate::harness::Testbed;
use crate::harness::agent::{Agent, TOKEN};
use crate::rights::token;
use crate::stand::Stand;

const TRACE: [u8; 16] = *b"0123456789abcdef";
const PARENT: [u8; 8] = *b"01234567";
/// The caller asks for its trace to be sampled.
const HEADER: &str = "00-30313233343536373839616263646566-3031323334353637-01";

/// A call, and what becomes of it.
#[derive(Clone, Copy, Debug)]
struct TracedCall<'a> {
    id: &'a str,
    /// `None`: by the socket.
    token: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    status: u16,
}

impl TracedCall<'_> {
    /// Makes the call, which names the trace.
    async fn make(self, agent: &Agent) {
        let Self {
            id, method, path, ..
        } = self;
        let bearer = match self.token {
            Some("") | None => String::new(),
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\ntraceparent: {HEADER}\r\n\
             X-Request-Id: {id}\r\n{bearer}Content-Length: 0\r\n\r\n"
        );
        let answer = match self.token {
            Some(_) => over_tcp(agent, request.as_bytes()).await,
            None => {
                let socket = UnixStream::connect(socket_of(agent)).await.unwrap();
                exchange(socket, request.as_bytes()).await
            }
        };
        assert_eq!(status(&answer), self.status, "{id}: {answer}");
    }

    async fn span(self, collector: &Collector) -> OtlpSpan {
        let name = format!("{} {}", self.method, self.path);
        let id = [("chas.request_id", self.id)];
        let span = collector.span(&name, &id).await;
        let status = text(&span.attributes, "http.response.status_code");
        assert_eq!(status, self.status.to_string(), "{}", self.id);
        span
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_for_who_is_let_in_and_nobody_else_has_anything_sampled() {
    let collector = Collector::start(Manner::Takes).await;
    let bed = Testbed::new();
    let file = bed.dir.join("clients.yaml");
    let viewer = token(&file, &["create", "viewer", "--role", "read"]);
    let viewer = viewer.trim();
    let variables = [
        ("CHAS_CLIENTS_FILE", file.to_str().unwrap()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let mut stand = Stand::with(bed, &variables).await;
    let (list, deploy) = ("/containers", "/containers/deploy");
    let call = |id, token, (method, path), status| TracedCall {
        id,
        token,
        method,
        path,
        status,
    };
    let outside = [
        call("nobody", Some(""), ("GET", list), 401),
        call("guess", Some("a-guess"), ("GET", list), 401),
        call("viewer-deploys", Some(viewer), ("POST", deploy), 403),
        call("probe", Some(TOKEN), ("GET", "/livez"), 200),
    ];
    let inside = [
        call("viewer", Some(viewer), ("GET", list), 200),
        call("token", Some(TOKEN), ("GET", list), 200),
        call("socket", None, ("GET", list), 200),
    ];
    for call in outside {
        call.make(&stand.agent).await;
        let span = call.span(&collector).await;
        assert!(span.parent_span_id.is_empty(), "{call:?}: {span:?}");
        assert_ne!(span.trace_id, TRACE, "{call:?}");
    }
    for call in inside {
        call.make(&stand.agent).await;
        let span = call.span(&collector).await;
        let place = (&span.trace_id[..], &span.parent_span_id[..]);
        assert_eq!(place, (&TRACE[..], &PARENT[..]), "{call:?}");
    }

    // Of an agent that samples nothing of its own.
    stand.agent.terminate();
    stand
        .agent
        .set("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    stand.agent.start_again().await;
    let before = collector.spans().len();
    for call in outside.into_iter().chain(inside) {
        call.make(&stand.agent).await;
    }
    // They are sent in the order of their ends.
    stand.agent.terminate();
    let spans = collector.spans().split_off(before);
    let ids = spans
        .iter()
        .map(|span| text(&span.attributes, "chas.request_id"));
    assert_eq!(ids.collect::<Vec<_>>(), inside.map(|call| call.id));
    stand.agent.start_again().await;
    stand.end().await;
}
