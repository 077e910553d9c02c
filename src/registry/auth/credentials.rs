//! Credentials for registries, from a file in the format of docker's `config.json`, read again
//! whenever it changed, and from the helpers that it names.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::helper::CredentialHelpers;
use super::table::{HelperChoice, Table};
use super::{AuthPlace, RegistrySecret};
use crate::lock::lock;
use crate::registry::stamp::FileStamp;

/// Largest file that is read: a thousand registries need a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Credentials file and its contents as last read.
#[derive(Debug)]
pub(crate) struct CredentialsFile {
    file: Option<PathBuf>,
    helpers: CredentialHelpers,
    read: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    stamp: Option<FileStamp>,
    table: Table,
    fault: Option<String>,
    edition: u64,
}

/// Credentials for one repository.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegistryCredentials {
    /// Secret to show; `None`: there is none for this repository.
    pub(crate) secret: Option<RegistrySecret>,
    /// Edition of the file, which grows with each change: what was obtained with an older edition
    /// is to be obtained anew.
    pub(crate) edition: u64,
    /// Fault of what else would have answered, for the message of an error; `None`: none.
    pub(crate) fault: Option<String>,
    /// Whether a helper answered the secret, which may be good for hours only.
    pub(crate) is_lent: bool,
}

/// Whether a credentials file holds secrets itself, or cannot be read so far as to tell. One that
/// only names helpers holds none.
#[must_use]
pub fn holds_secrets(file: &Path) -> bool {
    let is_small = FileStamp::of(file).is_ok_and(|stamp| stamp.bytes <= FILE_BYTES_MAX);
    let text = std::fs::read(file).ok().filter(|_| is_small);
    let table = text.and_then(|text| Table::parse(&text).ok());
    table.is_none_or(|table| table.holds_secrets())
}

impl CredentialsFile {
    /// Credentials from `file`; `None`: there are none for any registry.
    pub(crate) fn new(file: Option<PathBuf>, helpers: CredentialHelpers) -> Self {
        Self {
            file,
            helpers,
            read: Mutex::default(),
        }
    }

    /// Edition of the file now; it is read again if it changed.
    pub(crate) fn edition(&self) -> u64 {
        self.refreshed(|contents| contents.edition)
    }

    /// Whether the file names a host, or paths at it, by itself.
    pub(crate) fn names(&self, place: &AuthPlace) -> bool {
        self.refreshed(|contents| contents.table.names(place))
    }

    /// Credentials for a repository: of the helper that is named for it, else of the entry with the
    /// longest path that it is below. No entry of another path is ever taken.
    pub(crate) async fn of(&self, place: &AuthPlace) -> RegistryCredentials {
        let helper = self.refreshed(|contents| contents.table.helper(place));
        let answer = match &helper {
            Some(helper) => self.ask(helper).await,
            None => Ok(None),
        };
        let written = self.refreshed(|contents| contents.written(place, self.file.as_deref()));
        match answer {
            Ok(None) => written,
            Ok(secret) => RegistryCredentials {
                secret,
                fault: None,
                is_lent: true,
                ..written
            },
            Err(fault) => {
                tracing::warn!(registry = %place.host, %fault, "credential helper failed");
                // A secret of the file counts on: the file may come from a machine with the helper.
                RegistryCredentials {
                    fault: Some(fault),
                    ..written
                }
            }
        }
    }

    async fn ask(&self, helper: &HelperChoice) -> Result<Option<RegistrySecret>, String> {
        for host in &helper.hosts {
            let answer = self.helpers.ask(&helper.name, host).await?;
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }

    fn refreshed<T>(&self, look: impl FnOnce(&Contents) -> T) -> T {
        let mut contents = lock(&self.read);
        if let Some(file) = &self.file {
            contents.refresh(file);
        }
        look(&contents)
    }

    /// Faults of the file and of its single entries, each a sentence.
    pub(crate) fn faults(&self) -> Vec<String> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        self.refreshed(|contents| {
            let entries = contents.table.faults.iter();
            let entries = entries.map(|fault| format!("{}: {fault}", file.display()));
            contents.fault.iter().cloned().chain(entries).collect()
        })
    }
}

impl Contents {
    fn written(&self, place: &AuthPlace, file: Option<&Path>) -> RegistryCredentials {
        let (secret, fault) = match self.table.entry(place) {
            Some(Ok(secret)) => (Some(secret.clone()), None),
            Some(Err(fault)) => {
                let file = file.unwrap_or(Path::new("")).display();
                (None, Some(format!("in {file} {fault}")))
            }
            None => (None, self.fault.clone()),
        };
        RegistryCredentials {
            secret,
            edition: self.edition,
            fault,
            is_lent: false,
        }
    }

