//! Paths of the host in containers: what they see and may do, and what nobody can make of a path.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::Testbed;
use crate::harness::image::Image;
use crate::reasons::shows;
use crate::stand::{SOON, Stand, eventually};

/// Mounts of a test on the host, unmounted with it.
struct HostMounts(Vec<PathBuf>);

impl HostMounts {
    fn tmpfs(&mut self, on: &Path) {
        fs::create_dir_all(on).unwrap();
        crate::harness::run("mount", ["-t", "tmpfs", "chas-test", on.to_str().unwrap()]).unwrap();
        self.0.push(on.to_owned());
    }

    fn make(&self, how: &str, at: usize) {
        crate::harness::run("mount", [how, self.0[at].to_str().unwrap()]).unwrap();
    }
}

impl Drop for HostMounts {
    fn drop(&mut self) {
        for on in self.0.iter().rev() {
            crate::harness::run("umount", ["-l", on.to_str().unwrap()]).ok();
        }
    }
}

/// A node that gives `given`, `given/read` only to be read, and `file`.
async fn stand() -> (Stand, PathBuf) {
    let bed = Testbed::new();
    let top = bed.dir.join("host").canonicalize();
    let top = top.unwrap_or_else(|_| bed.dir.join("host"));
    for made in ["given/data", "given/read/sub", "outside"] {
        fs::create_dir_all(top.join(made)).unwrap();
    }
    fs::write(top.join("given/data/first"), "of the host\n").unwrap();
    fs::write(top.join("given/conf"), "one\n").unwrap();
    fs::write(top.join("outside/secret"), "secret\n").unwrap();
    let path = |path: &str| top.join(path).display().to_string();
    let given = format!("{},{}:ro", path("given"), path("given/read"));
    let stand = Stand::with(bed, &[("CHAS_HOST_PATHS", &given)]).await;
    (stand, top)
}

fn volume(top: &Path, host: &str, path: &str, more: &Value) -> Value {
    let mut volume = json!({"host_path": top.join(host), "path": path});
    volume
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    volume
}

