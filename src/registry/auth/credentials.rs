//! Users and passwords for registries, from a file in the format of docker's `config.json`, read
//! again whenever it changed.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::lock::lock;

/// Largest file that is read: a thousand registries need a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Credentials file and its contents as last read.
#[derive(Debug)]
pub(crate) struct CredentialsFile {
    file: Option<PathBuf>,
    read: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    stamp: Option<FileStamp>,
    table: Table,
    fault: Option<String>,
    edition: u64,
}

/// Facts that change when a file is written or replaced: modification time, inode, size.
type FileStamp = (i64, i64, u64, u64);

/// Credentials that the file holds for one registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegistryCredentials {
    /// `Authorization` of basic authentication; `None`: the file has no entry.
    pub(crate) basic: Option<HeaderValue>,
    /// Edition of the file, which grows with each change: what was obtained with an older edition
    /// is to be obtained anew.
    pub(crate) edition: u64,
    /// Fault of the file, for the message of an error; `None`: it was read.
    pub(crate) fault: Option<String>,
}

impl CredentialsFile {
    /// Credentials from `file`; `None`: there are none for any registry.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            read: Mutex::default(),
        }
    }

    /// Credentials for a registry, named as in image references; the file is read again if it
    /// changed.
    pub(crate) fn of(&self, registry: &str) -> RegistryCredentials {
        let mut contents = lock(&self.read);
        if let Some(file) = &self.file {
            contents.refresh(file);
        }
        RegistryCredentials {
            basic: contents.table.0.get(registry).cloned(),
            edition: contents.edition,
            fault: contents.fault.clone(),
        }
    }
}

impl Contents {
    fn refresh(&mut self, file: &Path) {
        let stamp = std::fs::metadata(file)
            .map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len()));
        match stamp {
            Ok(stamp) if self.stamp == Some(stamp) => {}
            Ok(stamp) => self.read(file, stamp),
            Err(error) if self.stamp.is_some() || self.fault.is_none() => {
                *self = Self {
                    edition: self.edition + 1,
                    ..Self::default()
                };
                self.complain(file, &error);
            }
            Err(_) => {}
        }
    }

    fn read(&mut self, file: &Path, stamp: FileStamp) {
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
        tracing::warn!(file = %file.display(), %fault, "registry credentials file unusable");
        self.fault = Some(format!("{} cannot be used: {fault}", file.display()));
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
    auths: HashMap<String, AuthEntry>,
}

#[derive(Default, Deserialize)]
struct AuthEntry {
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

/// Registry that a key of the file stands for: docker writes keys as `host[:port]` or as URLs, and
/// Docker Hub's as `https://index.docker.io/v1/`.
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

    fn basic(known: &RegistryCredentials) -> Option<&str> {
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
        let credentials = CredentialsFile::new(Some(file.clone()));
        let missing = credentials.of("r");
        assert!(missing.basic.is_none() && missing.fault.is_some());
        std::fs::write(&file, r#"{"auths": {"r": {"auth": "dTpw"}}}"#).unwrap();
        let first = credentials.of("r");
        assert_eq!(
            (basic(&first), first.fault.is_none()),
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
                .fault
                .is_some_and(|text| text.contains("line 1"))
        );
    }
}
