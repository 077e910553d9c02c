//! The agent as the client calls it: by its socket, which nobody but root can have put there, or over
//! the network with a token or a certificate.

use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::redirect::Policy;
use reqwest::{
    Certificate, Client, ClientBuilder, Identity, Method, RequestBuilder, Response, StatusCode, Url,
};
use serde_json::Value;
use tokio::net::UnixStream;

use super::fault::{AgentFault, AgentRefusal};
use crate::cause;
use crate::config::{Secret, private};

/// Longest wait for an answer of which no work is waited for: the agent answers from memory, but for
/// one write.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer, above which it is none of an agent's.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which the kernel asks whether a silent connection is alive.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Way to an agent.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// Socket of an agent on this host.
    Socket(PathBuf),
    /// Address of the network.
    Network(NetworkWay),
}

/// Way over the network.
#[derive(Clone, Debug)]
pub(crate) struct NetworkWay {
    /// URL, or host and port.
    pub(super) address: String,
    /// Whether whoever has the port may have the token.
    pub(super) insecure: bool,
    /// Certificates of the authorities to trust instead of the system's, PEM.
    pub(super) ca_file: Option<PathBuf>,
    /// Certificate and key, PEM, by which the agent knows who calls; then no token is sent.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// Token. `None`: none is known.
    pub(super) token: Option<Secret>,
}

