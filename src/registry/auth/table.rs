//! Entries of a credentials file (docker's `config.json`, podman's `auth.json`, an old
//! `.dockercfg`): each is read by itself, and a repository gets the entry of its longest path.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::{AuthPlace, RegistrySecret, authorization};

/// User that stands for an identity token, in what credential helpers answer.
pub(super) const TOKEN_USER: &str = "<token>";

/// Keys of docker's and podman's files: where one stands at the top, it is no old `.dockercfg`.
const TOP_KEYS: [&str; 5] = [
    "auths",
    "credHelpers",
    "credsStore",
    "HttpHeaders",
    "currentContext",
];

/// Contents of a credentials file.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// By `host` or `host/path`.
    entries: BTreeMap<String, AuthEntry>,
    /// Names of helpers, by `host` or `host/path`; an empty one is docker's way to say that the file
    /// counts there.
    helpers: BTreeMap<String, String>,
    /// Helper for every host that has none of its own.
    store: Option<String>,
    /// Faults of single entries, each a phrase.
    pub(super) faults: Vec<String>,
}

/// AuthEntry of one path: its secret, or its fault as a phrase.
type AuthEntry = Result<RegistrySecret, String>;

impl Table {
    /// Contents of a file.
    ///
    /// # Errors
    /// When it is no such file at all. A fault of one entry is in the table.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        // serde's own message may quote the file, and with it a password.
        let file: Value = serde_json::from_slice(text)
            .map_err(|error| format!("line {} is not JSON", error.line()))?;
        let Value::Object(mut top) = file else {
            return Err("it is not a JSON object as docker's config.json is".to_owned());
        };
        let mut table = Self::default();
        let helpers = object(&mut top, "credHelpers")?;
        for (key, helper) in &helpers {
            match helper.as_str().filter(|name| is_helper(name)) {
                Some(name) => drop(table.helpers.insert(path_of(key), name.to_owned())),
                None if helper.as_str() == Some("") => {
                    table.helpers.insert(path_of(key), String::new());
                }
                None => table.fault(format!("\"credHelpers\" of {key:?} is no name of a helper")),
            }
        }
        match top.get("credsStore") {
            None | Some(Value::Null) => {}
            Some(Value::String(name)) if name.is_empty() => {}
            Some(Value::String(name)) if is_helper(name) => table.store = Some(name.clone()),
            Some(_) => table.fault("\"credsStore\" is no name of a helper".to_owned()),
        }
        let auths = if TOP_KEYS.iter().any(|key| top.contains_key(*key)) {
            object(&mut top, "auths")?
        } else {
            // The file of docker before 1.7 is its `auths` alone.
            top
        };
        table.add_all(auths);
        Ok(table)
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    fn add_all(&mut self, auths: Map<String, Value>) {
        let mut auths: Vec<_> = auths
            .into_iter()
            .map(|(key, entry)| (path_of(&key), key, entry))
            .collect();
        // Two spellings of one path: the one without scheme counts, else the first; never by chance.
        auths.sort_by_cached_key(|(path, key, _)| (path.clone(), path != key, key.clone()));
        for (path, key, entry) in auths {
            let read = match secret(&entry) {
                Ok(None) => continue,
                Ok(Some(secret)) => Ok(secret),
                Err(fault) => {
                    let fault = format!("the entry {key:?} {fault}");
                    self.fault(fault.clone());
                    Err(fault)
                }
            };
            match self.entries.get(&path) {
                None => drop(self.entries.insert(path, read)),
                Some(first) if *first == read => {}
                Some(_) => self.fault(format!(
                    "the entry {key:?} is there in another spelling too, which counts"
                )),
            }
        }
    }

    /// AuthEntry of the longest path that `place` is at or below; `None`: there is none.
    pub(super) fn entry(&self, place: &AuthPlace) -> Option<&AuthEntry> {
        longest(&self.entries, place).map(|(entry, _)| entry)
    }

