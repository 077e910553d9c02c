//! A computer with a kernel of its own, where this one's kernel has not what a test needs: Debian's, in qemu without the help of
//! the processor. It runs this computer's programs from a disk of its own, and reaches this computer's registry.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::time::Instant;

use super::agent::{PROGRAM, TOKEN};
use super::{Testbed, finish, http};

/// Longer than it takes from power-on to an agent that answers, on a machine with other things to do.
const BOOT_MAX: Duration = Duration::from_secs(240);
/// Longer than anything takes in it that works.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// The computer. It is off once nobody holds it; its disks stay for the next boot.
#[derive(Debug)]
pub(crate) struct VirtualComputer {
    dir: PathBuf,
    kernel: PathBuf,
    /// File system of the disk of its volumes.
    kind: &'static str,
    registry: String,
    port: u16,
    client: Client,
    child: Option<Child>,
}

impl VirtualComputer {
    /// Builds one, and leaves it off. `registry`: the port of one on this computer.
    pub(crate) fn new(bed: &Testbed, kind: &'static str, registry: &str) -> Self {
        let kernel = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel");
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let run = |script: PathBuf, arguments: &[&Path]| {
            let mut command = Command::new("sh");
            command.arg("-eu").arg(script).args(arguments);
            finish(&mut command).unwrap_or_else(|error| panic!("{error}"));
        };
        run(project.join("contrib/kernel"), &[&kernel]);
        let dir = bed.dir.join("qemu");
        fs::create_dir(&dir).unwrap();
        let scripts = project.join("tests/real/harness/qemu");
        let (agent, init) = (Path::new(PROGRAM), scripts.join("init.sh"));
        run(
            scripts.join("build.sh"),
            &[&dir, &kernel, agent, &init, kind.as_ref()],
        );
        let (_, registry) = registry.split_once(':').unwrap();
        Self {
            dir,
            kernel,
            kind,
            registry: format!("10.0.2.2:{registry}"),
            port: bed.port(),
            client: http::client(),
            child: None,
        }
    }

    /// Reference of an image in this computer's registry, as it is known there.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry)
    }

    /// Switches it on, with these options for the mount of its volumes, and waits until its agent answers.
    pub(crate) async fn boot(&mut self, options: &str) {
        assert!(self.child.is_none(), "it is on already");
        let boot = self.kernel.join("boot");
        let kernel = fs::read_dir(boot)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
        let kernel = kernel.into_iter().find(is_kernel).unwrap();
        let line = format!(
            "console=ttyS0 quiet mitigations=off panic=-1 net.ifnames=0 kind={} options={options} token={TOKEN} registry={}",
            self.kind, self.registry
        );
        let network = format!("user,id=n,hostfwd=tcp:127.0.0.1:{}-:8090", self.port);
        let drive = |name: &str| {
            format!(
                "file={},format=raw,if=virtio",
                self.dir.join(name).display()
            )
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("console"))
            .unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "768",
        ]);
        command.args(["-nographic", "-no-reboot", "-append", &line]);
        command
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(self.dir.join("ram.cpio"));
        command.args([
            "-drive",
            &drive("root.disk"),
            "-drive",
            &drive("volumes.disk"),
        ]);
        command.args([
            "-netdev",
            &network,
            "-device",
            "virtio-net-pci,netdev=n,romfile=",
        ]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().expect("qemu-system-x86 is installed"));
        let deadline = Instant::now() + BOOT_MAX;
        while self
            .call("GET", "/readyz", None)
            .await
            .is_none_or(|(status, _)| status != 200)
        {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "qemu ended: {}", self.console());
            let console = self.console();
            assert!(
                !console.contains("agent ended"),
                "its agent does not start: {console}"
            );
            assert!(
                Instant::now() < deadline,
                "its agent does not answer: {}",
                self.console()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Cuts its power.
    pub(crate) fn power_off(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// End of what it said.
    pub(crate) fn console(&self) -> String {
        let said = fs::read(self.dir.join("console")).unwrap_or_default();
        let from = said.len().saturating_sub(6000);
        String::from_utf8_lossy(&said[from..]).into_owned()
    }

    /// Asks its agent; the status and the body. `None`: it cannot be reached.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut request = self
            .client
            .request(method.parse().unwrap(), url)
            .bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    /// Sends an archive to a path of its agent.
    pub(crate) async fn put_archive(&self, path: &str, archive: Vec<u8>) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let request = self.client.put(url).bearer_auth(TOKEN).body(archive);
        self.send(request).await.expect("its agent answers")
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
        let answer = request.timeout(SOON).send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }
}

impl Drop for VirtualComputer {
    fn drop(&mut self) {
        self.power_off();
        if std::thread::panicking() {
            eprintln!("{}", self.console());
        }
    }
}
