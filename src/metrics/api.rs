//! Counts of the requests to the API.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, Timings};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    method: &'static str,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDoor {
    door: &'static str,
}

/// Counts of requests and connections.
#[derive(Clone, Debug)]
pub(super) struct ApiCounts {
    requests: Family<OfAnswer, Counter>,
    latency: Timings<OfRoute>,
    problems: Family<OfCode, Counter>,
    connections: Family<OfDoor, Gauge>,
    connections_max: Family<OfDoor, Gauge>,
}

impl Default for ApiCounts {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            // A look takes less than a millisecond, a wait as long as its caller allows.
            latency: Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0])
            }),
            problems: Family::default(),
            connections: Family::default(),
            connections_max: Family::default(),
        }
    }
}

impl ApiCounts {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "api_requests",
            "Requests answered, by route (\"none\": there is no such path)",
            self.requests.clone(),
        );
        all.register_with_unit(
            "api_request_duration",
            "From a request's head to its answer's head; requests that wait for something are among them",
            Unit::Seconds,
            self.latency.clone(),
        );
        all.register(
            "api_problems",
            "Requests that were refused or failed, by the code of the answer: wrong tokens, roles, the policy, bodies",
            self.problems.clone(),
        );
        let open = "Connections to the API that are open, by the door that they came through";
        all.register("api_connections", open, self.connections.clone());
        let most = "Connections that may be open through a door at once";
        all.register("api_connections_limit", most, self.connections_max.clone());
    }
}

impl Metrics {
    /// Counts a request that was answered. `route` is a pattern of the router, never a path as it
    /// came.
    pub fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let route = route.to_owned();
        let of = OfAnswer {
            method,
            route: route.clone(),
            status,
        };
        self.api.requests.get_or_create(&of).inc();
        let of = OfRoute { method, route };
        let latency = self.api.latency.get_or_create(&of);
        latency.observe(took.as_secs_f64());
    }

    /// Shows codes of problems that may be answered, of which none was yet.
    pub fn know_problems(&self, codes: impl Iterator<Item = &'static str>) {
        codes.for_each(|code| drop(self.api.problems.get_or_create(&OfCode { code })));
    }

    /// Counts a request that was answered by a problem.
    pub fn problem(&self, code: &'static str) {
        self.api.problems.get_or_create(&OfCode { code }).inc();
    }

    /// Shows how many connections through a door are open, and may be.
    pub fn show_connections(&self, door: &'static str, open: usize, most: usize) {
        for (gauge, count) in [
            (&self.api.connections, open),
            (&self.api.connections_max, most),
        ] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            gauge.get_or_create(&OfDoor { door }).set(count);
        }
    }
}
