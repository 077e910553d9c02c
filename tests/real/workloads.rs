//! PostgreSQL, Redis and nginx with data, a configuration file and a password, on a machine: what was committed is there after an
//! update, a power cut and a shutdown, and no secret is anywhere else.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::agent::PROGRAM;
use crate::harness::registry::Registry;
use crate::harness::systemd::Systemd;
use crate::harness::{Testbed, eventually};
use crate::stand::SOON;

mod clients;
mod images;
mod search;

use clients::{Load, Numbers, Postgres, Redis, page};

/// Values that are nowhere by chance. The one of PostgreSQL is made on the machine.
const REDIS_PASSWORD: &str = "redis-unmistakable-4712-word";
const NGINX_PASSWORD: &str = "nginx-unmistakable-4713-word";
const NEXT_PASSWORD: &str = "nginx-unmistakable-4715-word";
const VARIABLE: &str = "variable-unmistakable-4714-word";

/// The key of secrets as a credential of systemd, as the page of secrets says.
const SEAL: &str = "
    head -c 32 /dev/urandom | systemd-creds encrypt --with-key=host --name=secrets-key - /etc/chas/secrets-key.cred
    mkdir /etc/systemd/system/chas-node-agent.service.d
    printf '[Service]\\nLoadCredentialEncrypted=secrets-key:/etc/chas/secrets-key.cred\\n' >/etc/systemd/system/chas-node-agent.service.d/key.conf
    systemctl daemon-reload
    systemctl restart chas-node-agent
    rm /var/lib/chas/node-agent/secrets.key
    sync
";

/// Where an operator works on the machine.
const DESK: &str = "/root/workloads";
const NAMES: [&str; 3] = ["postgres", "redis", "nginx"];

/// The machine and its clients.
struct Node {
    systemd: Systemd,
    postgres: Postgres,
    postgres_password: String,
    numbers: Numbers,
    /// How often pgbench was started.
    runs: u32,
    bed: Testbed,
}

/// A deploy body of the examples, from the test's registry.
fn example(name: &str, registry: &str) -> Value {
    let text = match name {
        "postgres" => include_str!("../../examples/workloads/postgres.json"),
        "redis" => include_str!("../../examples/workloads/redis.json"),
        _ => include_str!("../../examples/workloads/nginx.json"),
    };
    let text = text.replace("docker.io/library", registry);
    let mut body: Value = serde_json::from_str(&text).unwrap();
    body["environment"]["SOMETHING"] = json!(VARIABLE);
    body
}

impl Node {
    /// Boots it, and deploys all three as the page for operators says.
    async fn start() -> Self {
        let bed = Testbed::new();
        let registry = Registry::open(&bed);
        images::push(&registry).await;
        let configuration = format!("registry:\n  insecure: [{}]\n", registry.address());
        let program = Path::new(PROGRAM);
        let configured = registry.configuration();
        let systemd = Systemd::boot_on_disk(&bed, program, &configuration, configured, 1000);
        let mut node = Self {
            systemd,
            postgres: Postgres::new(&bed.dir.join("clients")),
            postgres_password: String::new(),
            numbers: Numbers::default(),
            runs: 0,
            bed,
        };
        let desk = node.systemd.path(DESK);
        fs::create_dir(&desk).unwrap();
        for name in NAMES {
            let body = example(name, registry.address()).to_string();
            fs::write(format!("{desk}/{name}.json"), body).unwrap();
        }
        node.systemd.ask("GET", "/health", None).await;
        node.systemd.run(&format!("set -e{SEAL}")).unwrap();
        for file in [
            "/etc/chas/secrets-key.cred",
            "/etc/systemd/system/chas-node-agent.service.d/key.conf",
        ] {
            node.systemd.keep(file);
        }
        node.put("redis-password", REDIS_PASSWORD).await;
        let users = format!("reader:{{PLAIN}}{NGINX_PASSWORD}\n");
        node.put("nginx-users", &users).await;
        for name in ["redis", "nginx"] {
            node.deploy(name).await;
        }
        // In the middle of the pulls.
        sleep(Duration::from_millis(300)).await;
        node.cut_power();
        node.systemd.ask("GET", "/health", None).await;
        node.page("Deploy");
        let take = format!("cat {DESK}/password; rm {DESK}/password");
        node.postgres_password = node.systemd.run(&take).unwrap();
        node.postgres.set_password(&node.postgres_password);
        node.running(1).await;
        node
    }

