//! Hostile requests to the agent's own API, byte by byte.

use serde_json::json;

use super::beyond::{Clients, beyond, in_place_of_a_token};
use crate::doors::{over_tcp, status};
use crate::harness::Testbed;
use crate::harness::agent::Agent;

/// A request by its first line, its other lines and its body. `{token}` is the agent's.
#[derive(Clone, Debug)]
pub(super) struct Hostile {
    pub(super) name: &'static str,
    /// Everything up to the body, lines as they are sent.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// The statuses of the answers, in order; none: the connection is closed.
    pub(super) answers: &'static [u16],
}

/// A row of a request with the right token, meant for this host.
fn bearing(
    name: &'static str,
    first: &str,
    more: &str,
    body: &str,
    answers: &'static [u16],
) -> Hostile {
    let line = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!("{text}\r\n")
        }
    };
    let head = format!(
        "{first}\r\nHost: localhost\r\nAuthorization: Bearer {{token}}\r\nConnection: close\r\n{}\r\n",
        line(more)
    );
    Hostile {
        name,
        head,
        body: body.as_bytes().to_vec(),
        answers,
    }
}

/// A row of a deploy that would be taken, but for one thing about it.
fn deploying(name: &'static str, more: &str, body: &str, answers: &'static [u16]) -> Hostile {
    let first = "POST /containers/deploy?dry_run=true HTTP/1.1";
    bearing(name, first, more, body, answers)
}

/// A row of a request as it is written here.
fn raw(name: &'static str, head: &str, answers: &'static [u16]) -> Hostile {
    Hostile {
        name,
        head: head.to_owned(),
        body: Vec::new(),
        answers,
    }
}

pub(super) const JSON: &str = "Content-Type: application/json";
const LIST: &str = "GET /containers HTTP/1.1";

/// Where a request says that it goes, and where it comes from.
fn misdirected() -> Vec<Hostile> {
    let named = |name, host: &str, answers| {
        let auth = "Authorization: Bearer {token}\r\nConnection: close\r\n\r\n";
        raw(name, &format!("{LIST}\r\n{host}{auth}"), answers)
    };
    vec![
        named("a name that leads here", "Host: evil.example\r\n", &[421]),
        named("an address in another form", "Host: 2130706433\r\n", &[421]),
        named(
            "a user before the host",
            "Host: localhost@evil.example\r\n",
            &[421],
        ),
        named("no host", "", &[400]),
        named(
            "two hosts",
            "Host: localhost\r\nHost: evil.example\r\n",
            &[400],
        ),
        named(
            "the same host twice",
            "Host: localhost\r\nHost: localhost\r\n",
            &[400],
        ),
        named("an empty host", "Host:\r\n", &[400]),
        named(
            "a path for a host",
            "Host: localhost/containers\r\n",
            &[400],
        ),
        bearing(
            "another host in the target",
            "GET http://evil.example/containers HTTP/1.1",
            "",
            "",
            &[421],
        ),
        bearing(
            "a page of another site",
            LIST,
            "Origin: http://evil.example",
            "",
            &[403],
        ),
        bearing("a page from nowhere", LIST, "Origin: null", "", &[403]),
        bearing(
            "a page of this host",
            LIST,
            "Origin: http://localhost:9090",
            "",
            &[403],
        ),
        bearing(
            "a cross site request",
            LIST,
            "Sec-Fetch-Site: cross-site",
            "",
            &[403],
        ),
        bearing(
            "a request within a site",
            LIST,
            "Sec-Fetch-Site: same-site",
            "",
            &[403],
        ),
        bearing(
            "two sites",
            LIST,
            "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site",
            "",
            &[403],
        ),
        bearing(
            "a preflight",
            "OPTIONS /containers HTTP/1.1",
            "Origin: http://evil.example\r\nAccess-Control-Request-Method: DELETE",
            "",
            &[403],
        ),
    ]
}

/// Who a request says that it is from.
fn unauthorized() -> Vec<Hostile> {
    let bearing = |name, lines: &str| {
        let head = format!("{LIST}\r\nHost: localhost\r\n{lines}Connection: close\r\n\r\n");
        raw(name, &head, &[401])
    };
    vec![
        bearing("no token", ""),
        bearing("an empty token", "Authorization: Bearer \r\n"),
        bearing("a token that goes on", "Authorization: Bearer {token}0\r\n"),
        bearing("another scheme", "Authorization: Basic {token}\r\n"),
        bearing(
            "two tokens",
            "Authorization: Bearer {token}\r\nAuthorization: Bearer x\r\n",
        ),
        bearing("a token in a cookie", "Cookie: token={token}\r\n"),
        bearing(
            "a token of a proxy's",
            "Proxy-Authorization: Bearer {token}\r\n",
        ),
        raw(
            "a token in the target",
            "GET /containers?token={token}&access_token={token} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            &[401],
        ),
    ]
}

