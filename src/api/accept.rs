//! Header `Accept` of a request (RFC 9110, 12.5.1), where an answer has two forms.

use axum::http::{HeaderMap, header};

/// Types of an answer that is an object a line.
const OBJECTS: [&str; 2] = ["application/x-ndjson", "application/ndjson"];
/// Types of the other form, and those that stand for it.
const OTHERS: [&str; 4] = ["text/event-stream", "text/plain", "text/*", "*/*"];

/// Whether an answer is to be an object a line: that is named, and nothing that stands for the other form
/// is preferred.
pub(super) fn wants_objects(headers: &HeaderMap) -> bool {
    let objects = quality(headers, &OBJECTS);
    objects > 0.0 && objects >= quality(headers, &OTHERS)
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
            let pairs = accept
                .iter()
                .map(|text| (header::ACCEPT, text.parse().unwrap()));
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value);
            }
            assert_eq!(wants_objects(&headers), expected, "{accept:?}");
        }
    }
}
