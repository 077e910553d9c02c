//! Orders of an operator about tokens: each reads the file, and writes it anew.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use state::access::{self, Client, ClientToken, NameScope, TOKENS_MAX};

use super::super::{Secret, file, private};
use super::{NewToken, TokenOrder, read};

/// Line that begins a file that this program has written.
const HEAD: &str = "# Clients of the API, as contrib/docs/api.md tells. Written anew by `chas-node-agent token`.\n";
/// Looks at whether another order is carried out, and the wait between two: 5 s in all.
const LOCK_LOOKS: usize = 100;
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// Letters that begin a token, by which it is known for one where it was left lying about.
const TOKEN_BEGIN: &str = "chas_";

impl TokenOrder {
    /// Carries the order out on the file at `path`. Answers the text to print. Blocks.
    ///
    /// # Errors
    /// The order cannot be carried out, in a sentence; nothing is changed then.
    pub fn carry_out(&self, path: &Path, now: SystemTime) -> Result<String, String> {
        if *self == Self::List {
            let clients = read(path)?.unwrap_or_default();
            return Ok(listed(&clients, now));
        }
        // A link stays one, and what it leads to is written.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let _one_at_a_time = locked(path)?;
        let mut clients = read(path)?.unwrap_or_default();
        let text = match self {
            Self::Create(new) => create(&mut clients, new, now)?,
            Self::Revoke(what) => revoke(&mut clients, what)?,
            Self::List => String::new(),
        };
        let body = file::written(&access::written(&clients))?;
        private::write(path, &format!("{HEAD}{body}"))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(text)
    }
}

/// Keeps other orders waiting for as long as it is there.
fn locked(path: &Path) -> Result<File, String> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory);
    // Nobody else may open it, and so nobody else keeps it.
    let path = path.with_extension("lock");
    let opened = made.and_then(|()| {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false);
        options.mode(0o600).open(&path)
    });
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = opened.map_err(|error| fault(&error))?;
    for _ in 0..LOCK_LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
            Err(error) => return Err(fault(&error)),
        }
    }
    Err(fault(&"another order is carried out; try again"))
}

/// Makes a token. Answers it, and nothing else: nobody can read it again.
fn create(clients: &mut Vec<Client>, new: &NewToken, now: SystemTime) -> Result<String, String> {
    let NewToken {
        name,
        role,
        names,
        expires_in,
    } = new;
    let name = access::client_name(name).map_err(|fault| format!("{name:?}: {fault}"))?;
    let scope = if names.is_empty() {
        NameScope::All
    } else {
        NameScope::Some(names.clone())
    };
    let client = if let Some(client) = clients.iter_mut().find(|client| client.name == name) {
        let is_other = role.is_some_and(|role| role != client.role)
            || (!names.is_empty() && scope != client.names);
        if is_other {
            return Err(format!(
                "{name} has the role {} for {}: change that in the file, or leave out --role and \
                 --names",
                client.role, client.names
            ));
        }
        client
    } else {
        let role = role.ok_or_else(|| {
            format!("{name} is no client yet: give it a --role of read, deploy, exec or admin")
        })?;
        clients.push(Client {
            name,
            role,
            names: scope,
            tokens: Vec::new(),
            certificates: Vec::new(),
        });
        clients.last_mut().expect("it was put there")
    };
    client.tokens.retain(|token| !token.is_over(now));
    if client.tokens.len() >= TOKENS_MAX {
        return Err(format!(
            "{} has {TOKENS_MAX} tokens: revoke one",
            client.name
        ));
    }
    let secret = Secret::random().map_err(|error| format!("no random bytes: {error}"))?;
    let token = format!("{TOKEN_BEGIN}{}", secret.expose());
    let expires = expires_in.and_then(|time| now.checked_add(time));
    client.tokens.push(ClientToken::of(&token, expires));
    // What is written must be readable: an admin with names is not.
    access::read(&access::written(clients)).map_err(|faults| file::lines(&faults))?;
    Ok(format!("{token}\n"))
}

fn revoke(clients: &mut Vec<Client>, what: &str) -> Result<String, String> {
    if let Some(place) = clients.iter().position(|client| client.name == what) {
        let client = clients.remove(place);
        return Ok(format!("{} is no client any more.\n", client.name));
    }
    for client in clients.iter_mut() {
        if let Some(place) = client.tokens.iter().position(|token| token.id() == what) {
            client.tokens.remove(place);
            return Ok(format!(
                "Token {what} of {} is worth nothing.\n",
                client.name
            ));
        }
    }
    Err(format!(
        "{what:?} is neither a client nor the id of a token: see `chas-node-agent token list`"
    ))
}

fn listed(clients: &[Client], now: SystemTime) -> String {
    if clients.is_empty() {
        return "No clients: the node's own token, and root on the socket, do everything.\n"
            .to_owned();
    }
    let mut text = String::new();
    for client in clients {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}  {}  {}", client.name, client.role, client.names);
        for token in &client.tokens {
            let _ = write!(text, "  token {}", token.id());
            if let Some(end) = token.expires {
                let word = if token.is_over(now) {
                    "expired"
                } else {
                    "expires"
                };
                let _ = write!(text, "  {word} {}", humantime::format_rfc3339_seconds(end));
            }
            text.push('\n');
        }
        for name in &client.certificates {
            let _ = writeln!(text, "  certificate {name}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
