//! Proxies between the node and registries: which request goes through which, so that an error can
//! name it.

use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Proxy, Url};

use super::authority::authority;
use super::config::{InvalidRegistryConfig, ProxySettings, RegistryConfig};

/// Hosts that no proxy can reach as they are meant.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Proxies in force.
#[derive(Clone, Debug)]
pub(super) struct Proxies(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    settings: ProxySettings,
    /// Tells which URLs go through a proxy, whatever their port.
    matcher: Matcher,
    /// Port, and what tells which hosts are reached without a proxy there.
    direct_at: Vec<(u16, Matcher)>,
}

impl Proxies {
    /// Proxies as they are configured.
    pub(super) fn new(settings: &ProxySettings) -> Self {
        let (mut direct, mut direct_at) = (LOOPBACK.to_owned(), Vec::new());
        for (host, port) in settings.none.split(',').filter_map(direct_entry) {
            match port {
                None => direct += &format!(",{host}"),
                Some(port) => direct_at.push((port, matcher("http://proxy", "http://proxy", host))),
            }
        }
        let text = |url: &Option<Url>| url.as_ref().map_or(String::new(), ToString::to_string);
        Self(Arc::new(Rules {
            matcher: matcher(&text(&settings.https), &text(&settings.http), &direct),
            direct_at,
            settings: settings.clone(),
        }))
    }

    /// Sets the proxies of a client, and none but these.
    ///
    /// # Errors
    /// When a client cannot use one.
    pub(super) fn apply(
        &self,
        builder: ClientBuilder,
    ) -> Result<ClientBuilder, InvalidRegistryConfig> {
        let builder = builder.no_proxy();
        let settings = &self.0.settings;
        let configured = [&settings.https, &settings.http];
        for url in configured.into_iter().flatten() {
            Proxy::all(url.clone()).map_err(|error| InvalidRegistryConfig::Proxy {
                proxy: authority(url),
                fault: error.to_string(),
            })?;
        }
        if configured.into_iter().flatten().next().is_none() {
            return Ok(builder);
        }
        // A client's own list of exceptions knows no ports.
        let rules = Arc::clone(&self.0);
        Ok(builder.proxy(Proxy::custom(move |url| rules.proxy(url).cloned())))
    }

    /// Names of the proxies' hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        let settings = &self.0.settings;
        let urls = [&settings.https, &settings.http].into_iter().flatten();
        urls.filter_map(Url::host_str)
    }

    /// `host[:port]` of the proxy that a request to `url` goes through, without user and password;
    /// `None`: none.
    pub(super) fn of(&self, url: &Url) -> Option<String> {
        self.0.proxy(url).map(|proxy| {
            let host = proxy.host_str().unwrap_or_default();
            match proxy.port_or_known_default() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            }
        })
    }
}

/// Host whose address is looked up for calls of a registry (`host[:port]`): its own, or that of the proxy
/// in between, which looks for the registry itself.
#[must_use]
pub fn looked_up_host(config: &RegistryConfig, registry: &str) -> String {
    let is_plain = config.insecure.iter().any(|host| host == registry);
    let scheme = if is_plain { "http" } else { "https" };
    let url = Url::parse(&format!("{scheme}://{registry}/")).ok();
    let proxies = Proxies::new(&config.proxies);
    let proxy = url.as_ref().and_then(|url| proxies.0.proxy(url));
    let host = proxy.or(url.as_ref()).and_then(Url::host_str);
    host.unwrap_or(registry).to_owned()
}

impl Rules {
    fn proxy(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.settings.https.as_ref()?,
            "http" => self.settings.http.as_ref()?,
            _ => return None,
        };
        let uri = url.as_str().parse().ok()?;
        self.matcher.intercept(&uri)?;
        let port = url.port_or_known_default();
        let mut at_port = self.direct_at.iter().filter(|(at, _)| Some(*at) == port);
        let is_direct = at_port.any(|(_, matcher)| matcher.intercept(&uri).is_none());
        (!is_direct).then_some(proxy)
    }
}

fn matcher(https: &str, http: &str, direct: &str) -> Matcher {
    let builder = Matcher::builder().https(https).http(http);
    builder.no(direct).build()
}

