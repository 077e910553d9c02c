//! Roles and names: each call by each caller, and what it gets.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use state::access::{Client, ClientToken, NameScope, Role};
use state::status::Status;
use tower::ServiceExt as _;

use super::{
    Answer, ClientList, Fake, ROOT, STRANGE, ask, named, of, problem, rules_with, sent, view,
};
use crate::api::caller::{Caller, ShownCertificate};
use crate::api::rights::{EVENTS_PATH, Right, routes};
use crate::api::router;
use crate::metrics::Metrics;

const TOKEN: &str = "the token";

/// A client of its role's name, with a token of that name, for containers of these names.
pub(super) fn client(role: Role, names: &[&str]) -> Client {
    let patterns: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
    Client {
        name: role.to_string(),
        role,
        names: if names.is_empty() {
            NameScope::All
        } else {
            NameScope::Some(patterns)
        },
        tokens: vec![ClientToken::of(role.as_str(), None)],
        certificates: Vec::new(),
    }
}

pub(super) fn clients(clients: impl IntoIterator<Item = Client>) -> ClientList {
    let list = ClientList::default();
    list.replace(clients.into_iter().collect());
    list
}

/// Two containers of a client's and one of somebody else's, and one that is not managed.
pub(super) fn node() -> std::sync::Arc<Fake> {
    let records = [named("web-1", 1), named("web-2", 2), named("db", 0xdb)];
    let views = records.map(|record| view(&record, Status::Running));
    Fake::with(views.into()).beside("foreign", "nginx")
}

pub(super) async fn call(
    node: &std::sync::Arc<Fake>,
    list: &ClientList,
    token: &str,
    (method, path): (&str, &str),
    body: &Value,
) -> Answer {
    sent(served(node, list), asking(token, (method, path), body)).await
}

/// The interface for these clients.
pub(super) fn served(node: &std::sync::Arc<Fake>, list: &ClientList) -> axum::Router {
    let rules = rules_with(Some(TOKEN), list.clone());
    router(std::sync::Arc::clone(node), rules, Some(Metrics::new()))
}

/// Request of the client with this token.
pub(super) fn asking(token: &str, (method, path): (&str, &str), body: &Value) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"));
    let mut text = String::new();
    if !body.is_null() {
        request = request.header(header::CONTENT_TYPE, "application/json");
        text = body.to_string();
    }
    of(STRANGE, request.body(Body::from(text)).unwrap())
}

#[tokio::test]
async fn every_route_has_a_right_and_each_role_gets_what_it_may_and_nothing_else() {
    let list = clients(Role::ALL.map(|role| client(role, &[])));
    let mut seen = 0;
    let prefixed = ["", "/v1"].into_iter().flat_map(|prefix| {
        routes::<Fake>()
            .into_iter()
            .map(move |route| (prefix, route))
    });
    for (prefix, route) in prefixed {
        let mut path = prefix.to_owned() + &route.path.replace("{id}", "web-1");
        if route.path == EVENTS_PATH {
            path.push_str("?follow=false");
        }
        let method = route.method.as_str();
        // Bodies come after the right is looked at.
        let status = async |token: &str| {
            let answer = call(&node(), &list, token, (method, &path), &Value::Null).await;
            (answer.status, answer.text)
        };
        let Right::Of(needed) = route.right else {
            assert_eq!(status("no token").await.0, 200, "{path}");
            continue;
        };
        seen += 1;
        assert_eq!(status("no token").await.0, 401, "{method} {path}");
        for role in Role::ALL {
            let (status, text) = status(role.as_str()).await;
            let is_refused = status == 403 && text.contains("RoleTooLow");
            assert_eq!(is_refused, role < needed, "{method} {path} {role}: {text}");
            assert!(
                is_refused || ![401, 403, 405].contains(&status),
                "{method} {path} {role}: {text}"
            );
        }
        assert_ne!(status(TOKEN).await.0, 403, "{method} {path}");
    }
    assert!(seen > 30, "{seen}");
    // A path that is served and stands in no row would be served to nobody.
    let list = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api.rs")).unwrap();
    assert!(!list.contains(".route("), "a route beside the table");
}

