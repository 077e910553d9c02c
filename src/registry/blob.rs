//! Bytes of a blob as a registry sends them.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::CONTENT_RANGE;

use super::endpoint::Endpoint;
use super::fault::RegistryError;
use super::flow::Flow;
use super::http::Http;

/// Bytes of a blob as they come.
#[derive(Debug)]
pub(crate) struct BlobBody<'a> {
    http: &'a Http,
    flow: Flow,
    endpoint: Arc<Endpoint>,
    /// Bytes to drop: the server began earlier than asked.
    skip: u64,
}

impl<'a> BlobBody<'a> {
    /// Body of `response`, without its first `skip` bytes.
    pub(super) fn new(
        http: &'a Http,
        response: Response,
        endpoint: Arc<Endpoint>,
        skip: u64,
    ) -> Self {
        Self {
            http,
            flow: http.flow(response),
            endpoint,
            skip,
        }
    }

    /// Next bytes; `None` at the end, which is not proof of completeness.
    ///
    /// # Errors
    /// [`RegistryError::Passing`] when the connection broke or stalled; another host of the registry
    /// is then asked first.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(mut chunk) = self.flow.next().await.map_err(|error| {
                self.endpoint.shun();
                self.http.ended(error, self.flow.response.url())
            })?
            else {
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

    /// Host that it comes from, and a note that what came was wrong: another one is asked first.
    pub(crate) fn blame(&self) -> String {
        self.endpoint.shun();
        self.endpoint.authority()
    }
}

/// First byte of a partial response; `None`: it does not say.
pub(super) fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
