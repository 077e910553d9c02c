//! The server: the example beside this program, as a process of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

/// What nodes register with.
pub(crate) const JOIN_TOKEN: &str = "a-join-token-of-the-fleet";
const ADMIN_TOKEN: &str = "an-admin-token-of-the-fleet";
/// It reads a state of ten thousand nodes before it answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The server and its operator.
pub(crate) struct Control {
    address: SocketAddr,
    url: String,
    health_interval: Duration,
    state: tempfile::TempDir,
    running: Option<Child>,
    operator: reqwest::Client,
}

impl Control {
    /// Starts a server that knows nobody.
    pub(crate) async fn start(health_interval: Duration) -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut control = Self {
            address,
            url: format!("http://{address}"),
            health_interval,
            state: tempfile::tempdir()?,
            running: None,
            operator: reqwest::Client::builder().no_proxy().build()?,
        };
        control.start_again().await?;
        Ok(control)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Starts it on the state and the address that it had, and waits until it answers.
    pub(crate) async fn start_again(&mut self) -> anyhow::Result<()> {
        let program = std::env::current_exe()?.with_file_name("chas-api");
        let mut command = Command::new(&program);
        command
            .arg("--listen")
            .arg(self.address.to_string())
            .arg("--state")
            .arg(self.state.path());
        command
            .arg("--health-after")
            .arg(humantime::format_duration(self.health_interval).to_string());
        command
            .env("CHAS_JOIN_TOKEN", JOIN_TOKEN)
            .env("CHAS_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("RUST_LOG", "error");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.running = Some(
            command
                .spawn()
                .with_context(|| format!("cannot run {}", program.display()))?,
        );
        let deadline = Instant::now() + START_TIMEOUT;
        while self
            .operator
            .get(format!("{}/livez", self.url))
            .send()
            .await
            .is_err()
        {
            ensure!(
                Instant::now() < deadline,
                "the server does not answer within {} s",
                START_TIMEOUT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends it as a power cut does.
    pub(crate) fn cut(&mut self) {
        if let Some(mut child) = self.running.take() {
            // One that is gone already needs no end.
            let _gone = child.kill().and_then(|()| child.wait());
        }
    }

    /// Lists these containers for every node.
    pub(crate) async fn list(&self, containers: Value) -> anyhow::Result<()> {
        let request = self
            .operator
            .put(format!("{}/nodes/_default/set", self.url))
            .bearer_auth(ADMIN_TOKEN);
        let response = request
            .json(&json!({"containers": containers}))
            .send()
            .await
            .context("the server does not answer")?;
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        ensure!(
            status.is_success(),
            "the server refuses the set: {status} {body}"
        );
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.cut();
    }
}
