//! Authentication: callers bear the node's token.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::error::Problem;
use crate::config::Secret;

/// The token that callers bear, which may be replaced while the agent runs. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerToken(Arc<RwLock<Option<Secret>>>);

impl CallerToken {
    /// A token that every call but the probes needs. `None`: no call needs one.
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

    fn get(&self) -> Option<Secret> {
        let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }
}

pub(super) async fn check(
    State(token): State<CallerToken>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = token.get() else {
        return next.run(request).await;
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // A comparison that ends at the first difference tells, by its time, how much of a guess was
    // right.
    if given.is_some_and(|(_, given)| {
        given
            .trim()
            .as_bytes()
            .ct_eq(token.expose().as_bytes())
            .into()
    }) {
        next.run(request).await
    } else {
        Problem::Unauthorized.into_response()
    }
}
