//! Access to the node's API: who may call, in which role, for containers of which names. Pure; whoever
//! asks passes the time, and proofs of who it is.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::digest::{is_digest, sha256};
use crate::id::ContainerName;
use crate::policy::names::NamePattern;
use crate::spec::VolumeName;
use crate::spec::fields::{FieldError, Fields, empty_values, list, text};
use crate::time::unix_ms;

/// Clients of a node.
pub const CLIENTS_MAX: usize = 256;
/// Tokens of a client: one that is in use, one that takes its place, and a few that were forgotten.
pub const TOKENS_MAX: usize = 8;
/// Patterns of names, and names in certificates, of a client.
const ENTRIES_MAX: usize = 64;
/// Longest name of a client, and name in a certificate.
const NAME_BYTES_MAX: usize = 63;
const CERTIFICATE_BYTES_MAX: usize = 255;
/// Digits of a token's fingerprint by which people name it.
const ID_CHARS: usize = 12;

/// Role of a caller, lowest first: each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees containers, without the values of their environment, and reads their output.
    Read,
    /// Changes what is desired.
    Deploy,
    /// Runs programs in containers.
    Exec,
    /// Does everything, and sees values that are asked to be revealed.
    Admin,
}

impl Role {
    /// Every role, lowest first.
    pub const ALL: [Self; 4] = [Self::Read, Self::Deploy, Self::Exec, Self::Admin];

    /// The role's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Exec => "exec",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names of containers that a caller has to do with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NameScope {
    /// All.
    #[default]
    All,
    /// Names that fit one of these.
    Some(Vec<NamePattern>),
}

impl NameScope {
    /// Whether a container of this name is among them.
    #[must_use]
    pub fn has(&self, name: &ContainerName) -> bool {
        self.fits(name.as_str())
    }

    /// Whether a volume of this name is among them: data is whose its name is, whichever container
    /// was the first to mount it.
    #[must_use]
    pub fn has_volume(&self, name: &VolumeName) -> bool {
        self.fits(name.as_str())
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(patterns) => patterns.iter().any(|pattern| pattern.fits(name)),
        }
    }
}

impl fmt::Display for NameScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Some(patterns) => {
                let texts: Vec<_> = patterns.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(" "))
            }
        }
    }
}

/// Token of a client, by its fingerprint: whoever reads it cannot call with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientToken {
    /// Fingerprint: `sha256:` and 64 hex digits.
    pub hash: String,
    /// Time from which on it is worth nothing. `None`: never.
    pub expires: Option<SystemTime>,
}

impl ClientToken {
    /// The entry of this token.
    #[must_use]
    pub fn of(token: &str, expires: Option<SystemTime>) -> Self {
        let hash = sha256(token.as_bytes());
        Self { hash, expires }
    }

    /// The beginning of the fingerprint, by which people name the token.
    #[must_use]
    pub fn id(&self) -> &str {
        let digits = self.hash.split_once(':').map_or("", |(_, digits)| digits);
        digits.get(..ID_CHARS).unwrap_or(digits)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

/// Client of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Name, as the audit has it.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Containers that it has to do with.
    pub names: NameScope,
    /// Tokens, each of which proves who it is.
    pub tokens: Vec<ClientToken>,
    /// Names (DNS or URI) of which one stands in the certificate that proves who it is.
    pub certificates: Vec<String>,
}

/// Reads the clients of a file. One with nothing in it is none that anybody has written to its end.
///
/// # Errors
/// Every fault in it. Never empty.
pub fn read(file: &Value) -> Result<Vec<Client>, Vec<FieldError>> {
    let mut faults = Vec::new();
    let mut clients = Vec::new();
    // A bound that somebody forgot to write is none, and looks like one.
    empty_values(file, "", &mut faults);
    if let Some(mut top) = Fields::of(file, "", &mut faults) {
        let items = top.required("clients", |value| list(value, CLIENTS_MAX));
        let mut proofs = BTreeSet::new();
        for (index, item) in items.into_iter().flatten().enumerate() {
            let Some(client) = top.item("clients", index, item, client) else {
                continue;
            };
            let tokens = client.tokens.iter().map(|token| token.hash.clone());
            let certificates = client.certificates.iter().cloned();
            let name = std::iter::once(format!("name {}", client.name));
            for proof in name.chain(tokens).chain(certificates) {
                if !proofs.insert(proof.clone()) {
                    let message = format!("{proof} stands twice; it must mean one client, once");
                    top.fault(&format!("clients[{index}]"), &message);
                }
            }
            clients.push(client);
        }
        top.finish();
    }
    if faults.is_empty() {
        Ok(clients)
    } else {
        Err(faults)
    }
}

fn client(fields: &mut Fields<'_>) -> Option<Client> {
    let name = fields.required("name", name);
    let role = fields.choice("role", &Role::ALL.map(|role| (role.as_str(), role)));
    if role.is_none() && !fields.has_faults() {
        fields.fault("role", "is required: read, deploy, exec or admin");
    }
    let names = fields.read("names", patterns);
    if role == Some(Role::Admin) && names.is_some() {
        fields.fault(
            "names",
            "an admin has to do with all containers; leave it out",
        );
    }
    let items = fields.read("tokens", |value| list(value, TOKENS_MAX));
    let mut tokens = Vec::new();
    for (index, item) in items.into_iter().flatten().enumerate() {
        tokens.extend(fields.item("tokens", index, item, token));
    }
    let certificates = fields.read("certificates", certificates);
    Some(Client {
        name: name?,
        role: role?,
        names: names.map_or(NameScope::All, NameScope::Some),
        tokens,
        certificates: certificates.unwrap_or_default(),
    })
}

/// The name of a client, as it may stand in the file.
///
/// # Errors
/// A sentence that says what it must be.
pub fn client_name(name: &str) -> Result<String, String> {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_letter) {
        Ok(name.to_owned())
    } else {
        Err("must be 1 to 63 letters, digits, '-', '_' and '.'".to_owned())
    }
}