/// Host, domain or network of an entry of `NO_PROXY`, and the port if it has one.
fn direct_entry(entry: &str) -> Option<(&str, Option<u16>)> {
    let entry = entry.trim();
    let (host, port) = match entry.rsplit_once(':') {
        // An IPv6 address, or a network of them, stands alone; with a port it is in brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, Some(port.parse().ok()?))
        }
        _ => (entry, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // `*.example.com` is what others write for `.example.com`.
    let host = host
        .strip_prefix('*')
        .filter(|rest| !rest.is_empty())
        .unwrap_or(host);
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn the_proxy_of_each_request_is_known_and_loopback_has_none() {
        let proxies = Proxies::new(&ProxySettings {
            https: Some("http://user:hunter2@proxy.example:3128".parse().unwrap()),
            http: None,
            none: "inside.example,10.0.0.0/8".to_owned(),
        });
        for (url, proxy) in [
            ("https://registry.example/v2/", Some("proxy.example:3128")),
            ("https://registry.inside.example:5000/v2/", None),
            ("https://10.1.2.3/v2/", None),
            ("https://127.0.0.1:5000/v2/", None),
            ("https://localhost:5000/v2/", None),
            ("http://registry.example/v2/", None),
        ] {
            assert_eq!(proxies.of(&url.parse().unwrap()).as_deref(), proxy, "{url}");
        }
    }
    #[test]
    fn a_host_with_a_port_is_reached_without_a_proxy_at_that_port_alone() {
        let proxy: Option<Url> = Some("http://proxy.example:3128".parse().unwrap());
        let proxies = Proxies::new(&ProxySettings {
            https: proxy.clone(),
            http: proxy,
            none: "registry.local:5000, r.example:443,[fd00::1]:5000,fd00::2, [fd00::3] ,\
                   10.0.0.7:5000,*.star.example,.dot.example:80"
                .to_owned(),
        });
        for (url, is_direct) in [
            ("https://registry.local:5000/v2/", true),
            ("https://registry.local/v2/", false),
            ("https://sub.registry.local:5000/v2/", true),
            ("https://r.example/v2/", true),
            ("http://r.example/v2/", false),
            ("https://[fd00::1]:5000/", true),
            ("https://[fd00::1]/", false),
            ("https://[fd00::2]:5000/", true),
            ("https://[fd00::3]/", true),
            ("https://10.0.0.7:5000/", true),
            ("https://10.0.0.7:5001/", false),
            ("https://a.star.example/", true),
            ("http://a.dot.example/", true),
            ("https://a.dot.example/", false),
        ] {
            let found = proxies.of(&url.parse().unwrap());
            let expected = (!is_direct).then_some("proxy.example:3128");
            assert_eq!(found.as_deref(), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn a_client_goes_the_way_that_is_told() {
        let (door, target) = (listener(), listener());
        let at = target.local_addr().unwrap();
        // 127/8 never goes by a proxy, and a name is looked up by the proxy.
        let proxies = Proxies::new(&ProxySettings {
            https: None,
            http: Some(
                format!("http://u:p@{}", door.local_addr().unwrap())
                    .parse()
                    .unwrap(),
            ),
            none: format!("target.example:{}", at.port()),
        });
        let builder = reqwest::Client::builder().resolve("target.example", at);
        let client = proxies.apply(builder).unwrap().build().unwrap();
        let asked = thread::spawn(move || [head_of(&door), head_of(&target)]);
        let other = client.get("http://target.example:1/other").send().await;
        assert!(other.is_ok(), "{other:?}");
        let direct = client.get(format!("http://target.example:{}/direct", at.port()));
        assert!(direct.send().await.is_ok());
        let [by_proxy, direct] = asked.join().unwrap();
        assert!(
            by_proxy.starts_with("GET http://target.example:1/other"),
            "{by_proxy}"
        );
        assert!(
            by_proxy
                .to_lowercase()
                .contains("proxy-authorization: basic dtpw"),
            "{by_proxy}"
        );
        assert!(direct.starts_with("GET /direct"), "{direct}");
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    /// Head of the one request that comes.
    fn head_of(door: &TcpListener) -> String {
        let (mut stream, _) = door.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        String::from_utf8(head).unwrap()
    }
}
