//! Who calls: the bearer of the join token, of a node's own, or of the admin token.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::nodes::{self, Nodes, TokenHash};
use super::problem::Problem;

/// Who may register, and who may operate. Without a token, anybody may.
#[derive(Debug)]
pub(super) struct Doors {
    join: Option<TokenHash>,
    admin: Option<TokenHash>,
}

/// How somebody may register.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Registering {
    /// Any node; it is given a token of its own.
    Joining,
    /// Only the node whose token this is.
    Known(String),
    /// Any node; nobody needs a token here.
    Open,
}

impl Doors {
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
        nodes: &Nodes,
    ) -> Result<Registering, Problem> {
        let Some(join) = &self.join else {
            return Ok(Registering::Open);
        };
        let given = bearer(headers).ok_or(Problem::Unauthorized)?;
        if is_same(&given, join) {
            return Ok(Registering::Joining);
        }
        nodes
            .owner(&given)
            .map(|owner| Registering::Known(owner.to_owned()))
            .ok_or(Problem::Unauthorized)
    }

    /// Whether the caller may act as the node.
    pub(super) fn acting(
        &self,
        headers: &HeaderMap,
        nodes: &Nodes,
        node_id: &str,
    ) -> Result<(), Problem> {
        // Before the token: where the state was lost, no node's token is worth anything, and each is to register again.
        if nodes.get(node_id).is_none() {
            return Err(nodes::unknown(node_id));
        }
        if self.join.is_none() {
            return Ok(());
        }
        let given = bearer(headers).ok_or(Problem::Unauthorized)?;
        match nodes.owner(&given) {
            Some(owner) if owner == node_id => Ok(()),
            Some(owner) => Err(foreign(owner)),
            // It registered while no token was needed.
            None if self.join.as_ref().is_some_and(|join| is_same(&given, join))
                && !nodes.has_token(node_id) =>
            {
                Err(nodes::unknown(node_id))
            }
            None => Err(Problem::Unauthorized),
        }
    }

    /// Whether the caller may operate.
    pub(super) fn operating(&self, headers: &HeaderMap, nodes: &Nodes) -> Result<(), Problem> {
        let Some(admin) = &self.admin else {
            return Ok(());
        };
        let given = bearer(headers).ok_or(Problem::Unauthorized)?;
        match nodes.owner(&given) {
            _ if is_same(&given, admin) => Ok(()),
            Some(owner) => Err(foreign(owner)),
            None => Err(Problem::Unauthorized),
        }
    }
}

/// The token is that of `owner`, and was shown for something else.
pub(super) fn foreign(owner: &str) -> Problem {
    Problem::Forbidden(format!("this token is that of the node {owner}"))
}

/// A token of more than 180 random bits, in 32 characters: it is sent with every call.
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

/// A comparison that ends at the first difference tells, by its time, how much of a guess was right.
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
