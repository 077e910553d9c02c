//! What most tests of the whole agent start with: a testbed, an open registry with two images, and the agent.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::image::Image;
use crate::harness::registry::Registry;

/// Longer than anything takes that works, also on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

pub(crate) struct Stand {
    pub(crate) agent: Agent,
    pub(crate) registry: Registry,
    pub(crate) bed: Testbed,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        Self::on(Testbed::new()).await
    }

    pub(crate) async fn on(bed: Testbed) -> Self {
        Self::with(bed, &[]).await
    }

    /// With more environment variables for the agent.
    pub(crate) async fn with(bed: Testbed, variables: &[(&str, &str)]) -> Self {
        Self::of(bed, Path::new(PROGRAM), variables).await
    }

    /// As [`Self::with`], with another program as the agent.
    pub(crate) async fn of(bed: Testbed, program: &Path, variables: &[(&str, &str)]) -> Self {
        let registry = Registry::open(&bed);
        Image::web().push(&registry, "web:1").await;
        Image::busybox().push(&registry, "box:1").await;
        let insecure = [("CHAS_REGISTRY_INSECURE", registry.address())];
        let variables = [variables, &insecure].concat();
        let agent = Agent::start_program(&bed, program, &variables).await;
        Self {
            agent,
            registry,
            bed,
        }
    }

    /// The reference of an image in the registry.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address())
    }

    /// A body that runs a shell script. SIGTERM ends it at once.
    pub(crate) fn script(&self, name: &str, script: &str, more: &Value) -> Value {
        let script = format!("trap 'exit 143' TERM; {script}");
        let mut body = json!({"name": name, "image": self.image("box:1"), "command": ["sh", "-c", script], "stop": {"timeout": "2s"}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    }

    /// A body of the web server, its port 80 published.
    pub(crate) fn web(&self, name: &str, more: &Value) -> Value {
        let mut body = json!({"name": name, "image": self.image("web:1"), "exposed_ports": [{"container": 80}], "stop": {"timeout": "0s"}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    }

    /// The process id of a container's first process, as containerd has it.
    pub(crate) fn pid(&self, shown: &Value) -> Option<String> {
        let tasks = self.bed.ctr(&["tasks", "ls"]);
        let name = format!("{}-", shown["id"].as_str().unwrap());
        let line = tasks.lines().find(|line| line.starts_with(&name))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    }

    /// Removes every container, and proves that nothing of them is left.
    pub(crate) async fn end(self) {
        let (_, shown) = self.agent.get("/containers").await;
        for container in shown["containers"].as_array().unwrap() {
            self.agent
                .ask(
                    "DELETE",
                    &format!("/containers/{}", container["name"].as_str().unwrap()),
                    None,
                )
                .await;
        }
        for container in shown["containers"].as_array().unwrap() {
            self.agent
                .delete_and_wait_if_there(container["name"].as_str().unwrap())
                .await;
        }
        self.bed.assert_no_container_left();
    }

    /// Waits until a container's log holds `text`; the whole log.
    pub(crate) async fn printed(&self, name: &str, text: &str) -> String {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let log = self.agent.logs(name, "tail=all").await;
            if log.contains(text) {
                return log;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{name} has not printed {text:?} but {log:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The page that a container serves on its first published port.
pub(crate) async fn page(shown: &Value) -> Option<String> {
    let url = format!("http://127.0.0.1:{}/", shown["ports"][0]["host"]);
    let answer = crate::harness::http::client()
        .get(url)
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .ok()?;
    answer.text().await.ok()
}

pub(crate) async fn serves(shown: &Value) -> bool {
    page(shown).await.is_some_and(|page| page.contains("hello"))
}

/// Waits until `is` holds.
pub(crate) async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !is().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: not within {SOON:?}"
        );
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
