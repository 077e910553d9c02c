//! Archives of volumes, with curl and GNU tar on the other side; and the removal of volumes.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::data;
use crate::harness::agent::TOKEN;
use crate::stand::{Stand, eventually};

/// Calls the agent with curl; its exit code, the status of the answer, and its text.
pub(super) fn curl(stand: &Stand, arguments: &[&str], path: &str) -> (i32, u16, String) {
    let out = Command::new("curl")
        .args(["-sS", "-w", "\n%{http_code}", "-H"])
        .arg(format!("Authorization: Bearer {TOKEN}"))
        .args(arguments)
        .arg(format!("{}{path}", stand.agent.base()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (text, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    let code = out.status.code().unwrap_or(-1);
    (code, status.parse().unwrap_or(0), text.to_owned())
}

/// Runs a shell script in a directory.
pub(super) fn sh(directory: &Path, script: &str) -> String {
    let out = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Everything about the files of a directory that is worth keeping, as other programs tell it.
fn told(directory: &Path) -> String {
    sh(
        directory,
        "find . -printf '%p %y %m %U:%G %n %T@ %s %l\\n' | sort; \
         find . -type f -print0 | sort -z | xargs -0 sha256sum; \
         find . -type f -print0 | sort -z | xargs -0 stat -c '%n %b'; \
         find . \\( -type f -o -type d \\) -print0 | sort -z | xargs -0 \
         python3 -c 'import os, sys; [print(p, a, os.getxattr(p, a)) for p in sys.argv[1:] \
         for a in sorted(os.listxattr(p))]'",
    )
}

/// Compares what was told of two directories, line by line.
#[track_caller]
fn same(found: &str, expected: &str) {
    let differ = found
        .lines()
        .zip(expected.lines())
        .find(|(found, expected)| found != expected);
    assert_eq!(differ, None);
    let lines = found.lines().count();
    assert_eq!(expected.lines().nth(lines), None, "this is missing");
    assert_eq!(lines, expected.lines().count());
}

/// A volume that has a bit of everything, made by a container and by hand.
async fn make_volume(stand: &Stand, name: &str) -> PathBuf {
    let more = json!({"volumes": [{"volume": name, "path": "/data"}]});
    let body = stand.script(
        "maker",
        "echo made >/data/made; echo the-end; sleep 1000 & wait",
        &more,
    );
    stand.agent.deploy_and_wait(&body).await;
    stand.printed("maker", "the-end").await;
    let place = data(stand, name);
    sh(
        &place,
        "mkdir -p a/b; seq 200000 >a/numbers; ln a/numbers a/b/same; ln -s /etc/passwd out; \
         mkfifo -m 640 pipe; truncate -s 100M hole; \
         printf x | dd of=hole bs=1 seek=50000000 conv=notrunc 2>/dev/null; \
         long=$(printf %0200d 0); mkdir $long; echo long >$long/$long; \
         cp /bin/true setuid; chown 1000:1001 setuid; chmod 6755 setuid; chown -h 70000:5 out; \
         python3 -c 'import os; os.setxattr(\"made\", \"user.k\", b\"v\\0=\"); \
         os.setxattr(\"setuid\", \"security.capability\", bytes.fromhex(\"0100000200040000000000000000000000000000\"))'; \
         chmod 1770 a; touch -d '1999-01-01 00:00:00.123456789' a/b; chown 5:6 .; chmod 2755 .",
    );
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_saved_and_restored_elsewhere_with_all_that_its_files_are() {
    let stand = Stand::new().await;
    let place = make_volume(&stand, "data").await;
    let before = told(&place);
    let dir = stand.bed.dir.clone();
    let (plain, zstd) = (dir.join("plain.tar"), dir.join("zstd.tar.zst"));
    let (code, status, text) = curl(
        &stand,
        &["-o", plain.to_str().unwrap()],
        "/volumes/data/archive",
    );
    assert_eq!((code, status), (0, 200), "{text}");
    assert!(
        fs::metadata(&plain).unwrap().len() < 10 << 20,
        "holes cost nothing"
    );
    let accept = ["-H", "Accept-Encoding: zstd", "-o", zstd.to_str().unwrap()];
    assert_eq!(curl(&stand, &accept, "/volumes/data/archive").1, 200);
    sh(
        &dir,
        "zstd -tq zstd.tar.zst; zstd -dqc zstd.tar.zst | cmp - plain.tar",
    );
    // GNU tar finds the same in it.
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    sh(
        &other,
        "tar -xp --xattrs --xattrs-include='*' --numeric-owner -f ../plain.tar",
    );
    same(&told(&other), &before);

    let put = |file: &Path, volume: &str, more: &[&str]| {
        let file = file.to_str().unwrap();
        curl(
            &stand,
            &[&["-T", file], more].concat(),
            &format!("/volumes/{volume}/archive"),
        )
    };
    let (code, status, text) = put(&plain, "copy", &[]);
    assert_eq!((code, status), (0, 200), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(answer["files"].as_u64().unwrap() >= 12, "{answer}");
    same(&told(&data(&stand, "copy")), &before);
    let (code, status, text) = put(&zstd, "copy2", &["-H", "Content-Encoding: zstd"]);
    assert_eq!((code, status), (0, 200), "{text}");
    same(&told(&data(&stand, "copy2")), &before);
    // An archive of GNU tar's, over what is there: what it does not name stays.
    sh(
        &place,
        "tar -c --xattrs --xattrs-include='*' -S --numeric-owner -f ../gnu.tar .",
    );
    let gnu = place.with_file_name("gnu.tar");
    fs::write(data(&stand, "copy").join("mine"), "mine").unwrap();
    assert_eq!(put(&gnu, "copy", &[]).1, 200);
    assert_eq!(
        fs::read(data(&stand, "copy").join("mine")).unwrap(),
        b"mine"
    );
    fs::remove_file(data(&stand, "copy").join("mine")).unwrap();
    assert_eq!(put(&gnu, "copy", &[]).1, 200);
    same(&told(&data(&stand, "copy")), &before);
    // A container reads what was restored, and is listed.
    let more = json!({"volumes": [{"volume": "copy2", "path": "/data"}]});
    let body = stand.script(
        "reader",
        "cat /data/made; echo the-end; sleep 1000 & wait",
        &more,
    );
    stand.agent.deploy_and_wait(&body).await;
    assert!(
        stand
            .printed("reader", "the-end")
            .await
            .starts_with("made\n")
    );
    let (_, shown) = stand.agent.get("/volumes").await;
    let names: Vec<_> = shown["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["name"].clone())
        .collect();
    assert_eq!(names, ["copy", "copy2", "data"]);
    let (_, one) = stand.agent.get("/volumes/data").await;
    assert_eq!(one["used_by"], json!(["maker"]), "{one}");
    assert!(one["made_at"].is_string(), "{one}");
    assert!(
        (1 << 20..4 << 20).contains(&one["size_bytes"].as_u64().unwrap()),
        "{one}"
    );
    assert!(one["files"].as_u64().unwrap() >= 11, "{one}");
    eventually("what is unused is told since when", async || {
        let (_, one) = stand.agent.get("/volumes/copy").await;
        one["unused_since"].is_string() && one["used"] == json!(false)
    })
    .await;
    let audit = fs::read_to_string(stand.bed.dir.join("state/audit/audit.log"));
    let audit = audit.unwrap_or_else(|_| sh(&stand.bed.dir.join("state/audit"), "cat *"));
    for word in [
        "\"volume_read\"",
        "\"volume_write\",\"before\":null,\"after\":null,\"volume\":\"copy2\"",
    ] {
        assert!(audit.contains(word), "{word}: {audit}");
    }
    let log = stand.agent.log();
    for direction in ["read", "written"] {
        let done = format!("archive done container= direction=\"{direction}\"");
        assert!(log.contains(&done), "{done}: {log}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_removed_when_nobody_uses_it_and_not_before() {
    let stand = Stand::new().await;
    make_volume(&stand, "data").await;
    let (status, told) = stand.agent.ask("DELETE", "/volumes/data", None).await;
    assert_eq!(status, 409, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("maker"), "{told}");
    // Another generation without it, while something else still has it mounted.
    stand.agent.delete_and_wait("maker").await;
    let place = data(&stand, "data");
    let mut holder = Command::new("unshare")
        .args([
            "-m",
            "sh",
            "-c",
            "mkdir -p $1; mount --bind $0 $1; echo; exec sleep 1000",
        ])
        .args([
            place.as_os_str(),
            stand.bed.dir.join("elsewhere").as_os_str(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = std::io::BufReader::new(holder.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut { out }, &mut line).unwrap();
    let (status, told) = stand.agent.ask("DELETE", "/volumes/data", None).await;
    let process = format!("process {}", holder.id());
    assert!(
        status == 409 && told["detail"].as_str().unwrap().contains(&process),
        "{told}"
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
    let (status, told) = stand.agent.ask("DELETE", "/volumes/data", None).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(stand.agent.get("/volumes/data").await.0, 404);
    assert_eq!(
        stand.agent.ask("DELETE", "/volumes/data", None).await.0,
        404
    );
    eventually("its content is gone", async || {
        !place.parent().unwrap().exists()
    })
    .await;
    // One that is made anew begins anew; and the note of a lost one can be removed.
    let more = json!({"volumes": [{"volume": "data", "path": "/data"}]});
    let body = stand.script("again", "ls /data; echo the-end; sleep 1000 & wait", &more);
    stand.agent.deploy_and_wait(&body).await;
    assert_eq!(stand.printed("again", "the-end").await, "the-end\n");
    stand.agent.delete_and_wait("again").await;
    fs::remove_dir_all(&place).unwrap();
    let (_, one) = stand.agent.get("/volumes/data").await;
    assert_eq!(one["missing"], json!(true), "{one}");
    let (status, told) = stand.agent.ask("GET", "/volumes/data/archive", None).await;
    assert_eq!(status, 409, "{told}");
    assert_eq!(
        stand.agent.ask("DELETE", "/volumes/data", None).await.0,
        200
    );
    assert_eq!(stand.agent.get("/volumes").await.1["volumes"], json!([]));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_cut_or_not_well_meant_leaves_the_volume_as_it_was() {
    let mut stand = Stand::new().await;
    let dir = stand.bed.dir.clone();
    sh(
        &dir,
        "mkdir src; echo 1 >src/first; head -c 50M /dev/urandom >src/big; tar -cf all.tar -C src .; \
              head -c 30M all.tar >cut.tar; echo no archive >none.tar; \
              ln -s ../../../.. src/s; tar -cf link.tar -C src s; \
              tar -cf evil.tar -P --transform 's,^,../,' src/first; rm -r src/s; \
              mkdir src/s; echo x >src/s/x; tar -cf through.tar -C src s/x",
    );
    let put = |stand: &Stand, file: &str, more: &[&str]| {
        let file = dir.join(file);
        let file = file.to_str().unwrap();
        curl(
            stand,
            &[&["-T", file], more].concat(),
            "/volumes/data/archive",
        )
    };
    // Nothing is made of an archive that is cut before there is a volume.
    let (code, status, text) = put(&stand, "cut.tar", &[]);
    assert_eq!((code, status), (0, 400), "{text}");
    assert!(text.contains("big") && text.contains("broke off"), "{text}");
    assert_eq!(stand.agent.get("/volumes/data").await.0, 404);
    assert_eq!(put(&stand, "all.tar", &[]).1, 200);
    let place = data(&stand, "data");
    fs::write(place.join("big"), "before").unwrap();
    for (file, more, status, words) in [
        ("cut.tar", &[][..], 400, "big"),
        ("none.tar", &[], 400, "broke off"),
        ("evil.tar", &[], 409, "leads out"),
        ("all.tar", &["-H", "Content-Encoding: zstd"], 400, ""),
        ("all.tar", &["-H", "Content-Encoding: gzip"], 415, "gzip"),
        (
            "all.tar",
            &["-H", "Content-Type: application/json"],
            415,
            "json",
        ),
        (
            "all.tar",
            &["-H", "Expect:", "-H", "Content-Encoding: br"],
            415,
            "br",
        ),
    ] {
        let (code, got, text) = put(&stand, file, more);
        assert_eq!((code, got), (0, status), "{file} {text}");
        assert!(text.contains(words), "{file} {text}");
        assert_eq!(fs::read(place.join("big")).unwrap(), b"before", "{file}");
    }
    // A link that leads out of the volume leads nowhere.
    assert_eq!(put(&stand, "link.tar", &[]).1, 200);
    let (_, status, text) = put(&stand, "through.tar", &[]);
    assert_eq!(status, 200, "it leads to the volume's own root: {text}");
    assert_eq!(fs::read(place.join("x")).unwrap(), b"x\n");
    // The client goes in the middle, and so does the agent.
    for kills_agent in [false, true] {
        let mut sender = Command::new("curl")
            .args(["-sS", "-T", "-", "--limit-rate", "5M", "-H"])
            .arg(format!("Authorization: Bearer {TOKEN}"))
            .arg(format!("{}/volumes/data/archive", stand.agent.base()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = sender.stdin.take().unwrap();
        let bytes = fs::read(dir.join("all.tar")).unwrap();
        let sending = std::thread::spawn(move || input.write_all(&bytes).is_ok());
        tokio::time::sleep(Duration::from_secs(2)).await;
        if kills_agent {
            stand.agent.kill_9();
        } else {
            sender.kill().unwrap();
        }
        sender.wait().unwrap();
        sending.join().unwrap();
        if kills_agent {
            stand.agent.start_again().await;
        }
        assert_eq!(fs::read(place.join("big")).unwrap(), b"before");
        let names = sh(&place, "ls -A");
        assert_eq!(names, "big\nfirst\ns\nx\n", "{kills_agent}");
    }
    let (code, status, text) = put(&stand, "all.tar", &[]);
    assert_eq!((code, status), (0, 200), "{text}");
    sh(&dir, "cmp src/big state/volumes/data/_data/big");
    // An answer that breaks off is an error to curl.
    let mut out = File::create(dir.join("held")).unwrap();
    out.write_all(b"x").unwrap();
    let got = dir.join("got.tar");
    let getting = curl(
        &stand,
        &["--limit-rate", "5M", "-m", "2", "-o", got.to_str().unwrap()],
        "/volumes/data/archive",
    );
    assert_ne!(getting.0, 0);
    stand.end().await;
}
