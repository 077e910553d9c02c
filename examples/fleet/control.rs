//! The control plane: the example server beside this program, in a process of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Token that nodes register with.
pub(crate) const JOIN_TOKEN: &str = "a-join-token-of-the-fleet";
const ADMIN_TOKEN: &str = "an-admin-token-of-the-fleet";
/// Time in which the server starts: it loads a state of ten thousand nodes first.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The server's program: cargo puts this one into the directory `examples` beside it.
fn server_program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let built = own.parent().and_then(Path::parent);
    Ok(built
        .context("this program lies in no directory")?
        .join("chas-api"))
}

/// The server, and the client of its operator.
pub(crate) struct Control {
    address: SocketAddr,
    url: String,
    health_interval: Duration,
    state: tempfile::TempDir,
    running: Option<Child>,
    operator: reqwest::Client,
}

impl Control {
    /// Starts a server without any nodes.
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

    /// The URL of the server.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Starts the server on its former state and address, and waits until it answers.
    pub(crate) async fn start_again(&mut self) -> anyhow::Result<()> {
        let program = server_program()?;
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
                "the server gave no answer within {} s of its start",
                START_TIMEOUT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends the server as a power cut does.
    pub(crate) fn cut(&mut self) {
        if let Some(mut child) = self.running.take() {
            // The process may have ended already.
            let _gone = child.kill().and_then(|()| child.wait());
        }
    }

    /// Writes the set of every node.
    pub(crate) async fn list(&self, containers: Value) -> anyhow::Result<()> {
        let request = self
            .operator
            .put(format!("{}/nodes/_default/set", self.url))
            .bearer_auth(ADMIN_TOKEN);
        let response = request
            .json(&json!({"containers": containers}))
            .send()
            .await
            .context("the server gave no answer to a set")?;
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        ensure!(
            status.is_success(),
            "the server refused the set: {status} {body}"
        );
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.cut();
    }
}
