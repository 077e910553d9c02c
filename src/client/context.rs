//! Whom the client calls, and by what credentials: the flags, the environment, the client's own file
//! of contexts, and else the agent of this host by its socket.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;

use super::agent::{NetworkWay, Way};
use super::screen::Screen;
use super::table::{Cell, TextTable};
use crate::config::{self, Config, Flags, Secret, private};

/// Bytes of the file of contexts.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Keys of the agent's configuration that the client reads where no context says otherwise.
const KEYS: [&str; 4] = ["state.run_dir", "api.token", "api.token_file", "state.dir"];
/// Scheme of an address that is a socket.
const SOCKET_SCHEME: &str = "unix://";

/// Flags of every order: whom to call, and in what form to show the answer.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Agent to call")]
pub struct WayFlags {
    /// Agent: unix:///PATH, or https://NODE:PORT; by default the socket of this host's [env: CHAS_HOST]
    #[arg(
        short = 'H',
        long,
        alias = "address",
        global = true,
        value_name = "URL"
    )]
    host: Option<String>,
    /// Context of the client's own file that has address and credentials [env: CHAS_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "host")]
    context: Option<String>,
    /// File with the token, which only you may read
    #[arg(long, global = true, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Gives the token to whoever has that port of this host, without TLS
    #[arg(long, global = true)]
    insecure: bool,
    /// CA certificates (PEM) to trust instead of the system's
    #[arg(long, global = true, value_name = "PATH")]
    ca_file: Option<PathBuf>,
    /// Certificate (PEM) by which the agent knows you, in place of a token
    #[arg(long, global = true, value_name = "PATH", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Private key (PEM) of --cert-file
    #[arg(long, global = true, value_name = "PATH", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Answers as JSON, for programs
    #[arg(long, global = true, help_heading = "Output")]
    pub(super) json: bool,
}

/// The client's own file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    /// Context that is used where none is named.
    #[serde(default)]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// Address and credentials of an agent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    host: String,
    #[serde(default)]
    token_file: Option<PathBuf>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
}