    async fn put(&self, secret: &str, value: &str) {
        let (path, body) = (format!("/secrets/{secret}"), json!({"value": value}));
        self.systemd.ask("PUT", &path, Some(&body)).await;
    }

    /// Runs the commands of a section of the page, as an operator on the machine; see [`Self::page_part`].
    fn page(&self, section: &str) {
        self.page_part(section, 0);
    }

    /// As [`Self::page`], of the one of its blocks with that number.
    fn page_part(&self, section: &str, number: usize) {
        let page = include_str!("../../contrib/docs/workloads.md");
        let block = |text: &'static str, number: usize| {
            let after = text.split("```sh\n").nth(number + 1).unwrap();
            after.split("```").next().unwrap()
        };
        let (_, text) = page.split_once(&format!("## {section}\n")).unwrap();
        let text = text.split("\n## ").next().unwrap();
        let script = format!(
            "set -e\ncd {DESK}\n{}{}",
            block(page, 0),
            block(text, number)
        );
        let limit = format!("timeout 60 bash -c \"$(cat <<'PAGE'\n{script}PAGE\n)\"");
        let ran = self.systemd.run(&limit);
        ran.unwrap_or_else(|error| panic!("{section}: {error}"));
    }

    /// Deploys what lies on the desk.
    async fn deploy(&self, name: &str) {
        let body = fs::read(self.systemd.path(&format!("{DESK}/{name}.json"))).unwrap();
        let body = serde_json::from_slice(&body).unwrap();
        self.systemd
            .ask("POST", "/containers/deploy", Some(&body))
            .await;
    }

    /// Deploys all three from other images.
    async fn update(&self) {
        let script = format!("cd {DESK}; sed -i -E 's/(redis|nginx):[0-9]+/&.9/' *.json");
        self.systemd.run(&script).unwrap();
        for name in ["redis", "nginx"] {
            self.deploy(name).await;
        }
        self.page("Update");
        self.running(2).await;
        for name in NAMES {
            assert_eq!(self.look(name, &["cat", "/generation"]).await, "2");
        }
    }

    /// Asks for the next generation of all three, and answers as soon as it is stored.
    async fn renew(&self) {
        for name in NAMES {
            let path = self.systemd.path(&format!("{DESK}/{name}.json"));
            let mut body: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            body["environment"]["AGAIN"] = json!("1");
            fs::write(path, body.to_string()).unwrap();
            self.deploy(name).await;
        }
    }

    /// What a program in a container prints.
    async fn look(&self, name: &str, command: &[&str]) -> String {
        let (path, body) = (
            format!("/containers/{name}/exec"),
            json!({"command": command}),
        );
        let done = self.systemd.ask("POST", &path, Some(&body)).await;
        assert_eq!(done["exit_code"], 0, "{done}");
        done["stdout"].as_str().unwrap().to_owned()
    }

    /// Waits until all three run, and answer, in their generation.
    async fn running(&self, generation: u32) {
        let deadline = Instant::now() + SOON;
        for name in NAMES {
            let mut told = Value::Null;
            while told["status"] != "running" || told["applied_generation"] != generation {
                assert!(
                    Instant::now() < deadline,
                    "{name} {generation}: {told}\n{}",
                    self.log(name).await
                );
                sleep(Duration::from_millis(100)).await;
                let path = format!("/containers/{name}");
                told = self.systemd.ask("GET", &path, None).await;
            }
        }
        self.answer();
    }

    /// Waits until all three answer.
    fn answer(&self) {
        eventually("PostgreSQL answers", SOON, || {
            self.postgres.sql(&self.systemd, "SELECT 1").is_ok()
        });
        eventually("Redis answers", SOON, || {
            let stream = self.systemd.connect(clients::REDIS_PORT);
            let redis = stream.and_then(|stream| Redis::connect(stream, REDIS_PASSWORD));
            redis.is_ok()
        });
        eventually("nginx answers", SOON, || page(&self.systemd, None).is_ok());
    }

    /// Cuts its power, and boots it without a registry; proves that it was cut: of a file that grows until
    /// then, and that nobody syncs, the end is lost. Its beginning may be synced by others.
    ///
    /// What is acknowledged in the moment of the cut does not count: power that goes answers nobody, but a
    /// file system that is shut down may tell a sync beside it that it was done (one number of 3,907
    /// was lost so).
    fn cut_power(&mut self) {
        let unsynced = format!("/var/lib/chas/unsynced-{:?}", std::time::SystemTime::now());
        let unsynced = unsynced.replace([' ', '{', '}', ':', ','], "");
        let path = self.systemd.path(&unsynced);
        fs::write(&path, "").unwrap();
        let (begun, is_begun) = std::sync::mpsc::channel();
        let growing = std::thread::spawn(move || {
            let mut written = 0_u64;
            let append = || {
                fs::File::options()
                    .append(true)
                    .open(&path)?
                    .write_all(b"x")
            };
            while append().is_ok() {
                written += 1;
                let _ = begun.send(());
            }
            written
        });
        is_begun.recv().expect("the file can be written");
        std::thread::sleep(Duration::from_millis(20));
        let (rows, numbers) = (self.postgres.mark(), self.numbers.mark());
        self.systemd.cut_power();
        let written = growing.join().unwrap();
        self.postgres.forget_since(rows);
        self.numbers.forget_since(numbers);
        self.systemd.boot_again();
        let kept = fs::metadata(self.systemd.path(&unsynced));
        let kept = kept.map_or(0, |file| file.len());
        assert!(kept < written, "it was not cut: {kept} of {written}");
    }

    /// Proves that the secrets are nowhere but where they are used.
    async fn search(&self) {
        let values = [
            &self.postgres_password,
            REDIS_PASSWORD,
            NGINX_PASSWORD,
            NEXT_PASSWORD,
            VARIABLE,
        ];
        search::assert_nowhere(&self.systemd, &self.bed.dir, &values).await;
        let path = "/run/secrets/postgres-password";
        let seen = self.look("postgres", &["cat", path]).await;
        assert_eq!(seen, self.postgres_password);
        let variables = self.look("redis", &["env"]).await;
        for value in [REDIS_PASSWORD, VARIABLE] {
            assert!(variables.contains(value), "{variables}");
        }
    }

    /// Gives nginx another password, for the process that runs.
    async fn change_password(&self) {
        let pid = "pgrep -x -o nginx";
        let before = self.systemd.run(pid).unwrap();
        let users = format!("reader:{{PLAIN}}{NEXT_PASSWORD}\n");
        self.put("nginx-users", &users).await;
        let status = |password: &str| {
            let answer = page(&self.systemd, Some(&format!("reader:{password}")));
            answer.map_or(0, |(status, _)| status)
        };
        eventually("the next password opens", SOON, || {
            status(NEXT_PASSWORD) == 200
        });
        assert_eq!(status(NGINX_PASSWORD), 401);
        assert_eq!(self.systemd.run(pid).unwrap(), before);
    }

    /// Proves that the unit leaves the agent what it needs to limit what is asked of a disk.
    async fn limit_disk(&self) {
        let make = "number=$(mountpoint -d /var/lib/chas); mknod /dev/kept b ${number%:*} ${number#*:}; echo $number";
        let number = self.systemd.run(make).unwrap();
        let body = fs::read(self.systemd.path(&format!("{DESK}/redis.json"))).unwrap();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        body["resources"]["io"] = json!({"write_bps": {"/dev/kept": "50m"}});
        self.systemd
            .ask("POST", "/containers/deploy", Some(&body))
            .await;
        let look = "cat /sys/fs/cgroup/blkio/chas/*/blkio.throttle.write_bps_device /sys/fs/cgroup/chas/*/io.max";
        let is_set = || {
            let set = self.systemd.run(&format!("{look}; true")).unwrap();
            let line = format!("{} ", number.trim());
            set.lines()
                .any(|set| set.starts_with(&line) && set.contains("52428800"))
        };
        eventually("its disk is limited", SOON, is_set);
    }

    /// Proves that a program with secrets that crashes leaves no file of its memory.
    async fn crash(&self) {
        let crash = "pid=$(pgrep -f '^postgres: checkpointer'); grep 'core file' /proc/$pid/limits; kill -ABRT $pid; \
            for i in $(seq 100); do [ -e /proc/$pid ] || exit 0; sleep 0.1; done; exit 1";
        let limits = self.systemd.run(crash).unwrap();
        let limits: Vec<_> = limits.split_whitespace().collect();
        assert_eq!(limits, ["Max", "core", "file", "size", "0", "0", "bytes"]);
        let core = "! find /var/lib/chas/node-agent/volumes -name 'core*' | grep .";
        self.systemd.run(core).unwrap();
        self.running(2).await;
    }

    async fn log(&self, name: &str) -> String {
        self.systemd
            .answer("GET", &format!("/containers/{name}/logs?tail=20"), None)
            .await
            .1
    }

    fn load(&mut self) -> [Load; 2] {
        self.runs += 1;
        let postgres = self.postgres.load(&self.systemd, self.runs);
        [postgres, self.numbers.load(&self.systemd, REDIS_PASSWORD)]
    }

    /// Proves that all that was committed is there, and that nginx serves the volume to who has the password.
    fn assert_nothing_lost(&self, when: &str, served: &str) {
        let rows = self.postgres.assert_nothing_lost(&self.systemd);
        let numbers = self
            .numbers
            .assert_nothing_lost(&self.systemd, REDIS_PASSWORD);
        eprintln!("{when}: {rows} transactions and {numbers} numbers, none lost");
        assert_eq!(page(&self.systemd, None).unwrap().0, 401);
        let wrong = Some("reader:something");
        assert_eq!(page(&self.systemd, wrong).unwrap().0, 401);
        let (status, text) =
            page(&self.systemd, Some(&format!("reader:{NGINX_PASSWORD}"))).unwrap();
        assert_eq!(status, 200, "{text}");
        for part in ["X-Configured: by-a-file", served] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    /// Waits until so much more was committed.
    fn committed(&self, more: usize) {
        let enough = (
            self.postgres.noted().len() + more,
            self.numbers.count() + more,
        );
        eventually("much is committed", SOON, || {
            self.postgres.noted().len() >= enough.0 && self.numbers.count() >= enough.1
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_committed_row_is_lost_by_an_update_a_power_cut_or_a_shutdown_and_no_secret_is_found() {
    let began = Instant::now();
    let lap = |what: &str| eprintln!("{:6.1} s: {what}", began.elapsed().as_secs_f64());
    let mut node = Node::start().await;
    lap("deployed");
    // What was filled and made a moment ago is there, or made again.
    node.cut_power();
    node.running(1).await;
    node.postgres.fill(&node.systemd);
    lap("cut, booted and filled");

    let load = node.load();
    node.committed(100);
    node.update().await;
    lap("updated");
    node.committed(100);
    drop(load);
    node.assert_nothing_lost("an update", "the page of the image");
    node.search().await;
    node.crash().await;
    lap("searched and crashed");

    node.systemd.forget_registry();
    let load = node.load();
    node.committed(100);
    let put = "cd /tmp; echo changed by hand >index.html; tar -c index.html | curl -sSf \
        --unix-socket /run/chas/agent.sock -T - http://localhost/volumes/nginx-pages/archive";
    node.systemd.run(put).unwrap();
    node.cut_power();
    drop(load);
    node.running(2).await;
    lap("cut, booted and running");
    node.assert_nothing_lost("a power cut", "changed by hand");
    node.search().await;

    // In the middle of an update.
    let load = node.load();
    node.committed(100);
    node.renew().await;
    node.cut_power();
    drop(load);
    node.running(3).await;
    lap("cut, booted and running");
    node.assert_nothing_lost("a power cut in an update", "changed by hand");

    let load = node.load();
    node.committed(100);
    node.systemd.shut_down(Duration::from_secs(60));
    drop(load);
    lap("shut down");
    node.systemd.boot_again();
    node.running(3).await;
    lap("booted and running");
    node.assert_nothing_lost("a shutdown", "changed by hand");
    node.search().await;

    node.page("Back up");
    node.page_part("Restore", 0);
    node.page_part("Restore", 1);
    node.cut_power();
    node.answer();
    let key = "! test -e /var/lib/chas/node-agent/secrets.key";
    node.systemd.run(key).unwrap();
    let done = node.postgres.assert_nothing_lost(&node.systemd);
    assert!(done > 400, "{done}");
    node.change_password().await;
    node.limit_disk().await;
    node.search().await;
    let disk = node
        .systemd
        .run("df -m --output=used /var/lib/chas | tail -n 1")
        .unwrap();
    lap(&format!("restored; MiB used: {}", disk.trim()));
}
