//! An operator's commands to the agent, from the command line: they go over the agent's own API,
//! like everybody's, and by its socket, which nobody but root can have put there.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, StatusCode, Url};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::cause;
use crate::config::{Config, Secret, private};

/// Timeout of a call: the agent answers from memory, but for one write.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Way to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAddress {
    /// The socket of the agent on this host.
    Socket,
    /// An address of the network.
    Network {
        /// URL, or host and port.
        address: String,
        /// Whether whoever has the port may have the token.
        insecure: bool,
        /// Certificates of the authorities to trust instead of the system's, PEM.
        ca_file: Option<PathBuf>,
        /// Certificate and key, PEM, by which the agent knows who calls; then no token is sent.
        identity: Option<(PathBuf, PathBuf)>,
    },
}

impl AgentAddress {
    /// The configuration keys without which the agent cannot be called there.
    #[must_use]
    pub const fn keys(&self) -> &'static [&'static str] {
        match self {
            Self::Socket => &["state.run_dir"],
            Self::Network {
                identity: Some(_), ..
            } => &[],
            Self::Network { identity: None, .. } => &["api.token", "api.token_file", "state.dir"],
        }
    }
}

/// Shows the unconfirmed part of the set from CHaS, and (unless `only_list`) confirms just that.
/// Answers the text to print.
///
/// # Errors
/// The agent is unreachable, or refuses; or it would have the token go where others may get it.
pub async fn confirm(
    config: &Config,
    address: &AgentAddress,
    only_list: bool,
) -> anyhow::Result<String> {
    let agent = Agent::at(config, address).await?;
    let health = agent.ask(Method::GET, "health").await?;
    let link = &health["chas"];
    if link.is_null() {
        bail!(
            "no CHaS is configured on this node (api.chas_url): no set is applied, so nothing waits"
        );
    }
    let names: Vec<&str> = link["pending_prune"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let refused = &link["refused"];
    let (generation, confirmed) = match (names.is_empty(), refused.is_null()) {
        (true, true) => return Ok("Nothing waits for a confirmation.\n".to_owned()),
        (true, false) => (
            &refused["generation"],
            "Confirmed: the next set of that epoch is taken, as the first of another epoch.\n",
        ),
        (false, _) => (
            &link["generation"],
            "Confirmed: they end now; what is only changed, with CHaS's next answer.\n",
        ),
    };
    let mut text = match names.len() {
        0 => format!(
            "A signed set of epoch {}, generation {generation}, was refused: the node had left that \
             epoch for another.\n",
            refused["epoch"]
        ),
        count => format!("CHaS, by generation {generation}, would end or change {count}:\n"),
    };
    for name in names {
        writeln!(text, "  {name}")?;
    }
    if !only_list {
        agent
            .ask(
                Method::POST,
                &format!("desired-state/confirm?generation={generation}"),
            )
            .await?;
        text.push_str(confirmed);
    }
    Ok(text)
}

/// The agent as it is called.
struct Agent {
    client: Client,
    base: Url,
    /// The address, as people know it.
    name: String,
    /// `None`: none is needed, or none is known.
    token: Option<Secret>,
}

impl Agent {
    async fn at(config: &Config, address: &AgentAddress) -> anyhow::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(TIMEOUT);
        match address {
            AgentAddress::Socket => {
                let socket = config.state.socket();
                is_agents(&socket).await?;
                Ok(Self {
                    base: Url::parse("http://localhost/")?,
                    name: format!("{} (state.run_dir)", socket.display()),
                    client: client.tls_certs_only([]).unix_socket(socket).build()?,
                    token: None,
                })
            }
            AgentAddress::Network {
                address,
                insecure,
                ca_file,
                identity,
            } => {
                let base = safe(address, *insecure)?;
                if identity.is_some() && base.scheme() != "https" {
                    bail!("{base} is no https, where nobody shows a certificate: write https://");
                }
                let client = match identity {
                    Some(files) => client.identity(shown(files)?),
                    None => client,
                };
                let client = match ca_file {
                    Some(file) => trusting(client, file)?,
                    None if base.scheme() == "https" => client,
                    None => client.tls_certs_only([]),
                };
                Ok(Self {
                    name: base.to_string(),
                    base,
                    client: client.build()?,
                    token: match identity {
                        Some(_) => None,
                        None => token(config)?,
                    },
                })
            }
        }
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let mut request = self.client.request(method, self.base.join(path)?);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let name = &self.name;
        let unreachable = |error: reqwest::Error| {
            anyhow::anyhow!("no agent answers at {name}: {}", cause::root(&error))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body: Value = response
            .json()
            .await
            .with_context(|| format!("the answer at {name} is not an agent's"))?;
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED => bail!(
                "the agent at {name} needs its token: CHAS_TOKEN, or api.token_file; on its own \
                 host, root needs none without --address"
            ),
            status => bail!(
                "the agent refuses ({status}): {}",
                body["detail"].as_str().unwrap_or("without a reason")
            ),
        }
    }
}