impl WayFlags {
    /// Whether a flag says whom to call; a flag about how alone says nothing.
    fn check(&self, has_address: bool) -> anyhow::Result<()> {
        let given = [
            (self.insecure, "--insecure"),
            (self.ca_file.is_some(), "--ca-file"),
            (self.cert_file.is_some(), "--cert-file"),
            (self.token_file.is_some(), "--token-file"),
        ];
        let idle = given.iter().find(|(is_given, _)| *is_given);
        match idle {
            Some((_, flag)) if !has_address => {
                bail!("{flag} is of no use on the socket of this host: give --host as well")
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The way to the agent.
    ///
    /// # Errors
    /// The file of contexts, or one that it names, cannot be used; or the flags contradict.
    pub(super) fn way(&self, flags: &Flags) -> anyhow::Result<Way> {
        let text = |name| config::environment(name).and_then(|value| value.into_string().ok());
        let path = file_path();
        let file = read(path.as_deref())?;
        // What is said nearer counts: a flag before a variable, and that before the file.
        let host = self.host.clone();
        let host = host.or_else(|| text("CHAS_HOST").filter(|_| self.context.is_none()));
        let named = self.context.clone().or_else(|| text("CHAS_CONTEXT"));
        let is_of_file = host.is_none();
        let context = match (host, named.or(file.current)) {
            (Some(host), _) => Context {
                host,
                ..Context::default()
            },
            (None, Some(name)) => file.contexts.get(&name).cloned().with_context(|| {
                let known: Vec<_> = file.contexts.keys().map(String::as_str).collect();
                format!(
                    "there is no context {name:?} in {}; there are: {}",
                    path.unwrap_or_default().display(),
                    known.join(", ")
                )
            })?,
            (None, None) => {
                self.check(false)?;
                let config = own_config(flags, &KEYS[..1])?;
                return Ok(Way::Socket(config.state.socket()));
            }
        };
        self.of_context(context, is_of_file, flags)
    }

    fn of_context(&self, context: Context, is_of_file: bool, flags: &Flags) -> anyhow::Result<Way> {
        if let Some(socket) = context.host.strip_prefix(SOCKET_SCHEME) {
            self.check(false)?;
            return Ok(Way::Socket(socket.into()));
        }
        let identity = match (&self.cert_file, &self.key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, _) | (_, None) => context.cert_file.zip(context.key_file),
        };
        let token_file = self.token_file.clone().or(context.token_file);
        let token = match (&identity, token_file) {
            (Some(_), _) => None,
            (None, Some(file)) => Some(token_in(&file)?),
            // What this host's agent made is worth nothing elsewhere, and is not to be shown there.
            (None, None) if is_of_host(&context.host) => own_token(flags)?,
            (None, None) => config::environment("CHAS_TOKEN")
                .filter(|_| !is_of_file)
                .and_then(|token| token.into_string().ok())
                .map(|token| Secret::new(token.trim())),
        };
        Ok(Way::Network(NetworkWay {
            address: context.host,
            insecure: self.insecure || context.insecure,
            ca_file: self.ca_file.clone().or(context.ca_file),
            identity,
            token,
        }))
    }
}

/// Shows the contexts, and which one is used.
pub(super) fn list(screen: Screen) -> anyhow::Result<()> {
    let path = file_path();
    let file = read(path.as_deref())?;
    if screen.json {
        let all = file.contexts.iter();
        let all = all.map(|(name, context)| json!({"name": name, "host": context.host}));
        let all: Vec<_> = all.collect();
        return Ok(screen.value(&json!({"current": file.current, "contexts": all}))?);
    }
    let mut table = TextTable::new(&["CURRENT", "NAME", "HOST"]);
    for (name, context) in &file.contexts {
        let mark = if file.current.as_ref() == Some(name) {
            "*"
        } else {
            ""
        };
        table.push([mark, name, &context.host].map(Cell::new).into());
    }
    screen.write(&table.text(screen, screen.columns()))?;
    if file.contexts.is_empty() {
        let path = path.unwrap_or_default();
        screen.tell(&format!(
            "There are none in {}. The socket of this host is called. Such a file reads:\n\
             current: worker-1\ncontexts:\n  worker-1:\n    host: https://worker-1:9090\n    \
             token_file: /home/you/.config/chas/worker-1.token",
            path.display()
        ));
    }
    Ok(())
}

/// The client's own file, wherever this user has such files.
fn file_path() -> Option<PathBuf> {
    let of = |name| config::environment(name).map(PathBuf::from);
    of("CHAS_CLIENT_CONFIG")
        .or_else(|| of("XDG_CONFIG_HOME").map(|home| home.join("chas/contexts.yaml")))
        .or_else(|| of("HOME").map(|home| home.join(".config/chas/contexts.yaml")))
}

fn read(path: Option<&Path>) -> anyhow::Result<ContextFile> {
    let Some(path) = path else {
        return Ok(ContextFile::default());
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ContextFile::default()),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            bail!("{} is larger than {FILE_BYTES_MAX} bytes", path.display())
        }
        Ok(found) if !private::is_own(found.uid()) || found.mode() & 0o022 != 0 => bail!(
            "others than you may write {}, and so say whom you call: chmod go-w {0}, and chown it to you",
            path.display()
        ),
        Ok(_) | Err(_) => {}
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value =
        config::data(&text).map_err(|fault| anyhow::anyhow!("{}: {fault}", path.display()))?;
    if value.is_null() {
        return Ok(ContextFile::default());
    }
    serde_json::from_value(value)
        .with_context(|| format!("{} is no file of contexts", path.display()))
}

/// The agent's own configuration, as far as the client needs it.
fn own_config(flags: &Flags, keys: &[&str]) -> anyhow::Result<Config> {
    config::load_keys(flags, &config::environment, keys)
        .map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// Whether an address is this host's own.
fn is_of_host(address: &str) -> bool {
    let full = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let url = Url::parse(&full).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The token in a file of the caller's.
fn token_in(path: &Path) -> anyhow::Result<Secret> {
    if let Some(fault) = private::fault(path) {
        bail!(fault);
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Secret::new(text.trim()))
}

/// The token for the network: the configured one, or the one that this host's agent made.
fn own_token(flags: &Flags) -> anyhow::Result<Option<Secret>> {
    let config = own_config(flags, &KEYS[1..])?;
    if config.api.token.is_some() {
        return Ok(config.api.token);
    }
    let path = config.state.admin_token();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Secret::new(text.trim()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // Whoever may not read the agent's files is told by the agent that a token is missing.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
