//! Manifests and blobs from registries, by the OCI distribution specification. One request at a
//! time: repeating one, and storing its bytes, is left to the pull. This room knows no runtime.
//!
//! Written on reqwest because oci-client 0.18 drops the headers of errors (`Retry-After`), reads
//! manifests of any size, keeps the first credentials it is given, and turns a failed token request
//! into a refusal of the image.

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode};
use state::digest::is_digest;
use state::reason::Reason;
use state::reference::ImageReference;

use self::auth::credentials::CredentialsFile;
pub use self::auth::credentials::holds_secrets;
use self::auth::grant::{Grants, Target};
use self::auth::{challenge, helper::CredentialHelpers};
pub(crate) use self::blob::BlobBody;
pub use self::config::{InvalidRegistryConfig, ProxySettings, RegistryConfig};
use self::endpoint::Endpoint;
pub(crate) use self::fault::RegistryError;
use self::hosts::CertsDirectory;
use self::http::{Errand, Http};
pub use self::proxy::looked_up_host;
use self::route::{Need, Route};
use self::sender::Sender;
pub(crate) use self::stamp::FileStamp;

mod auth;
mod authority;
mod blob;
mod clients;
mod config;
mod endpoint;
mod fault;
mod flow;
mod hosts;
mod http;
mod leading;
mod proxy;
mod route;
mod sender;
mod stamp;

#[cfg(any(test, fuzzing))]
pub(crate) use auth::challenge::best as best_challenge;
#[cfg(test)]
mod tests;

/// Bytes of the largest manifest or index: the least that the distribution specification asks
/// registries to accept.
pub(crate) const MANIFEST_BYTES_MAX: usize = 4 << 20;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Client of all registries.
#[derive(Debug)]
pub(crate) struct RegistryClient {
    http: Http,
    grants: Grants,
    hosts: CertsDirectory,
}

/// Manifest or index as a registry sent it. Where it was asked for by digest, it has that digest.
#[derive(Debug)]
pub(crate) struct SentManifest {
    /// Exact bytes.
    pub(crate) bytes: Bytes,
    /// Media type that the registry declares.
    pub(crate) media_type: String,
}

/// Faults of the files that a configuration names, each a sentence: of credentials, of hosts, of
/// certificates. The agent runs with them; the registries concerned do not work.
#[must_use]
pub fn review(config: &RegistryConfig) -> Vec<String> {
    match RegistryClient::new(config) {
        Ok(client) => client.faults(),
        Err(error) => vec![error.to_string()],
    }
}

impl RegistryClient {
    /// Client that has not connected yet.
    ///
    /// # Errors
    /// When the CA file or a proxy cannot be used.
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, InvalidRegistryConfig> {
        let helpers = CredentialHelpers::new(config.helper_environment.clone());
        let credentials = CredentialsFile::new(config.auth_file.clone(), helpers);
        let insecure = config.insecure.iter().map(|host| host.to_ascii_lowercase());
        Ok(Self {
            http: Http::new(config)?,
            grants: Grants::new(credentials),
            hosts: CertsDirectory::new(config.hosts_dir.clone(), insecure.collect()),
        })
    }

