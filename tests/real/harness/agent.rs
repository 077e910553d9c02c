//! The agent's own binary, started, asked and killed as an operator would.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::containerd::{pid, search_path};
use super::contract::{self, GivenAnswer};
use super::machine::{Machine, only_child};
use super::proxy::Proxy;
use super::{Testbed, http};

/// The bearer token that tests give the agent and use.
pub(crate) const TOKEN: &str = "a-token-for-tests-0123456789abcdef";

/// The agent's own binary.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_chas-node-agent");

/// The agent on a testbed. It is ended (SIGTERM) with the value; its containers live on.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Option<Child>,
    program: PathBuf,
    environment: BTreeMap<String, String>,
    /// Where it runs, and what leads to it there; `None`: on this computer.
    machine: Option<(Arc<Machine>, Proxy)>,
    base: String,
    client: reqwest::Client,
    log: PathBuf,
}

impl Agent {
    /// Starts it on the testbed, where its containerd runs, and waits until it is alive.
    pub(crate) async fn start(bed: &Testbed) -> Self {
        Self::start_with(bed, &[]).await
    }

    /// As [`Self::start`], with more environment variables, or others than usual.
    pub(crate) async fn start_with(bed: &Testbed, variables: &[(&str, &str)]) -> Self {
        Self::start_program(bed, Path::new(PROGRAM), variables).await
    }