#[tokio::test]
async fn a_caller_of_some_names_has_to_do_with_no_others() {
    let list = clients([client(Role::Deploy, &["web-*"])]);
    let node = node();
    let deploy = |name: &str| json!({"name": name, "image": "nginx"});
    let set = |names: &[&str]| json!({"containers": names.iter().map(|name| deploy(name)).collect::<Vec<_>>()});
    let none = Value::Null;
    for (method, path, body, expected) in [
        ("GET", "/containers/web-1", &none, 200),
        ("GET", "/containers/db", &none, 404),
        ("GET", "/containers/0000000000db", &none, 404),
        ("GET", "/containers/00000000", &none, 404),
        ("GET", "/containers/foreign", &none, 404),
        ("GET", "/containers/db/logs", &none, 404),
        ("GET", "/containers/db/explain", &none, 404),
        ("DELETE", "/containers/db", &none, 404),
        ("DELETE", "/containers/0000000000db", &none, 404),
        ("POST", "/containers/db/stop", &none, 404),
        ("POST", "/containers/db/pull", &none, 404),
        ("POST", "/containers/db/kill", &none, 404),
        ("POST", "/containers/deploy", &deploy("db"), 403),
        (
            "POST",
            "/containers/deploy?dry_run=true",
            &deploy("web"),
            403,
        ),
        ("POST", "/containers/deploy", &deploy("web-3"), 202),
        ("PUT", "/desired-state", &set(&["web-1", "db"]), 403),
        ("POST", "/containers/web-1/stop", &none, 202),
        ("GET", "/desired-state?reveal=true", &none, 403),
        ("GET", "/containers/web-1?reveal=true", &none, 403),
    ] {
        let answer = call(&node, &list, "deploy", (method, path), body).await;
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.text);
        if expected == 404 {
            problem(&answer, 404, "no container has the name or the id");
        }
    }
    assert!(node.asked.lock().unwrap().is_empty() && node.replaced.lock().unwrap().is_empty());
    assert_eq!(node.ordered.lock().unwrap().len(), 1);
    let answer = call(
        &node,
        &list,
        "deploy",
        ("PUT", "/desired-state"),
        &set(&["web-1"]),
    )
    .await;
    assert_eq!(answer.status, 202);
    // Others' containers, however many and bad, hide none of the caller's own.
    let worst = ["db", "db-1", "db-2", "db-3", "db-4", "web-2"];
    *node.worst.lock().unwrap() = worst.into();
    let replaced = std::mem::take(&mut *node.replaced.lock().unwrap());
    assert_eq!(replaced[0].scope.to_string(), "web-*");
    for path in ["/containers", "/desired-state", "/plan", "/health"] {
        let answer = call(&node, &list, "deploy", ("GET", path), &none).await;
        assert!(
            !answer.text.contains("db") && !answer.text.contains("foreign"),
            "{}",
            answer.text
        );
        assert!(answer.text.contains("web-2"), "{path}: {}", answer.text);
        // The node's own token sees all of it.
        let answer = call(&node, &list, TOKEN, ("GET", path), &none).await;
        assert!(answer.text.contains("db"), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_caller_of_some_names_mounts_no_volume_of_another_name() {
    let list = clients([client(Role::Deploy, &["web-*"])]);
    let node = node();
    let body = |volume: &str| {
        let volumes = [
            json!({"volume": "web-data", "path": "/data"}),
            json!({"volume": volume, "path": "/x"}),
        ];
        json!({"name": "web-1", "image": "nginx", "volumes": volumes})
    };
    let deploy = ("POST", "/containers/deploy");
    let set = ("PUT", "/desired-state");
    for (token, volume, refused) in [
        ("deploy", "web-own", false),
        ("deploy", "db", true),
        ("deploy", "my-web-1", true),
        (TOKEN, "db", false),
    ] {
        let bodies = [
            (deploy, body(volume)),
            (set, json!({"containers": [body(volume)]})),
        ];
        for (path, body) in bodies {
            let answer = call(&node, &list, token, path, &body).await;
            if refused {
                problem(&answer, 403, "volumes named web-* only");
                assert!(answer.text.contains(volume), "{}", answer.text);
            } else {
                assert!(answer.status < 300, "{volume}: {}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn values_are_shown_to_an_admin_who_asks_and_that_is_written_down() {
    let list = clients(Role::ALL.map(|role| client(role, &[])));
    let node = node();
    let body = json!({"name": "new", "image": "nginx", "environment": {"PASSWORD": "hunter2"}});
    let none = Value::Null;
    for (method, path, body) in [
        ("GET", "/containers/db", &none),
        ("GET", "/containers/db?reveal=false", &none),
        ("GET", "/containers", &none),
        ("GET", "/desired-state", &none),
        ("GET", "/containers/db/explain", &none),
        ("POST", "/containers/deploy?dry_run=true", &body),
        ("POST", "/containers/deploy", &body),
        ("POST", "/containers/deploy", &body),
        ("POST", "/containers/db/stop", &none),
        ("POST", "/containers/db/pull", &none),
    ] {
        let answer = call(&node, &list, "admin", (method, path), body).await;
        assert!(answer.status < 300, "{method} {path}: {}", answer.text);
        assert!(
            !answer.text.contains("hunter2"),
            "{method} {path}: {}",
            answer.text
        );
    }
    assert!(node.revealed.lock().unwrap().is_empty());
    let masked = call(&node, &list, "read", ("GET", "/desired-state"), &none)
        .await
        .json();
    assert_eq!(
        masked["containers"][0]["environment"],
        json!({"PASSWORD": null})
    );
    // What is sent back as it was shown overwrites no value.
    let refused = call(&node, &list, "admin", ("PUT", "/desired-state"), &masked).await;
    problem(&refused, 422, "?reveal=true");
    for path in ["/containers/db?reveal=true", "/desired-state?reveal=true"] {
        for role in ["read", "deploy", "exec"] {
            problem(
                &call(&node, &list, role, ("GET", path), &none).await,
                403,
                "needs admin",
            );
        }
        let answer = call(&node, &list, "admin", ("GET", path), &none).await;
        assert!(answer.text.contains("hunter2"), "{}", answer.text);
    }
    let revealed = node.revealed.lock().unwrap().clone();
    assert_eq!(revealed, [Some("db".parse().unwrap()), None]);
    // Nobody sees what cannot be written down.
    let refusal = crate::api::Refusal::Unavailable("no audit".to_owned());
    *node.refusal.lock().unwrap() = Some(refusal);
    let answer = ask(&node, "GET", "/containers/db?reveal=true", Body::empty()).await;
    problem(&answer, 503, "no audit");
}

#[tokio::test]
async fn a_token_whose_time_is_over_says_so_and_is_no_guess() {
    let over = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let mut late = client(Role::Read, &[]);
    late.tokens[0].expires = Some(over);
    let list = clients([late]);
    let rules = rules_with(Some(TOKEN), list);
    for _ in 0..20 {
        let request = Request::get("/containers").header(header::AUTHORIZATION, "Bearer read");
        let request = of(STRANGE, request.body(Body::empty()).unwrap());
        let answer = sent(router(node(), rules.clone(), None), request).await;
        problem(&answer, 401, "over at 1970-01-01T00:00:01Z");
    }
}

#[tokio::test]
async fn who_loses_the_right_to_call_hears_no_more_of_what_it_follows() {
    let list = clients([client(Role::Read, &[])]);
    let rules = rules_with(Some(TOKEN), list.clone());
    let token = rules.gate.token();
    let router = router(node(), rules, None);
    let followed = async |peer, token: &str| {
        let request = Request::get("/containers/db/logs?follow=true")
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        let request = of(peer, request.body(Body::empty()).unwrap());
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body()
    };
    let rest = |body| Box::pin(axum::body::to_bytes(body, 1024));
    let of_client = rest(followed(STRANGE, "read").await);
    let mut of_token = rest(followed(STRANGE, TOKEN).await);
    let of_root = rest(followed(ROOT, "").await);
    list.replace(Vec::new());
    let soon = Duration::from_secs(5);
    assert!(tokio::time::timeout(soon, of_client).await.is_ok());
    let still = Duration::from_millis(200);
    assert!(tokio::time::timeout(still, &mut of_token).await.is_err());
    token.replace(crate::config::Secret::new("another token"));
    assert!(tokio::time::timeout(soon, of_token).await.is_ok());
    assert!(tokio::time::timeout(still, of_root).await.is_err());
}

#[tokio::test]
async fn a_certificate_counts_as_its_client_while_it_is_believed_and_its_time_lasts() {
    let mut ci = client(Role::Read, &[]);
    ci.certificates = vec!["ci.example".to_owned()];
    let list = clients([ci]);
    let shown = |names: &[&str], last| ShownCertificate {
        names: names.iter().map(ToString::to_string).collect(),
        last,
        ..ShownCertificate::default()
    };
    let later = SystemTime::now() + Duration::from_hours(1);
    let distrusted = shown(&["ci.example"], Some(later));
    distrusted.distrusted.cancel();
    for (shown, token, status, says) in [
        (shown(&["ci.example"], Some(later)), None, 200, ""),
        (
            shown(&["ci.example"], Some(later)),
            Some("x"),
            401,
            "no valid token",
        ),
        (
            shown(&["ci.example"], Some(SystemTime::UNIX_EPOCH)),
            None,
            401,
            "time",
        ),
        (shown(&["db.example"], Some(later)), None, 401, "db.example"),
        (distrusted, None, 401, "connect again"),
        (ShownCertificate::default(), None, 401, "no valid token"),
    ] {
        let mut request = Request::get("/containers");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut request = of(STRANGE, request.body(Body::empty()).unwrap());
        request.extensions_mut().insert(Caller {
            peer: STRANGE,
            shown: shown.into(),
        });
        let router = router(node(), rules_with(Some(TOKEN), list.clone()), None);
        let answer = sent(router, request).await;
        assert_eq!(answer.status, status, "{says}: {}", answer.text);
        assert!(answer.text.contains(says), "{says}: {}", answer.text);
    }
}
