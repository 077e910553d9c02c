//! Tokens of callers: the join token, a node's own token, the admin token.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::nodes::{self, KnownNodes, TokenHash};
use super::problem::Problem;

/// The tokens for registering and operating. Without a token, every caller may.
#[derive(Debug)]
pub(super) struct AccessRules {
    join: Option<TokenHash>,
    admin: Option<TokenHash>,
}

/// The right of a caller to register.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RegistrationRight {
    /// Any node, which gets a token of its own.
    Joining,
    /// Only the node with this token.
    Known(String),
    /// Any node, since no token is required.
    Open,
}

impl AccessRules {
    pub(super) fn new(join: Option<&str>, admin: Option<&str>) -> Self {
        Self {
            join: join.map(hash),
            admin: admin.map(hash),
        }
    }

    /// Whether the caller may register.
    pub(super) fn registering(
        &self,
        headers: &HeaderMap,
        nodes: &KnownNodes,
    ) -> Result<RegistrationRight, Problem> {
        let Some(join) = &self.join else {
            return Ok(RegistrationRight::Open);
        };
        let given = bearer(headers).ok_or(Problem::Unauthorized)?;
        if is_same(&given, join) {
            return Ok(RegistrationRight::Joining);
        }
        nodes
            .owner(&given)
            .map(|owner| RegistrationRight::Known(owner.to_owned()))
            .ok_or(Problem::Unauthorized)
    }

    /// Whether the caller may act as the node.
    pub(super) fn acting(
        &self,
        headers: &HeaderMap,
        nodes: &KnownNodes,
        node_id: &str,
    ) -> Result<(), Problem> {
        // Checked before the token: after a loss of the state every node's token is void, and each
        // must register again.
        if nodes.get(node_id).is_none() {
            return Err(nodes::unknown(node_id));
        }
        if self.join.is_none() {
            return Ok(());
        }
        let given = bearer(headers).ok_or(Problem::Unauthorized)?;
        match nodes.owner(&given) {
            Some(owner) if owner == node_id => Ok(()),
            Some(owner) => Err(of_another_node(owner)),
            // The node registered while no token was required.
            None if self.join.as_ref().is_some_and(|join| is_same(&given, join))
                && !nodes.has_token(node_id) =>
            {
                Err(nodes::unknown(node_id))
            }
            None => Err(Problem::Unauthorized),
        }
    }

    /// Whether the caller may operate.
    pub(super) fn operating(&self, headers: &HeaderMap, nodes: &KnownNodes) -> Result<(), Problem> {
        let Some(admin) = &self.admin else {
            return Ok(());
        };
        let given = bearer(headers).ok_or(Problem::Unauthorized)?;
        match nodes.owner(&given) {
            _ if is_same(&given, admin) => Ok(()),
            Some(owner) => Err(of_another_node(owner)),
            None => Err(Problem::Unauthorized),
        }
    }
}

/// The problem that a token belongs to the node `owner`.
pub(super) fn of_another_node(owner: &str) -> Problem {
    Problem::Forbidden(format!("this token belongs to node {owner}"))
}

/// A new token: 192 bits, more than 180 of them random, in 32 characters, since it is sent with
/// every call.
pub(super) fn new() -> String {
    let bits = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    BASE64_URL_SAFE_NO_PAD.encode(&bits[..24])
}

pub(super) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

fn bearer(headers: &HeaderMap) -> Option<TokenHash> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| hash(token.trim()))
}

/// Compares in constant time: ending at the first difference would reveal how much of a guess is
/// right.
fn is_same(given: &TokenHash, expected: &TokenHash) -> bool {
    given.ct_eq(expected).into()
}

pub(super) fn hex(hash: &TokenHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash as [`hex`] writes it.
pub(super) fn from_hex(text: &str) -> Option<TokenHash> {
    let digits = text.as_bytes();
    let mut hash = TokenHash::default();
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (digits.len() == 2 * hash.len()).then_some(hash)
}
