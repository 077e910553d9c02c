//! A collector on loopback: keeps what it gets, or behaves badly.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use prost::Message as _;

use super::wire::{AttributeValue, ExportRequest, OtlpAttribute, OtlpSpan};
use crate::stand::eventually;

/// What the collector does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Takes,
    Hangs,
    /// An answer that has no end.
    Floods,
    IsAway,
}

#[derive(Debug)]
struct Received {
    manner: Manner,
    /// Requests of any manner.
    calls: usize,
    bodies: Vec<(String, HeaderMap, Bytes)>,
}

/// A collector on loopback.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    received: Arc<Mutex<Received>>,
    pub(super) address: SocketAddr,
    pub(super) url: String,
}

async fn answer(
    State(received): State<Arc<Mutex<Received>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let manner = {
        let mut received = received.lock().unwrap();
        received.calls += 1;
        if received.manner == Manner::Takes {
            received.bodies.push((uri.path().to_owned(), headers, body));
        }
        received.manner
    };
    match manner {
        Manner::Takes => StatusCode::OK.into_response(),
        Manner::IsAway => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Manner::Hangs => std::future::pending().await,
        Manner::Floods => {
            let chunk = Bytes::from(vec![b'x'; 1 << 16]);
            let chunk = move || Some(Ok::<_, std::io::Error>(chunk.clone()));
            let chunks = std::iter::from_fn(chunk);
            Body::from_stream(futures_util::stream::iter(chunks)).into_response()
        }
    }
}

impl Collector {
    pub(super) async fn start(manner: Manner) -> Self {
        let received = Arc::new(Mutex::new(Received {
            manner,
            calls: 0,
            bodies: Vec::new(),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let router = axum::Router::new().fallback(answer);
        let router = router.with_state(Arc::clone(&received));
        let serving = async move { axum::serve(listener, router).await };
        tokio_util::task::TaskTracker::new().spawn(serving);
        Self {
            received,
            address,
            url,
        }
    }

    pub(super) fn behave(&self, manner: Manner) {
        self.received.lock().unwrap().manner = manner;
    }

    pub(super) fn calls(&self) -> usize {
        self.received.lock().unwrap().calls
    }

    /// All that came and was taken: path, headers and body.
    pub(super) fn all(&self) -> Vec<(String, HeaderMap, Bytes)> {
        self.received.lock().unwrap().bodies.clone()
    }

    /// The bodies that came at this path.
    pub(super) fn bodies(&self, path: &str) -> Vec<Bytes> {
        let all = self.all().into_iter();
        let of = all.filter(|(at, ..)| at == path);
        of.map(|(.., body)| body).collect()
    }

    pub(super) fn spans(&self) -> Vec<OtlpSpan> {
        let bodies = self.bodies("/v1/traces").into_iter();
        let requests = bodies.map(|body| ExportRequest::<OtlpSpan>::decode(body).unwrap());
        let resources = requests.flat_map(|request| request.resources);
        let scopes = resources.flat_map(|resource| resource.scopes);
        scopes.flat_map(|scope| scope.items).collect()
    }

    /// The span with this name that has these words, once it is there.
    pub(super) async fn span(&self, name: &str, words: &[(&str, &str)]) -> OtlpSpan {
        let find = || {
            self.spans().into_iter().find(|span| {
                let has = |(key, value): &(&str, &str)| text(&span.attributes, key) == *value;
                span.name == name && words.iter().all(has)
            })
        };
        eventually(&format!("{name} {words:?} is sent"), async || {
            find().is_some()
        })
        .await;
        find().unwrap()
    }
}

pub(super) fn text(attributes: &[OtlpAttribute], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|found| found.value.as_ref()?.value.as_ref());
    match value {
        Some(AttributeValue::Text(text)) => text.clone(),
        Some(AttributeValue::Number(number)) => number.to_string(),
        None => String::new(),
    }
}
