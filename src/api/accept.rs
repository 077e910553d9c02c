//! Header `Accept` of a request (RFC 9110, 12.5.1), where an answer has two forms.

use axum::http::{HeaderMap, header};

use crate::metrics::MetricsFormat;

/// Types of an answer that is an object a line.
const OBJECTS: [&str; 2] = ["application/x-ndjson", "application/ndjson"];
/// Types of the other form, and those that stand for it.
const OTHERS: [&str; 4] = ["text/event-stream", "text/plain", "text/*", "*/*"];

/// Type of OpenMetrics.
const OPEN_METRICS: [&str; 1] = ["application/openmetrics-text"];
/// Type of the older format of metrics, and those that stand for it.
const OLDER_METRICS: [&str; 3] = ["text/plain", "text/*", "*/*"];

/// Whether an answer is to be an object a line.
pub(super) fn wants_objects(headers: &HeaderMap) -> bool {
    prefers(headers, &OBJECTS, &OTHERS)
}

/// Format of metrics for a scrape: OpenMetrics as Prometheus asks for it, else the older one.
pub(super) fn metrics_format(headers: &HeaderMap) -> MetricsFormat {
    match prefers(headers, &OPEN_METRICS, &OLDER_METRICS) {
        true => MetricsFormat::OpenMetrics,
        false => MetricsFormat::Text,
    }
}

/// Whether one of these types is named, and none of the others is preferred.
fn prefers(headers: &HeaderMap, types: &[&str], others: &[&str]) -> bool {
    let weight = quality(headers, types);
    weight > 0.0 && weight >= quality(headers, others)
}

/// Highest weight that one of these types is given; 0 where none is named.
fn quality(headers: &HeaderMap, types: &[&str]) -> f32 {
    let values = headers.get_all(header::ACCEPT).iter();
    let items = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let weights = items.filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next()?;
        let is_one = types.iter().any(|one| one.eq_ignore_ascii_case(named));
        let weight = parts.find_map(|part| {
            let (name, weight) = part.split_once('=')?;
            name.eq_ignore_ascii_case("q")
                .then(|| weight.parse().ok())?
        });
        is_one.then(|| weight.unwrap_or(1.0))
    });
    weights.fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for text in accept {
            headers.append(header::ACCEPT, text.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_scrape_gets_what_it_accepts() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            ("", MetricsFormat::Text),
            ("*/*", MetricsFormat::Text),
            ("text/plain", MetricsFormat::Text),
            ("application/json", MetricsFormat::Text),
            (
                "text/plain;q=0.9, application/openmetrics-text;q=0.1",
                MetricsFormat::Text,
            ),
            ("application/openmetrics-text; q=0", MetricsFormat::Text),
            (prometheus, MetricsFormat::OpenMetrics),
            ("application/openmetrics-text", MetricsFormat::OpenMetrics),
            (
                "Application/OpenMetrics-Text, */*",
                MetricsFormat::OpenMetrics,
            ),
        ] {
            assert_eq!(metrics_format(&headers(&[accept])), format, "{accept:?}");
        }
        let lines = headers(&["text/plain;q=0.3", "application/openmetrics-text"]);
        assert_eq!(metrics_format(&lines), MetricsFormat::OpenMetrics);
    }

    #[test]
    fn objects_are_answered_where_they_are_named_and_nothing_else_is_preferred() {
        for (accept, expected) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["text/event-stream"], false),
            (&["application/x-ndjson"], true),
            (&["Application/X-NDJSON; charset=utf-8"], true),
            (&["application/x-ndjson;q=0"], false),
            (&["application/x-ndjson; Q=0.5, text/event-stream"], false),
            (&["text/event-stream;q=0.5, application/x-ndjson"], true),
            (&["application/x-ndjson, */*"], true),
            (&["text/plain;q=0.1", "application/x-ndjson"], true),
            (&["text/ndjson-not"], false),
        ] {
            assert_eq!(wants_objects(&headers(accept)), expected, "{accept:?}");
        }
    }
}