fn nothing_is_held(stand: &Stand) {
    let held = fs::read_dir(stand.bed.dir.join("run/host-paths"));
    assert_eq!(held.map_or(0, Iterator::count), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_what_the_host_has_there_and_writes_only_where_it_may() {
    let (stand, top) = stand().await;
    let mut mounts = HostMounts(Vec::new());
    mounts.tmpfs(&top.join("given/read/sub"));
    // What the host lets nobody write to, nor execute, is so in a container as well.
    mounts.tmpfs(&top.join("given/shut"));
    let shut = top.join("given/shut");
    let shut = ["-o", "remount,ro,noexec", shut.to_str().unwrap()];
    crate::harness::run("mount", shut).unwrap();
    let script = "cat /data/first /etc/conf; echo mine >/data/mine; \
                  for at in /read /read/sub /shut; do echo x 2>/dev/null >$at/x && echo wrote $at; done; \
                  echo two >/etc/conf; grep -E ' (/data|/read|/read/sub|/shut) ' /proc/self/mountinfo; echo the-end; \
                  sleep 1000 & wait";
    let more = json!({"volumes": [
        volume(&top, "given/data", "/data", &json!({})),
        volume(&top, "given/read", "/read", &json!({"read_only": true})),
        volume(&top, "given/conf", "/etc/conf", &json!({})),
        volume(&top, "given/shut", "/shut", &json!({})),
    ]});
    let body = stand.script("a", script, &more);
    let shown = stand.agent.deploy_and_wait(&body).await;
    assert_eq!(
        shown["spec"]["volumes"][0]["propagation"], "rprivate",
        "{shown}"
    );
    let log = stand.printed("a", "the-end").await;
    assert!(log.starts_with("of the host\none\n"), "{log}");
    assert!(!log.contains("wrote"), "{log}");
    for (at, options) in [
        ("/data", "rw,nosuid,nodev,"),
        ("/read", "ro,nosuid,nodev,"),
        ("/read/sub", "ro,nosuid,nodev,"),
        ("/shut", "ro,nosuid,nodev,noexec,"),
    ] {
        let has = format!(" {at} {options}");
        assert!(log.contains(&has), "{has}: {log}");
    }
    assert_eq!(fs::read(top.join("given/data/mine")).unwrap(), b"mine\n");
    assert_eq!(fs::read(top.join("given/conf")).unwrap(), b"two\n");
    nothing_is_held(&stand);
    // Each start opens the path anew: also after a kill, and where the file is another one.
    fs::write(top.join("given/conf.new"), "three\n").unwrap();
    fs::rename(top.join("given/conf.new"), top.join("given/conf")).unwrap();
    stand
        .agent
        .ask("POST", "/containers/a/restart?wait=running", None)
        .await;
    stand.printed("a", "of the host\nthree\n").await;
    nothing_is_held(&stand);
    for (host, read_only, field) in [
        ("outside", true, "volumes[0].host_path"),
        ("given/read/sub", false, "volumes[0].read_only"),
        ("given", false, "volumes[0].read_only"),
        ("given-not", false, "volumes[0].host_path"),
    ] {
        let one = volume(&top, host, "/x", &json!({"read_only": read_only}));
        let (status, denied) = stand
            .agent
            .deploy(&stand.script("b", "true", &json!({"volumes": [one]})))
            .await;
        assert_eq!(
            (status, &denied["rule"]),
            (403, &json!("node-host-paths")),
            "{denied}"
        );
        assert_eq!(denied["errors"][0]["field"], field, "{denied}");
    }
    stand.agent.delete_and_wait("a").await;
    assert!(
        top.join("given/data/first").exists(),
        "the host's files stay"
    );
    drop(mounts);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_cannot_be_mounted_is_waited_for_and_never_made() {
    let (stand, top) = stand().await;
    let data = Image::busybox().directory("/data", 0o755);
    data.layer(crate::harness::image::Packing::Plain, &[("/file", b"x")])
        .push(&stand.registry, "data:1")
        .await;
    symlink("../outside", top.join("given/link")).unwrap();
    fs::write(top.join("given/kind"), "").unwrap();
    let asked = |name: &str, host: &str, path: &str, more: &Value| {
        let more =
            json!({"image": stand.image("data:1"), "volumes": [volume(&top, host, path, more)]});
        stand.script(name, "ls /x /data; echo the-end; sleep 1000 & wait", &more)
    };
    let none = json!({});
    for body in [
        asked("gone", "given/gone", "/x", &none),
        asked("link", "given/link", "/x", &none),
        asked("kind", "given/kind", "/data", &none),
        asked("other", "given/data", "/file", &none),
        asked(
            "passes",
            "given/data",
            "/x",
            &json!({"propagation": "rslave"}),
        ),
    ] {
        assert_eq!(stand.agent.deploy(&body).await.0, 202);
    }
    let agent = &stand.agent;
    shows(
        agent,
        "gone",
        Reason::HostPathUnusable,
        "gone: is not there",
    )
    .await;
    shows(agent, "link", Reason::HostPathUnusable, "is a link").await;
    shows(agent, "kind", Reason::MountFailed, "it is a directory").await;
    shows(agent, "other", Reason::MountFailed, "Not a directory").await;
    let mount = shows(agent, "passes", Reason::HostPathUnusable, "no shared mount").await;
    assert!(mount["next_attempt"].is_string(), "{mount}");
    assert!(!top.join("given/gone").exists(), "made by nobody");
    nothing_is_held(&stand);
    // What the operator makes right is found.
    fs::create_dir(top.join("given/gone")).unwrap();
    fs::remove_file(top.join("given/link")).unwrap();
    fs::rename(top.join("given/data"), top.join("given/link")).unwrap();
    for name in ["gone", "link"] {
        agent.wait_status(name, "running", SOON).await;
    }
    assert!(stand.printed("link", "the-end").await.contains("first"));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_renames_on_the_host_leads_a_container_out() {
    let (stand, top) = stand().await;
    let (path, aside, link) = (
        top.join("given/swap"),
        top.join("given/aside"),
        top.join("given/out"),
    );
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), "").unwrap();
    symlink("../outside", &link).unwrap();
    let over = AtomicBool::new(false);
    let script = "ls /x; echo the-end; sleep 1000 & wait";
    let more = json!({"volumes": [volume(&top, "given/swap", "/x", &json!({}))]});
    let body = stand.script("a", script, &more);
    let ends = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // The directory, nothing, and the link are there in turn.
                for (from, to) in [
                    (&path, &aside),
                    (&link, &path),
                    (&path, &link),
                    (&aside, &path),
                ] {
                    fs::rename(from, to).unwrap();
                }
            }
        });
        let starts = async {
            stand.agent.deploy(&body).await;
            for _ in 0..12 {
                stand.agent.ask("POST", "/containers/a/restart", None).await;
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
            stand.agent.logs("a", "tail=all").await
        };
        let ends =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(starts));
        over.store(true, Ordering::Relaxed);
        ends
    });
    assert!(!ends.contains("secret"), "{ends}");
    stand.printed("a", "inside").await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_mounts_pass_as_asked_and_what_a_kill_left_is_swept() {
    let (mut stand, top) = stand().await;
    let mut mounts = HostMounts(Vec::new());
    let shared = ["given/one", "given/two"].map(|path| top.join(path));
    for (at, on) in shared.iter().enumerate() {
        mounts.tmpfs(on);
        mounts.make("--make-shared", at);
        fs::create_dir(on.join("later")).unwrap();
    }
    let script = "echo ready; for at in /x /y; do while ! [ -e $at/later/mark ]; do sleep 0.2; done; \
                  echo seen $at; done; sleep 1000 & wait";
    for (name, propagation) in [("follows", "rslave"), ("apart", "rprivate")] {
        let more = json!({"propagation": propagation});
        let volumes = json!([
            volume(&top, "given/one", "/x", &more),
            volume(&top, "given/data", "/data", &json!({})),
            volume(&top, "given/two", "/y", &more),
        ]);
        let body = stand.script(name, script, &json!({"volumes": volumes}));
        stand.agent.deploy_and_wait(&body).await;
        stand.printed(name, "ready").await;
    }
    nothing_is_held(&stand);
    for on in &shared {
        mounts.tmpfs(&on.join("later"));
        fs::write(on.join("later/mark"), "").unwrap();
    }
    stand.printed("follows", "seen /x\nseen /y").await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let apart = stand.agent.logs("apart", "tail=all").await;
    assert!(!apart.contains("seen"), "{apart}");
    // As a launch leaves it that was cut off between its mounts and its task.
    stand.agent.kill_9();
    let places = stand.bed.dir.join("run/host-paths");
    let of_instance = places.join("0123456789ab-1");
    fs::create_dir_all(&of_instance).unwrap();
    let [directory, source] = [&of_instance, &shared[0]].map(|path| path.to_str().unwrap());
    crate::harness::run("mount", ["-t", "tmpfs", "chas-host-paths", directory]).unwrap();
    let place = of_instance.join("0");
    fs::create_dir(&place).unwrap();
    crate::harness::run("mount", ["--rbind", source, place.to_str().unwrap()]).unwrap();
    stand.agent.start_again().await;
    eventually("it is swept", async || !of_instance.exists()).await;
    assert!(
        shared[0].join("later/mark").exists(),
        "the host's own mount stays"
    );
    drop(mounts);
    stand.end().await;
}
