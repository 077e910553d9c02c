//! PostgreSQL, Redis and nginx from the distribution's packages as images, with the ways of the ones that everybody pulls.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::image::{Image, Packing};
use crate::harness::registry::Registry;
use crate::harness::{finish, run};

/// What Debian's packages need done, and what the images of that name have beside them.
const POSTGRES: &str = "
    mkdir -p etc tmp run/postgresql var/lib/postgresql/data var/run usr/local/bin
    echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >etc/passwd
    echo 'postgres:x:999:' >etc/group
    ln -s /usr/lib/postgresql/*/bin/* usr/local/bin
    mkdir -p var/run/postgresql
    chmod 1777 tmp; chmod 700 var/lib/postgresql/data
    chown -R 999:999 var/lib/postgresql var/run/postgresql
";
const REDIS: &str = "
    mkdir -p etc tmp data
    echo 'redis:x:998:998::/data:/bin/sh' >etc/passwd
    echo 'redis:x:998:' >etc/group
    chmod 1777 tmp; chown 998:998 data
";
const NGINX: &str = "
    mkdir -p etc tmp usr/share/nginx/html var/cache/nginx var/lib/nginx var/log/nginx
    echo 'www-data:x:33:33::/:/bin/sh' >etc/passwd
    echo 'www-data:x:33:' >etc/group
    echo 'the page of the image' >usr/share/nginx/html/index.html
    chmod 1777 tmp; chown -R 33:33 usr/share/nginx/html
";

/// How the image that everybody pulls begins: the database is made once, by its own user, with the password of the file.
const ENTRYPOINT: &[u8] = br#"#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 --locale=C --encoding=UTF8
fi
exec "$@"
"#;

/// An archive of a root filesystem, made once on this computer.
fn rootfs(name: &str, prepare: &str, packages: &[&str]) -> PathBuf {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.tar.zst"));
    if !archive.exists() {
        let mut command = Command::new("bash");
        command
            .args(["-c", include_str!("rootfs"), "rootfs"])
            .arg(&archive)
            .arg(prepare)
            .args(packages);
        finish(&mut command).unwrap();
    }
    archive
}

fn unpacked(archive: &Path) -> Vec<u8> {
    let mut command = Command::new("zstd");
    let out = command.arg("-dqc").arg(archive).output().unwrap();
    assert!(out.status.success(), "{}", archive.display());
    out.stdout
}

/// Pushes the three, each in the two versions that the examples and their page name.
pub(super) async fn push(registry: &Registry) {
    let of = |archive: &Path| Image::busybox().raw_layer(Packing::Zstd, unpacked(archive));
    let postgres = of(&postgres_archive())
        .program("/usr/local/bin/docker-entrypoint.sh", ENTRYPOINT)
        .config("Entrypoint", json!(["docker-entrypoint.sh"]))
        .config("Cmd", json!(["postgres"]))
        .config(
            "Env",
            json!([
                "PATH=/usr/local/bin:/usr/bin:/bin",
                "PGDATA=/var/lib/postgresql/data"
            ]),
        )
        .config("StopSignal", json!("SIGINT"));
    let redis = rootfs("redis", REDIS, &["redis-server", "redis-tools"]);
    let redis = of(&redis)
        .config("Env", json!(["PATH=/usr/bin:/bin"]))
        .config("Cmd", json!(["redis-server"]));
    let nginx = of(&rootfs("nginx", NGINX, &["nginx"]))
        .config("Env", json!(["PATH=/usr/sbin:/bin"]))
        .config("Cmd", json!(["nginx"]));
    for (name, image) in [
        ("postgres:15", postgres),
        ("redis:7", redis),
        ("nginx:1", nginx),
    ] {
        let first = image.layer(Packing::Plain, &[("/generation", b"1")]);
        first.clone().push(registry, name).await;
        let second = first.layer(Packing::Plain, &[("/generation", b"2")]);
        second.push(registry, &format!("{name}.9")).await;
    }
}

fn postgres_archive() -> PathBuf {
    rootfs("postgres", POSTGRES, &["postgresql"])
}

/// The clients of PostgreSQL on this computer, in a directory to change the root to.
pub(super) fn clients(directory: &Path) {
    std::fs::create_dir(directory).unwrap();
    let archive = postgres_archive();
    let [archive, directory] = [&archive, directory].map(|path| path.to_str().unwrap());
    run("tar", ["--zstd", "-xf", archive, "-C", directory]).unwrap();
    let script = "mkdir -p $0/bin; cp /bin/busybox $0/bin/; ln -s busybox $0/bin/sh; ln -s busybox $0/bin/env";
    run("sh", ["-ec", script, directory]).unwrap();
}