    /// As [`Self::start_with`], from a copy of the program.
    pub(crate) async fn start_program(
        bed: &Testbed,
        program: &Path,
        variables: &[(&str, &str)],
    ) -> Self {
        let port = bed.port();
        let usual = [
            (
                "CHAS_STATE_DIR",
                bed.dir.join("state").display().to_string(),
            ),
            ("CHAS_RUN_DIR", bed.dir.join("run").display().to_string()),
            ("CHAS_NAMESPACE", bed.namespace.clone()),
            ("CHAS_BRIDGE", bed.bridge.clone()),
            ("CHAS_SUBNET", bed.subnet.clone()),
            (
                "CHAS_PORT_RANGE",
                format!("{}-{}", bed.ports.start, bed.ports.end - 1),
            ),
            ("CHAS_LISTEN", "127.0.0.1".to_owned()),
            ("NODE_PORT", port.to_string()),
            (
                "CONTAINERD_SOCKET",
                bed.containerd.socket().display().to_string(),
            ),
            ("CHAS_TOKEN", TOKEN.to_owned()),
            ("NODE_ID", bed.namespace.clone()),
            ("LOG_LEVEL", "DEBUG".to_owned()),
        ];
        let mut environment: BTreeMap<_, _> = usual
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        environment.extend(
            variables
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned())),
        );
        let machine = bed.containerd.machine().map(|machine| {
            let console = Arc::clone(machine);
            (
                Arc::clone(machine),
                Proxy::between(Ipv4Addr::LOCALHOST, move || console.connect(port)),
            )
        });
        let base = machine.as_ref().map_or_else(
            || format!("127.0.0.1:{port}"),
            |(_, console)| console.address(),
        );
        let has_tls = environment.contains_key("CHAS_TLS_CERT_FILE");
        let scheme = if has_tls { "https" } else { "http" };
        let (base, log) = (format!("{scheme}://{base}"), bed.dir.join("agent.log"));
        let mut agent = Self {
            child: None,
            program: program.to_owned(),
            environment,
            machine,
            base,
            client: http::trusting_client(),
            log,
        };
        agent.start_again().await;
        agent
    }

    /// Starts it on the state that it left, and waits until it is alive.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.child.is_none(), "the agent runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file");
        let mut command = match &self.machine {
            Some((machine, _)) => machine.command(&self.program),
            None => Command::new(&self.program),
        };
        command
            .env_clear()
            .env("PATH", search_path())
            // As its unit of systemd does.
            .env("MALLOC_ARENA_MAX", "2")
            .envs(&self.environment)
            .stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .process_group(0);
        self.child = Some(command.spawn().expect("cargo built it"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while self
            .call("GET", "/livez", None)
            .await
            .is_none_or(|(status, _)| status != 200)
        {
            let ended = self
                .child
                .as_mut()
                .expect("just started")
                .try_wait()
                .expect("it is our child");
            assert!(
                ended.is_none(),
                "the agent ended ({ended:?}):\n{}",
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "the agent is not alive:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Gives its next start another value of a variable.
    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.environment
            .insert(variable.to_owned(), value.to_owned());
    }

    /// What it is started with.
    pub(crate) fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// What kills it, for whoever does not hold it.
    pub(crate) fn killer(&self) -> Killer {
        Killer(
            self.child
                .as_ref()
                .and_then(|child| self.process(child))
                .expect("the agent runs"),
        )
    }

    /// Its process id on this computer.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent runs").id()
    }

    fn process(&self, child: &Child) -> Option<Pid> {
        if self.machine.is_some() {
            only_child(pid(child))
        } else {
            Some(pid(child))
        }
    }

    /// Kills it.
    pub(crate) fn kill_9(&mut self) {
        self.end(Signal::KILL);
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) {
        self.end(Signal::TERM);
    }

    /// Sends it a signal that does not end it.
    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.child.as_ref().and_then(|child| self.process(child));
        kill_process(process.expect("the agent runs"), signal).expect("it is our child");
    }

    /// The address that its API listens on.
    pub(crate) fn address(&self) -> String {
        let (_, address) = self.base.split_once("://").expect("it is a URL");
        address.to_owned()
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Some(process) = self.process(&child) {
            let _ = kill_process(process, signal);
        }
        child.wait().expect("it is our child");
    }

    /// Where it is called, scheme and all.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// All that it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it; the status and the body, as JSON or else as a string. `None` if it cannot be reached.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let method: reqwest::Method = method.parse().expect("a method");
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base))
            .bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.timeout(Duration::from_secs(90)).send().await.ok()?;
        let (status, kind) = (response.status().as_u16(), kind(&response));
        let text = response.text().await.ok()?;
        self.check((method.as_str(), path), (status, kind.as_deref()), &text)
            .await;
        Some((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }

    /// Asks it with headers; the status, the answer's `ETag` and its body.
    pub(crate) async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> (u16, String, Value) {
        let method: reqwest::Method = method.parse().expect("a method");
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base))
            .bearer_auth(TOKEN);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .timeout(Duration::from_secs(90))
            .send()
            .await
            .expect("the agent answers");
        let etag = response
            .headers()
            .get("etag")
            .and_then(|tag| tag.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let (status, kind) = (response.status().as_u16(), kind(&response));
        let text = response.text().await.expect("text");
        self.check((method.as_str(), path), (status, kind.as_deref()), &text)
            .await;
        (
            status,
            etag,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// Holds an answer against the document, unless it is another version's.
    async fn check(
        &self,
        (method, path): (&str, &str),
        (status, kind): (u16, Option<&str>),
        text: &str,
    ) {
        if self.program == Path::new(PROGRAM)
            && let Some(kind) = kind
        {
            let body = text.as_bytes();
            let answer = GivenAnswer {
                method,
                path,
                status,
                kind,
                body,
            };
            contract::check(&self.client, &self.base, &answer).await;
        }
    }

    /// As [`Self::call`], and the agent must be there to answer.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.call(method, path, body)
            .await
            .unwrap_or_else(|| panic!("{method} {path}: the agent does not answer"))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, None).await
    }

    /// Sends a deploy body.
    pub(crate) async fn deploy(&self, body: &Value) -> (u16, Value) {
        self.ask("POST", "/containers/deploy", Some(body)).await
    }

    /// Deploys, and waits until the container runs; its view.
    pub(crate) async fn deploy_and_wait(&self, body: &Value) -> Value {
        let (status, view) = self.deploy(body).await;
        assert!(
            status == 202 || status == 200,
            "{body} is taken: {status} {view}"
        );
        let name = body["name"].as_str().expect("a name");
        self.wait_status(name, "running", Duration::from_secs(60))
            .await
    }

    /// Waits until a container has the status; its view.
    pub(crate) async fn wait_status(&self, name: &str, status: &str, timeout: Duration) -> Value {
        let deadline = Instant::now() + timeout;
        loop {
            let (code, view) = self.get(&format!("/containers/{name}")).await;
            if code == 200 && view["status"] == json!(status) {
                return view;
            }
            assert!(
                Instant::now() < deadline,
                "{name} is not {status} within {timeout:?}: {code} {view:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Deletes a container, and waits until it is gone.
    pub(crate) async fn delete_and_wait(&self, name: &str) {
        let (status, body) = self
            .ask("DELETE", &format!("/containers/{name}"), None)
            .await;
        assert!(
            status == 202 || status == 200,
            "{name} is deleted: {status} {body}"
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.has(name).await {
            assert!(Instant::now() < deadline, "{name} is not gone");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A container has this name. `cafe`, say, may be the beginning of another one's id, too.
    async fn has(&self, name: &str) -> bool {
        let (status, view) = self.get(&format!("/containers/{name}")).await;
        status != 404 && view["name"] == name
    }

    /// As [`Self::delete_and_wait`], where it may be gone already.
    pub(crate) async fn delete_and_wait_if_there(&self, name: &str) {
        if self.has(name).await {
            self.ask(
                "DELETE",
                &format!("/containers/{name}?wait=removed&timeout=60s"),
                None,
            )
            .await;
        }
    }

    /// The container's log as text. `query` as in `tail=10`.
    pub(crate) async fn logs(&self, name: &str, query: &str) -> String {
        let url = format!("{}/containers/{name}/logs?{query}", self.base);
        let response = self
            .client
            .get(url)
            .bearer_auth(TOKEN)
            .send()
            .await
            .expect("the agent answers");
        assert_eq!(response.status(), 200, "the logs of {name}");
        response.text().await.expect("text")
    }
}

/// Kills an agent once, while its child is still waited for by somebody else.
#[derive(Debug)]
pub(crate) struct Killer(Pid);

impl Killer {
    pub(crate) fn kill_9(self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.terminate();
        if std::thread::panicking() {
            // Without what tests ask again and again while they wait.
            let log: String = self
                .log()
                .split_inclusive('\n')
                .filter(|line| !line.contains("request method=GET"))
                .collect();
            let start = log.len().saturating_sub(16 << 10);
            eprintln!(
                "the agent's last words:\n{}",
                String::from_utf8_lossy(&log.as_bytes()[start..])
            );
        }
    }
}

/// The type of an answer. `None`: it is none of the agent's, which bear the id of their request.
fn kind(response: &reqwest::Response) -> Option<String> {
    let headers = response.headers();
    headers.get("x-request-id")?;
    let kind = headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok());
    Some(kind.unwrap_or_default().to_owned())
}
