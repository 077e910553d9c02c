//! The file of the API's clients: read, and written by an operator's orders.

use std::path::Path;
use std::time::Duration;

use state::access::{self, Client, Role};
use state::policy::names::NamePattern;

use super::owned::{self, Others};
use super::{Config, file};

mod edit;

/// Path of the file when none is named.
pub const DEFAULT_CLIENTS: &str = "/etc/chas/clients.yaml";

/// Order of an operator about the tokens of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenOrder {
    /// Makes a token.
    Create(NewToken),
    /// Lists clients and tokens.
    List,
    /// Takes a token back, or a client with all that it has.
    Revoke(String),
}

/// Token to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Name of its client, which is made if there is none.
    pub name: String,
    /// Role of the client. `None`: the one that it has.
    pub role: Option<Role>,
    /// Containers that the client has to do with. Empty: those that it has, or all.
    pub names: Vec<NamePattern>,
    /// Time after which the token is worth nothing. `None`: for ever.
    pub expires_in: Option<Duration>,
}

impl Config {
    /// The clients by their file; without one there are none. Blocks.
    ///
    /// # Errors
    /// Every fault of the file, in a sentence.
    pub fn read_clients(&self) -> Result<Vec<Client>, String> {
        Ok(read(&self.api.clients_file)?.unwrap_or_default())
    }

    /// The fault that there is no file of clients, though one is named, or `had_any` clients by it.
    /// `None`: all is as it should be.
    #[must_use]
    pub fn missing_clients(&self, had_any: bool) -> Option<String> {
        missing(&self.api.clients_file, Path::new(DEFAULT_CLIENTS), had_any)
    }
}

fn missing(path: &Path, default: &Path, had_any: bool) -> Option<String> {
    let is_meant = had_any || path != default;
    (is_meant && !path.exists()).then(|| {
        format!(
            "{}: there is no such file, so no clients; one with clients: [] says so too",
            path.display()
        )
    })
}

/// The clients of a file. `None`: there is none.
fn read(path: &Path) -> Result<Option<Vec<Client>>, String> {
    let Some(text) = owned::read(path, Others::MayNothing)? else {
        return Ok(None);
    };
    let parsed = parse(&text).map(Some);
    parsed.map_err(|fault| format!("{}: {fault}", path.display()))
}

/// The clients of a text.
pub(crate) fn parse(text: &str) -> Result<Vec<Client>, String> {
    access::read(&file::data(text)?).map_err(|faults| file::lines(&faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_no_fault_where_none_was_named_and_nobody_came_in_by_it() {
        let directory = tempfile::tempdir().unwrap();
        let [path, other] = ["a", "b"].map(|name| directory.path().join(name));
        for (default, had_any, is_there, is_fault) in [
            (&path, false, false, false),
            (&path, true, false, true),
            (&other, false, false, true),
            (&other, true, true, false),
        ] {
            if is_there {
                std::fs::write(&path, "clients: []").unwrap();
            }
            let fault = missing(&path, default, had_any);
            assert_eq!(
                fault.is_some(),
                is_fault,
                "{default:?} {had_any} {is_there}"
            );
        }
    }
}
