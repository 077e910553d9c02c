//! The site that a request is meant for, and the one that it comes from: a page in a browser gets
//! nothing, but for the node's own.
//!
//! A browser sends what a page asks for to any address, this node's among them, and its headers
//! tell whose page it was. A name that the page's owner has may come to stand for this node's
//! address: then the page is of one site with it, and only the name in `Host` tells. A caller on
//! the socket may call this node by any plain name; a browser gets there only by a port that somebody
//! forwards, and its names have dots or that port.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use state::text::shown;

use super::caller::{Caller, CallerPeer};
use super::error::Problem;
use super::listener::shut::SentAway;

/// Characters of another host's name in the log: a name of the DNS has no more.
const HOST_CHARS_MAX: usize = 253;
/// Header in which a browser tells how the page's site and the request's are related.
const FETCH_SITE: &str = "sec-fetch-site";
/// Values of it for what no other site's page has asked for.
const OWN_SITE: [&str; 2] = ["none", "same-origin"];

/// Names by which this node may be called, besides its addresses and `localhost`.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnNames {
    names: Arc<[String]>,
    first: Arc<str>,
    /// Whether others are told of in the log only.
    is_lenient: bool,
    sent_away: Arc<SentAway>,
}

impl OwnNames {
    /// The names, in any case, without a port; the node's id comes first. `is_lenient`: calls by others
    /// are served too, as they were before names were looked at; a page that is served by such a name
    /// has no token.
    pub(crate) fn new(names: impl IntoIterator<Item = String>, is_lenient: bool) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        let first = names.first().cloned().unwrap_or_default().into();
        let plain = |name: String| name.trim_end_matches('.').to_ascii_lowercase();
        Self {
            names: names.into_iter().map(plain).collect(),
            first,
            is_lenient,
            sent_away: Arc::default(),
        }
    }

    /// The node's id.
    pub(super) fn first(&self) -> &str {
        &self.first
    }

    fn knows(&self, host: &str) -> bool {
        let literal = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if literal.unwrap_or(host).parse::<IpAddr>().is_ok() {
            return true;
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        name == "localhost" || self.names.contains(&name)
    }
}

/// Refuses requests of pages, and those that are meant for another host.
pub(super) async fn check(State(hosts): State<OwnNames>, request: Request, next: Next) -> Response {
    let mut response = checked(&hosts, request, next).await;
    // Output of containers is answered too: a browser is to make nothing else of it than it is said to be.
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn checked(hosts: &OwnNames, request: Request, next: Next) -> Response {
    match judge(hosts, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            // An operator's own programs may call the node by a name that is not listed yet.
            if let Problem::Misdirected(host) = &problem
                && let Some(others) = hosts.sent_away.is_due()
            {
                let host = shown(host, HOST_CHARS_MAX);
                let is_served = hosts.is_lenient;
                tracing::warn!(%host, others, is_served, "node called by a name that api.hosts does not list");
            }
            if hosts.is_lenient && matches!(problem, Problem::Misdirected(_)) {
                return next.run(request).await;
            }
            problem.into_response()
        }
    }
}

fn judge(hosts: &OwnNames, request: &Request) -> Result<(), Problem> {
    is_of_no_other_page(hosts, request)?;
    let named = named_host(request)?;
    let caller = request.extensions().get::<Caller>();
    let is_on_socket = matches!(
        caller.map(|caller| caller.peer),
        Some(CallerPeer::Socket { .. })
    );
    // A target with a host of its own takes precedence over the header (RFC 9112, 3.2.2).
    let both = named.as_ref().into_iter().chain(request.uri().authority());
    for authority in both {
        if is_on_socket {
            let is_plain = !authority.host().contains('.') && authority.port().is_none();
            if is_plain || hosts.knows(authority.host()) {
                continue;
            }
            return Err(Problem::Page(format!("Host: {authority}")));
        }
        if authority.as_str().contains('@') || !hosts.knows(authority.host()) {
            return Err(Problem::Misdirected(authority.to_string()));
        }
    }
    Ok(())
}

