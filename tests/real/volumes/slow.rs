//! Uploads that are slow, or too large: nobody waits for them, and the disk keeps its reserve.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use state::reason::Reason;

use super::archives::{curl, sh};
use super::{data, failed};
use crate::harness::agent::TOKEN;
use crate::stand::{Stand, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn no_container_waits_for_an_upload_to_its_new_volume() {
    let stand = Stand::new().await;
    let mut sender = Command::new("curl")
        .args(["-sS", "-T", "-", "-H"])
        .arg(format!("Authorization: Bearer {TOKEN}"))
        .arg(format!("{}/volumes/data/archive", stand.agent.base()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = sender.stdin.take().unwrap();
    input.write_all(&[0x20; 100]).unwrap();
    input.flush().unwrap();
    let new = stand.bed.dir.join("state/volumes/data/.new");
    eventually("the upload is under way", async || new.exists()).await;
    let more = json!({"volumes": [{"volume": "data", "path": "/data"}]});
    let body = stand.script("waits", "echo the-end; sleep 1000 & wait", &more);
    stand.agent.deploy(&body).await;
    let told = failed(&stand, "waits", Reason::CreateFailed).await;
    assert!(told.contains("an archive is being written"), "{told}");
    let (_, status, text) = curl(&stand, &["-X", "DELETE"], "/volumes/data");
    assert_eq!(status, 409, "{text}");
    stand.agent.delete_and_wait("waits").await;
    stand.agent.deploy(&body).await;
    failed(&stand, "waits", Reason::CreateFailed).await;
    sender.kill().unwrap();
    sender.wait().unwrap();
    stand.printed("waits", "the-end").await;
    assert!(data(&stand, "data").is_dir() && !new.exists());
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_the_disk_has_no_room_for_is_refused_and_leaves_nothing() {
    let stand = Stand::new().await;
    let dir = stand.bed.dir.clone();
    sh(
        &dir,
        "mkdir -p state/volumes/small src; mount -t tmpfs -o size=8m none state/volumes/small; \
         head -c 1M /dev/zero >src/a; tar -cf fits.tar -C src .; \
         head -c 20M /dev/zero >src/b; tar -cf large.tar -C src .",
    );
    let put = |file: &str| {
        let file = dir.join(file);
        curl(
            &stand,
            &["-T", file.to_str().unwrap()],
            "/volumes/small/archive",
        )
    };
    for makes in [true, false] {
        let (code, status, text) = put("large.tar");
        assert_eq!((code, status), (0, 507), "{text}");
        assert!(text.contains("./b"), "{text}");
        if makes {
            assert_eq!(stand.agent.get("/volumes/small").await.0, 404);
            assert_eq!(put("fits.tar").1, 200);
        }
        assert_eq!(sh(&dir, "ls -A state/volumes/small/_data"), "a\n");
    }
    let (_, status, text) = curl(&stand, &["-X", "DELETE"], "/volumes/small");
    assert_eq!(status, 409, "its disk is mounted: {text}");
    sh(&dir, "umount state/volumes/small");
    let (_, one) = stand.agent.get("/volumes/small").await;
    assert_eq!(one["missing"], json!(true), "{one}");
    assert_eq!(curl(&stand, &["-X", "DELETE"], "/volumes/small").1, 200);
    stand.end().await;
}
