//! Mirrors and certificates by registry: who is asked in which order, and whose word counts.

use std::path::Path;

use state::digest::sha256;

use super::*;

const MANIFEST: &str = "{}";

fn with_hosts(dir: &Path, auths: &str) -> (RegistryClient, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), auths).unwrap();
    let config = RegistryConfig {
        hosts_dir: Some(dir.to_owned()),
        auth_file: Some(file.path().to_owned()),
        ..RegistryConfig::default()
    };
    (RegistryClient::new(&config).unwrap(), file)
}

fn write(dir: &Path, registry: &str, text: &str) {
    std::fs::create_dir_all(dir.join(registry)).unwrap();
    std::fs::write(dir.join(registry).join("hosts.toml"), text).unwrap();
}

/// Address where nobody listens.
fn away() -> String {
    listen().1
}

fn image(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn ok(body: &str) -> String {
    answer("200 OK", "", body)
}

#[tokio::test]
async fn mirrors_are_asked_in_order_each_with_its_own_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let ((first, one), (second, two), dead) = (listen(), listen(), away());
    let challenge = answer("401 No", "WWW-Authenticate: Basic realm=x\r\n", "");
    let first = serve(first, vec![answer("404 None", "", "")]);
    let second = serve(second, vec![challenge, ok(MANIFEST)]);
    write(
        dir.path(),
        "r.example",
        &format!(
            "server = \"http://{dead}\"\n[host.\"http://{dead}\"]\n[host.\"http://{one}\"]\n\
             [host.\"http://{two}/v2/proxy\"]\noverride_path = true\nheader = {{x-key = \"k\"}}\n"
        ),
    );
    let auths = format!(
        r#"{{"auths": {{"r.example": {{"auth": "cjpw"}}, "{two}/proxy/team": {{"auth": "bTpw"}}}}}}"#
    );
    let (client, _file) = with_hosts(dir.path(), &auths);
    client
        .manifest(&image("r.example/team/web:1"), "1")
        .await
        .unwrap();
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert!(
        first[0].starts_with("get /v2/team/web/manifests/1?ns=r.example "),
        "{first:?}"
    );
    assert!(
        !first[0].contains("authorization") && !first[0].contains("x-key"),
        "{first:?}"
    );
    assert!(
        second[1].starts_with("get /v2/proxy/team/web/manifests/1?ns=r.example "),
        "{second:?}"
    );
    assert!(
        second[1].contains("authorization: basic btpw") && second[1].contains("x-key: k"),
        "{second:?}"
    );
}

#[tokio::test]
async fn a_mirror_that_lies_or_dies_is_passed_over_and_then_asked_last() {
    let dir = tempfile::tempdir().unwrap();
    let ((mirror, one), (own, registry)) = (listen(), listen());
    let lie = serve(mirror, vec![ok("{\"lie\": 1}")]);
    let own = serve(own, vec![ok(MANIFEST), ok(MANIFEST)]);
    let text = format!("server = \"http://{registry}\"\n[host.\"http://{one}\"]\n");
    write(
        dir.path(),
        &format!("{}_", registry.replace(':', "_")),
        &text,
    );
    let (client, _file) = with_hosts(dir.path(), "{}");
    let digest = sha256(MANIFEST.as_bytes());
    let image = image(&format!("{registry}/web@{digest}"));
    assert_eq!(
        client.manifest(&image, &digest).await.unwrap().bytes,
        MANIFEST
    );
    // The mirror, whose listener is gone, would cost an error.
    assert_eq!(
        client.manifest(&image, &digest).await.unwrap().bytes,
        MANIFEST
    );
    assert_eq!(
        (lie.join().unwrap().len(), own.join().unwrap().len()),
        (1, 2)
    );
}