/// Whether the socket is the agent's: another user's program may have put its own there.
async fn is_agents(socket: &Path) -> anyhow::Result<()> {
    let name = format!("{} (state.run_dir)", socket.display());
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let is = |kind| error.kind() == kind;
        let remedy = if is(ErrorKind::PermissionDenied) {
            "; run this as root"
        } else if is(ErrorKind::NotFound) {
            "; is the agent's state.run_dir another one?"
        } else {
            ""
        };
        anyhow::anyhow!("no agent answers at {name}: {error}{remedy}")
    })?;
    let uid = stream.peer_cred()?.uid();
    if private::is_own(uid) {
        return Ok(());
    }
    bail!(
        "user {uid} answers at {name}, who is neither root nor you: see who may write its directory"
    )
}

/// The certificate and key in these files.
fn shown((certificate, key): &(PathBuf, PathBuf)) -> anyhow::Result<Identity> {
    let read = |flag: &str, file: &Path| {
        std::fs::read(file).with_context(|| format!("{flag} {}", file.display()))
    };
    let both = [read("--key-file", key)?, read("--cert-file", certificate)?].join(&b'\n');
    Identity::from_pem(&both).context("--cert-file and --key-file hold no certificate and its key")
}

/// A client that trusts the authorities in this file, and no others.
fn trusting(client: ClientBuilder, file: &Path) -> anyhow::Result<ClientBuilder> {
    let about = || format!("--ca-file {}", file.display());
    let pem = std::fs::read(file).with_context(about)?;
    let certificates = Certificate::from_pem_bundle(&pem).with_context(about)?;
    if certificates.is_empty() {
        bail!("{} holds no certificate in PEM", about());
    }
    Ok(client.tls_certs_only(certificates))
}

/// The URL of an address to which the token may go.
fn safe(address: &str, insecure: bool) -> anyhow::Result<Url> {
    let full = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let url = Url::parse(&full).with_context(|| format!("{address:?} is not an address"))?;
    if url.scheme() == "https" {
        return Ok(url);
    }
    if url.scheme() != "http" {
        bail!("{address:?} is not an address: write host:port, or a URL with http or https");
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if host == "localhost" {
        bail!(
            "{url}: localhost may lead to [::1], where another user may listen: write 127.0.0.1 or \
             [::1], or leave out --address"
        );
    }
    if !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        bail!(
            "the token would go over plain HTTP to {url}, for everybody on the way to read: write \
             https://, or run this command on the node itself, without --address"
        );
    }
    if !insecure {
        bail!(
            "whoever has the port of {url} would get the token, and any user of this host may \
             have it: leave out --address, write https://, or add --insecure if no other user is here"
        );
    }
    Ok(url)
}

/// The token for the network: the configured one, or the one that the agent made.
fn token(config: &Config) -> anyhow::Result<Option<Secret>> {
    if config.api.token.is_some() {
        return Ok(config.api.token.clone());
    }
    let path = config.state.admin_token();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Secret::new(text.trim()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_only_where_nobody_else_can_get_it() {
        for (address, insecure, says) in [
            ("https://node-1.example:9090", false, None),
            ("127.0.0.1:9090", true, None),
            ("http://[::1]:9090", true, None),
            ("https://localhost:9090", false, None),
            ("localhost:9090", true, Some("127.0.0.1 or [::1]")),
            ("127.0.0.1:9090", false, Some("--insecure")),
            ("localhost:9090", false, Some("127.0.0.1 or [::1]")),
            ("10.0.0.1:9090", false, Some("plain HTTP")),
            ("10.0.0.1:9090", true, Some("plain HTTP")),
            ("http://localhost.evil.example", true, Some("plain HTTP")),
            ("ftp://127.0.0.1", true, Some("host:port")),
            ("", true, Some("is not an address")),
            ("a b", true, Some("is not an address")),
        ] {
            let said = safe(address, insecure)
                .err()
                .map(|error| format!("{error:#}"));
            let fits = match (&said, says) {
                (None, None) => true,
                (Some(said), Some(says)) => said.contains(says),
                (None | Some(_), _) => false,
            };
            assert!(fits, "{address} {insecure}: {said:?}");
        }
    }
}