/// The agent as it is called.
#[derive(Debug)]
pub(crate) struct Agent {
    client: Client,
    base: Url,
    /// The address, as people know it.
    name: String,
    /// `None`: none is needed, or none is known.
    token: Option<Secret>,
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Agent {
    /// The agent at the end of this way. Over the network nothing is asked yet.
    pub(crate) async fn open(way: Way) -> anyhow::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE);
        match way {
            Way::Socket(socket) => {
                let name = socket.display().to_string();
                is_agents(&socket, &name).await?;
                Ok(Self {
                    base: Url::parse("http://localhost/")?,
                    name,
                    client: client.tls_certs_only([]).unix_socket(socket).build()?,
                    token: None,
                })
            }
            Way::Network(way) => {
                let base = safe(&way.address, way.insecure)?;
                if !base.username().is_empty() || base.password().is_some() {
                    bail!(
                        "an address holds no password, which others would see: give --token-file"
                    );
                }
                if way.identity.is_some() && base.scheme() != "https" {
                    bail!("{base} is no https, where nobody shows a certificate: write https://");
                }
                let client = match &way.identity {
                    Some(files) => client.identity(shown(files)?),
                    None => client,
                };
                let client = match &way.ca_file {
                    Some(file) => trusting(client, file)?,
                    None if base.scheme() == "https" => client,
                    None => client.tls_certs_only([]),
                };
                Ok(Self {
                    name: base.to_string(),
                    base,
                    client: client.build()?,
                    token: way.token.filter(|_| way.identity.is_none()),
                })
            }
        }
    }

    /// A request for a path of these segments, each of which may be anything.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// A request that looks.
    pub(crate) fn get(&self, segments: &[&str]) -> RequestBuilder {
        self.request(Method::GET, segments)
    }

    /// Sends a request, and answers the agent's answer as it begins.
    pub(crate) async fn open_answer(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let (client, request) = request.build_split();
        let request = request?;
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        let response = client.execute(request).await;
        let response = response.map_err(|error| self.unanswered(&error, changes))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let problem: Value = self.read(response).await.unwrap_or_default();
        if status == StatusCode::UNAUTHORIZED {
            bail!(
                "the agent at {} does not know this caller: give a token by --context, CHAS_TOKEN or \
                 api.token_file; on its own host, root needs none",
                self.name
            );
        }
        Err(AgentFault::Refused(AgentRefusal { status, problem }).into())
    }

    /// Sends a request whose answer may go on for ever, and answers it as it begins, which must be soon.
    pub(crate) async fn open_stream(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let opened = tokio::time::timeout(TIMEOUT, self.open_answer(request)).await;
        opened.unwrap_or_else(|_| {
            let name = &self.name;
            Err(AgentFault::Unreachable(format!("the agent at {name} does not answer")).into())
        })
    }

    /// Sends a request, and answers its answer, which is JSON.
    pub(crate) async fn answer(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        self.answer_within(request, TIMEOUT).await
    }

    /// Answer of the agent as of [`Self::answer`], which has so long for the work that is asked for.
    pub(crate) async fn answer_within(
        &self,
        request: RequestBuilder,
        timeout: Duration,
    ) -> anyhow::Result<Value> {
        let response = self.open_answer(request.timeout(timeout)).await?;
        self.read(response).await
    }

    /// Reads an answer that is JSON.
    pub(crate) async fn read(&self, response: Response) -> anyhow::Result<Value> {
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let (bytes, is_cut) = self.taken(response, ANSWER_BYTES_MAX).await?;
        if is_cut {
            bail!(
                "the answer at {} is larger than {ANSWER_BYTES_MAX} bytes",
                self.name
            );
        }
        let read = serde_json::from_slice(&bytes);
        read.with_context(|| format!("the answer at {} is not an agent's", self.name))
    }

    /// Sends a request, and answers the bytes of its answer as they are, as many as `bytes_max`, and whether
    /// there were more.
    pub(crate) async fn bytes(
        &self,
        request: RequestBuilder,
        bytes_max: usize,
    ) -> anyhow::Result<(Vec<u8>, bool)> {
        let response = self.open_answer(request).await?;
        self.taken(response, bytes_max).await
    }

    /// The bytes of an answer, as many as `bytes_max`, and whether there were more.
    async fn taken(
        &self,
        mut response: Response,
        bytes_max: usize,
    ) -> anyhow::Result<(Vec<u8>, bool)> {
        let mut bytes = Vec::new();
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| self.broken(&error))?
        {
            bytes.extend_from_slice(&piece);
            if bytes.len() > bytes_max {
                bytes.truncate(bytes_max);
                return Ok((bytes, true));
            }
        }
        Ok((bytes, false))
    }

    /// Asks for an answer at this path.
    pub(crate) async fn see(&self, segments: &[&str]) -> anyhow::Result<Value> {
        self.answer(self.get(segments)).await
    }

    /// The fault of a request without an answer. One that `changes` something may have come there, and be
    /// carried out.
    fn unanswered(&self, error: &reqwest::Error, changes: bool) -> AgentFault {
        let (name, root) = (&self.name, cause::root(error));
        AgentFault::Unreachable(match error.is_connect() {
            true => format!("no agent answers at {name}: {root}"),
            false if changes => format!(
                "the agent at {name} has not answered ({root}): whether it does what was asked is not \
                 known; `ps` and `events` tell"
            ),
            false => format!("the agent at {name} has not answered: {root}"),
        })
    }

    /// The fault of an answer that broke off.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> AgentFault {
        AgentFault::Unreachable(format!(
            "the answer of the agent at {} broke off: {}",
            self.name,
            cause::root(error)
        ))
    }
}

/// Whether the socket is the agent's: another user's program may have put its own there.
async fn is_agents(socket: &Path, name: &str) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let is = |kind| error.kind() == kind;
        let remedy = if is(ErrorKind::PermissionDenied) {
            "; run this as root, or give --host or --context"
        } else if is(ErrorKind::NotFound) {
            "; is it running (systemctl status chas-node-agent), and is its state.run_dir another one?"
        } else {
            "; is it running? systemctl status chas-node-agent"
        };
        AgentFault::Unreachable(format!("no agent answers at {name}: {error}{remedy}"))
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
             [::1], or leave out --host"
        );
    }
    if !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        bail!(
            "the token would go over plain HTTP to {url}, for everybody on the way to read: write \
             https://, or run this command on the node itself, without --host"
        );
    }
    if !insecure {
        bail!(
            "whoever has the port of {url} would get the token, and any user of this host may \
             have it: leave out --host, write https://, or add --insecure if no other user is here"
        );
    }
    Ok(url)
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
