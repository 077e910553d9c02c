//! Containers with ids of their own on the host, where containerd maps them; and with the host's,
//! and the reason, where it does not.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use serde_json::{Value, json};

use super::{check, push_probe};
use crate::harness::containerd::search_path;
use crate::harness::image::Image;
use crate::harness::{Testbed, finish};
use crate::stand::{SOON, Stand, eventually, serves};

/// First id on the host of a container's root; `None`: it has the host's ids.
fn first_id(stand: &Stand, shown: &Value) -> Option<u32> {
    let pid = stand.pid(shown).expect("it runs");
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let fields: Vec<u32> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/gid_map")).unwrap();
    assert_eq!(groups, map);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    match fields[..] {
        [0, 0, u32::MAX] => None,
        [0, first, 65_536] => {
            assert!(first >= 2_000_224_256, "{first}");
            let effective: u32 = status
                .lines()
                .find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').nth(1))
                .and_then(|id| id.parse().ok())
                .unwrap();
            assert!((first..first + 65_536).contains(&effective), "{status}");
            Some(first)
        }
        _ => panic!("{map}"),
    }
}

/// Whether the containerd of the tests, and its runc, have containers with ids of their own, by
/// their versions.
fn maps_ids(stand: &Stand) -> bool {
    let versions = stand.bed.ctr(&["version"]);
    let mut versions = versions.lines().filter(|line| line.contains("Version:"));
    let server = versions.next_back().unwrap();
    let number = server.split_whitespace().next_back().unwrap();
    let number = number.trim_start_matches('v');
    let mut runc = Command::new("runc");
    let runc = finish(runc.arg("--version").env("PATH", search_path())).unwrap();
    let old = ["1.0.", "1.1.", "1.2."].map(|line| format!("runc version {line}"));
    !number.starts_with("1.") && !old.iter().any(|old| runc.starts_with(old.as_str()))
}

/// Waits until the node says what it does about ids; whether it maps them, and its words.
async fn told(stand: &Stand) -> (bool, String) {
    let mut told = (false, String::new());
    eventually("user namespaces are told of", async || {
        let (_, health) = stand.agent.get("/health").await;
        let layer = &health["confinement"]["user_namespaces"];
        told = (
            layer["in_force"].as_bool().unwrap(),
            layer["detail"].as_str().unwrap().to_owned(),
        );
        !told.1.contains("not been asked")
    })
    .await;
    told
}

/// Tries of what ids of its own must not take from a container; each says `WHAT: yes`.
const LIFE: &str = "t() { w=$1; shift; if eval \"$@\"; then echo \"$w: yes\"; else echo \"$w: no\"; fi; }; \
    t root '[ $(id -u) = 0 ]'; t owner '[ $(stat -c %u:%g /bin/busybox) = 0:0 ]'; t top '[ $(stat -c %u /) = 0 ]'; \
    t writes 'echo x >/made && [ $(stat -c %u /made) = 0 ]'; t copies 'chmod 700 /www && [ $(stat -c %u /www) = 0 ]'; \
    t hands 'chown 65534:65534 /made && [ $(stat -c %u /made) = 65534 ]'; t null 'echo x >/dev/null'; \
    t stdout 'echo again >/dev/stdout'; t stderr 'echo again >/dev/stderr'; t hosts 'echo 192.0.2.7 own >>/etc/hosts'; \
    t names 'grep -q localhost /etc/hosts && [ -s /etc/hostname ] && [ -r /etc/resolv.conf ]'; \
    t link '[ -d /sys/class/net/eth0 ] && [ $(ls /sys/class/net | wc -l) = 2 ]'; t fixed '! mkdir /sys/x 2>/dev/null'; \
    t memory 'echo x >/dev/shm/x'; t groups '[ -d /sys/fs/cgroup ]'; t sleeps 'kill -0 1'; \
    t masked '[ $(cat /proc/kcore 2>/dev/null | wc -c) = 0 ]'; t sysrq '! echo h >/proc/sysrq-trigger'";

