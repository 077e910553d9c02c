//! An operator's commands to the agent, from the command line: they go over the agent's own API,
//! like everybody's.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::cause;
use crate::config::ApiSection;

/// Timeout of a call: the agent answers from memory, but for one write.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Shows the unconfirmed part of the set from CHaS, and (unless `only_list`) confirms just that.
/// Answers the text to print.
///
/// # Errors
/// The agent is unreachable, or refuses.
pub async fn confirm(api: &ApiSection, only_list: bool) -> anyhow::Result<String> {
    let agent = Agent {
        client: Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .timeout(TIMEOUT)
            .build()?,
        api,
    };
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
    if names.is_empty() {
        return Ok("Nothing waits for a confirmation.\n".to_owned());
    }
    let generation = &link["generation"];
    let mut text = format!(
        "CHaS, by generation {generation}, would end or change {}:\n",
        names.len()
    );
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
        text.push_str("Confirmed: they end now; what is only changed, with CHaS's next answer.\n");
    }
    Ok(text)
}

struct Agent<'a> {
    client: Client,
    api: &'a ApiSection,
}

impl Agent<'_> {
    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let address = reachable(self.api.listen);
        let mut request = self
            .client
            .request(method, format!("http://{address}/{path}"));
        if let Some(token) = &self.api.token {
            request = request.bearer_auth(token.expose());
        }
        let unreachable = |error: reqwest::Error| {
            anyhow::anyhow!("no agent answers at {address}: {}", cause::root(&error))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body: Value = response
            .json()
            .await
            .with_context(|| format!("the answer at {address} is not an agent's"))?;
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED => {
                bail!("the agent at {address} needs a token: CHAS_TOKEN, or api.token_file")
            }
            status => bail!(
                "the agent refuses ({status}): {}",
                body["detail"].as_str().unwrap_or("without a reason")
            ),
        }
    }
}

/// The address to reach a listener at: one that listens everywhere listens on loopback, too.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}
