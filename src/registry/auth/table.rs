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
        longest(&self.entries, place)
    }

    /// Name of the helper to ask for `place`; `None`: the file itself counts.
    pub(super) fn helper(&self, place: &AuthPlace) -> Option<&str> {
        longest(&self.helpers, place)
            .or(self.store.as_ref())
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    /// Paths that have an entry.
    #[cfg(test)]
    fn paths(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }
}

fn longest<'a, T>(entries: &'a BTreeMap<String, T>, place: &AuthPlace) -> Option<&'a T> {
    let path = place.to_string();
    let mut paths = std::iter::successors(Some(path.as_str()), |path| above(path));
    paths.find_map(|path| entries.get(path))
}

fn above(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(above, _)| above)
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
    let bare = key
        .trim()
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = match host.to_ascii_lowercase() {
        host if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => {
            "docker.io".to_owned()
        }
        host => host,
    };
    match path {
        "" | "v1" | "v2" => host,
        path => format!("{host}/{path}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> AuthPlace {
        let (host, repository) = text.split_once('/').unwrap();
        AuthPlace {
            host: host.to_owned(),
            repository: repository.to_owned(),
        }
    }

    fn password(table: &Table, of: &str) -> Option<String> {
        match table.entry(&place(of))? {
            Ok(RegistrySecret::Password(value)) => Some(value.to_str().unwrap().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn basic(user: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:p")))
    }

    #[test]
    fn every_spelling_that_docker_writes_is_found() {
        let table = Table::parse(
            br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "R.example:5000": {"username": "u", "password": "p"},
                 "http://q.example/v2/": {"auth": "dTpw", "email": "x"}, "empty.example": {}}, "credsStore": ""}"#,
        )
        .unwrap();
        for registry in ["docker.io", "r.example:5000", "q.example"] {
            let found = password(&table, &format!("{registry}/a/b"));
            assert_eq!(found.as_deref(), Some("Basic dTpw"), "{registry}");
        }
        assert_eq!(table.paths().len(), 3);
        assert_eq!(table.faults, [""; 0]);
    }

    #[test]
    fn a_password_goes_to_the_longest_path_it_was_given_for_and_nowhere_else() {
        let entry = |key: &str, user: &str| {
            (
                key.to_owned(),
                serde_json::json!({"auth": BASE64_STANDARD.encode(format!("{user}:p"))}),
            )
        };
        let auths: Map<String, Value> = [
            entry("r.example/team-a", "a"),
            entry("r.example/team-b", "b"),
            entry("r.example/team-b/secret/", "s"),
            entry("s.example", "all"),
            entry("s.example/one/image", "one"),
        ]
        .into_iter()
        .collect();
        let table =
            Table::parse(serde_json::json!({"auths": auths}).to_string().as_bytes()).unwrap();
        for (repository, user) in [
            ("r.example/team-a/x", Some("a")),
            ("r.example/team-a", Some("a")),
            ("r.example/team-b/x/y", Some("b")),
            ("r.example/team-b/secret", Some("s")),
            ("r.example/team-b/secret/x", Some("s")),
            ("r.example/team-b/secrets", Some("b")),
            ("r.example/team-ab/x", None),
            ("r.example/other", None),
            ("r.example:443/team-a/x", None),
            ("s.example/one", Some("all")),
            ("s.example/one/image", Some("one")),
        ] {
            assert_eq!(
                password(&table, repository),
                user.map(basic),
                "{repository}"
            );
        }
    }

    #[test]
    fn of_two_spellings_the_one_without_scheme_counts_always() {
        for _ in 0..20 {
            let table = Table::parse(
                br#"{"auths": {"https://r.example": {"auth": "dTpw"}, "r.example": {"auth": "djpw"}, "http://r.example": {"auth": "dzpw"}}}"#,
            )
            .unwrap();
            assert_eq!(password(&table, "r.example/x").unwrap(), "Basic djpw");
            assert_eq!(table.faults.len(), 2, "{:?}", table.faults);
        }
    }

    #[test]
    fn a_bad_entry_is_named_and_takes_no_other_away() {
        let table = Table::parse(
            br#"{"auths": {"good.example": {"auth": "dTpw"}, "null.example": null, "number.example": {"auth": 5},
                 "bad.example": {"auth": "hunter2 hunter2"}, "text.example": "hunter2", "good.example/bad": {"auth": "hunter2"}},
                 "credHelpers": {"helped.example": "../../bin/sh"}}"#,
        )
        .unwrap();
        assert_eq!(password(&table, "good.example/x").unwrap(), "Basic dTpw");
        for bad in [
            "null.example",
            "number.example",
            "bad.example",
            "text.example",
            "good.example/bad",
        ] {
            let found = table.entry(&place(&format!("{bad}/x")));
            assert!(
                matches!(found, Some(Err(fault)) if fault.contains(bad)),
                "{bad}: {found:?}"
            );
        }
        assert_eq!(table.faults.len(), 6, "{:?}", table.faults);
        assert!(!format!("{table:?}{table}").contains("hunter2"));
        assert_eq!(table.helper(&place("helped.example/x")), None);
    }

    #[test]
    fn a_file_that_is_none_is_refused_without_its_secrets() {
        for text in [r#"{"auths": "hunter2"}"#, "hunter2", r#"["hunter2"]"#] {
            let fault = Table::parse(text.as_bytes()).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn an_old_dockercfg_and_every_kind_of_token_are_read() {
        let table =
            Table::parse(br#"{"https://r.example": {"auth": "dTpw", "email": "x"}}"#).unwrap();
        assert_eq!(password(&table, "r.example/x").unwrap(), "Basic dTpw");
        let table = Table::parse(
            br#"{"auths": {"a.example": {"auth": "MDA6", "identitytoken": "RT"}, "b.example": {"registrytoken": "T"}},
                 "credHelpers": {"c.example": "ecr-login"}, "credsStore": "pass"}"#,
        )
        .unwrap();
        let found = |of: &str| table.entry(&place(of)).cloned().unwrap().unwrap();
        assert!(found("a.example/x") == RegistrySecret::Identity("RT".to_owned()));
        assert!(
            matches!(found("b.example/x"), RegistrySecret::Token(value) if value == "Bearer T")
        );
        assert_eq!(table.helper(&place("c.example/x")), Some("ecr-login"));
        assert_eq!(table.helper(&place("d.example/x")), Some("pass"));
    }
}
