//! What a container finds inside: its limits, its user, its confinement, its names; and what comes out of it, its log.

use std::time::Duration;

use serde_json::json;

use crate::harness::image::Image;
use crate::stand::{SOON, Stand, serves};

/// A control file of a container, on cgroup v1 or v2.
pub(crate) fn control(stand: &Stand, shown: &serde_json::Value, v1: &str, v2: &str) -> String {
    let instance = format!(
        "{}/{}-{}",
        stand.bed.namespace,
        shown["id"].as_str().unwrap(),
        shown["generation"]
    );
    let (controller, file) = v1.split_once('/').unwrap();
    let paths = [
        format!("/sys/fs/cgroup/{controller}/{instance}/{file}"),
        format!("/sys/fs/cgroup/{instance}/{v2}"),
    ];
    let read = paths
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok());
    read.unwrap_or_else(|| panic!("neither of {paths:?} is there"))
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_in_the_cgroup() {
    let stand = Stand::new().await;
    let body = stand.script(
        "a",
        "sleep 1000 & wait",
        &json!({"resources": {"cpu": "0.5", "memory": "64m", "pids": 77}}),
    );
    let shown = stand.agent.deploy_and_wait(&body).await;
    assert_eq!(
        control(&stand, &shown, "memory/memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert!(control(&stand, &shown, "cpu/cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    assert_eq!(control(&stand, &shown, "pids/pids.max", "pids.max"), "77");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_ends_as_out_of_memory() {
    let stand = Stand::new().await;
    // `tail` of an endless line keeps it all; exec makes it the first process, which is the one that counts.
    let body = stand.script(
        "hog",
        "exec tail /dev/zero",
        &json!({"resources": {"memory": "16m"}, "restart": {"policy": "never"}}),
    );
    stand.agent.deploy(&body).await;
    let shown = stand.agent.wait_status("hog", "failed", SOON).await;
    assert_eq!(
        (&shown["reason"], &shown["exit_code"]),
        (&json!("OutOfMemory"), &json!(137)),
        "{shown}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_confined_and_named() {
    let stand = Stand::new().await;
    let script = "hostname; id; grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; cat /etc/hosts; echo \"A=$A HOME=$HOME\"; \
                  unshare -U true || echo no-namespaces; touch /x || echo read-only; echo x >>/etc/hosts || echo fixed-names; cat /proc/kcore | wc -c; ls /dev | wc -l; echo the-end; sleep 1000 & wait";
    let more = json!({"environment": {"A": "b c"}, "security": {"read_only_rootfs": true}, "user": "web", "working_dir": "/www"});
    stand
        .agent
        .deploy_and_wait(&stand.script("web-1", script, &more))
        .await;
    let log = stand.printed("web-1", "the-end").await;
    assert!(log.starts_with("web-1\n"), "{log}");
    for part in [
        "uid=1000(web)",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapEff:\t0000000000000000",
        "A=b c",
        "no-namespaces",
        "read-only",
        "fixed-names",
        "localhost",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entrypoint_may_append_to_hosts_and_resolv_conf() {
    let stand = Stand::new().await;
    let script = "set -e; echo '192.0.2.77 legacy' >>/etc/hosts; echo 'options ndots:2' >>/etc/resolv.conf; \
                  echo 192.0.2.78 moved >/tmp/new; cat /tmp/new >>/etc/hosts; echo written; \
                  until grep -q other /etc/hosts; do sleep 0.1; done; cat /etc/hosts /etc/resolv.conf; echo the-end; sleep 1000 & wait";
    stand
        .agent
        .deploy_and_wait(&stand.script("web-1", script, &json!({})))
        .await;
    stand.printed("web-1", "written").await;
    stand
        .agent
        .deploy_and_wait(&stand.web("other", &json!({})))
        .await;
    let log = stand.printed("web-1", "the-end").await;
    for part in [
        "192.0.2.77 legacy",
        "192.0.2.78 moved",
        "options ndots:2",
        "\tweb-1\n",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_know_each_other_by_name_and_ports_work_from_inside() {
    let stand = Stand::new().await;
    let web = stand
        .agent
        .deploy_and_wait(&stand.web("web", &json!({})))
        .await;
    assert!(serves(&web).await);
    // Debian's static busybox has a wget that fails on some machines; its nc does not.
    let ask = |host: &str, port: &str| {
        format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port}")
    };
    let gateway = format!("{}1", stand.bed.subnet.trim_end_matches("0/24"));
    let script = format!(
        "{}; {}; echo the-end; sleep 1000 & wait",
        ask("web", "80"),
        ask(&gateway, &web["ports"][0]["host"].to_string())
    );
    stand
        .agent
        .deploy_and_wait(&stand.script("client", &script, &json!({})))
        .await;
    let log = stand.printed("client", "the-end").await;
    assert_eq!(log.matches("hello").count(), 2, "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_have_streams_times_tails_and_followers() {
    let stand = Stand::new().await;
    let script = "for i in 1 2 3; do echo out$i; echo err$i >&2; sleep 0.2; done; while [ ! -e /go ]; do sleep 0.1; done; echo gone-on; sleep 1000 & wait";
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("talker", script, &json!({})))
        .await;
    stand.printed("talker", "err3").await;
    assert_eq!(
        stand.agent.logs("talker", "tail=all&stream=stdout").await,
        "out1\nout2\nout3\n"
    );
    assert_eq!(
        stand.agent.logs("talker", "tail=1&stream=stderr").await,
        "err3\n"
    );
    assert_eq!(stand.agent.logs("talker", "since=1h&until=30m").await, "");
    let stamped = stand.agent.logs("talker", "tail=1&timestamps=true").await;
    assert!(
        humantime::parse_rfc3339(stamped.split(' ').next().unwrap()).is_ok(),
        "{stamped}"
    );
    let following = stand.agent.logs("talker", "tail=0&follow=true");
    let going_on = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let instance = format!("{}-1", shown["id"].as_str().unwrap());
        stand.bed.ctr(&[
            "tasks",
            "exec",
            "--exec-id",
            "go",
            &instance,
            "touch",
            "/go",
        ]);
        stand.printed("talker", "gone-on").await;
        stand.agent.delete_and_wait("talker").await;
    };
    let (followed, ()) = tokio::join!(following, going_on);
    assert_eq!(
        followed, "gone-on\n",
        "a follower sees what comes, and ends with the container"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_bounded() {
    let stand = Stand::new().await;
    let more = json!({"logs": {"max_size": "64k", "max_files": 2}});
    let script = "i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done; echo the-end; sleep 1000 & wait";
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("chatter", script, &more))
        .await;
    stand.printed("chatter", "the-end").await;
    let directory = stand
        .bed
        .dir
        .join("state/logs")
        .join(shown["id"].as_str().unwrap());
    let bytes: u64 = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 2 * (64 << 10), "{bytes}");
    let log = stand.agent.logs("chatter", "tail=2").await;
    assert_eq!(log, "line-19999\nthe-end\n");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_images_stop_signal_is_sent_and_the_grace_is_kept() {
    let stand = Stand::new().await;
    Image::busybox()
        .config("StopSignal", json!("SIGUSR1"))
        .push(&stand.registry, "usr:1")
        .await;
    let script = "trap 'echo got-usr1; exit 0' USR1; echo up; while :; do sleep 0.1; done";
    let body = json!({"name": "a", "image": stand.image("usr:1"), "command": ["sh", "-c", script], "stop": {"timeout": "20s"}});
    stand.agent.deploy_and_wait(&body).await;
    stand.printed("a", "up").await;
    stand.agent.ask("POST", "/containers/a/stop", None).await;
    stand
        .agent
        .wait_status("a", "stopped", Duration::from_secs(10))
        .await;
    assert!(stand.agent.logs("a", "").await.contains("got-usr1"));
    let deaf = json!({"name": "deaf", "image": stand.image("box:1"), "command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], "stop": {"timeout": "1s"}});
    stand.agent.deploy_and_wait(&deaf).await;
    stand.printed("deaf", "up").await;
    let began = tokio::time::Instant::now();
    stand.agent.delete_and_wait("deaf").await;
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "the grace was kept: {:?}",
        began.elapsed()
    );
    stand.end().await;
}