/// Bodies that are no JSON, or not the one that was announced.
fn bodies() -> Vec<Hostile> {
    let good = json!({"name": "web", "image": "nginx"}).to_string();
    let length = format!("Content-Length: {}", good.len());
    let typed = |kind: &str| format!("Content-Type: {kind}\r\n{length}");
    let twice = r#"{"name":"web","image":"a","image":"b"}"#;
    let nested = "[".repeat(60_000);
    let with = |more: &str| format!("{JSON}\r\n{more}");
    let of = |body: &str| with(&format!("Content-Length: {}", body.len()));
    vec![
        deploying("a form's text", &typed("text/plain"), &good, &[415]),
        deploying(
            "a form",
            &typed("application/x-www-form-urlencoded"),
            &good,
            &[415],
        ),
        deploying("no type", &length, &good, &[415]),
        deploying(
            "another character set",
            &typed("application/json; charset=utf-16"),
            &good,
            &[415],
        ),
        deploying("a key twice", &of(twice), twice, &[400]),
        deploying("nesting without end", &of(&nested), &nested, &[400]),
        deploying("nothing", &with("Content-Length: 0"), "", &[400]),
        deploying(
            "two lengths",
            &with(&format!("{length}\r\nContent-Length: 1")),
            &good,
            &[400],
        ),
        deploying(
            "a length that is none",
            &with("Content-Length: +38"),
            &good,
            &[400],
        ),
        deploying(
            "a negative length",
            &with("Content-Length: -1"),
            &good,
            &[400],
        ),
        deploying(
            "a length of another size",
            &with("Content-Length: 18446744073709551617"),
            &good,
            &[400],
        ),
        deploying(
            "more than is taken",
            &with("Content-Length: 1073741824"),
            &good,
            &[413],
        ),
        deploying(
            "another expectation",
            &with(&format!("{length}\r\nExpect: 200-maybe")),
            &good,
            &[417],
        ),
        deploying(
            "a length and chunks",
            &with(&format!("{length}\r\nTransfer-Encoding: chunked")),
            "0\r\n\r\n",
            &[400],
        ),
        deploying(
            "chunks by another name",
            &with("Transfer-Encoding: xchunked"),
            &good,
            &[400],
        ),
        deploying(
            "chunks that are not last",
            &with("Transfer-Encoding: chunked, identity"),
            &good,
            &[400],
        ),
        deploying(
            "a chunk of no number",
            &with("Transfer-Encoding: chunked"),
            "xyz\r\n{}\r\n0\r\n\r\n",
            &[400],
        ),
        deploying(
            "a chunk beyond all numbers",
            &with("Transfer-Encoding: chunked"),
            "fffffffffffffffff\r\n",
            &[400],
        ),
    ]
}

