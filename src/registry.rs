//! Manifests and blobs from registries, by the OCI distribution specification. One request at a
//! time: repeating one, and storing its bytes, is left to the pull. This room knows no runtime.
//!
//! Written on reqwest because oci-client 0.18 drops the headers of errors (`Retry-After`), reads
//! manifests of any size, keeps the first credentials it is given, and turns a failed token request
//! into a refusal of the image.

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode};
use state::reason::Reason;
use state::reference::ImageReference;

use self::auth::challenge;
use self::auth::credentials::CredentialsFile;
use self::auth::grant::Grants;
pub use self::config::{InvalidRegistryConfig, RegistryConfig};
pub(crate) use self::fault::RegistryError;
use self::http::Http;

mod auth;
mod config;
mod fault;
mod http;
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
}

/// Manifest or index as the registry sent it. Its digest is over these bytes, and not checked yet.
#[derive(Debug)]
pub(crate) struct SentManifest {
    /// Exact bytes.
    pub(crate) bytes: Bytes,
    /// Media type that the registry declares.
    pub(crate) media_type: String,
}

impl RegistryClient {
    /// Client that has not connected yet.
    ///
    /// # Errors
    /// When the CA file cannot be used.
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, InvalidRegistryConfig> {
        let grants = Grants::new(CredentialsFile::new(config.auth_file.clone()));
        Ok(Self {
            http: Http::new(config)?,
            grants,
        })
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
        let response = self
            .ask(
                &Method::HEAD,
                image,
                &path,
                (ACCEPT, HeaderValue::from_static(MANIFEST_TYPES)),
            )
            .await?;
        if !response.status().is_success() {
            // A HEAD's error has no body; the GET that follows tells why.
            return Ok(None);
        }
        let digest = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok());
        Ok(digest.map(str::to_owned))
    }

    /// Manifest or index under a tag or digest.
    ///
    /// # Errors
    /// The registry's own; [`Reason::ImageInvalid`] when it is larger than [`MANIFEST_BYTES_MAX`].
    pub(crate) async fn manifest(
        &self,
        image: &ImageReference,
        version: &str,
    ) -> Result<SentManifest, RegistryError> {
        let path = format!("/manifests/{version}");
        let response = self
            .ask(
                &Method::GET,
                image,
                &path,
                (ACCEPT, HeaderValue::from_static(MANIFEST_TYPES)),
            )
            .await?;
        let response = self
            .success(response, image, &format!("manifest {version} of {image}"))
            .await?;
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
        let bytes = self
            .http
            .read(response, MANIFEST_BYTES_MAX, "manifest")
            .await?;
        Ok(SentManifest { bytes, media_type })
    }

    /// Small blob, in one piece.
    ///
    /// # Errors
    /// The registry's own; [`Reason::ImageInvalid`] when it is larger than `bytes_max`.
    pub(crate) async fn small_blob(
        &self,
        image: &ImageReference,
        digest: &str,
        bytes_max: usize,
    ) -> Result<Bytes, RegistryError> {
        let body = self.blob(image, digest, 0).await?;
        self.http
            .read(body.response, bytes_max, "image configuration")
            .await
    }

    /// Blob from `offset` on.
    ///
    /// # Errors
    /// The registry's own.
    pub(crate) async fn blob(
        &self,
        image: &ImageReference,
        digest: &str,
        offset: u64,
    ) -> Result<BlobBody<'_>, RegistryError> {
        // Asking for a range from the very beginning finds out nothing and confuses some proxies.
        let range = HeaderValue::from_str(&format!("bytes={offset}-"))
            .ok()
            .filter(|_| offset > 0);
        let header = match range {
            Some(range) => (RANGE, range),
            None => (ACCEPT, HeaderValue::from_static("*/*")),
        };
        let response = self
            .ask(&Method::GET, image, &format!("/blobs/{digest}"), header)
            .await?;
        let response = self
            .success(response, image, &format!("blob {digest} of {image}"))
            .await;
        let response = response
            .map_err(|error| error.renamed(Reason::ImageNotFound, Reason::ImageBlobMissing))?;
        let skip = match (response.status(), range_start(&response)) {
            (StatusCode::PARTIAL_CONTENT, Some(start)) if start <= offset => offset - start,
            (StatusCode::PARTIAL_CONTENT, _) => {
                let message = format!(
                    "registry {} sent another part of {digest} than asked for",
                    image.registry()
                );
                return Err(RegistryError::passing(Reason::RegistryError, message));
            }
            _ => offset,
        };
        Ok(BlobBody {
            http: &self.http,
            response,
            skip,
        })
    }

    async fn ask(
        &self,
        method: &Method,
        image: &ImageReference,
        path: &str,
        header: (reqwest::header::HeaderName, HeaderValue),
    ) -> Result<Response, RegistryError> {
        let url = self.http.url(
            host(image.registry()),
            &format!("/v2/{}{path}", image.repository()),
        )?;
        let headers = HeaderMap::from_iter([header]);
        let kept = self.grants.kept(image);
        let response = self
            .http
            .send(method, &url, &headers, kept.as_ref())
            .await?;
        // The target of a redirect is asked for nothing that a secret of the registry would answer.
        if response.status() != StatusCode::UNAUTHORIZED || response.url().origin() != url.origin()
        {
            return Ok(response);
        }
        let offers = response.headers().get_all(WWW_AUTHENTICATE);
        let Some(challenge) =
            challenge::best(offers.iter().filter_map(|value| value.to_str().ok()))
        else {
            return Ok(response);
        };
        drop(response);
        let grant = self.grants.answer(&self.http, image, &challenge).await?;
        self.http.send(method, &url, &headers, Some(&grant)).await
    }

    async fn success(
        &self,
        response: Response,
        image: &ImageReference,
        wanted: &str,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let authority = http::authority(response.url());
        let elsewhere = authority != host(image.registry());
        match status {
            StatusCode::UNAUTHORIZED if !elsewhere => Err(self.grants.refused(image)),
            // The signature of a redirect's URL has a life of its own; the next try gets a new one.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if elsewhere => {
                let message = format!(
                    "{authority}, where registry {} keeps its blobs, refused ({status})",
                    image.registry()
                );
                Err(RegistryError::passing(Reason::RegistryError, message))
            }
            _ => Err(RegistryError::status(response, &authority, wanted).await),
        }
    }
}

/// Bytes of a blob as they come.
#[derive(Debug)]
pub(crate) struct BlobBody<'a> {
    http: &'a Http,
    response: Response,
    /// Bytes to drop: the server began earlier than asked.
    skip: u64,
}

impl BlobBody<'_> {
    /// Next bytes; `None` at the end, which is not proof of completeness.
    ///
    /// # Errors
    /// [`RegistryError::Passing`] when the connection broke or stalled.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|error| self.http.broken(&error, self.response.url()))?;
            let Some(mut chunk) = chunk else {
                return Ok(None);
            };
            let skip = usize::try_from(self.skip)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            self.skip -= skip as u64;
            let rest = chunk.split_off(skip);
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
    }
}

/// Host of a registry's API: Docker Hub's is another than its images' names say.
fn host(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
