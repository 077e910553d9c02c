//! The node's page at `/`: one file, without data of its own. Its script asks this interface, with the
//! token that the operator types in.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use sha2::{Digest as _, Sha256};

use super::error::Problem;
use super::push_set::tags;

const SKELETON: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// The script, which begins with the calls that it makes.
const SCRIPT: &str = concat!(
    include_str!("page/calls.js"),
    include_str!("page/words.js"),
    include_str!("page/build.js"),
    include_str!("page/node.js"),
    include_str!("page/list.js"),
    include_str!("page/orders.js"),
    include_str!("page/deploy.js"),
    include_str!("page/follow.js"),
    include_str!("page/detail.js"),
    include_str!("page/main.js"),
);
/// Places of style and script in the skeleton.
const STYLE_HERE: &str = "/* style */";
const SCRIPT_HERE: &str = "/* script */";

/// Header by which no other site's page gets hold of a window of this one (HTML, 7.1.3).
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// Header by which no other site's page loads this one (Fetch, 3.6).
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

static PAGE: LazyLock<Page> = LazyLock::new(Page::made);

/// The page as it is answered.
struct Page {
    body: Bytes,
    /// Policy of the browser for it: this very script runs, and this very node is called.
    policy: String,
    /// Fingerprint, without the quotes.
    tag: String,
}

impl Page {
    fn made() -> Self {
        let body = SKELETON
            .replace(STYLE_HERE, STYLE)
            .replace(SCRIPT_HERE, SCRIPT);
        let hash = |text: &str| BASE64.encode(Sha256::digest(text));
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        let tag = state::digest::hex(&Sha256::digest(&body));
        let body = body.into();
        Self { body, policy, tag }
    }
}

/// Answers the page, to anybody.
pub(super) async fn page(headers: HeaderMap) -> Result<Response, Problem> {
    let page = &*PAGE;
    let known = tags(&headers, &header::IF_NONE_MATCH, true)?;
    let is_known = known.is_some_and(|tags| tags.contains(&page.tag));
    let shown = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, &page.policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
    ];
    let tag = [(header::ETAG, format!("\"{}\"", page.tag))];
    Ok(match is_known {
        true => (StatusCode::NOT_MODIFIED, tag, shown).into_response(),
        false => (tag, shown, page.body.clone()).into_response(),
    })
}
