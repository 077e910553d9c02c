//! A collector behind TLS, with OpenSSL at the other end: whom the agent trusts, what it shows, and what
//! it says where that does not do.

use std::path::Path;

use super::collector::{Collector, Manner};
use crate::harness::Testbed;
use crate::harness::certificates::{Authority, TlsDoor};
use crate::stand::{Stand, eventually};

const AUTHORITY: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const SHOWN: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
const KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

/// Starts the agent again with these files, empty for none; what it logs from then on.
async fn start_with(
    stand: &mut Stand,
    files: [(&str, &Path); 3],
) -> impl Fn(&Stand) -> String + use<> {
    stand.agent.terminate();
    let before = stand.agent.log().len();
    for (variable, file) in files {
        stand.agent.set(variable, file.to_str().unwrap());
    }
    stand.agent.start_again().await;
    move |stand: &Stand| stand.agent.log().split_off(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates_and_a_refusal_says_what_to_do() {
    let collector = Collector::start(Manner::Takes).await;
    let bed = Testbed::new();
    let [ours, theirs] = ["ours", "theirs"].map(|name| Authority::new(bed.dir.join(name)));
    let server = ours.issue("collector", "DNS:localhost,IP:127.0.0.1");
    let [node, stranger] = [&ours, &theirs].map(|authority| authority.issue("node", "DNS:node"));
    let port = bed.port();
    let trusted = ours.certificate();
    let door = TlsDoor::open(port, &server, &trusted, collector.address);
    let url = format!("https://127.0.0.1:{port}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
    ];
    let mut stand = Stand::with(bed, &variables).await;
    let (absent, none) = (stand.bed.dir.join("absent.pem"), Path::new(""));
    let foreign = theirs.certificate();
    let wrong: [([&Path; 3], &str, [&str; 2]); 6] = [
        // The host's authorities, and then one that did not sign it.
        (
            [none, none, none],
            "OTLP export failed",
            ["UnknownIssuer", AUTHORITY],
        ),
        (
            [&foreign, &node.certificate, &node.key],
            "OTLP export failed",
            ["UnknownIssuer", AUTHORITY],
        ),
        ([&trusted, none, none], "OTLP export failed", [SHOWN, KEY]),
        (
            [&trusted, &stranger.certificate, &stranger.key],
            "OTLP export failed",
            [SHOWN, KEY],
        ),
        (
            [&absent, &node.certificate, &node.key],
            "OTLP export refused; nothing is sent",
            ["absent.pem", "cannot be read"],
        ),
        (
            [&trusted, &node.certificate, &stranger.key],
            "OTLP export refused; nothing is sent",
            ["TLS cannot be set up", KEY],
        ),
    ];
    for (files, failure, parts) in wrong {
        let [authority, shown, key] = files;
        let files = [(AUTHORITY, authority), (SHOWN, shown), (KEY, key)];
        let log = start_with(&mut stand, files).await;
        let is_told =
            |line: &str| line.contains(failure) && parts.iter().all(|part| line.contains(part));
        eventually(&format!("{failure} because of {parts:?}"), async || {
            log(&stand).lines().any(is_told)
        })
        .await;
    }
    assert_eq!(collector.calls(), 0, "nobody else is told anything");

    let files: [(&str, &Path); 3] = [
        (AUTHORITY, &trusted),
        (SHOWN, &node.certificate),
        (KEY, &node.key),
    ];
    let log = start_with(&mut stand, files).await;
    collector.span("GET /livez", &[]).await;
    eventually("metrics are sent", async || {
        !collector.bodies("/v1/metrics").is_empty()
    })
    .await;
    let log = log(&stand);
    assert!(!log.contains("OTLP export failed"), "{log}");
    drop(door);
    stand.end().await;
}
