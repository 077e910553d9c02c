//! Images as people have them: who a container runs as, what it runs, and how it is stopped, however the image says it.

use std::time::Duration;

use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::image::{Image, Packing};
use crate::harness::registry::Registry;
use crate::reasons::shows;
use crate::stand::{SOON, Stand};

/// Longer than the most layers take to be unpacked and synced on a busy machine.
const PULLED: Duration = Duration::from_secs(240);

/// What `id` prints as the first line of a container's log.
async fn identity(stand: &Stand, name: &str, image: &str, user: Option<&str>) -> String {
    let script = "id; echo HOME=$HOME; echo the-end; sleep 1000 & wait";
    let mut body = json!({"name": name, "image": stand.image(image), "command": ["sh", "-c", script], "stop": {"timeout": "0s"}});
    if let Some(user) = user {
        body["user"] = json!(user);
    }
    stand.agent.deploy(&body).await;
    stand.agent.wait_status(name, "running", PULLED).await;
    stand.printed(name, "the-end").await
}

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/www:/bin/sh\n";
const GROUP: &[u8] =
    b"root:x:0:\nbin:x:1:root\nwheel:x:10:root,web\nweb:x:1001:\nextra:x:2000:web\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_found_below_any_number_of_layers() {
    let stand = Stand::new().await;
    // Its users in the lowest layers, and the most layers that an image may have.
    let many = Image::busybox()
        .layer(
            Packing::Plain,
            &[("/etc/passwd", PASSWD), ("/etc/group", GROUP)],
        )
        .config("User", json!("web"))
        .layers(126);
    many.push(&stand.registry, "many:1").await;
    let web = "uid=1000(web) gid=1001(web) groups=10(wheel),1001(web),2000(extra)";
    for (name, user) in [
        ("own", None),
        ("number", Some("1000")),
        ("named", Some("web")),
    ] {
        let log = identity(&stand, name, "many:1", user).await;
        let (first, _) = log.split_once('\n').unwrap();
        let shown: Vec<_> = first.split([' ', ',', '=']).collect();
        for part in web.split([' ', ',', '=']) {
            assert!(shown.contains(&part), "{name}: {part} in {log}");
        }
        assert!(log.contains("HOME=/www"), "{name}: {log}");
    }
    let log = identity(&stand, "group", "many:1", Some("web:extra")).await;
    assert!(
        log.starts_with("uid=1000(web) gid=2000(extra)") && !log.contains("wheel"),
        "{log}"
    );
    for left in std::fs::read_dir(stand.bed.dir.join("run"))
        .unwrap()
        .flatten()
    {
        let left = left.file_name().into_string().unwrap();
        assert!(!left.starts_with("chas-view-"), "{left}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_has_its_groups_and_odd_files_of_users_are_told() {
    let stand = Stand::new().await;
    let users = Image::busybox().layer(
        Packing::Plain,
        &[("/etc/passwd", PASSWD), ("/etc/group", GROUP)],
    );
    users.push(&stand.registry, "users:1").await;
    for (name, user) in [("none", None), ("root", Some("root")), ("zero", Some("0"))] {
        let log = identity(&stand, name, "users:1", user).await;
        assert!(
            log.starts_with("uid=0(root) gid=0(root)")
                && log.contains("1(bin)")
                && log.contains("10(wheel)"),
            "{name}: {log}"
        );
    }
    let huge = b"web:x:1000:1001::/www:/bin/sh\n".repeat(150_000);
    let odd = [
        (
            "huge",
            Image::busybox().layer(Packing::Gzip, &[("/etc/passwd", &huge)]),
        ),
        (
            "minus",
            Image::busybox().layer(Packing::Gzip, &[("/etc/passwd", b"web:x:4294967295:0::/:")]),
        ),
        (
            "dir",
            Image::busybox().layer(Packing::Gzip, &[("/etc/passwd/x", b"")]),
        ),
    ];
    for (name, image) in odd {
        image.push(&stand.registry, &format!("{name}:1")).await;
        let body = json!({"name": name, "image": stand.image(&format!("{name}:1")), "user": "web", "command": ["sleep", "1000"]});
        stand.agent.deploy(&body).await;
        let part = match name {
            "huge" => "more than 4194304",
            "minus" => "4294967295",
            _ => "is no file",
        };
        let shown = shows(&stand.agent, name, Reason::UserNotFound, part).await;
        assert_eq!(shown["status"], "failed", "{shown}");
    }
    let log = identity(&stand, "numbers", "huge:1", Some("0:0")).await;
    assert!(
        log.starts_with("uid=0 gid=0") || log.starts_with("uid=0(root)"),
        "{log}"
    );
    stand.end().await;
}

/// Deploys an image with that configuration as it is, and answers its log once it printed `the-end`.
async fn runs_as_it_is(
    stand: &Stand,
    name: &str,
    config: &[(&'static str, Value)],
    more: &Value,
) -> String {
    let mut image = Image::busybox();
    for (field, value) in config {
        image = image.config(field, value.clone());
    }
    image.push(&stand.registry, &format!("{name}:1")).await;
    let mut body = json!({"name": name, "image": stand.image(&format!("{name}:1")), "stop": {"timeout": "3s"}});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    stand.agent.deploy_and_wait(&body).await;
    stand.printed(name, "the-end").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_says_of_its_process_is_heeded() {
    let stand = Stand::new().await;
    let shell = |script: &str| {
        json!([
            "sh",
            "-c",
            format!("{script}; echo the-end; sleep 1000 & wait")
        ])
    };
    let reset = [("Entrypoint", json!([""])), ("Cmd", shell("echo here"))];
    let log = runs_as_it_is(&stand, "reset", &reset, &json!({})).await;
    assert!(log.starts_with("here\n"), "{log}");
    let env = [
        ("Env", json!(["PATH=/bin", "HOSTNAME=0.0.0.0"])),
        ("Cmd", shell("echo $HOSTNAME")),
    ];
    let log = runs_as_it_is(&stand, "named", &env, &json!({})).await;
    assert!(log.starts_with("0.0.0.0\n"), "{log}");
    let asked = json!({"environment": {"HOSTNAME": "x"}});
    let log = runs_as_it_is(&stand, "asked", &env, &asked).await;
    assert!(log.starts_with("x\n"), "{log}");

    let trap = "trap 'echo got-62; exit 0' 62; echo the-end; while :; do sleep 0.1; done";
    let signal = [
        ("Cmd", json!(["sh", "-c", trap])),
        ("StopSignal", json!("SIGRTMAX-2")),
    ];
    runs_as_it_is(&stand, "signal", &signal, &json!({})).await;
    stand
        .agent
        .ask("POST", "/containers/signal/stop", None)
        .await;
    stand.agent.wait_status("signal", "stopped", SOON).await;
    assert!(stand.agent.logs("signal", "").await.contains("got-62"));

    let none = Image::busybox().config("StopSignal", json!("SIGNONE"));
    none.push(&stand.registry, "none:1").await;
    let body =
        json!({"name": "none", "image": stand.image("none:1"), "command": ["sleep", "1000"]});
    stand.agent.deploy(&body).await;
    shows(&stand.agent, "none", Reason::ImageInvalid, "SIGNONE").await;
    stand.end().await;
}

/// Head of a program for a machine, by its number, that names a loader which no image has.
fn elf(machine: u8) -> Vec<u8> {
    let mut head = vec![0; 140];
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (head[16], head[18], head[20]) = (2, machine, 1);
    (head[32], head[52], head[54], head[56]) = (64, 64, 56, 1);
    (head[64], head[72], head[96]) = (3, 120, 17);
    head[120..136].copy_from_slice(b"/lib/ld-none.so1");
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_will_not_execute_is_told_before_it_is_tried() {
    let stand = Stand::new().await;
    let (own, other) = if cfg!(target_arch = "aarch64") {
        (183, 62)
    } else {
        (62, 183)
    };
    let refused = Reason::CommandNotExecutable;
    let cases: [(&str, &[u8], Reason, &str); 5] = [
        ("bare", b"echo hi\n", refused, "#!/bin/sh"),
        ("crlf", b"#!/bin/sh\r\nsleep 9\r\n", refused, "CRLF"),
        (
            "absent",
            b"#!/usr/bin/python3\n",
            refused,
            "/usr/bin/python3",
        ),
        ("loader", &elf(own), refused, "/lib/ld-none.so1"),
        (
            "far",
            &elf(other),
            Reason::ImagePlatformMismatch,
            "build it for this one",
        ),
    ];
    for (name, content, ..) in cases {
        let image = Image::busybox().program("/run.me", content);
        image
            .config("Entrypoint", json!(["/run.me"]))
            .push(&stand.registry, &format!("{name}:1"))
            .await;
        let body = json!({"name": name, "image": stand.image(&format!("{name}:1"))});
        stand.agent.deploy(&body).await;
    }
    for (name, _, reason, part) in cases {
        shows(&stand.agent, name, reason, part).await;
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_there_and_writable_whatever_the_root_file_system_is() {
    let stand = Stand::new().await;
    let image = Image::busybox().directory("/shared", 0o1777).config(
        "Volumes",
        json!({"/vol": {}, "/deep/er": {}, "/www": {}, "/shared": {}, "/": {}}),
    );
    image.push(&stand.registry, "vol:1").await;
    let body = |name: &str, user: &str, script: &str, read_only: bool| {
        json!({"name": name, "image": stand.image("vol:1"), "user": user, "stop": {"timeout": "0s"},
            "command": ["sh", "-c", format!("{script}; echo the-end; sleep 1000 & wait")], "security": {"read_only_rootfs": read_only}})
    };
    let all = "stat -c '%a %u %n' /vol /deep /deep/er; touch /vol/x /deep/er/x /www/x && cat /www/index.html";
    let plain = body("plain", "0", &format!("ls /vol; {all}"), false);
    stand.agent.deploy_and_wait(&plain).await;
    let made = "755 0 /vol\n755 0 /deep\n755 0 /deep/er\nhello from busybox\n";
    let log = stand.printed("plain", "the-end").await;
    assert!(log.starts_with(made), "{log}");
    stand
        .agent
        .ask("POST", "/containers/plain/restart", None)
        .await;
    stand.printed("plain", "the-end\nx\n755").await;

    let sealed = body(
        "sealed",
        "0",
        &format!("{all}; touch /x || echo read-only"),
        true,
    );
    stand.agent.deploy_and_wait(&sealed).await;
    let log = stand.printed("sealed", "the-end").await;
    assert!(log.starts_with(made) && log.contains("read-only"), "{log}");
    let script =
        "stat -c '%a %u' /shared; touch /shared/x && echo wrote; touch /vol/x || echo not-mine";
    stand
        .agent
        .deploy_and_wait(&body("web", "web", script, true))
        .await;
    let log = stand.printed("web", "the-end").await;
    assert!(
        log.starts_with("1777 0\nwrote\n") && log.contains("not-mine"),
        "{log}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_privileges_are_given_only_where_the_node_permits_them() {
    let mut stand = Stand::new().await;
    let script = "grep NoNewPrivs /proc/self/status; echo the-end; sleep 1000 & wait";
    let more = json!({"security": {"no_new_privileges": false}});
    let body = stand.script("a", script, &more);
    let (status, answer) = stand.agent.deploy(&body).await;
    assert_eq!(status, 403, "{answer}");
    let detail = answer["detail"].as_str().unwrap();
    for part in [
        "security.no_new_privileges",
        "containers.allow_new_privileges",
    ] {
        assert!(detail.contains(part), "{answer}");
    }
    stand.agent.terminate();
    stand.agent.set("CHAS_ALLOW_NEW_PRIVILEGES", "true");
    stand.agent.start_again().await;
    stand.agent.deploy_and_wait(&body).await;
    let log = stand.printed("a", "the-end").await;
    assert!(log.contains("NoNewPrivs:\t0"), "{log}");
    let usual = stand.script("b", script, &json!({}));
    stand.agent.deploy_and_wait(&usual).await;
    let log = stand.printed("b", "the-end").await;
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_before_runs_again_without_its_registry() {
    let mut stand = Stand::new().await;
    for version in ["app:1", "app:2", "other:1"] {
        let image = Image::busybox().layer(Packing::Plain, &[("/version", version.as_bytes())]);
        image.push(&stand.registry, version).await;
    }
    let body = |name: &str, image: &str| json!({"name": name, "image": stand.image(image), "command": ["sleep", "1000"], "stop": {"timeout": "0s"}});
    for (name, image) in [("app", "app:1"), ("other", "other:1"), ("app", "app:2")] {
        stand.agent.deploy_and_wait(&body(name, image)).await;
    }
    let back = body("app", "app:1");
    stand.agent.delete_and_wait("other").await;
    stand.agent.terminate();
    stand.agent.start_again().await;
    // What was asked for long ago, as far as the new agent knows, is swept; what nobody needs goes first.
    let is_swept = async || !stand.bed.ctr(&["images", "ls", "-q"]).contains("/other");
    crate::stand::eventually("the image of no container is swept", is_swept).await;
    let names = stand.bed.ctr(&["images", "ls", "-q"]);
    assert!(
        names.contains("app:1") && names.contains("app:2"),
        "{names}"
    );
    let empty = Registry::open(&stand.bed);
    drop(std::mem::replace(&mut stand.registry, empty));
    stand.agent.deploy_and_wait(&back).await;
    stand.end().await;
}