    /// Faults of the files for registries as they are now, each a sentence. Only what changed is read
    /// again; it blocks for that.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.grants.credentials().faults();
        faults.extend(self.http.clients().fault());
        faults.extend(self.hosts.faults(self.http.clients()));
        faults
    }

    /// Digest that a tag stands for now, by a request that does not count against Docker Hub's
    /// limit. `None`: the registry does not say.
    ///
    /// # Errors
    /// When there is no answer at all.
    pub(crate) async fn resolve(
        &self,
        image: &ImageReference,
        tag: &str,
    ) -> Result<Option<String>, RegistryError> {
        let path = format!("/manifests/{tag}");
        let mut route = self.route(image, Need::Resolve)?;
        while let Some(endpoint) = route.next() {
            let asked = self
                .ask(&Method::HEAD, &endpoint, image, &path, manifest_types())
                .await;
            endpoint.note(&asked);
            match asked {
                Ok(response) if response.status().is_success() => {
                    let digest = response
                        .headers()
                        .get("docker-content-digest")
                        .and_then(|value| value.to_str().ok());
                    return Ok(digest.map(str::to_owned));
                }
                // A HEAD's error has no body; the GET that follows tells why.
                Ok(_) if route.is_last() => return Ok(None),
                Ok(_) => {}
                Err(error) => route.failed(&endpoint, error),
            }
        }
        Err(route.failure())
    }

    /// Manifest or index under a tag or digest.
    ///
    /// # Errors
    /// The registry's own; [`Reason::ImageInvalid`] when it is larger than [`MANIFEST_BYTES_MAX`];
    /// [`Reason::DigestMismatch`] when it is another than asked for.
    pub(crate) async fn manifest(
        &self,
        image: &ImageReference,
        version: &str,
    ) -> Result<SentManifest, RegistryError> {
        let need = if is_digest(version) {
            Need::Content
        } else {
            Need::Resolve
        };
        let mut route = self.route(image, need)?;
        while let Some(endpoint) = route.next() {
            let sent = self.manifest_of(&endpoint, image, version).await;
            endpoint.note(&sent);
            match sent {
                Ok(sent) => return Ok(sent),
                Err(error) => route.failed(&endpoint, error),
            }
        }
        Err(route.failure())
    }

    async fn manifest_of(
        &self,
        endpoint: &Endpoint,
        image: &ImageReference,
        version: &str,
    ) -> Result<SentManifest, RegistryError> {
        let path = format!("/manifests/{version}");
        let response = self
            .ask(&Method::GET, endpoint, image, &path, manifest_types())
            .await?;
        let wanted = format!("manifest {version} of {image}");
        let response = self.success(response, endpoint, image, &wanted).await?;
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let media_type = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let sender = Sender::of(&response, endpoint);
        let bytes = self
            .http
            .read(response, MANIFEST_BYTES_MAX, "manifest")
            .await?;
        if is_digest(version) {
            sender.check("manifest", version, &bytes)?;
        }
        Ok(SentManifest { bytes, media_type })
    }

    /// Small blob, in one piece: what it is, and its most bytes.
    ///
    /// # Errors
    /// The registry's own; [`Reason::ImageInvalid`] when it is larger than `bytes_max`;
    /// [`Reason::DigestMismatch`] when it is another than asked for.
    pub(crate) async fn small_blob(
        &self,
        image: &ImageReference,
        digest: &str,
        (what, bytes_max): (&str, usize),
    ) -> Result<Bytes, RegistryError> {
        let mut route = self.route(image, Need::Content)?;
        while let Some(endpoint) = route.next() {
            let sent = self
                .small_blob_of(&endpoint, image, digest, (what, bytes_max))
                .await;
            endpoint.note(&sent);
            match sent {
                Ok(bytes) => return Ok(bytes),
                Err(error) => route.failed(&endpoint, error),
            }
        }
        Err(route.failure())
    }

    async fn small_blob_of(
        &self,
        endpoint: &Endpoint,
        image: &ImageReference,
        digest: &str,
        (what, bytes_max): (&str, usize),
    ) -> Result<Bytes, RegistryError> {
        let (response, _) = self.blob_of(endpoint, image, digest, 0).await?;
        let sender = Sender::of(&response, endpoint);
        let bytes = self.http.read(response, bytes_max, what).await?;
        sender.check(what, digest, &bytes)?;
        Ok(bytes)
    }

    /// Blob from `offset` on. Its digest is the receiver's to check.
    ///
    /// # Errors
    /// The registry's own.
    pub(crate) async fn blob(
        &self,
        image: &ImageReference,
        digest: &str,
        offset: u64,
    ) -> Result<BlobBody<'_>, RegistryError> {
        let mut route = self.route(image, Need::Content)?;
        while let Some(endpoint) = route.next() {
            let sent = self.blob_of(&endpoint, image, digest, offset).await;
            endpoint.note(&sent);
            match sent {
                Ok((response, skip)) => {
                    return Ok(BlobBody::new(&self.http, response, endpoint, skip));
                }
                Err(error) => route.failed(&endpoint, error),
            }
        }
        Err(route.failure())
    }

    /// Response with a blob, and the number of its bytes to drop.
    async fn blob_of(
        &self,
        endpoint: &Endpoint,
        image: &ImageReference,
        digest: &str,
        offset: u64,
    ) -> Result<(Response, u64), RegistryError> {
        // Asking for a range from the very beginning finds out nothing and confuses some proxies.
        let range = HeaderValue::from_str(&format!("bytes={offset}-"))
            .ok()
            .filter(|_| offset > 0);
        let header = match range {
            Some(range) => (RANGE, range),
            None => (ACCEPT, HeaderValue::from_static("*/*")),
        };
        let path = format!("/blobs/{digest}");
        let response = self
            .ask(&Method::GET, endpoint, image, &path, header)
            .await?;
        let wanted = format!("blob {digest} of {image}");
        let response = self.success(response, endpoint, image, &wanted).await;
        let response = response
            .map_err(|error| error.renamed(Reason::ImageNotFound, Reason::ImageBlobMissing))?;
        let skip = match (response.status(), blob::range_start(&response)) {
            (StatusCode::PARTIAL_CONTENT, Some(start)) if start <= offset => offset - start,
            (StatusCode::PARTIAL_CONTENT, _) => {
                let message = format!(
                    "registry {} sent another part of {digest} than asked for",
                    endpoint.authority()
                );
                return Err(RegistryError::passing(Reason::RegistryError, message));
            }
            _ => offset,
        };
        Ok((response, skip))
    }

    fn route(&self, image: &ImageReference, need: Need) -> Result<Route, RegistryError> {
        let endpoints = self.hosts.of(image.registry(), self.http.clients())?;
        Route::new(image, &endpoints, need)
    }

    async fn ask(
        &self,
        method: &Method,
        endpoint: &Endpoint,
        image: &ImageReference,
        path: &str,
        header: (HeaderName, HeaderValue),
    ) -> Result<Response, RegistryError> {
        let url = endpoint.url(image.repository(), path)?;
        let target = target(endpoint, image);
        let mut errand = Errand {
            headers: HeaderMap::from_iter([header]),
            authorization: self.grants.kept(target),
            ..Errand::new(endpoint, method.clone(), url)
        };
        let response = self.http.send(&errand).await?;
        // The target of a redirect is asked for nothing that a secret of the registry would answer.
        if response.status() != StatusCode::UNAUTHORIZED
            || response.url().origin() != errand.url.origin()
        {
            return Ok(response);
        }
        let offers = response.headers().get_all(WWW_AUTHENTICATE);
        let Some(challenge) =
            challenge::best(offers.iter().filter_map(|value| value.to_str().ok()))
        else {
            return Ok(response);
        };
        let is_near = self.http.is_near(endpoint, &response);
        drop(response);
        let granted = self.grants.answer(&self.http, target, &challenge, is_near);
        errand.authorization = Some(granted.await?);
        self.http.send(&errand).await
    }

    async fn success(
        &self,
        response: Response,
        endpoint: &Endpoint,
        image: &ImageReference,
        wanted: &str,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let own = endpoint.authority();
        if authority::authority(response.url()) != own {
            return Err(RegistryError::led(&response, &own, wanted));
        }
        Err(match status {
            StatusCode::UNAUTHORIZED => self.grants.refused(target(endpoint, image)).await,
            _ => RegistryError::status(response, &own, wanted).await,
        })
    }
}

fn target<'a>(endpoint: &'a Endpoint, image: &'a ImageReference) -> Target<'a> {
    Target {
        endpoint,
        repository: image.repository(),
    }
}

fn manifest_types() -> (HeaderName, HeaderValue) {
    (ACCEPT, HeaderValue::from_static(MANIFEST_TYPES))
}
