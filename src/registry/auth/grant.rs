//! Value of `Authorization` for a registry: a password, or a token that is fetched, kept and
//! renewed here.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, Response, Url};
use state::reason::Reason;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::credentials::{CredentialsFile, RegistryCredentials};
use super::{AuthPlace, RegistrySecret, token};
use crate::lock::lock;
use crate::registry::authority::authority;
use crate::registry::endpoint::{self, Endpoint};
use crate::registry::fault::RegistryError;
use crate::registry::http::{Errand, Http};

/// Grants kept at once: one for each repository that is being pulled; beyond that they are fetched
/// again.
const GRANTS_MAX: usize = 256;

/// Largest answer of a token service that is read: a token is a signed list of rights, and the
/// largest seen are some 10 kB.
const TOKEN_BYTES_MAX: usize = 256 << 10;

/// Time for which a password of a helper is shown before the helper is asked again.
const LENT_LIFE: Duration = Duration::from_secs(300);

/// Time for which a grant is kept that was obtained although a helper failed: it may answer again,
/// and is not to be run, or waited for, once for each layer.
const FAULTY_LIFE: Duration = Duration::from_secs(30);

/// Name of this client at token services.
const CLIENT_ID: &str = "chas-node-agent";

/// Grants obtained, by the API that takes them and the repository there.
#[derive(Debug)]
pub(crate) struct Grants {
    credentials: CredentialsFile,
    kept: Mutex<HashMap<(Url, String), Grant>>,
}

#[derive(Debug)]
struct Grant {
    authorization: HeaderValue,
    /// End of the grant. `None`: it is good for ever.
    until: Option<Instant>,
    edition: u64,
}

/// Repository of an endpoint, for which a grant is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(in crate::registry) endpoint: &'a Endpoint,
    pub(in crate::registry) repository: &'a str,
}

impl Target<'_> {
    fn place(&self) -> AuthPlace {
        self.endpoint.place(self.repository)
    }

    fn key(&self) -> (Url, String) {
        (self.endpoint.root.clone(), self.repository.to_owned())
    }
}

impl Grants {
    /// Empty set; grants are obtained with `credentials`.
    pub(crate) fn new(credentials: CredentialsFile) -> Self {
        Self {
            credentials,
            kept: Mutex::default(),
        }
    }

    /// Credentials that grants are obtained with.
    pub(crate) fn credentials(&self) -> &CredentialsFile {
        &self.credentials
    }

    /// `Authorization` that opened the repository before, if it is still good.
    pub(crate) fn kept(&self, target: Target<'_>) -> Option<HeaderValue> {
        let edition = self.credentials.edition();
        let mut kept = lock(&self.kept);
        kept.retain(|_, grant| grant.until.is_none_or(|until| until > Instant::now()));
        let grant = kept
            .get(&target.key())
            .filter(|grant| grant.edition == edition)?;
        Some(grant.authorization.clone())
    }

    /// `Authorization` that a challenge asks for. `is_near`: the endpoint is at an address of this
    /// node.
    ///
    /// # Errors
    /// [`Reason::RegistryUnauthorized`] when that takes credentials and there are none, and
    /// [`Reason::RegistryCredentialsRefused`] when they are refused.
    pub(crate) async fn answer(
        &self,
        http: &Http,
        target: Target<'_>,
        challenge: &Challenge,
        is_near: bool,
    ) -> Result<HeaderValue, RegistryError> {
        let known = self.credentials.of(&target.place()).await;
        let (authorization, life) = match (challenge, &known.secret) {
            (Challenge::Basic, Some(RegistrySecret::Password(basic))) => {
                (basic.clone(), known.is_lent.then_some(LENT_LIFE))
            }
            (Challenge::Basic, _) => return Err(unauthorized(target, &known)),
            (Challenge::Bearer { .. }, Some(RegistrySecret::Token(token))) => (token.clone(), None),
            (Challenge::Bearer { realm, service, .. }, secret) => {
                let realm = endpoint::parse(realm)?;
                if secret.is_some() {
                    let has_entry = self.credentials.names(&token_place(&realm));
                    let leading = http.leading();
                    leading.check_secret(target.endpoint, &realm, has_entry)?;
                }
                let errand = errand(target, realm, service.as_deref(), secret.as_ref(), is_near);
                let (token, life) = fetch(http, target, errand, &known).await?;
                (token, Some(life))
            }
        };
        let life = match known.fault {
            Some(_) => Some(life.map_or(FAULTY_LIFE, |life| life.min(FAULTY_LIFE))),
            None => life,
        };
        let grant = Grant {
            authorization: authorization.clone(),
            until: life.map(|life| Instant::now() + life),
            edition: known.edition,
        };
        let mut kept = lock(&self.kept);
        if kept.len() >= GRANTS_MAX {
            kept.clear();
        }
        kept.insert(target.key(), grant);
        Ok(authorization)
    }

