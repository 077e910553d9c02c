//! Volumes: what containers keep, share and find in them; and what no image can make of one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::image::{Image, Packing};
use crate::stand::{SOON, Stand, eventually};

mod archives;
mod copies;
mod host_paths;
mod mounted;
mod sizes;
mod slow;

/// An image with files at `/data`.
async fn push_data(stand: &Stand) {
    Image::busybox()
        .directory("/data", 0o1770)
        .layer(Packing::Plain, &[("/data/first", b"image")])
        .symlink("/data/link", "/etc/passwd")
        .push(&stand.registry, "data:1")
        .await;
}

fn data(stand: &Stand, name: &str) -> PathBuf {
    stand.bed.dir.join(format!("state/volumes/{name}/_data"))
}

/// Waits until a container is told to have failed for this reason; its words.
async fn failed(stand: &Stand, name: &str, reason: Reason) -> String {
    let mut shown = Value::Null;
    eventually(&format!("{name} fails for {reason}"), async || {
        shown = stand.agent.get(&format!("/containers/{name}")).await.1;
        shown["reason"] == json!(reason)
    })
    .await;
    shown["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_begins_with_the_image_s_files_and_keeps_what_its_containers_make_of_them() {
    let stand = Stand::new().await;
    push_data(&stand).await;
    let script = "stat -c '%a %u:%g %h %N' /data /data/*; cat /data/first /data/mine 2>&1; \
                  rm -f /data/first; echo mine >/data/mine; chown 1000:1001 /data/mine; echo the-end; \
                  sleep 1000 & wait";
    let more =
        json!({"image": stand.image("data:1"), "volumes": [{"volume": "data", "path": "/data"}]});
    let body = stand.script("first", script, &more);
    stand.agent.deploy_and_wait(&body).await;
    let log = stand.printed("first", "the-end").await;
    for line in [
        "1770 0:0 2 /data\n",
        "644 0:0 1 /data/first\n",
        "'/data/link' -> '/etc/passwd'",
        "image",
    ] {
        assert!(log.contains(line), "{line:?}: {log}");
    }
    let mine = fs::metadata(data(&stand, "data").join("mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (1000, 1001), "as they are inside");
    assert!(!data(&stand, "data").join("first").exists());

    // Another generation, and another container of another image that can only read.
    let mut again = body.clone();
    again["environment"] = json!({"AGAIN": "1"});
    stand.agent.deploy_and_wait(&again).await;
    eventually("the volume is found as it was left", async || {
        let log = stand.agent.logs("first", "tail=all").await;
        log.matches("the-end").count() == 2 && log.contains("mine\n")
    })
    .await;
    assert!(
        !data(&stand, "data").join("first").exists(),
        "it is filled once"
    );
    let look = "cat /shared/mine; stat -c '%u:%g' /shared/mine; touch /shared/x || echo fixed; \
                echo the-end; sleep 1000 & wait";
    let more = json!({"volumes": [{"volume": "data", "path": "/shared", "read_only": true}]});
    stand
        .agent
        .deploy_and_wait(&stand.script("reader", look, &more))
        .await;
    let log = stand.printed("reader", "the-end").await;
    for line in ["mine\n", "1000:1001\n", "fixed\n"] {
        assert!(log.contains(line), "{line:?}: {log}");
    }

    // What ran is gone, and starts again where it was, and the volume outlives all of them.
    let (_, shown) = stand.agent.get("/containers/first").await;
    let pid = stand.pid(&shown).unwrap();
    crate::harness::run("kill", ["-9", &pid]).unwrap();
    eventually("it runs again with its volume", async || {
        let log = stand.agent.logs("first", "tail=all").await;
        log.matches("the-end").count() == 3
    })
    .await;
    for name in ["first", "reader"] {
        stand.agent.delete_and_wait(name).await;
    }
    assert_eq!(
        fs::read(data(&stand, "data").join("mine")).unwrap(),
        b"mine\n"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_volume_is_told_of_and_its_container_starts_on_nothing_else() {
    let stand = Stand::new().await;
    let script = "cat /data/mine; echo mine >>/data/mine; echo the-end; sleep 1000 & wait";
    let more = json!({"volumes": [{"volume": "db", "path": "/data"}]});
    let body = stand.script("db", script, &more);
    stand.agent.deploy_and_wait(&body).await;
    stand.printed("db", "the-end").await;
    stand.agent.delete_and_wait("db").await;
    let away = stand.bed.dir.join("away");
    fs::rename(data(&stand, "db"), &away).unwrap();
    stand.agent.deploy(&body).await;
    let told = failed(&stand, "db", Reason::VolumeMissing).await;
    let place = data(&stand, "db");
    assert!(told.contains(place.to_str().unwrap()), "{told}");
    assert!(!place.exists(), "nothing is made in its place");
    fs::rename(&away, &place).unwrap();
    stand.agent.wait_status("db", "running", SOON).await;
    eventually("it found what it had", async || {
        fs::read(place.join("mine")).unwrap() == b"mine\nmine\n"
    })
    .await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_there_starts_on_no_new_volume_although_every_note_is_lost() {
    let mut stand = Stand::new().await;
    let script = "echo mine >>/data/mine; echo the-end; sleep 1000 & wait";
    let more = json!({"volumes": [{"volume": "db", "path": "/data"}]});
    let body = stand.script("db", script, &more);
    let shown = stand.agent.deploy_and_wait(&body).await;
    stand.printed("db", "the-end").await;
    let pid = stand.pid(&shown).unwrap();
    stand.agent.kill_9();
    crate::harness::run("kill", ["-9", &pid]).unwrap();
    let state = stand.bed.dir.join("state");
    for place in ["volumes", "volume-notes"] {
        fs::rename(state.join(place), state.join(format!("lost-{place}"))).unwrap();
    }
    stand.agent.start_again().await;
    failed(&stand, "db", Reason::VolumeMissing).await;
    assert!(!data(&stand, "db").exists(), "nothing is made in its place");
    for place in ["volumes", "volume-notes"] {
        fs::remove_dir_all(state.join(place)).ok();
        fs::rename(state.join(format!("lost-{place}")), state.join(place)).unwrap();
    }
    stand.agent.wait_status("db", "running", SOON).await;
    eventually("it found what it had", async || {
        fs::read(data(&stand, "db").join("mine")).unwrap() == b"mine\nmine\n"
    })
    .await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_in_memory_is_bounded_private_and_empty_at_each_start() {
    let stand = Stand::new().await;
    let script = "stat -c '%a %n' /tmp/own; ls /tmp/own; \
                  dd if=/dev/zero of=/tmp/own/big bs=1k count=200 2>/dev/null || echo full; \
                  grep ' /tmp/own ' /proc/mounts; echo the-end; sleep 1000 & wait";
    let more = json!({
        "volumes": [{"tmpfs": "128k", "path": "/tmp/own", "mode": "0710"}],
        "security": {"read_only_rootfs": true},
    });
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("memory", script, &more))
        .await;
    let log = stand.printed("memory", "the-end").await;
    for part in ["710 /tmp/own\n", "full\n", "nosuid,nodev,noexec"] {
        assert!(log.contains(part), "{part:?}: {log}");
    }
    crate::harness::run("kill", ["-9", &stand.pid(&shown).unwrap()]).unwrap();
    eventually("it starts again", async || {
        stand
            .agent
            .logs("memory", "tail=all")
            .await
            .matches("the-end")
            .count()
            == 2
    })
    .await;
    let log = stand.agent.logs("memory", "tail=all").await;
    assert!(!log.contains("big"), "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_image_leads_a_volume_out_or_to_what_is_the_kernel_s() {
    let stand = Stand::new().await;
    let outside = stand.bed.dir.join("outside");
    let outside = outside.to_str().unwrap();
    Image::busybox()
        .directory("/proc", 0o755)
        .directory("/dev", 0o755)
        .directory(outside, 0o755)
        .symlink("/kernel", "/proc")
        .symlink("/dangling", "/nothing")
        .symlink("/devices", "../../../dev")
        .symlink("/top", "/")
        .symlink("/loop", "/loop")
        .layer(Packing::Plain, &[("/file", b"x")])
        .symlink("/out", &format!("../../../../../../../..{outside}"))
        .push(&stand.registry, "links:1")
        .await;
    let body = |name: &str, path: &str| {
        let more =
            json!({"image": stand.image("links:1"), "volumes": [{"volume": name, "path": path}]});
        stand.script(
            name,
            "grep -c _data /proc/self/mountinfo; echo the-end; sleep 1000 & wait",
            &more,
        )
    };
    let refused = [
        ("kernel", "/kernel"),
        ("below", "/kernel/sys"),
        ("devices", "/devices/x"),
        ("top", "/top"),
        ("loop", "/loop/x"),
        ("file", "/file"),
        ("under", "/file/x"),
        ("dangling", "/dangling"),
    ];
    for (name, path) in refused {
        stand.agent.deploy(&body(name, path)).await;
    }
    for (name, path) in refused {
        let told = failed(&stand, name, Reason::MountFailed).await;
        assert!(told.contains(path), "{name}: {told}");
    }
    stand.agent.deploy_and_wait(&body("out", "/out/x")).await;
    let log = stand.printed("out", "the-end").await;
    assert!(log.starts_with("1\n"), "{log}");
    assert!(
        !PathBuf::from(outside).exists(),
        "nothing is made on the host"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volumes_of_an_image_are_kept_over_restarts_and_updates_and_go_with_the_container() {
    let stand = Stand::new().await;
    Image::busybox()
        .directory("/data", 0o1770)
        .layer(Packing::Plain, &[("/data/first", b"image")])
        .config("Volumes", json!({"/data": {}, "/new/place": {}}))
        .push(&stand.registry, "volumes:1")
        .await;
    let script = "stat -c '%a %u' /data; cat /data/first; echo x >>/data/times; echo x >>/new/place/times; \
                  echo \"$(wc -l </data/times) $(wc -l </new/place/times) times\"; sleep 1000 & wait";
    let more = json!({"image": stand.image("volumes:1"), "security": {"read_only_rootfs": true}});
    let body = stand.script("kept", script, &more);
    let shown = stand.agent.deploy_and_wait(&body).await;
    let log = stand.printed("kept", "1 1 times").await;
    assert!(log.contains("1770 0\nimage"), "{log}");
    crate::harness::run("kill", ["-9", &stand.pid(&shown).unwrap()]).unwrap();
    stand.printed("kept", "2 2 times").await;
    let mut again = body.clone();
    again["environment"] = json!({"AGAIN": "1"});
    stand.agent.deploy_and_wait(&again).await;
    stand.printed("kept", "3 3 times").await;
    // A volume that the body names takes the place of the image's; the other is there still.
    again["volumes"] = json!([{"volume": "mine", "path": "/data"}]);
    stand.agent.deploy_and_wait(&again).await;
    stand.printed("kept", "1 4 times").await;
    let own = stand.bed.dir.join("state/image-volumes");
    let own = own.join(shown["id"].as_str().unwrap());
    assert_eq!(fs::read_dir(&own).unwrap().count(), 2);
    stand.agent.delete_and_wait("kept").await;
    assert!(!own.exists(), "gone with its container");
    assert_eq!(
        fs::read(data(&stand, "mine").join("times")).unwrap(),
        b"x\n"
    );
    // Of a container that nobody knows, as after a crash.
    let left = own.with_file_name("0123456789ab");
    fs::create_dir_all(left.join("x/_data")).unwrap();
    eventually("it is swept", async || !left.exists()).await;
    stand.end().await;
}
