//! Several nodes and one CHaS, each node a machine of its own: what each runs, alone and together.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::chas_api::{Server, Settings, serve};
use crate::harness::agent::Agent;
use crate::harness::containerd::Containerd;
use crate::harness::image::Image;
use crate::harness::machine::Machine;
use crate::harness::proxy::Proxy;
use crate::harness::registry::Registry;
use crate::harness::{Testbed, eventually, http, run};
use crate::stand::SOON;

mod chain;
mod cut_off;
mod dual;
mod silence;

const JOIN_TOKEN: &str = "a-token-to-join-with-0123456789";
const ADMIN_TOKEN: &str = "a-token-to-operate-with-0123456789";
/// A node reports so often; three times that without a word, and CHaS counts it as offline.
const HEALTH_AFTER: Duration = Duration::from_secs(2);
/// A node that was away for some seconds is back after so long, and most are sooner.
const BACK: Duration = Duration::from_secs(90);

/// The network between the nodes, and what is on it besides them: CHaS and a registry.
struct Center {
    registry: Registry,
    client: reqwest::Client,
    /// `host:port` of CHaS, which operators use. Nodes go through a recorder each.
    api: String,
    _stop: DropGuard,
    gateway: Ipv4Addr,
    bed: Testbed,
}

impl Center {
    async fn new() -> Self {
        let bed = Testbed::new();
        let gateway: Ipv4Addr = bed.subnet.replace(".0/24", ".1").parse().unwrap();
        // A bridge without a hardware address of its own takes one of its ports', and changes it with them.
        let network = format!(
            "ip link add {0} address 02:00:00:00:00:01 type bridge; ip address add {gateway}/24 dev {0}; ip link set {0} up",
            bed.bridge
        );
        run("sh", ["-ec", &network]).unwrap();
        let registry = Registry::open_on(&bed, gateway);
        Image::web().push(&registry, "web:1").await;
        let settings = Settings {
            join_token: Some(JOIN_TOKEN.to_owned()),
            admin_token: Some(ADMIN_TOKEN.to_owned()),
            health_after: HEALTH_AFTER,
            ..Settings::default()
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (api, stop) = (
            listener.local_addr().unwrap().to_string(),
            CancellationToken::new(),
        );
        let server = Server::open(settings).unwrap();
        TaskTracker::new().spawn(serve(listener, server, stop.clone()));
        Self {
            registry,
            client: http::client(),
            api,
            _stop: stop.drop_guard(),
            gateway,
            bed,
        }
    }

    /// A machine on its network.
    fn machine(&self, host: u8) -> Arc<Machine> {
        let [a, b, c, _] = self.gateway.octets();
        Arc::new(Machine::boot_on(
            &self.bed.bridge,
            self.gateway,
            Ipv4Addr::new(a, b, c, host),
        ))
    }

    /// What an operator asks of CHaS; its answer.
    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let url = format!("http://{}{path}", self.api);
        let mut request = self
            .client
            .request(method.parse().unwrap(), url)
            .bearer_auth(ADMIN_TOKEN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A web server. Another text is another spec.
    fn web(&self, name: &str, text: &str) -> Value {
        json!({"name": name, "image": format!("{}/web:1", self.registry.address()), "environment": {"TEXT": text},
            "exposed_ports": [{"container": 80}], "stop": {"timeout": "0s"}})
    }

    /// Makes these what a node is to run.
    async fn list(&self, id: &str, containers: &[Value]) {
        self.ask(
            "PUT",
            &format!("/nodes/{id}/set"),
            Some(&json!({"containers": containers})),
        )
        .await;
    }

    /// Which nodes CHaS knows, and whether they are online.
    async fn online(&self) -> BTreeMap<String, bool> {
        let shown = self.ask("GET", "/nodes", None).await;
        let line = |node: &Value| {
            (
                node["id"].as_str().unwrap().to_owned(),
                node["online"] == true,
            )
        };
        shown["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(line)
            .collect()
    }

    /// Waits until the node has reported that it runs what it is to run; CHaS's view of it.
    async fn converged(&self, id: &str) -> Value {
        let deadline = Instant::now() + BACK;
        loop {
            let shown = self.ask("GET", &format!("/nodes/{id}"), None).await;
            let generation = &shown["generation"];
            if shown["online"] == true
                && shown["converged"] == true
                && generation["applied"] == generation["wanted"]
            {
                return shown;
            }
            assert!(
                Instant::now() < deadline,
                "{id} has not converged within {BACK:?}: {shown:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A machine with a containerd and an agent of its own.
struct Node {
    id: &'static str,
    agent: Agent,
    /// Between it and CHaS.
    recorder: Proxy,
    machine: Arc<Machine>,
    bed: Testbed,
}

impl Node {
    async fn start(center: &Center, id: &'static str, host: u8) -> Self {
        let machine = center.machine(host);
        let bed = Testbed::on(Arc::new(Containerd::private_on(Arc::clone(&machine))));
        let api = center.api.clone();
        let recorder = Proxy::between(center.gateway, move || TcpStream::connect(&api));
        let variables = [
            ("NODE_ID", id),
            ("CHAS_RUN_DIR", "/run/chas-node-agent"),
            ("CHAS_API_URL", &format!("http://{}", recorder.address())),
            ("CHAS_API_TOKEN", JOIN_TOKEN),
            ("CHAS_REGISTRY_INSECURE", center.registry.address()),
        ];
        let agent = Agent::start_with(&bed, &variables).await;
        Self {
            id,
            agent,
            recorder,
            machine,
            bed,
        }
    }

    /// What it runs, by name, with the process that it is.
    async fn running(&self) -> BTreeMap<String, String> {
        let (_, shown) = self.agent.get("/containers?status=running").await;
        let tasks = self.bed.ctr(&["tasks", "ls"]);
        let pid = |view: &Value| {
            let id = format!("{}-", view["id"].as_str().unwrap());
            let task = tasks
                .lines()
                .find(|line| line.starts_with(&id) && line.contains("RUNNING"))?;
            Some((
                view["name"].as_str().unwrap().to_owned(),
                task.split_whitespace().nth(1)?.to_owned(),
            ))
        };
        shown["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(pid)
            .collect()
    }

    /// Waits until just these run; see [`Self::running`].
    async fn runs(&self, names: &[&str]) -> BTreeMap<String, String> {
        let deadline = Instant::now() + SOON;
        loop {
            let running = self.running().await;
            if running.keys().eq(names) {
                return running;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not run {names:?} within {SOON:?} but {running:?}",
                self.id
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until its agent says so of its link to CHaS.
    async fn reaches_chas(&self, wanted: bool) {
        let deadline = Instant::now() + SOON;
        while self.agent.get("/health").await.1["chas"]["reachable"] != wanted {
            assert!(
                Instant::now() < deadline,
                "{}: CHaS is not reachable={wanted} within {SOON:?}",
                self.id
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it has asked of CHaS: `register`, `report` or `poll`.
    fn calls(&self) -> Vec<&'static str> {
        let word = |target: &str| match target.rsplit('/').next() {
            Some("register") => "register",
            Some("health") => "report",
            Some("desired-state") => "poll",
            _ => "something else",
        };
        self.recorder
            .all_requests()
            .iter()
            .map(|request| word(&request.target))
            .collect()
    }

    /// The page that a container serves on its published port, asked for on the machine itself.
    async fn page(&self, name: &str) -> String {
        let (_, shown) = self.agent.get(&format!("/containers/{name}")).await;
        let port = shown["ports"][0]["host"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .expect("it is published");
        let mut stream = self.machine.connect(port).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// The power fails, and returns.
    async fn reboot(&mut self) {
        self.machine.power_off();
        self.agent.kill_9();
        self.bed.containerd.kill_9();
        // What the kernel keeps of control groups would be gone, too.
        let name = format!("*{}*", self.bed.namespace);
        let groups = [
            "/sys/fs/cgroup",
            "-ignore_readdir_race",
            "-depth",
            "-type",
            "d",
        ];
        let removing = ["-path", &name, "-exec", "rmdir", "{}", ";"];
        // Other tests take theirs away while it looks at all of them.
        eventually("its control groups are gone", SOON, || {
            run("find", groups.into_iter().chain(removing)).is_ok()
        });
        self.machine.boot();
        self.bed.containerd.start();
        assert_eq!(
            self.bed.ctr(&["tasks", "ls", "-q"]),
            "",
            "nothing survives a power cut"
        );
        self.agent.start_again().await;
    }

    /// Removes every container on CHaS's word, and proves that nothing of them is left.
    async fn end(self, center: &Center) {
        center.list(self.id, &[]).await;
        let generation = &center
            .ask("GET", &format!("/nodes/{}", self.id), None)
            .await["generation"]["wanted"];
        center
            .ask(
                "POST",
                &format!("/nodes/{}/confirm?generation={generation}", self.id),
                None,
            )
            .await;
        center.converged(self.id).await;
        self.bed.assert_no_container_left();
        let links = self.machine.run("ip", &["-brief", "link"]).unwrap();
        let names: Vec<_> = links
            .lines()
            .filter_map(|line| line.split(['@', ' ']).next())
            .collect();
        assert_eq!(names, ["lo", "eth0", &self.bed.bridge], "{links}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_goes_on_reboots_and_comes_back_and_restarts_nothing_that_matched() {
    let center = Center::new().await;
    let webs = |names: &[&str]| {
        names
            .iter()
            .map(|name| center.web(name, "first"))
            .collect::<Vec<_>>()
    };
    center.list("node-a", &webs(&["a-one", "a-two"])).await;
    center
        .list(
            "node-b",
            &webs(&["b-changes", "b-leaves", "b-stays", "b-too"]),
        )
        .await;
    center.list("node-c", &webs(&["c-one", "c-two"])).await;
    let a = Node::start(&center, "node-a", 11).await;
    let mut b = Node::start(&center, "node-b", 12).await;
    let c = Node::start(&center, "node-c", 13).await;
    for node in [&a, &b, &c] {
        center.converged(node.id).await;
        assert_eq!(&node.calls()[..3], ["register", "report", "poll"]);
    }
    let a_before = a.runs(&["a-one", "a-two"]).await;
    b.runs(&["b-changes", "b-leaves", "b-stays", "b-too"]).await;
    let c_before = c.runs(&["c-one", "c-two"]).await;
    let online = |a, b| {
        [("node-a", a), ("node-b", b), ("node-c", true)]
            .map(|(id, is)| (id.to_owned(), is))
            .into()
    };
    assert_eq!(center.online().await, online(true, true));
    let b_boot = center.converged("node-b").await["registration"]["boot_id"].clone();

    // Two are cut off. Meanwhile something else is wanted of one of them.
    a.machine.set_plugged(false);
    b.machine.set_plugged(false);
    let mut wanted = webs(&["b-new", "b-stays", "b-too"]);
    wanted.push(center.web("b-changes", "second"));
    center.list("node-b", &wanted).await;

    // What dies is restarted, and nothing else.
    let (_, shown) = a.agent.get("/containers/a-two").await;
    a.bed.ctr(&[
        "tasks",
        "kill",
        "--signal",
        "SIGKILL",
        &format!("{}-1", shown["id"].as_str().unwrap()),
    ]);
    crate::stand::eventually("a-two is another process", async || {
        a.running()
            .await
            .get("a-two")
            .is_some_and(|pid| *pid != a_before["a-two"])
    })
    .await;
    let a_alone = a.runs(&["a-one", "a-two"]).await;
    assert_eq!(a_alone["a-one"], a_before["a-one"]);

    // A reboot brings back what CHaS listed last, without a word from it.
    b.reboot().await;
    let b_alone = b.runs(&["b-changes", "b-leaves", "b-stays", "b-too"]).await;
    assert!(b.page("b-stays").await.contains("hello"));
    for node in [&a, &b] {
        node.reaches_chas(false).await;
    }
    crate::stand::eventually("two are offline", async || {
        center.online().await == online(false, false)
    })
    .await;
    assert_eq!(
        (a.running().await, b.running().await, c.running().await),
        (a_alone.clone(), b_alone.clone(), c_before.clone())
    );

    // They are back: CHaS hears first how they are, and is asked then.
    let (a_calls, b_calls) = (a.calls().len(), b.calls().len());
    a.machine.set_plugged(true);
    b.machine.set_plugged(true);
    let b_shown = center.converged("node-b").await;
    assert_ne!(b_shown["registration"]["boot_id"], b_boot);
    let b_now = b.runs(&["b-changes", "b-new", "b-stays", "b-too"]).await;
    assert_eq!(
        (&b_now["b-stays"], &b_now["b-too"]),
        (&b_alone["b-stays"], &b_alone["b-too"])
    );
    assert_ne!(b_now["b-changes"], b_alone["b-changes"]);
    assert_eq!(&b.calls()[b_calls..][..3], ["register", "report", "poll"]);
    // Its poll was held all the time, over a connection that outlived the cut: what is listed now is asked for anew.
    center.converged("node-a").await;
    assert_eq!(a.running().await, a_alone);
    center
        .list("node-a", &webs(&["a-new", "a-one", "a-two"]))
        .await;
    center.converged("node-a").await;
    let a_now = a.runs(&["a-new", "a-one", "a-two"]).await;
    assert_eq!(
        (&a_now["a-one"], &a_now["a-two"]),
        (&a_alone["a-one"], &a_alone["a-two"])
    );
    let a_calls = a.calls().split_off(a_calls);
    // After a long silence a poll goes ahead where the report before it failed.
    assert!(
        a_calls[..2].contains(&"report")
            && a_calls.contains(&"poll")
            && !a_calls.contains(&"register"),
        "{a_calls:?}"
    );

    // The third has noticed nothing.
    assert_eq!(
        (center.online().await, c.running().await),
        (online(true, true), c_before)
    );
    for node in [a, b, c] {
        node.end(&center).await;
    }
}