#[tokio::test(flavor = "multi_thread")]
async fn root_of_a_container_is_nobody_on_the_host_and_lives_as_before() {
    let stand = Stand::new().await;
    let maps = maps_ids(&stand);
    let (in_force, detail) = told(&stand).await;
    assert_eq!(in_force, maps, "{detail}");
    let part = if maps { "65536 ids" } else { " cannot " };
    assert!(detail.contains(part), "{detail}");

    push_probe(&stand).await;
    let script = format!("{LIFE} 2>&1; /sockets; echo the-end; sleep 1000 & wait");
    let more = json!({"image": stand.image("probe:1"), "resources": {"memory": "64m", "pids": 50}});
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("a", &script, &more))
        .await;
    let log = stand.printed("a", "the-end").await;
    for what in LIFE
        .split("; ")
        .filter_map(|part| part.trim().strip_prefix("t "))
    {
        let what = what.split(' ').next().unwrap();
        assert!(log.contains(&format!("{what}: yes\n")), "{what}: {log}");
    }
    assert!(log.matches("again\n").count() >= 2, "{log}");
    check(&log, &[("ping", "open"), ("raw", "1"), ("inet", "open")]);
    let first = first_id(&stand, &shown);
    assert_eq!(first.is_some(), maps);
    let id = shown["id"].as_str().unwrap();
    let instance = format!("{id}-{}", shown["generation"]);
    let entered = [
        "tasks",
        "exec",
        "--exec-id",
        "x",
        &instance,
        "touch",
        "/entered",
    ];
    stand.bed.ctr(&entered);
    let made = format!("/proc/{}/root/entered", stand.pid(&shown).unwrap());
    let owner = std::fs::metadata(made).unwrap().uid();
    assert_eq!(owner, first.unwrap_or(0), "as root of the container");

    // Another one has others, a user that is not root too, who binds a low port and prints anew.
    let script = "echo again >/dev/stdout; exec httpd -f -p 80 -h /www";
    let more = json!({"user": "web", "exposed_ports": [{"container": 80}], "image": stand.image("web:1"), "command": ["sh", "-c", script], "args": []});
    let web = stand
        .agent
        .deploy_and_wait(&stand.script("web", "", &more))
        .await;
    eventually("it serves", async || serves(&web).await).await;
    stand.printed("web", "again").await;
    let other = first_id(&stand, &web);
    assert_eq!(other.is_some(), maps);
    assert!(!maps || first.unwrap().abs_diff(other.unwrap()) >= 65_536);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_stay_over_restarts_and_change_with_the_next_generation_only() {
    let mut stand = Stand::with(Testbed::new(), &[("CHAS_USER_NAMESPACES", "off")]).await;
    let body = |value: &str| {
        let script = "echo x >>/made; wc -l </made; sleep 1000 & wait";
        stand_script(&stand, script, &json!({"environment": {"A": value}}))
    };
    let (first, second, third) = (body("1"), body("2"), body("3"));
    let shown = stand.agent.deploy_and_wait(&first).await;
    assert_eq!(first_id(&stand, &shown), None);
    assert!(told(&stand).await.1.contains("containers.user_namespaces"));
    let pid = stand.pid(&shown);

    // Switching on disturbs nothing that runs.
    stand.agent.terminate();
    stand.agent.set("CHAS_USER_NAMESPACES", "auto");
    stand.agent.start_again().await;
    let maps = maps_ids(&stand);
    let same = stand.agent.deploy_and_wait(&first).await;
    assert_eq!(stand.pid(&same), pid);
    restart(&stand, "2").await;
    assert_eq!(
        first_id(&stand, &same),
        None,
        "a restart is no new container"
    );

    let shown = stand.agent.deploy_and_wait(&second).await;
    let ids = first_id(&stand, &shown);
    assert_eq!(ids.is_some(), maps);
    stand.agent.kill_9();
    stand.agent.set("CHAS_USER_NAMESPACES", "off");
    stand.agent.start_again().await;
    stand.agent.wait_status("a", "running", SOON).await;
    restart(&stand, "1\n2").await;
    assert_eq!(first_id(&stand, &shown), ids, "with its files");

    let shown = stand.agent.deploy_and_wait(&third).await;
    assert_eq!(first_id(&stand, &shown), None);
    stand.end().await;
}

fn stand_script(stand: &Stand, script: &str, more: &Value) -> Value {
    stand.script("a", script, more)
}

