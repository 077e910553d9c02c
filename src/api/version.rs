//! `/v1`, under which every path is served as well: a client that names it goes on working beside a
//! later interface.

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use tower::ServiceExt as _;

const PREFIX: &str = "/v1";

/// The same routes with and without the prefix. It is taken away before anything looks at the path, so
/// that rights, keys, logs and metrics know each call by one name.
pub(super) fn with_prefix(routes: Router) -> Router {
    Router::new().fallback_service(routes.map_request(|mut request: Request| {
        if let Some(uri) = without_prefix(request.uri()) {
            *request.uri_mut() = uri;
        }
        request
    }))
}

/// `None`: it has no prefix.
fn without_prefix(uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(PREFIX)?;
    if !rest.starts_with('/') {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prefix_is_taken_away_and_nothing_else() {
        let rest =
            |uri: &'static str| without_prefix(&Uri::from_static(uri)).map(|uri| uri.to_string());
        assert_eq!(
            rest("/v1/containers?a=/v1/b"),
            Some("/containers?a=/v1/b".to_owned())
        );
        assert_eq!(
            rest("http://agent/v1/health"),
            Some("http://agent/health".to_owned())
        );
        assert_eq!(rest("/v1/v1/health"), Some("/v1/health".to_owned()));
        for other in [
            "/containers/v1",
            "/v1",
            "/v1containers",
            "/v2/containers",
            "/",
        ] {
            assert_eq!(rest(other), None, "{other}");
        }
    }
}