/// Heads that are none, or that ask for what is not there.
fn heads() -> Vec<Hostile> {
    let long = "a".repeat(1 << 20);
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let end = "Host: localhost\r\nConnection: close\r\n\r\n";
    vec![
        raw(
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[],
        ),
        raw(
            "no HTTP",
            "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}",
            &[400],
        ),
        raw(
            "another version",
            &format!("GET /livez HTTP/3.7\r\n{end}"),
            &[400],
        ),
        raw("version 0.9", "GET /livez\r\n\r\n", &[400]),
        raw(
            "an endless target",
            &format!("GET /{long} HTTP/1.1\r\n{end}"),
            &[431],
        ),
        raw(
            "an endless header",
            &format!("GET /livez HTTP/1.1\r\nX: {long}\r\n{end}"),
            &[431],
        ),
        raw(
            "two hundred headers",
            &format!("GET /livez HTTP/1.1\r\n{many}{end}"),
            &[431],
        ),
        raw(
            "a space before the colon",
            &format!("GET /livez HTTP/1.1\r\nX : y\r\n{end}"),
            &[400],
        ),
        raw(
            "a header over two lines",
            &format!("GET /livez HTTP/1.1\r\nX: y\r\n z\r\n{end}"),
            &[400],
        ),
        raw(
            "a NUL in a header",
            &format!("GET /livez HTTP/1.1\r\nX: y\0z\r\n{end}"),
            &[400],
        ),
        raw(
            "a carriage return in a header",
            &format!("GET /livez HTTP/1.1\r\nX: y\rz\r\n{end}"),
            &[400],
        ),
        raw(
            "a space in the target",
            &format!("GET /li vez HTTP/1.1\r\n{end}"),
            &[400],
        ),
        bearing("a tunnel", "CONNECT localhost:22 HTTP/1.1", "", "", &[404]),
        bearing("an echo", "TRACE /containers HTTP/1.1", "", "", &[405]),
        bearing(
            "a method of nobody's",
            "BREW /containers HTTP/1.1",
            "",
            "",
            &[405],
        ),
        bearing(
            "another method by a header",
            "GET /containers/web HTTP/1.1",
            "X-HTTP-Method-Override: DELETE",
            "",
            &[404],
        ),
        bearing(
            "an upgrade to h2c",
            LIST,
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
            "",
            &[200],
        ),
        bearing(
            "a path upwards",
            "GET /livez/../containers/web HTTP/1.1",
            "",
            "",
            &[404],
        ),
        bearing(
            "a path upwards, encoded",
            "GET /containers/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1",
            "",
            "",
            &[404],
        ),
        bearing(
            "a path that is no text",
            "GET /containers/%ff%fe HTTP/1.1",
            "",
            "",
            &[400],
        ),
        bearing(
            "a NUL in a path",
            "GET /containers/%00 HTTP/1.1",
            "",
            "",
            &[404],
        ),
        bearing(
            "a line's end in a path",
            "GET /containers/a%0d%0aSet-Cookie:x HTTP/1.1",
            "",
            "",
            &[404],
        ),
        bearing("two slashes", "GET //containers HTTP/1.1", "", "", &[404]),
        bearing(
            "a query of nobody's",
            "GET /containers?__proto__=x HTTP/1.1",
            "",
            "",
            &[400],
        ),
    ]
}

/// One request in another, for whoever counts their ends in another way.
fn smuggled() -> Vec<Hostile> {
    let inner = "GET /containers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n";
    let post = "POST /containers/deploy HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n";
    vec![
        raw(
            "behind a length and chunks",
            &format!(
                "{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
            ),
            &[400],
        ),
        raw(
            "behind two lengths",
            &format!("{post}Content-Length: 0\r\nContent-Length: 5\r\n\r\n{inner}"),
            &[400],
        ),
        raw(
            "behind one without credentials",
            &format!(
                "POST /containers/deploy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n{inner}"
            ),
            &[401],
        ),
    ]
}

/// The statuses of all answers in a text.
fn statuses(text: &str) -> Vec<u16> {
    let answers = text.match_indices("HTTP/1.1 ");
    answers.map(|(at, _)| status(&text[at..])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hostile_request_gets_its_refusal_and_the_agent_is_as_before() {
    let bed = Testbed::new();
    let clients = Clients::on(&bed);
    let agent = Agent::start_with(&bed, &[("CHAS_CLIENTS_FILE", &clients.file)]).await;
    let token = &agent.environment()["CHAS_TOKEN"];
    let db = json!({"name": "db", "image": "nginx", "state": "stopped"});
    assert_eq!(agent.deploy(&db).await.0, 202);
    let rows = [
        misdirected(),
        unauthorized(),
        bodies(),
        heads(),
        smuggled(),
        beyond(),
        in_place_of_a_token(),
    ]
    .concat();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let head = clients.filled(&row.head).replace("{token}", token);
        let bytes = [head.as_bytes(), &row.body].concat();
        let answer = over_tcp(&agent, &bytes).await;
        if statuses(&answer) != row.answers || answer.ends_with("[it stays open]") {
            wrong.push(format!(
                "{}: {:?}, got {answer:.400}",
                row.name, row.answers
            ));
        }
        assert_eq!(agent.get("/livez").await.0, 200, "{}", row.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (status, listed) = agent.get("/containers").await;
    let names = listed["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"]);
    assert_eq!(
        (status, names.collect::<Vec<_>>()),
        (200, vec![&json!("db")])
    );
    agent.delete_and_wait("db").await;
    let log = agent.log();
    assert!(
        !log.contains("panicked") && !log.contains(token.as_str()),
        "{log}"
    );
    // An operator whose own program calls by another name finds it there, once a minute.
    assert_eq!(
        log.matches("node called by a name that api.hosts does not list")
            .count(),
        1,
        "{log}"
    );
}