    fn refresh(&mut self, file: &Path) {
        let read = match FileStamp::of(file) {
            Ok(stamp) if self.stamp == Some(stamp) => return,
            Ok(stamp) if stamp.bytes > FILE_BYTES_MAX => {
                let fault = format!("it is larger than {FILE_BYTES_MAX} bytes");
                Ok((stamp, Err(fault)))
            }
            Ok(stamp) => std::fs::read(file).map(|text| (stamp, Table::parse(&text))),
            Err(error) => Err(error),
        };
        // One that could not be read is kept without its stamp, which would not tell when it can be.
        let (stamp, table) = match read {
            Ok((stamp, table)) => (Some(stamp), table),
            Err(error) => (None, Err(error.to_string())),
        };
        let named = |fault: &String| format!("{} cannot be used: {fault}", file.display());
        let fault = table.as_ref().err().map(named);
        if stamp.is_none() && self.stamp.is_none() && self.fault == fault {
            return;
        }
        if let Err(fault) = &table {
            tracing::warn!(file = %file.display(), %fault, "registry credentials file unusable");
        }
        let table = table.unwrap_or_default();
        for fault in &table.faults {
            tracing::warn!(file = %file.display(), %fault, "registry credentials entry unusable");
        }
        *self = Self {
            stamp,
            table,
            fault,
            edition: self.edition + 1,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> AuthPlace {
        AuthPlace {
            host: host.to_owned(),
            repository: "web".to_owned(),
            host_and_port: None,
        }
    }

    fn basic(known: &RegistryCredentials) -> Option<&str> {
        match known.secret.as_ref()? {
            RegistrySecret::Password(value) => value.to_str().ok(),
            RegistrySecret::Identity(_) | RegistrySecret::Token(_) => None,
        }
    }

    fn credentials(file: &Path) -> CredentialsFile {
        CredentialsFile::new(Some(file.to_owned()), CredentialHelpers::new(Vec::new()))
    }

    #[test]
    fn a_file_that_names_only_helpers_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        for (text, expected) in [
            (
                r#"{"credHelpers": {"r": "ecr-login"}, "credsStore": "pass"}"#,
                false,
            ),
            (r#"{"auths": {"r": {}}, "credsStore": "pass"}"#, false),
            (r#"{"auths": {"r": {"auth": "dTpw"}}}"#, true),
            (r#"{"auths": {"r": {"identitytoken": "t"}}}"#, true),
            (
                r#"{"auths": {"r": {"auth": "no base64 of a password"}}}"#,
                true,
            ),
            ("not JSON", true),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(holds_secrets(&file), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let credentials = credentials(&file);
        let missing = credentials.of(&place("r")).await;
        assert!(missing.secret.is_none() && missing.fault.is_some());
        std::fs::write(&file, r#"{"auths": {"r": {"auth": "dTpw"}}}"#).unwrap();
        let first = credentials.of(&place("r")).await;
        assert_eq!(
            (basic(&first), first.fault.is_none()),
            (Some("Basic dTpw"), true)
        );
        assert_eq!(credentials.edition(), first.edition);
        std::fs::write(
            &file,
            r#"{"auths": {"r": {"username": "user", "password": "new"}}}"#,
        )
        .unwrap();
        let second = credentials.of(&place("r")).await;
        assert_eq!(basic(&second), Some("Basic dXNlcjpuZXc="));
        assert!(second.edition > first.edition);
        std::fs::write(&file, "{").unwrap();
        let broken = credentials.of(&place("r")).await;
        assert!(broken.fault.is_some_and(|text| text.contains("line 1")));
    }

    #[tokio::test]
    async fn a_file_that_could_not_be_read_is_tried_again_without_counting_as_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::create_dir(&file).unwrap();
        let credentials = credentials(&file);
        let first = credentials.of(&place("r")).await;
        let fault = first.fault.unwrap();
        assert!(fault.contains("config.json"), "{fault}");
        assert_eq!(lock(&credentials.read).stamp, None);
        assert_eq!(credentials.edition(), first.edition);
    }

    #[tokio::test]
    async fn a_helper_that_fails_takes_no_secret_of_the_file_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let text = r#"{"auths": {"r": {"auth": "dTpw"}, "s": {"auth": "dTpw"}},
            "credsStore": "none-of-that-name", "credHelpers": {"s": ""}}"#;
        std::fs::write(&file, text).unwrap();
        let credentials = credentials(&file);
        for (host, is_faulty) in [("r", true), ("s", false)] {
            let known = credentials.of(&place(host)).await;
            assert_eq!(
                (basic(&known), known.fault.is_some()),
                (Some("Basic dTpw"), is_faulty),
                "{host}"
            );
        }
    }

    #[tokio::test]
    async fn a_bad_entry_is_named_to_its_own_repositories_and_in_the_review() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let text = r#"{"auths": {"good": {"auth": "dTpw"}, "bad": null}, "credHelpers": {"helped": "none-of-that-name"}}"#;
        std::fs::write(&file, text).unwrap();
        let credentials = credentials(&file);
        let (good, bad) = (
            credentials.of(&place("good")).await,
            credentials.of(&place("bad")).await,
        );
        assert_eq!(
            (basic(&good), good.fault.as_ref()),
            (Some("Basic dTpw"), None)
        );
        assert!(
            bad.fault
                .is_some_and(|fault| fault.contains("config.json") && fault.contains("\"bad\""))
        );
        let [fault] = &credentials.faults()[..] else {
            panic!("{:?}", credentials.faults());
        };
        assert!(
            fault.contains("config.json") && fault.contains("\"bad\""),
            "{fault}"
        );
        let helped = credentials.of(&place("helped")).await;
        assert!(
            helped
                .fault
                .is_some_and(|fault| fault.contains("docker-credential-none-of-that-name"))
        );
    }
}