    /// Whether a secret stands in the file itself, be it one that cannot be used.
    pub(super) fn holds_secrets(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Whether an entry or a helper is for this host itself.
    pub(super) fn names(&self, place: &AuthPlace) -> bool {
        longest(&self.entries, place).is_some() || longest(&self.helpers, place).is_some()
    }

    /// Helper to ask for `place`; `None`: the file itself counts.
    pub(super) fn helper(&self, place: &AuthPlace) -> Option<HelperChoice> {
        let (name, hosts) = match longest(&self.helpers, place) {
            Some((name, host)) => (name, vec![host.to_owned()]),
            None => (self.store.as_ref()?, spellings(place).cloned().collect()),
        };
        let name = name.clone();
        (!name.is_empty()).then_some(HelperChoice { name, hosts })
    }

    /// Paths that have an entry.
    #[cfg(test)]
    fn paths(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }
}

/// Helper to ask, and the hosts to ask it for until it has an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HelperChoice {
    pub(super) name: String,
    pub(super) hosts: Vec<String>,
}

/// Spellings of a place's host, the usual one first.
fn spellings(place: &AuthPlace) -> impl Iterator<Item = &String> {
    [Some(&place.host), place.host_and_port.as_ref()]
        .into_iter()
        .flatten()
}

/// Entry of the longest path that `place` is at or below, and the spelling of the host there.
fn longest<'a, 'b, T>(
    entries: &'a BTreeMap<String, T>,
    place: &'b AuthPlace,
) -> Option<(&'a T, &'b str)> {
    let mut path = Some(place.repository.as_str());
    loop {
        for host in spellings(place) {
            let found = match path {
                Some(path) => entries.get(&format!("{host}/{path}")),
                None => entries.get(host),
            };
            if let Some(found) = found {
                return Some((found, host));
            }
        }
        path = path?.rsplit_once('/').map(|(above, _)| above);
    }
}

fn object(top: &mut Map<String, Value>, key: &str) -> Result<Map<String, Value>, String> {
    match top.remove(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(entries)) => Ok(entries),
        Some(_) => Err(format!("{key:?} is not a map by registry")),
    }
}

/// Whether a name of a helper names a program of `PATH`, and no path.
fn is_helper(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 100 && name.chars().all(fits)
}

/// Secret of an entry; `None`: it has none, as docker writes it beside a `credsStore`.
fn secret(entry: &Value) -> Result<Option<RegistrySecret>, String> {
    let Value::Object(entry) = entry else {
        return Err("is not a map".to_owned());
    };
    let text = |key: &str| match entry.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.trim()),
        Some(_) => Err(format!("has an {key:?} that is no text")),
    };
    let (auth, identity, token) = (
        text("auth")?,
        text("identitytoken")?,
        text("registrytoken")?,
    );
    if !identity.is_empty() {
        return Ok(Some(RegistrySecret::Identity(identity.to_owned())));
    }
    if !token.is_empty() {
        let value = authorization("Bearer", token);
        let value = value.ok_or("has a \"registrytoken\" that no header can hold")?;
        return Ok(Some(RegistrySecret::Token(value)));
    }
    let encoded = match (auth, text("username")?) {
        ("", "") => return Ok(None),
        ("", user) => {
            let password = entry.get("password").and_then(Value::as_str);
            BASE64_STANDARD.encode(format!("{user}:{}", password.unwrap_or_default()))
        }
        (auth, _) => auth.to_owned(),
    };
    let plain = BASE64_STANDARD.decode(&encoded).unwrap_or_default();
    authorization("Basic", &encoded)
        .filter(|_| plain.contains(&b':'))
        .map(|value| Some(RegistrySecret::Password(value)))
        .ok_or_else(|| "has an \"auth\" that is not base64 of user:password".to_owned())
}

/// `host` or `host/path` that a key stands for: docker writes keys as hosts or as URLs, and Docker
/// Hub's as `https://index.docker.io/v1/`; podman adds paths.
fn path_of(key: &str) -> String {
    let key = key.trim();
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let has_scheme = bare.len() < key.len();
    let bare = bare.trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = match host.to_ascii_lowercase() {
        host if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => {
            "docker.io".to_owned()
        }
        host => host,
    };
    match path {
        "" => host,
        // The API's version, of docker's URLs. podman's keys are paths, and a team may be called so,
        // but none at Docker Hub.
        "v1" | "v2" if has_scheme || host == "docker.io" => host,
        path => format!("{host}/{path}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("; "))
    }
}

#[cfg(test)]
mod tests;