    /// Error for a registry that refuses the grant as well.
    pub(crate) async fn refused(&self, target: Target<'_>) -> RegistryError {
        lock(&self.kept).remove(&target.key());
        unauthorized(target, &self.credentials.of(&target.place()).await)
    }
}

fn unauthorized(target: Target<'_>, known: &RegistryCredentials) -> RegistryError {
    let (registry, place) = (target.endpoint.authority(), target.place());
    let AuthPlace {
        host, repository, ..
    } = &place;
    let mut message = match (&known.secret, &known.fault) {
        (Some(RegistrySecret::Identity(_)), _) => format!(
            "registry {registry} gives no access to {repository} (or it does not exist): \
             the identitytoken in registry.auth_file has ended, is not for it, or the registry takes none"
        ),
        (Some(_), _) => format!(
            "registry {registry} gives no access to {repository} (or it does not exist): \
             check the user's rights and the password in registry.auth_file"
        ),
        (None, Some(fault)) => {
            format!("registry {registry} wants credentials for {repository}, and {fault}")
        }
        (None, None) => format!(
            "registry {registry} wants credentials for {repository} (or it does not exist): \
             add some for {host} or {place} to registry.auth_file"
        ),
    };
    let reason = if known.secret.is_some() {
        if let Some(fault) = &known.fault {
            message += &format!("; {fault}");
        }
        Reason::RegistryCredentialsRefused
    } else {
        Reason::RegistryUnauthorized
    };
    RegistryError::lasting(reason, message)
}

/// Host of a token service, as credentials name it.
fn token_place(realm: &Url) -> AuthPlace {
    let host = realm.host_str().unwrap_or_default();
    let port = realm.port_or_known_default().unwrap_or_default();
    AuthPlace {
        host: authority(realm),
        repository: String::new(),
        host_and_port: Some(format!("{host}:{port}")),
    }
}

/// Request for a token to `realm`, with the secret that is for it.
fn errand<'a>(
    target: Target<'a>,
    realm: Url,
    service: Option<&str>,
    secret: Option<&RegistrySecret>,
    is_near: bool,
) -> Errand<'a> {
    // No right but this one, whatever the registry asks for.
    let scope = format!("repository:{}:pull", target.place().repository);
    let service = service.map(|service| ("service", service));
    let parameters = service.into_iter().chain([("scope", scope.as_str())]);
    let mut errand = Errand {
        is_near,
        ..Errand::new(target.endpoint, Method::GET, realm)
    };
    if let Some(RegistrySecret::Identity(token)) = secret {
        let grant = [
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("refresh_token", token),
        ];
        errand.form = Some(encoded(parameters.chain(grant)));
        errand.method = Method::POST;
        return errand;
    }
    errand.url.query_pairs_mut().extend_pairs(parameters);
    if let Some(RegistrySecret::Password(basic)) = secret {
        errand.authorization = Some(basic.clone());
    }
    errand
}

async fn fetch(
    http: &Http,
    target: Target<'_>,
    errand: Errand<'_>,
    known: &RegistryCredentials,
) -> Result<(HeaderValue, Duration), RegistryError> {
    let authority = authority(&errand.url);
    let response = http.send(&errand).await?;
    if matches!(response.status().as_u16(), 401 | 403) {
        return Err(unauthorized(target, known));
    }
    if !response.status().is_success() {
        return Err(token_failure(response, target).await);
    }
    let answer = http.read(response, TOKEN_BYTES_MAX, "token").await?;
    token::read(&answer).ok_or_else(|| {
        let message = format!(
            "{authority}, where registry {} sends for tokens, answered without one",
            target.endpoint.authority()
        );
        RegistryError::passing(Reason::RegistryTokenFailed, message)
    })
}

fn encoded<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    // The query of a URL is a form's encoding, and this crate has no other.
    let mut url = Url::parse("http://form.invalid").expect("a URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

async fn token_failure(response: Response, target: Target<'_>) -> RegistryError {
    let (wanted, own) = (
        format!("token for {}", target.repository),
        target.endpoint.authority(),
    );
    let error = if authority(response.url()) == own {
        RegistryError::status(response, &own, &wanted).await
    } else {
        RegistryError::led(&response, &own, &wanted)
    };
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
