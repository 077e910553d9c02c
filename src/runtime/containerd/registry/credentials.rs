//! Users and passwords of registries, from a file in the format of docker's `config.json`, read again whenever it changed.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;

/// A larger file is not read: a thousand registries need a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The credentials file and what was last read of it.
#[derive(Debug)]
pub(crate) struct Credentials {
    file: Option<PathBuf>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    stamp: Option<Stamp>,
    table: Table,
    trouble: Option<String>,
    edition: u64,
}

/// What changes when a file is written or replaced: modification time, inode, size.
type Stamp = (i64, i64, u64, u64);

/// What the file says about one registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The `Authorization` of basic authentication; `None`: it says nothing.
    pub(crate) basic: Option<HeaderValue>,
    /// Grows each time the file changes: what was obtained with an older edition is to be obtained anew.
    pub(crate) edition: u64,
    /// Why the file could not be read, for the message of a refusal.
    pub(crate) trouble: Option<String>,
}

impl Credentials {
    /// Credentials from `file`; `None`: there are none for anybody.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            held: Mutex::default(),
        }
    }

    /// What is known about a registry, named as in image references. Looks whether the file changed.
    pub(crate) fn of(&self, registry: &str) -> Known {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file {
            held.refresh(file);
        }
        Known {
            basic: held.table.0.get(registry).cloned(),
            edition: held.edition,
            trouble: held.trouble.clone(),
        }
    }
}

impl Held {
    fn refresh(&mut self, file: &Path) {
        let stamp = std::fs::metadata(file)
            .map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len()));
        match stamp {
            Ok(stamp) if self.stamp == Some(stamp) => {}
            Ok(stamp) => self.read(file, stamp),
            Err(error) if self.stamp.is_some() || self.trouble.is_none() => {
                *self = Self {
                    edition: self.edition + 1,
                    ..Self::default()
                };
                self.complain(file, &error);
            }
            Err(_) => {}
        }
    }

    fn read(&mut self, file: &Path, stamp: Stamp) {
        *self = Self {
            stamp: Some(stamp),
            edition: self.edition + 1,
            ..Self::default()
        };
        if stamp.3 > FILE_BYTES_MAX {
            return self.complain(
                file,
                &format_args!("it is larger than {FILE_BYTES_MAX} bytes"),
            );
        }
        match std::fs::read(file) {
            Ok(text) => match Table::parse(&text) {
                Ok(table) => self.table = table,
                Err(fault) => self.complain(file, &fault),
            },
            Err(error) => self.complain(file, &error),
        }
    }

    fn complain(&mut self, file: &Path, fault: &dyn fmt::Display) {
        let trouble = format!("{} cannot be used: {fault}", file.display());
        tracing::warn!(file = %file.display(), "registry credentials cannot be used: {fault}");
        self.trouble = Some(trouble);
    }
}

#[derive(Default)]
struct Table(HashMap<String, HeaderValue>);

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Table {
    fn parse(text: &[u8]) -> Result<Self, String> {
        // serde's own message may quote the file, and with it a password.
        let file: ConfigFile = serde_json::from_slice(text)
            .map_err(|error| format!("line {} is not as in docker's config.json", error.line()))?;
        let mut table = HashMap::new();
        for (key, entry) in file.auths {
            let registry = registry_of(&key);
            let encoded = match (entry.auth.trim(), entry.username.as_str()) {
                ("", "") => continue,
                ("", user) => BASE64_STANDARD.encode(format!("{user}:{}", entry.password)),
                (auth, _) => auth.to_owned(),
            };
            let plain = BASE64_STANDARD.decode(&encoded).unwrap_or_default();
            let value = HeaderValue::from_str(&format!("Basic {encoded}"))
                .ok()
                .filter(|_| plain.contains(&b':'));
            let mut value = value
                .ok_or_else(|| format!("\"auth\" of {registry} is not base64 of user:password"))?;
            value.set_sensitive(true);
            table.insert(registry, value);
        }
        Ok(Self(table))
    }
}

/// docker writes keys as `host[:port]` or as URLs, and Docker Hub's as `https://index.docker.io/v1/`.
fn registry_of(key: &str) -> String {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare).to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(known: &Known) -> Option<&str> {
        known.basic.as_ref().map(|value| value.to_str().unwrap())
    }

    #[test]
    fn every_spelling_that_docker_writes_is_found() {
        let table = Table::parse(
            br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "R.example:5000": {"username": "u", "password": "p"},
                 "http://q.example/v2/": {"auth": "dTpw", "email": "x"}, "empty.example": {}}, "credsStore": "x"}"#,
        )
        .unwrap();
        for registry in ["docker.io", "r.example:5000", "q.example"] {
            assert_eq!(table.0[registry], "Basic dTpw", "{registry}");
        }
        assert_eq!(table.0.len(), 3);
    }

    #[test]
    fn no_message_repeats_a_secret() {
        for text in [
            r#"{"auths": {"r": {"auth": "hunter2 hunter2"}}}"#,
            r#"{"auths": "hunter2"}"#,
            "hunter2",
        ] {
            let fault = Table::parse(text.as_bytes()).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        let table = Table::parse(br#"{"auths": {"r": {"auth": "dTpw"}}}"#).unwrap();
        assert!(!format!("{table:?}").contains("dTpw"));
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let credentials = Credentials::new(Some(file.clone()));
        let missing = credentials.of("r");
        assert!(missing.basic.is_none() && missing.trouble.is_some());
        std::fs::write(&file, r#"{"auths": {"r": {"auth": "dTpw"}}}"#).unwrap();
        let first = credentials.of("r");
        assert_eq!(
            (basic(&first), first.trouble.is_none()),
            (Some("Basic dTpw"), true)
        );
        assert_eq!(credentials.of("r").edition, first.edition);
        std::fs::write(
            &file,
            r#"{"auths": {"r": {"username": "user", "password": "new"}}}"#,
        )
        .unwrap();
        let second = credentials.of("r");
        assert_eq!(basic(&second), Some("Basic dXNlcjpuZXc="));
        assert!(second.edition > first.edition);
        std::fs::write(&file, "{").unwrap();
        assert!(
            credentials
                .of("r")
                .trouble
                .is_some_and(|text| text.contains("line 1"))
        );
    }
}