#[tokio::test]
async fn a_mirror_without_the_right_to_resolve_is_asked_for_content_only() {
    let dir = tempfile::tempdir().unwrap();
    let ((mirror, one), (own, registry)) = (listen(), listen());
    let digest = sha256(MANIFEST.as_bytes());
    let mirror = serve(mirror, vec![ok(MANIFEST)]);
    let head = answer(
        "200 OK",
        &format!("Docker-Content-Digest: {digest}\r\n"),
        "",
    );
    let own = serve(own, vec![head]);
    let text = format!(
        "server = \"http://{registry}\"\n[host.\"http://{one}\"]\ncapabilities = [\"pull\"]\n"
    );
    write(dir.path(), "_default", &text);
    let (client, _file) = with_hosts(dir.path(), "{}");
    let image = image("any.example/web:1");
    let resolved = client.resolve(&image, "1").await.unwrap();
    assert_eq!(resolved.as_ref(), Some(&digest));
    client.manifest(&image, &digest).await.unwrap();
    assert_eq!(
        (mirror.join().unwrap().len(), own.join().unwrap().len()),
        (1, 1)
    );
    write(dir.path(), "_default", "capabilities = [\"pull\"]\n");
    let error = client.resolve(&image, "1").await.unwrap_err();
    assert!(error.to_string().contains("resolve"), "{error}");
}

#[tokio::test]
async fn a_bad_file_is_named_at_once_stops_its_own_registry_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (own, registry) = listen();
    let own = serve(own, vec![ok(MANIFEST), ok(MANIFEST)]);
    let good = format!("server = \"http://{registry}\"\n");
    write(dir.path(), "good.example", &good);
    write(dir.path(), "bad.example", "server = ");
    write(dir.path(), "ca.example", "ca = \"absent.crt\"\n");
    let (client, _file) = with_hosts(dir.path(), "{}");
    client
        .manifest(&image("good.example/web:1"), "1")
        .await
        .unwrap();
    for (bad, part) in [("bad.example", "hosts.toml"), ("ca.example", "absent.crt")] {
        let error = client
            .manifest(&image(&format!("{bad}/web:1")), "1")
            .await
            .unwrap_err();
        let RegistryError::Lasting(failure) = error else {
            panic!("{error}");
        };
        assert_eq!(failure.reason, Reason::RegistryConfigInvalid);
        assert!(
            failure.message.contains(bad) && failure.message.contains(part),
            "{failure}"
        );
    }
    assert_eq!(client.faults().len(), 2, "{:?}", client.faults());
    // Mended, it counts without a restart.
    write(dir.path(), "bad.example", &good);
    let faults = client.faults();
    assert!(
        matches!(&faults[..], [fault] if fault.contains("absent.crt")),
        "{faults:?}"
    );
    client
        .manifest(&image("bad.example/web:1"), "1")
        .await
        .unwrap();
    own.join().unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_a_fault_and_clears_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    write(&hosts, "bad.example", "server = ");
    let (client, _file) = with_hosts(&hosts, "{}");
    assert_eq!(client.faults().len(), 1, "{:?}", client.faults());
    std::fs::rename(&hosts, dir.path().join("away")).unwrap();
    std::fs::write(&hosts, "").unwrap();
    let faults = client.faults();
    assert!(
        matches!(&faults[..], [unread, bad] if unread.contains("cannot be read") && bad.contains("bad.example")),
        "{faults:?}"
    );
    std::fs::remove_file(&hosts).unwrap();
    assert_eq!(client.faults(), [""; 0]);
}

#[tokio::test]
async fn an_empty_file_hides_no_certificates_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "r.example", "");
    std::fs::write(dir.path().join("r.example/own.crt"), "none").unwrap();
    let (client, _file) = with_hosts(dir.path(), "{}");
    let [fault] = &client.faults()[..] else {
        panic!("{:?}", client.faults());
    };
    assert!(fault.contains("own.crt"), "{fault}");
}

#[tokio::test]
async fn the_error_tells_of_every_host_that_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let ((own, registry), dead) = (listen(), away());
    let own = serve(own, vec![answer("404 None", "", "")]);
    let text = format!("server = \"http://{registry}\"\n[host.\"http://{dead}\"]\n");
    write(dir.path(), "r.example", &text);
    let (client, _file) = with_hosts(dir.path(), "{}");
    let error = client
        .manifest(&image("r.example/web:1"), "1")
        .await
        .unwrap_err();
    let RegistryError::Lasting(failure) = error else {
        panic!("{error}");
    };
    assert_eq!(failure.reason, Reason::ImageNotFound);
    assert!(
        failure.message.contains(&registry) && failure.message.contains(&dead),
        "{failure}"
    );
    own.join().unwrap();
}
