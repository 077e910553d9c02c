//! Access to registries: what they ask for, the credentials configured for them, and the grants
//! obtained with those.

use std::fmt;

use reqwest::header::HeaderValue;

pub(super) mod challenge;
pub(super) mod credentials;
pub(super) mod grant;
pub(super) mod helper;
mod table;
mod token;

/// Repository as one host serves it: credentials are looked up by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AuthPlace {
    /// Host, as in image references: `docker.io`, `127.0.0.1:5000`.
    pub(crate) host: String,
    /// Path of the repository at that host.
    pub(crate) repository: String,
    /// Host with the port that its scheme has anyway, as it may be written too; `None`: the one name
    /// counts alone.
    pub(crate) host_and_port: Option<String>,
}

impl fmt::Display for AuthPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)
    }
}

/// Secret that opens a registry; its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum RegistrySecret {
    /// User and password, as `Authorization` of basic authentication.
    Password(HeaderValue),
    /// OAuth 2 refresh token (`identitytoken`), for which the token service gives tokens.
    Identity(String),
    /// Token that is shown as it is (`registrytoken`), as `Authorization`.
    Token(HeaderValue),
}

impl fmt::Debug for RegistrySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Identity(_) => "Identity",
            Self::Token(_) => "Token",
        })
    }
}

/// `Authorization` of these words, hidden from logs; `None`: no header may hold them.
fn authorization(scheme: &str, value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {value}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
