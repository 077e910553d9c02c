//! Authentication: over TCP a caller bears the node's token; on the socket, the kernel vouches for
//! it.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::caller::{Caller, CallerPeer};
use super::error::Problem;
use super::guesses::Guesses;
use crate::config::Secret;

/// Time that a token is not looked at once its caller's address has had its guesses.
const SLOWED: Duration = Duration::from_secs(1);

/// The token that callers over TCP bear, which may be replaced while the agent runs. Clones share
/// it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerToken(Arc<RwLock<Option<Secret>>>);

impl CallerToken {
    /// A token that every call but the probes needs. `None`: there is none yet, and nobody passes.
    pub(crate) fn new(token: Option<Secret>) -> Self {
        Self(Arc::new(RwLock::new(token)))
    }

    /// Takes another token from now on. True if it is another one.
    pub(crate) fn replace(&self, token: Secret) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = now.as_ref() != Some(&token);
        *now = Some(token);
        is_new
    }

    /// Takes the first token, unless another one came before.
    pub(crate) fn begin_with(&self, token: Secret) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        now.get_or_insert(token);
    }

    /// Whether this is the token.
    fn is(&self, given: &str) -> bool {
        let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // A comparison that ends at the first difference tells, by its time, how much of a guess
        // was right.
        now.as_ref()
            .is_some_and(|token| given.as_bytes().ct_eq(token.expose().as_bytes()).into())
    }
}

/// Gate of the API, which lets in whoever bears the token, and looks at so many and no more.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    token: CallerToken,
    guesses: Arc<Guesses>,
    advice: Arc<str>,
}

impl Gate {
    /// A gate for this token. Who has none is told of the socket, and of the file of the token that
    /// the agent has made.
    pub(crate) fn new(token: CallerToken, socket: &Path, token_file: &Path) -> Self {
        let advice = format!(
            "the request bears no valid token; send the node's token as \"Authorization: Bearer …\"; \
             it stands in api.token_file, or else in {}; on {} root needs none",
            token_file.display(),
            socket.display()
        );
        Self {
            token,
            guesses: Arc::default(),
            advice: advice.into(),
        }
    }

    async fn judge(&self, peer: Option<CallerPeer>, headers: &HeaderMap) -> Result<(), Problem> {
        if matches!(peer, Some(CallerPeer::Socket { .. })) {
            // Whoever else came to the socket was sent away at once.
            return Ok(());
        }
        let unauthorized = || Problem::Unauthorized(self.advice.to_string());
        let given = bearer(headers).ok_or_else(unauthorized)?;
        let wait = peer.and_then(|peer| self.guesses.wait(peer));
        if wait.is_some() {
            // Many may call from one address, a proxy's among them: somebody else's guesses slow
            // down the holder of the right token, and do not shut it out.
            tokio::time::sleep(SLOWED).await;
        }
        if self.token.is(given) {
            return Ok(());
        }
        if let Some(wait) = wait {
            return Err(Problem::Guessed(wait));
        }
        if let Some(peer) = peer
            && self.guesses.note(peer, given.as_bytes())
        {
            tracing::warn!(%peer, "tokens guessed; the caller waits");
        }
        Err(unauthorized())
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

pub(super) async fn check(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    let peer = caller.map(|caller| caller.peer);
    let judged = gate.judge(peer, request.headers()).await;
    match judged {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}
