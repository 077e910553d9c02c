//! Section `secrets`: the key that secret values are stored under.

use std::path::PathBuf;

use super::StateSection;

/// Section `secrets`: secret values where they are stored.
#[derive(Clone, Debug)]
pub struct SecretsSection {
    /// File with the key. `None`: the one in the state directory, which is made if there is none.
    pub key_file: Option<PathBuf>,
}

impl StateSection {
    /// The file of the key that the agent makes where none is configured.
    #[must_use]
    pub fn secrets_key(&self) -> PathBuf {
        self.dir.join("secrets.key")
    }
}
