//! Files of containers as archives, with curl and GNU tar on the other side.

use std::fs;

use serde_json::json;

use super::archives::{curl, sh};
use crate::harness::image::{Image, Packing};
use crate::stand::{Stand, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn files_go_into_a_container_and_out_of_it_as_it_sees_them() {
    let stand = Stand::new().await;
    Image::busybox()
        .layer(
            Packing::Plain,
            &[("/etc/app/conf", b"image"), ("/srv/file", b"served")],
        )
        .symlink("/srv/out", "/etc/app")
        .push(&stand.registry, "files:1")
        .await;
    let dir = stand.bed.dir.clone();
    for (name, more) in [
        ("plain", json!({})),
        ("mapped", json!({"security": {"user_namespace": "auto"}})),
    ] {
        let mut body = json!({"image": stand.image("files:1"), "volumes": [{"volume": format!("{name}-data"), "path": "/data"}, {"tmpfs": "1m", "path": "/scratch"}]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let script = "echo mine >/data/mine; chown 1000:1001 /data/mine; echo x >/srv/new; chmod 4750 /srv/new; \
                      rm /srv/file; echo the-end; sleep 1000 & wait";
        stand
            .agent
            .deploy_and_wait(&stand.script(name, script, &body))
            .await;
        stand.printed(name, "the-end").await;
        let call = |arguments: &[&str], path: &str| {
            curl(
                &stand,
                arguments,
                &format!("/containers/{name}/archive?path={path}"),
            )
        };
        let got = dir.join(format!("{name}.tar"));
        let get = |path: &str| {
            let (code, status, _) = call(&["-o", got.to_str().unwrap()], path);
            assert_eq!((code, status), (0, 200), "{name} {path}");
            sh(
                &dir,
                &format!(
                    "tar --numeric-owner -tvf {name}.tar | awk '{{print $1, $2, $3, $6, $7, $8}}'"
                ),
            )
        };
        for (path, lines) in [
            (
                "/srv",
                &[
                    "drwxr-xr-x 0/0 0 srv/",
                    "-rwsr-x--- 0/0 2 srv/new",
                    "lrwxrwxrwx 0/0 0 srv/out -> /etc/app",
                ][..],
            ),
            ("/data", &["-rw-r--r-- 1000/1001 5 data/mine"]),
            ("/srv/out/conf", &["-rw-r--r-- 0/0 5 conf"]),
            ("/srv/out", &["lrwxrwxrwx 0/0 0 out -> /etc/app"]),
            ("/etc/hostname", &["hostname"]),
        ] {
            let listed = get(path);
            for line in lines {
                assert!(listed.contains(line), "{name} {path} {line}: {listed}");
            }
            assert!(!listed.contains("srv/file"), "{listed}");
        }
        for (path, status) in [
            ("/nothing", 404),
            ("/proc", 409),
            ("/proc/1/root", 409),
            ("/sys/kernel", 409),
            ("/dev", 409),
            ("/dev/null", 409),
            ("/srv/../etc", 400),
            ("relative", 400),
        ] {
            let (_, got, text) = call(&[], path);
            assert_eq!(got, status, "{name} {path}: {text}");
        }
        // Into it: its own files, its volume, and a file system in memory.
        sh(
            &dir,
            "mkdir -p in/sub; echo 1 >in/sub/file; chown 7:8 in/sub/file; chmod 6711 in/sub/file; tar -cf in.tar -C in sub",
        );
        let archive = dir.join("in.tar");
        let put = |path: &str| call(&["-T", archive.to_str().unwrap()], path);
        // Where owners are mapped, nobody but the container makes files in its mounts.
        let mut taken = Vec::new();
        for path in ["/srv", "/data", "/scratch", "/srv/out"] {
            let (_, status, text) = put(path);
            let is_mount = ["/data", "/scratch"].contains(&path);
            let is_mapped = status == 409 && text.contains("PUT /volumes/NAME/archive");
            assert!(
                status == 200 || is_mount && is_mapped,
                "{name} {path}: {status} {text}"
            );
            taken.extend((status == 200).then_some(path.replace("/srv/out", "/etc/app")));
        }
        for (path, status) in [
            ("/nothing", 404),
            ("/srv/new", 400),
            ("/proc", 409),
            ("/dev", 409),
        ] {
            let (_, got, text) = put(path);
            assert_eq!(got, status, "{name} {path}: {text}");
        }
        let look = json!({"command": ["stat", "-c", "%n %a %u:%g", "/srv/sub/file", "/data/sub/file", "/scratch/sub/file", "/etc/app/sub/file"]});
        let (status, shown) = stand
            .agent
            .ask("POST", &format!("/containers/{name}/exec"), Some(&look))
            .await;
        assert_eq!(status, 200, "{shown}");
        for path in taken {
            let line = format!("{path}/sub/file 6711 7:8\n");
            assert!(
                shown["stdout"].as_str().unwrap().contains(&line),
                "{name} {line}: {shown}"
            );
        }
        // Stopped, its own files are read, and none is written.
        stand
            .agent
            .ask("POST", &format!("/containers/{name}/stop"), None)
            .await;
        eventually("it is stopped", async || {
            stand.agent.get(&format!("/containers/{name}")).await.1["status"] == "stopped"
        })
        .await;
        let listed = get("/srv");
        for line in [
            "-rwsr-x--- 0/0 2 srv/new",
            "-rws--s--x 7/8 2 srv/sub/file",
            "srv/out -> /etc/app",
        ] {
            assert!(listed.contains(line), "{name} {line}: {listed}");
        }
        assert!(!listed.contains("srv/file"), "{listed}");
        assert_eq!(put("/srv").1, 409);
    }
    let audit = sh(&stand.bed.dir.join("state/audit"), "cat *");
    assert!(
        audit.contains("\"kind\":\"archive_write\",\"name\":\"mapped\""),
        "{audit}"
    );
    assert!(audit.contains("\"path\":\"/scratch\""), "{audit}");
    assert!(
        !fs::read_dir(&dir)
            .unwrap()
            .any(|entry| entry.unwrap().file_name() == "sub")
    );
    stand.end().await;
}