/// Whether no page has asked for it, or the node's own.
fn is_of_no_other_page(hosts: &OwnNames, request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    if let Some(origin) = headers.get(header::ORIGIN)
        && !is_own(hosts, headers, origin)
    {
        return Err(Problem::Page(format!(
            "Origin: {}",
            text(origin.as_bytes())
        )));
    }
    if is_visit(request) {
        return Ok(());
    }
    let sites = headers.get_all(FETCH_SITE);
    let other = sites
        .iter()
        .find(|site| !OWN_SITE.iter().any(|own| own.as_bytes() == site.as_bytes()));
    other.map_or(Ok(()), |site| {
        Err(Problem::Page(format!(
            "Sec-Fetch-Site: {}",
            text(site.as_bytes())
        )))
    })
}

/// Whether somebody goes to the node's page, by a link of another site perhaps: it has no data, and
/// nobody else's page gets hold of it.
fn is_visit(request: &Request) -> bool {
    let says = |name: &str, value: &str| {
        let mut given = request.headers().get_all(name).iter();
        given
            .next()
            .is_some_and(|first| first.as_bytes() == value.as_bytes())
            && given.next().is_none()
    };
    request.method() == Method::GET
        && request.uri().path() == "/"
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
}

/// Whether a page of this very node asks, by a name that is the node's: one that an owner of another
/// name serves from this address has that name in both headers. Libraries that are no browser write
/// the origin of a `WebSocket` so, by whatever name they call.
fn is_own(hosts: &OwnNames, headers: &HeaderMap, origin: &HeaderValue) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    let is_socket =
        upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let own = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let is_known = own
        .and_then(|own| Authority::try_from(own).ok())
        .is_some_and(|own| !own.as_str().contains('@') && hosts.knows(own.host()));
    let of_node = ["http://", "https://"].iter().any(|scheme| {
        let named = origin.as_bytes().strip_prefix(scheme.as_bytes());
        named.is_some() && named == own
    });
    of_node && (is_socket || is_known)
}

