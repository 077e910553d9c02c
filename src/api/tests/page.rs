//! The page: what a browser lets it do, and that it asks for nothing that is not served.

use axum::body::Body;
use axum::http::{Method, Request, header};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use state::access::Role;

use super::rights::{call, client, clients, node};
use super::{Answer, Fake, STRANGE, get, of, rules, sent};
use crate::api::rights::{Right, routes};
use crate::api::router;

/// Most bytes of the page, which comes over a line at night.
const PAGE_BYTES_MAX: usize = 120 << 10;

async fn page() -> Answer {
    let answer = get(&node(), "/").await;
    assert_eq!(answer.status, 200);
    answer
}

/// The text between two marks, of which there is one each.
#[track_caller]
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    assert_eq!(
        (text.matches(begin).count(), text.matches(end).count()),
        (1, 1)
    );
    let (_, rest) = text.split_once(begin).unwrap();
    rest.split_once(end).unwrap().0
}

#[tokio::test]
async fn a_browser_runs_this_script_and_no_other_and_calls_this_node_and_no_other() {
    let answer = page().await;
    let header = |name: &str| answer.headers[name].to_str().unwrap();
    let policy = header("content-security-policy");
    for (begin, end, directive) in [
        ("<script>", "</script>", "script-src"),
        ("<style>", "</style>", "style-src"),
    ] {
        let text = between(&answer.text, begin, end);
        assert!(text.len() > 1000);
        let hash = BASE64.encode(Sha256::digest(text));
        let wanted = format!("{directive} 'sha256-{hash}';");
        assert!(policy.contains(&wanted), "{wanted} {policy}");
    }
    for directive in [
        "default-src 'none';",
        "connect-src 'self';",
        "base-uri 'none';",
        "form-action 'none';",
        "frame-ancestors 'none';",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(directive), "{directive} {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-cache"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    // Attributes with a style or a handler would not work, and neither is anything fetched elsewhere.
    let skeleton = answer
        .text
        .replace(between(&answer.text, "<script>", "</script>"), "");
    for forbidden in [
        " style=",
        " onclick=",
        "src=",
        "http:",
        "https:",
        "@import",
        "url(",
    ] {
        assert!(!skeleton.contains(forbidden), "{forbidden}");
    }
    assert!(answer.text.len() < PAGE_BYTES_MAX, "{}", answer.text.len());
}

#[tokio::test]
async fn what_containers_say_becomes_text_and_nothing_else() {
    let answer = page().await;
    let script = between(&answer.text, "<script>", "</script>");
    for forbidden in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "Function(",
        "localStorage",
        "document.cookie",
        "EventSource",
        "XMLHttpRequest",
        "import(",
        "setTimeout('",
        "postMessage",
        "window.open",
    ] {
        assert!(!script.contains(forbidden), "{forbidden}");
    }
}

#[tokio::test]
async fn every_call_of_the_page_is_a_route_and_needs_the_role_that_the_page_says() {
    let answer = page().await;
    let script = between(&answer.text, "<script>", "</script>");
    // One place calls, by the table alone.
    assert_eq!(script.matches("fetch(").count(), 1);
    let table = script.split_once("const CALLS = {").unwrap().1;
    let table = table.split_once("};").unwrap().0;
    let needs = between(script, "const NEEDS = {", "};\nconst TOKEN_KEY");
    let mut seen = 0;
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, target) = line.split_once(": '").unwrap();
        let target = target.trim_end_matches("',");
        let (method, path) = target.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let route = routes::<Fake>()
            .into_iter()
            .find(|route| (&route.method, route.path) == (&method, path));
        let right = route
            .unwrap_or_else(|| panic!("{target} is no route"))
            .right;
        let said = needs.split(',').find_map(|pair| {
            let (key, role) = pair.split_once(':')?;
            (key.trim() == name).then(|| role.trim().trim_matches('\''))
        });
        if name == "version" {
            assert_eq!(right, Right::Open, "{target}");
            continue;
        }
        let said = said.unwrap_or("read");
        let role = Role::ALL
            .into_iter()
            .find(|role| role.as_str() == said)
            .unwrap();
        assert_eq!(right, Right::Of(role), "{target}");
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
    let roles = Role::ALL.map(|role| format!("'{role}'")).join(", ");
    assert!(script.contains(&format!("const ROLES = [{roles}];")));
}

#[tokio::test]
async fn a_page_that_is_known_is_not_sent_again() {
    let tag = page().await.headers[header::ETAG]
        .to_str()
        .unwrap()
        .to_owned();
    for (given, status) in [
        (tag.clone(), 304),
        (format!("W/{tag}"), 304),
        ("\"other\"".to_owned(), 200),
    ] {
        let request = Request::get("/").header(header::IF_NONE_MATCH, given);
        let request = of(STRANGE, request.body(Body::empty()).unwrap());
        let router = router(node(), rules(Some("token")), None);
        let answer = sent(router, request).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers[header::ETAG], tag.as_str());
        assert!(answer.headers.contains_key(header::CONTENT_SECURITY_POLICY));
        assert_eq!(answer.text.is_empty(), status == 304);
    }
}

#[tokio::test]
async fn a_caller_learns_who_it_is_and_what_it_may_do() {
    let list = clients([client(Role::Deploy, &["web-*", "api"])]);
    let whoami = ("GET", "/whoami");
    let told = call(&node(), &list, "deploy", whoami, &Value::Null)
        .await
        .json();
    assert_eq!(told["name"], "client:deploy");
    assert_eq!(
        (&told["role"], &told["names"]),
        (&json!("deploy"), &json!(["web-*", "api"]))
    );
    assert_eq!(told["expires"], Value::Null);
    let told = call(&node(), &list, "the token", whoami, &Value::Null)
        .await
        .json();
    assert_eq!(
        (&told["name"], &told["role"]),
        (&json!("token"), &json!("admin"))
    );
    assert_eq!(told["names"], Value::Null);
    let answer = call(&node(), &list, "strange", whoami, &Value::Null).await;
    assert_eq!(answer.status, 401);
}
