//! Proxies between the node and registries: which request goes through which, so that an error can
//! name it.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, NoProxy, Proxy, Url};

use super::authority::authority;
use super::config::{InvalidRegistryConfig, ProxySettings};

/// Hosts that no proxy can reach as they are meant.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Proxies in force.
#[derive(Debug)]
pub(super) struct Proxies {
    settings: ProxySettings,
    direct: String,
    matcher: Matcher,
}

impl Proxies {
    /// Proxies as they are configured.
    pub(super) fn new(settings: &ProxySettings) -> Self {
        let direct = format!("{LOOPBACK},{}", settings.none);
        let text = |url: &Option<Url>| url.as_ref().map_or(String::new(), ToString::to_string);
        let matcher = Matcher::builder()
            .https(text(&settings.https))
            .http(text(&settings.http))
            .no(direct.clone())
            .build();
        Self {
            settings: settings.clone(),
            direct,
            matcher,
        }
    }

    /// Sets the proxies of a client, and none but these.
    ///
    /// # Errors
    /// When a client cannot use one.
    pub(super) fn apply(
        &self,
        builder: ClientBuilder,
    ) -> Result<ClientBuilder, InvalidRegistryConfig> {
        let mut builder = builder.no_proxy();
        let direct = NoProxy::from_string(&self.direct);
        type Make = fn(Url) -> reqwest::Result<Proxy>;
        let kinds: [(&Option<Url>, Make); 2] = [
            (&self.settings.https, Proxy::https::<Url>),
            (&self.settings.http, Proxy::http::<Url>),
        ];
        for (url, make) in kinds {
            let Some(url) = url else { continue };
            let proxy = make(url.clone()).map_err(|error| InvalidRegistryConfig::Proxy {
                proxy: authority(url),
                fault: error.to_string(),
            })?;
            builder = builder.proxy(proxy.no_proxy(direct.clone()));
        }
        Ok(builder)
    }

    /// `host[:port]` of the proxy that a request to `url` goes through; `None`: none.
    pub(super) fn of(&self, url: &Url) -> Option<String> {
        let intercepted = self.matcher.intercept(&url.as_str().parse().ok()?)?;
        intercepted.uri().authority().map(|found| {
            // Without user and password.
            let text = found.as_str();
            text.rsplit_once('@')
                .map_or(text, |(_, host)| host)
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
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
}
