//! Authentication: over TCP a caller bears the node's token, or one of a client's; on the socket, the
//! kernel vouches for it.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use super::access::{Access, AccessEnd};
use super::caller::{Caller, CallerPeer};
use super::clients::{Bearer, ClientList, KnownClient};
use super::error::Problem;
use super::guesses::{Guess, Guesses};
use crate::config::Secret;

/// Time that a token is not looked at once its caller's address has had its guesses.
const SLOWED: Duration = Duration::from_secs(1);

/// The token of the node itself, whose bearers over TCP may do everything, and which may be replaced
/// while the agent runs. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerToken(Arc<RwLock<TokenInForce>>);

#[derive(Debug, Default)]
struct TokenInForce {
    token: Option<Secret>,
    /// End of its being in force.
    ended: CancellationToken,
}

impl CallerToken {
    /// A token that every call but the probes needs. `None`: there is none yet, and nobody passes.
    pub(crate) fn new(token: Option<Secret>) -> Self {
        let ended = CancellationToken::new();
        Self(Arc::new(RwLock::new(TokenInForce { token, ended })))
    }

    /// Takes another token from now on. True if it is another one.
    pub(crate) fn replace(&self, token: Secret) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = now.token.as_ref() != Some(&token);
        if is_new {
            now.ended.cancel();
            *now = TokenInForce {
                token: Some(token),
                ended: CancellationToken::new(),
            };
        }
        is_new
    }

    /// Takes the first token, unless another one came before.
    pub(crate) fn begin_with(&self, token: Secret) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        now.token.get_or_insert(token);
    }

    /// The end of the token, if this is it.
    fn is(&self, given: &str) -> Option<CancellationToken> {
        let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let token = now.token.as_ref()?;
        // A comparison that ends at the first difference tells, by its time, how much of a guess
        // was right.
        let is: bool = given.as_bytes().ct_eq(token.expose().as_bytes()).into();
        is.then(|| now.ended.clone())
    }
}

/// Gate of the API, which lets in whoever bears a token, and looks at so many and no more.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    token: CallerToken,
    clients: ClientList,
    guesses: Arc<Guesses>,
    advice: Arc<str>,
}

impl Gate {
    /// A gate for the node's token and its clients. Who has none is told of the socket, and of the
    /// file of the token that the agent has made.
    pub(crate) fn new(
        token: CallerToken,
        clients: ClientList,
        socket: &Path,
        token_file: &Path,
    ) -> Self {
        let advice = format!(
            "the request bears no valid token; send one as \"Authorization: Bearer …\"; \
             `chas-node-agent token create` makes it; the node's own stands in api.token_file, or else \
             in {}; on {} root needs none",
            token_file.display(),
            socket.display()
        );
        Self {
            token,
            clients,
            guesses: Arc::default(),
            advice: advice.into(),
        }
    }

    #[cfg(test)]
    pub(super) fn token(&self) -> CallerToken {
        self.token.clone()
    }

    /// The access of whoever calls.
    ///
    /// # Errors
    /// No credentials, or wrong ones.
    pub(super) async fn judge(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
    ) -> Result<Access, Problem> {
        let peer = caller.peer;
        if let CallerPeer::Socket { uid, .. } = peer {
            // Whoever else came to the socket was sent away at once.
            let by = format!("uid:{uid}");
            return Ok(Access::full(&by, peer, CancellationToken::new()));
        }
        let unauthorized = || Problem::Unauthorized(self.advice.to_string());
        // A token that is sent counts, whatever certificate was shown.
        if !headers.contains_key(header::AUTHORIZATION) && !caller.shown.names.is_empty() {
            return self.certified(caller);
        }
        let given = bearer(headers).ok_or_else(unauthorized)?;
        let wait = self.guesses.wait(peer);
        if wait.is_some() {
            // Many may call from one address, a proxy's among them: somebody else's guesses slow
            // down the holder of the right token, and do not shut it out.
            tokio::time::sleep(SLOWED).await;
        }
        if let Some(ended) = self.token.is(given) {
            return Ok(Access::full("token", peer, ended));
        }
        match self.clients.bearing(given, SystemTime::now()) {
            Bearer::Known(known, end) => return Ok(of_client(&known, peer, end)),
            // It was right once, so it is no guess.
            Bearer::Late(end) => {
                let end = humantime::format_rfc3339_seconds(end);
                let late = format!("this token's time was over at {end}; have another one made");
                return Err(Problem::Unauthorized(late));
            }
            Bearer::Unknown => {}
        }
        if let Some(wait) = wait {
            return Err(Problem::Guessed(wait));
        }
        match self.guesses.note(peer, given.as_bytes()) {
            // Once a minute for each caller: a program with an old token asks for ever.
            Guess::Wrong => tracing::warn!(%peer, "wrong token"),
            Guess::Untold => {}
            Guess::Last => tracing::warn!(%peer, "tokens guessed; the caller waits"),
        }
        Err(unauthorized())
    }
}

impl Gate {
    /// The access of whoever has shown a certificate that is believed.
    fn certified(&self, caller: &Caller) -> Result<Access, Problem> {
        let shown = &caller.shown;
        if shown.distrusted.is_cancelled() {
            let again = "the authorities of clients were read again since; connect again";
            return Err(Problem::Unauthorized(again.to_owned()));
        }
        if shown.last.is_some_and(|last| last < SystemTime::now()) {
            let late = "the time of the certificate is over; connect with another one";
            return Err(Problem::Unauthorized(late.to_owned()));
        }
        let Some(known) = self.clients.certified(&shown.names) else {
            return Err(Problem::Unauthorized(format!(
                "no one client has the names of this certificate ({}); list one of them as \
                 certificates of a client in api.clients_file",
                shown.names.join(", ")
            )));
        };
        let end = AccessEnd {
            taken_back: known.ended.clone(),
            distrusted: shown.distrusted.clone(),
            expires: shown.last,
        };
        Ok(of_client(&known, caller.peer, end))
    }
}

/// The token that a request bears.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else {
        return None;
    };
    let (scheme, token) = given.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The access of a client.
fn of_client(known: &KnownClient, peer: CallerPeer, end: AccessEnd) -> Access {
    Access {
        by: Arc::clone(&known.by),
        peer,
        role: known.client.role,
        names: Arc::clone(&known.names),
        end,
    }
}