fn name(value: &Value) -> Result<String, String> {
    client_name(text(value)?)
}

/// A list that is not empty: a client for no container would look as if it had some.
fn patterns(value: &Value) -> Result<Vec<NamePattern>, String> {
    let items = list(value, ENTRIES_MAX)?;
    if items.is_empty() {
        return Err("must not be empty; leave it out for all containers".to_owned());
    }
    items.iter().map(|item| text(item)?.parse()).collect()
}

fn token(fields: &mut Fields<'_>) -> Option<ClientToken> {
    let hash = fields.required("hash", |value| {
        let hash = text(value)?;
        if is_digest(hash) {
            Ok(hash.to_owned())
        } else {
            Err("must be sha256: and 64 hex digits, as `token create` writes them".to_owned())
        }
    });
    let expires = fields.read("expires", |value| {
        let point = humantime::parse_rfc3339_weak(text(value)?);
        point.map_err(|_| "must be a time such as \"2027-01-31T00:00:00Z\"".to_owned())
    });
    Some(ClientToken {
        hash: hash?,
        expires,
    })
}

/// Names in certificates, as they are compared: DNS names in lower case.
fn certificates(value: &Value) -> Result<Vec<String>, String> {
    let names = list(value, ENTRIES_MAX)?.iter().map(|item| {
        let name = text(item)?;
        let fits = |b: u8| b.is_ascii_graphic() && b != b'*';
        if (1..=CERTIFICATE_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) {
            Ok(certificate_name(name))
        } else {
            Err(
                "must be names of certificates, such as \"ci.example\" or \"spiffe://example/ci\""
                    .to_owned(),
            )
        }
    });
    names.collect()
}

/// The name of a certificate as it is compared. A URI is as it is, a DNS name in lower case.
#[must_use]
pub fn certificate_name(name: &str) -> String {
    if name.contains(':') {
        name.to_owned()
    } else {
        name.trim_end_matches('.').to_ascii_lowercase()
    }
}

/// The file of these clients, which [`read`] reads as them.
#[must_use]
pub fn written(clients: &[Client]) -> Value {
    let clients: Vec<_> = clients.iter().map(shown).collect();
    json!({ "clients": clients })
}

fn shown(client: &Client) -> Value {
    let mut value = json!({"name": client.name, "role": client.role.as_str()});
    if let NameScope::Some(patterns) = &client.names {
        let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        value["names"] = json!(patterns);
    }
    let token = |token: &ClientToken| {
        let mut value = json!({"hash": token.hash});
        if let Some(expires) = token.expires {
            // To the second: a fraction would be read with another precision.
            let whole = Duration::from_secs(unix_ms(expires) / 1000);
            let end = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + whole);
            value["expires"] = json!(end.to_string());
        }
        value
    };
    if !client.tokens.is_empty() {
        value["tokens"] = client.tokens.iter().map(token).collect();
    }
    if !client.certificates.is_empty() {
        value["certificates"] = json!(client.certificates);
    }
    value
}

#[cfg(test)]
mod tests;
