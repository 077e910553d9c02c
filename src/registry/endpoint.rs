//! Host that serves the images of a registry: the registry's own, or a mirror of it.

use std::sync::Mutex;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;
use state::reason::Reason;
use tokio::time::Instant;

use super::auth::AuthPlace;
use super::authority::authority;
use super::clients::TrustClients;
use super::fault::RegistryError;
use crate::lock::lock;

/// Time for which a host that failed is asked after all others.
const SHUNNED: Duration = Duration::from_secs(30);

/// Host that serves the images of a registry.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Root of its API, such as `https://r.example/v2`, without a slash at the end.
    pub(super) root: Url,
    /// Registry whose images it serves, as in image references.
    pub(super) registry: String,
    /// Clients with trust of their own; `None`: the general ones.
    pub(super) clients: Option<TrustClients>,
    /// Whether its certificate is not checked.
    pub(super) is_blind: bool,
    /// Headers that it gets and no other host.
    pub(super) headers: HeaderMap,
    /// Whether it is asked for what a tag stands for.
    pub(super) resolves: bool,
    /// Whether it is asked for content by digest.
    pub(super) serves: bool,
    /// Last failure that was its own.
    pub(super) failed: Mutex<Option<Instant>>,
}

impl Endpoint {
    /// Registry's own host, without any configuration.
    ///
    /// # Errors
    /// When the name makes no URL.
    pub(super) fn own(registry: &str, is_plain: bool) -> Result<Self, RegistryError> {
        let scheme = if is_plain { "http" } else { "https" };
        Ok(Self {
            root: parse(&format!("{scheme}://{}/v2", api_host(registry)))?,
            registry: registry.to_owned(),
            clients: None,
            is_blind: false,
            headers: HeaderMap::new(),
            resolves: true,
            serves: true,
            failed: Mutex::default(),
        })
    }

    /// `host[:port]` for messages.
    pub(super) fn authority(&self) -> String {
        authority(&self.root)
    }

    /// Whether it is another host than the registry's own.
    pub(super) fn is_mirror(&self) -> bool {
        // A URL drops the port that its scheme has anyway, and the registry's name may have it.
        let named = format!("{}://{}", self.root.scheme(), api_host(&self.registry));
        Url::parse(&named).is_ok_and(|own| authority(&own) != self.authority())
    }

    /// URL of `path` (as in `/manifests/1`) in a repository.
    ///
    /// # Errors
    /// [`RegistryError::Lasting`] when these make no URL.
    pub(super) fn url(&self, repository: &str, path: &str) -> Result<Url, RegistryError> {
        // A root that is nothing but a host has a slash all the same.
        let root = self.root.as_str().trim_end_matches('/');
        let mut url = parse(&format!("{root}/{repository}{path}"))?;
        if self.is_mirror() {
            // One mirror may serve several registries, and takes the name from here.
            url.query_pairs_mut().append_pair("ns", &self.registry);
        }
        Ok(url)
    }

    /// Repository as this host names it: credentials and rights are asked for by it.
    pub(super) fn place(&self, repository: &str) -> AuthPlace {
        let host = match self.authority() {
            // Its credentials are under the name that its images have, with the port if that has it.
            _ if !self.is_mirror() => self.registry.clone(),
            host if host == "registry-1.docker.io" => "docker.io".to_owned(),
            host => host,
        };
        let path = self.root.path().trim_start_matches('/');
        let prefix = match path.split_once('/') {
            Some(("v2", prefix)) => prefix,
            _ => "",
        };
        let repository = match prefix {
            "" => repository.to_owned(),
            prefix => format!("{prefix}/{repository}"),
        };
        // A mirror's name comes from its URL, which drops the port of its scheme.
        let default_port = self.root.port_or_known_default();
        let is_dropped = self.is_mirror() && self.root.port().is_none();
        let host_and_port = default_port.filter(|_| is_dropped);
        AuthPlace {
            host_and_port: host_and_port.map(|port| format!("{host}:{port}")),
            host,
            repository,
        }
    }