/// Restarts the container, and waits until its log ends so.
async fn restart(stand: &Stand, end: &str) {
    let path = "/containers/a/restart?wait=running";
    let (status, answer) = stand.agent.ask("POST", path, None).await;
    assert!(status < 300, "{answer}");
    eventually("it has started anew", async || {
        let log = stand.agent.logs("a", "tail=all").await;
        log.ends_with(&format!("{end}\n"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_lose_by_them_keeps_the_hosts_ids() {
    let variables = [("CHAS_CAPABILITIES", "ALL")];
    let stand = Stand::with(Testbed::new(), &variables).await;
    let maps = maps_ids(&stand);
    let dropped = json!({"drop": ["NET_RAW", "MKNOD"]});
    for (name, more, has) in [
        ("own", json!({"security": {"capabilities": dropped}}), maps),
        ("raw", json!({}), false),
        (
            "asked",
            json!({"security": {"capabilities": dropped, "user_namespace": "host"}}),
            false,
        ),
        (
            "beyond",
            json!({"security": {"capabilities": dropped}, "user": "70000:70000"}),
            false,
        ),
    ] {
        let body = stand.script(name, "sleep 1000 & wait", &more);
        let shown = stand.agent.deploy_and_wait(&body).await;
        assert_eq!(first_id(&stand, &shown).is_some(), has, "{name}");
    }
    let (in_force, detail) = told(&stand).await;
    let part = if maps {
        "that drop CAP_MKNOD and CAP_NET_RAW"
    } else {
        " cannot "
    };
    assert!(!in_force && detail.contains(part), "{detail}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_s_volumes_are_its_root_s_and_those_above_too() {
    let stand = Stand::new().await;
    let volumes = json!({"/srv/deep/new": {}, "/www": {}, "/link/new": {}});
    Image::busybox()
        .directory("/srv/deep", 0o755)
        .directory("/real/place", 0o755)
        .symlink("/link", "/real/place")
        .config("Volumes", volumes)
        .push(&stand.registry, "volumes:1")
        .await;
    let script = "for d in /srv /srv/deep /srv/deep/new /real /real/place /real/place/new /www; do stat -c '%u:%g %n' $d; done; \
                  touch /srv/deep/new/x /www/x /link/new/x && echo writes; echo the-end; sleep 1000 & wait";
    for (name, read_only) in [("plain", false), ("fixed", true)] {
        let more =
            json!({"image": stand.image("volumes:1"), "security": {"read_only_rootfs": read_only}});
        let shown = stand
            .agent
            .deploy_and_wait(&stand.script(name, script, &more))
            .await;
        let log = stand.printed(name, "the-end").await;
        let owned = log.lines().filter(|line| line.starts_with("0:0 /"));
        assert_eq!(owned.count(), 7, "{name}: {log}");
        assert!(log.contains("writes"), "{name}: {log}");
        assert_eq!(first_id(&stand, &shown).is_some(), maps_ids(&stand));
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_image_gives_a_container_the_hosts_ids_where_a_rule_wants_its_own() {
    let bed = Testbed::new();
    let file = bed.dir.join("policy.yaml");
    std::fs::write(&file, "rules:\n- {name: apart, user_namespace: true}\n").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let variables = [("CHAS_POLICY_FILE", file.to_str().unwrap())];
    let stand = Stand::with(bed, &variables).await;
    let image = Image::busybox().config("User", json!("70000:70000"));
    image.push(&stand.registry, "beyond:1").await;
    let own = stand.script("web", "sleep 1000 & wait", &json!({}));
    let before = stand.agent.deploy_and_wait(&own).await;
    let first = first_id(&stand, &before);
    let mut beyond = own.clone();
    beyond["image"] = json!(stand.image("beyond:1"));
    if !maps_ids(&stand) {
        // The node cannot, whatever the image says.
        let shown = stand.agent.deploy_and_wait(&beyond).await;
        assert_eq!(first_id(&stand, &shown), None);
        return stand.end().await;
    }
    assert_eq!(stand.agent.deploy(&beyond).await.0, 202);
    let mut shown = Value::Null;
    eventually("it is denied", async || {
        shown = stand.agent.get("/containers/web").await.1;
        let told = shown.to_string();
        told.contains("its id 70000") && told.contains("apart")
    })
    .await;
    assert_eq!(stand.pid(&shown), stand.pid(&before), "{shown}");
    assert_eq!(first_id(&stand, &shown), first);
    stand.end().await;
}
