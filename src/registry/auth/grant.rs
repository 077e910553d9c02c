//! Value of `Authorization` for a registry: a password, or a token that is fetched, kept and
//! renewed here.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};
use serde::Deserialize;
use state::reason::Reason;
use state::reference::ImageReference;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::credentials::{CredentialsFile, RegistryCredentials};
use crate::lock::lock;
use crate::registry::fault::RegistryError;
use crate::registry::http::{self, Http};

/// Grants kept at once: one for each repository that is being pulled; beyond that they are fetched
/// again.
const GRANTS_MAX: usize = 256;

/// Largest answer of a token service that is read: a token is a signed list of rights, and the
/// largest seen are some 10 kB.
const TOKEN_BYTES_MAX: usize = 256 << 10;

/// A token's life where its service names none (distribution's token specification).
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// Longest life of a token that is believed.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Grants obtained, by registry and repository.
#[derive(Debug)]
pub(crate) struct Grants {
    credentials: CredentialsFile,
    kept: Mutex<HashMap<(String, String), Grant>>,
}

#[derive(Debug)]
struct Grant {
    authorization: HeaderValue,
    /// End of the grant. `None`: it is good for ever.
    until: Option<Instant>,
    edition: u64,
}

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Grants {
    /// Empty set; grants are obtained with `credentials`.
    pub(crate) fn new(credentials: CredentialsFile) -> Self {
        Self {
            credentials,
            kept: Mutex::default(),
        }
    }

    /// `Authorization` that opened the repository before, if it is still good.
    pub(crate) fn kept(&self, image: &ImageReference) -> Option<HeaderValue> {
        let edition = self.credentials.of(image.registry()).edition;
        let mut kept = lock(&self.kept);
        kept.retain(|_, grant| grant.until.is_none_or(|until| until > Instant::now()));
        let grant = kept
            .get(&key(image))
            .filter(|grant| grant.edition == edition)?;
        Some(grant.authorization.clone())
    }

    /// `Authorization` that a challenge asks for.
    ///
    /// # Errors
    /// [`Reason::RegistryUnauthorized`] when that takes credentials and there are none, and
    /// [`Reason::RegistryCredentialsRefused`] when they are refused.
    pub(crate) async fn answer(
        &self,
        http: &Http,
        image: &ImageReference,
        challenge: &Challenge,
    ) -> Result<HeaderValue, RegistryError> {
        let known = self.credentials.of(image.registry());
        let (authorization, until) = match challenge {
            Challenge::Basic => match &known.basic {
                Some(basic) => (basic.clone(), None),
                None => return Err(unauthorized(image, &known)),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let url = token_url(realm, service.as_deref(), scope.as_deref(), image)?;
                let (token, life) = fetch(http, &url, image, &known).await?;
                (token, Some(Instant::now() + life))
            }
        };
        let grant = Grant {
            authorization: authorization.clone(),
            until,
            edition: known.edition,
        };
        let mut kept = lock(&self.kept);
        if kept.len() >= GRANTS_MAX {
            kept.clear();
        }
        kept.insert(key(image), grant);
        Ok(authorization)
    }

    /// Error for a registry that refuses the grant as well.
    pub(crate) fn refused(&self, image: &ImageReference) -> RegistryError {
        lock(&self.kept).remove(&key(image));
        unauthorized(image, &self.credentials.of(image.registry()))
    }
}

fn key(image: &ImageReference) -> (String, String) {
    (image.registry().to_owned(), image.repository().to_owned())
}

fn unauthorized(image: &ImageReference, known: &RegistryCredentials) -> RegistryError {
    let (registry, repository) = (image.registry(), image.repository());
    let message = match (&known.basic, &known.fault) {
        (Some(_), _) => format!(
            "registry {registry} gives no access to {repository} (or it does not exist): \
             check the user's rights and the password in registry.auth_file"
        ),
        (None, Some(fault)) => {
            format!("registry {registry} wants credentials for {repository}, and {fault}")
        }
        (None, None) => format!(
            "registry {registry} wants credentials for {repository} (or it does not exist): \
             add some for {registry} to registry.auth_file"
        ),
    };
    let reason = if known.basic.is_some() {
        Reason::RegistryCredentialsRefused
    } else {
        Reason::RegistryUnauthorized
    };
    RegistryError::lasting(reason, message)
}

fn token_url(
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
    image: &ImageReference,
) -> Result<Url, RegistryError> {
    let mut url = http::parse(realm)?;
    let pull = format!("repository:{}:pull", image.repository());
    url.query_pairs_mut()
        .append_pair("scope", scope.unwrap_or(&pull));
    if let Some(service) = service {
        url.query_pairs_mut().append_pair("service", service);
    }
    Ok(url)
}

async fn fetch(
    http: &Http,
    url: &Url,
    image: &ImageReference,
    known: &RegistryCredentials,
) -> Result<(HeaderValue, Duration), RegistryError> {
    let response = http
        .send(&Method::GET, url, &HeaderMap::new(), known.basic.as_ref())
        .await?;
    let authority = http::authority(url);
    if matches!(response.status().as_u16(), 401 | 403) {
        return Err(unauthorized(image, known));
    }
    if !response.status().is_success() {
        return Err(token_failure(response, &authority, image).await);
    }
    let body = http.read(response, TOKEN_BYTES_MAX, "token").await?;
    let strange = || {
        let message = format!(
            "{authority}, where registry {} sends for tokens, answered without one",
            image.registry()
        );
        RegistryError::passing(Reason::RegistryTokenFailed, message)
    };
    let body: TokenBody = serde_json::from_slice(&body).map_err(|_| strange())?;
    let token = if body.token.is_empty() {
        body.access_token
    } else {
        body.token
    };
    let value = HeaderValue::from_str(&format!("Bearer {token}"))
        .ok()
        .filter(|_| !token.is_empty());
    let mut value = value.ok_or_else(strange)?;
    value.set_sensitive(true);
    let life = body
        .expires_in
        .map_or(TOKEN_LIFE, Duration::from_secs)
        .min(TOKEN_LIFE_MAX);
    // A request that is on its way when the token ends would be refused.
    Ok((value, life - (life / 4).min(Duration::from_secs(10))))
}

async fn token_failure(
    response: Response,
    authority: &str,
    image: &ImageReference,
) -> RegistryError {
    let error = RegistryError::status(
        response,
        authority,
        &format!("token for {}", image.repository()),
    )
    .await;
    match error {
        // No token service there is not the same as no image.
        RegistryError::Lasting(failure) => {
            RegistryError::lasting(Reason::RegistryTokenFailed, failure.message)
        }
        passing @ RegistryError::Passing(_) => {
            passing.renamed(Reason::RegistryError, Reason::RegistryTokenFailed)
        }
    }
}