    /// Notes how a request to it ended: a host that fails for reasons of its own is asked last for a
    /// while.
    pub(super) fn note<T>(&self, ended: &Result<T, RegistryError>) {
        let failure = match ended {
            Ok(_) => None,
            Err(RegistryError::Passing(failure) | RegistryError::Lasting(failure)) => {
                Some(failure.reason)
            }
        };
        match failure {
            Some(
                Reason::ImageNotFound
                | Reason::ImageBlobMissing
                | Reason::RegistryUnauthorized
                | Reason::RegistryForbidden,
            ) => {}
            Some(_) => self.shun(),
            None => *lock(&self.failed) = None,
        }
    }

    /// Asks it after all others, for a while.
    pub(super) fn shun(&self) {
        *lock(&self.failed) = Some(Instant::now());
    }

    /// Whether it failed just now.
    pub(super) fn is_shunned(&self) -> bool {
        lock(&self.failed).is_some_and(|at| at.elapsed() < SHUNNED)
    }
}

/// Host of a registry's API: Docker Hub's is another than its images' names say.
pub(super) fn api_host(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

/// URL that a registry, or a reference, gave.
///
/// # Errors
/// [`RegistryError::Lasting`] when it is none.
pub(super) fn parse(text: &str) -> Result<Url, RegistryError> {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    Url::parse(text).map_err(|error| {
        RegistryError::lasting(
            Reason::RegistryAnswerInvalid,
            format!("{shown:?} is no URL: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(registry: &str, root: &str) -> Endpoint {
        Endpoint {
            root: parse(root).unwrap(),
            ..Endpoint::own(registry, root.starts_with("http:")).unwrap()
        }
    }

    #[test]
    fn a_root_with_and_without_a_path_makes_one_slash() {
        for (root, url) in [
            (
                "https://m.example/",
                "https://m.example/web/tags?ns=r.example",
            ),
            (
                "https://m.example/a/",
                "https://m.example/a/web/tags?ns=r.example",
            ),
            (
                "https://m.example/a",
                "https://m.example/a/web/tags?ns=r.example",
            ),
        ] {
            let found = endpoint("r.example", root).url("web", "/tags").unwrap();
            assert_eq!(found.as_str(), url, "{root}");
        }
    }

    #[test]
    fn a_mirror_is_known_with_and_without_the_port_of_its_scheme() {
        for (root, host, host_and_port) in [
            (
                "https://m.example:443/v2",
                "m.example",
                Some("m.example:443"),
            ),
            ("http://m.example/v2", "m.example", Some("m.example:80")),
            ("https://m.example:5000/v2", "m.example:5000", None),
            ("https://r.example/v2", "r.example", None),
        ] {
            let place = endpoint("r.example", root).place("x");
            let found = (place.host.as_str(), place.host_and_port.as_deref());
            assert_eq!(found, (host, host_and_port), "{root}");
        }
    }

    #[test]
    fn the_registry_s_own_host_has_its_name_and_credentials_whatever_port_is_written() {
        for (registry, root, host, is_mirror) in [
            (
                "r.example:443",
                "https://r.example/v2",
                "r.example:443",
                false,
            ),
            ("r.example", "https://r.example:443/v2", "r.example", false),
            ("r.example:80", "http://r.example/v2", "r.example:80", false),
            ("r.example:80", "https://r.example/v2", "r.example", true),
            (
                "r.example:443",
                "https://m.example:443/v2",
                "m.example",
                true,
            ),
            (
                "docker.io",
                "https://registry-1.docker.io/v2",
                "docker.io",
                false,
            ),
            (
                "r.example",
                "https://registry-1.docker.io/v2",
                "docker.io",
                true,
            ),
        ] {
            let endpoint = endpoint(registry, root);
            assert_eq!(endpoint.place("x").host, host, "{registry} {root}");
            assert_eq!(endpoint.is_mirror(), is_mirror, "{registry} {root}");
        }
    }
}