/// The host in the request's header. `None`: HTTP/1.0, which need not name one.
fn named_host(request: &Request) -> Result<Option<Authority>, Problem> {
    let mut given = request.headers().get_all(header::HOST).iter();
    let malformed = |fault: &str| Problem::Request(format!("the request's Host is {fault}"));
    let host = match (given.next(), given.next()) {
        (Some(host), None) => host,
        (Some(_), Some(_)) => return Err(malformed("given twice; send it once")),
        (None, _) if request.version() == Version::HTTP_10 => return Ok(None),
        // RFC 9112, 3.2.
        (None, _) => return Err(malformed("missing; name the host that is called")),
    };
    let host = Authority::try_from(host.as_bytes());
    host.map(Some)
        .map_err(|_| malformed("no host; write a name or an address, and a port"))
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::body::Body;

    use super::*;

    const TCP: CallerPeer = CallerPeer::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const SOCKET: CallerPeer = CallerPeer::Socket { uid: 0, pid: None };

    fn judged(
        peer: CallerPeer,
        version: Version,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<(), Problem> {
        let hosts = OwnNames::new(["Node-1.example.".to_owned(), "chas".to_owned()], false);
        let mut request = Request::builder().uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Caller::of(peer));
        judge(&hosts, &request)
    }

    #[test]
    fn a_page_of_another_site_gets_nothing() {
        for peer in [TCP, SOCKET] {
            for (name, value) in [
                ("origin", "http://evil.example"),
                ("origin", "null"),
                ("origin", "http://localhost:9090"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-site", "Same-Origin, cross-site"),
            ] {
                let headers = [("host", "localhost"), (name, value)];
                let judged = judged(peer, Version::HTTP_11, "/livez", &headers);
                assert!(
                    matches!(&judged, Err(Problem::Page(of)) if of.contains(value)),
                    "{name}: {value}: {judged:?}"
                );
            }
        }
        for (origin, upgrade, is_let_in) in [
            ("http://localhost:9090", "WebSocket", true),
            ("https://localhost:9090", "websocket", true),
            ("http://localhost", "websocket", false),
            ("http://evil.example", "websocket", false),
            ("localhost:9090", "websocket", false),
            ("http://localhost:9090", "h2c", true),
            ("http://localhost:9091", "", false),
            ("http://localhost:9090", "", true),
            ("https://localhost:9090", "", true),
        ] {
            let headers = [
                ("host", "localhost:9090"),
                ("origin", origin),
                ("upgrade", upgrade),
            ];
            let judged = judged(TCP, Version::HTTP_11, "/livez", &headers);
            assert_eq!(judged.is_ok(), is_let_in, "{origin} {upgrade}");
        }
        // A page that came by a name of another owner is none of the node's, on a lenient node either.
        let headers = [
            ("host", "evil.example:9090"),
            ("origin", "http://evil.example:9090"),
            ("sec-fetch-site", "same-origin"),
        ];
        let judged_foreign = judged(TCP, Version::HTTP_11, "/livez", &headers);
        assert!(matches!(judged_foreign, Err(Problem::Page(_))));
        // A link to the node's page leads there, and none to anything else, in a frame or from a script.
        for (target, mode, dest, is_let_in) in [
            ("/", "navigate", "document", true),
            ("/", "navigate", "iframe", false),
            ("/", "no-cors", "script", false),
            ("/", "cors", "document", false),
            ("/containers", "navigate", "document", false),
        ] {
            let headers = [
                ("host", "localhost"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            let judged = judged(TCP, Version::HTTP_11, target, &headers);
            assert_eq!(judged.is_ok(), is_let_in, "{target} {mode} {dest}");
        }
        for own in OWN_SITE {
            let headers = [("host", "localhost"), ("sec-fetch-site", own)];
            assert_eq!(judged(TCP, Version::HTTP_11, "/livez", &headers), Ok(()));
        }
        let mixed = [
            ("host", "localhost"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-site", "cross-site"),
        ];
        let judged = judged(TCP, Version::HTTP_11, "/livez", &mixed);
        assert!(matches!(judged, Err(Problem::Page(_))), "{judged:?}");
    }

    #[test]
    fn a_name_that_is_not_this_node_s_leads_nowhere_over_tcp() {
        for (host, is_known) in [
            ("127.0.0.1:9090", true),
            ("203.0.113.9", true),
            ("[::1]:9090", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("node-1.example", true),
            ("NODE-1.example.:9090", true),
            ("chas", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("node-1.example.evil.example", false),
            ("sub.localhost", false),
            ("0x7f000001", false),
            ("2130706433", false),
            ("user@localhost", false),
            ("localhost..", false),
        ] {
            let named = [("host", host)];
            let over = |peer| judged(peer, Version::HTTP_11, "/livez", &named);
            let misdirected = matches!(over(TCP), Err(Problem::Misdirected(_)));
            assert_eq!(
                (over(TCP).is_ok(), misdirected),
                (is_known, !is_known),
                "{host}"
            );
            // A program on the socket calls it as it likes, but a socket that is forwarded to a browser's
            // host has a port, and others' pages have names with dots.
            let is_plain = !host.contains(['.', ':']) || host == "user@localhost";
            assert_eq!(over(SOCKET).is_ok(), is_plain || is_known, "{host}");
        }
        // What the target says counts, whatever the header says.
        let target = "http://evil.example/livez";
        let judged = judged(TCP, Version::HTTP_11, target, &[("host", "localhost")]);
        assert!(matches!(judged, Err(Problem::Misdirected(_))), "{judged:?}");
    }

    #[test]
    fn a_host_is_named_once_and_only_http_1_0_need_not() {
        for (version, hosts, is_fine) in [
            (Version::HTTP_11, &["localhost"][..], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_11, &["localhost", "localhost"], false),
            (Version::HTTP_10, &["localhost", "localhost"], false),
            (Version::HTTP_11, &[""], false),
            (Version::HTTP_11, &["a b"], false),
            (Version::HTTP_11, &["localhost/path"], false),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            for peer in [TCP, SOCKET] {
                let judged = judged(peer, version, "/livez", &headers);
                let malformed = matches!(judged, Err(Problem::Request(_)));
                assert_eq!(
                    (judged.is_ok(), malformed),
                    (is_fine, !is_fine),
                    "{hosts:?}"
                );
            }
        }
        let evil = judged(TCP, Version::HTTP_10, "/", &[("host", "evil.example")]);
        assert!(matches!(evil, Err(Problem::Misdirected(_))), "{evil:?}");
    }
}
