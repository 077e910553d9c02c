//! Registry client against servers of the test: requests sent, and answers believed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;

mod access;
mod hosts;
mod led;
mod patience;

/// Answers one connection after the other, and in the end with the requests it saw.
fn serve(listener: TcpListener, answers: Vec<String>) -> JoinHandle<Vec<String>> {
    thread::spawn(move || {
        let one = |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            let head = head_of(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            head
        };
        answers.into_iter().map(one).collect()
    })
}

/// Head of a request, in small letters.
fn head_of(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    (listener, authority)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn client(insecure: &[&str], auths: &str) -> (RegistryClient, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), auths).unwrap();
    let insecure = insecure.iter().map(|&host| host.to_owned()).collect();
    let auth_file = Some(file.path().to_owned());
    (
        RegistryClient::new(&RegistryConfig {
            insecure,
            auth_file,
            ..RegistryConfig::default()
        })
        .unwrap(),
        file,
    )
}

async fn whole(mut body: BlobBody<'_>) -> String {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_secret_goes_to_the_registry_and_not_along_with_a_redirect() {
    let ((door, registry), (store, elsewhere)) = (listen(), listen());
    let auths = format!(
        r#"{{"auths": {{"{registry}": {{"auth": "dTpw"}}, "{elsewhere}": {{"auth": "dTpw"}}}}}}"#
    );
    let challenge = answer("401 No", "WWW-Authenticate: Basic realm=x\r\n", "");
    let redirect = answer(
        "307 There",
        &format!("Location: http://{elsewhere}/blob?signature\r\n"),
        "",
    );
    let door = serve(door, vec![challenge, redirect.clone(), redirect]);
    let store = serve(
        store,
        vec![
            answer("200 OK", "", "blob"),
            answer("401 No", "WWW-Authenticate: Basic realm=x\r\n", ""),
        ],
    );
    let (client, _file) = client(&[&registry, &elsewhere], &auths);
    let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
    assert_eq!(
        whole(client.blob(&image, "sha256:x", 0).await.unwrap()).await,
        "blob"
    );
    // The store's wish for a password is not granted either.
    let refused = client.blob(&image, "sha256:x", 2).await.unwrap_err();
    assert!(
        matches!(refused, RegistryError::Passing { .. }),
        "{refused}"
    );

    let shown = |heads: Vec<String>| {
        heads
            .iter()
            .map(|head| head.contains("authorization:"))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(door.join().unwrap()), [false, true, true]);
    let heads = store.join().unwrap();
    assert!(
        heads[0].contains("get /blob?signature") && heads[1].contains("range: bytes=2-"),
        "{heads:?}"
    );
    assert_eq!(shown(heads), [false, false]);
}

#[tokio::test]
async fn a_redirect_or_token_service_in_the_clear_must_be_listed() {
    for headers in [
        "Location: http://plain.invalid/x\r\n",
        "WWW-Authenticate: Bearer realm=\"http://plain.invalid/x\"\r\n",
    ] {
        let status = if headers.starts_with("Loc") {
            "302 There"
        } else {
            "401 No"
        };
        let (door, registry) = listen();
        let door = serve(door, vec![answer(status, headers, "")]);
        let (client, _file) = client(&[&registry], "{}");
        let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
        let error = client.manifest(&image, "1").await.unwrap_err();
        assert!(
            matches!(&error, RegistryError::Lasting(failure) if failure.message.contains("list plain.invalid")),
            "{error}"
        );
        door.join().unwrap();
    }
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let (door, registry) = listen();
    let circle = answer("302 There", "Location: /v2/again\r\n", "");
    let door = serve(door, vec![circle; 6]);
    let (client, _file) = client(&[&registry], "{}");
    let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
    let error = client.manifest(&image, "1").await.unwrap_err();
    assert!(error.to_string().contains("more than 5 times"), "{error}");
    door.join().unwrap();
}

#[tokio::test]
async fn a_server_without_ranges_costs_time_and_not_correctness() {
    let (door, registry) = listen();
    let part = |range: &str, body: &str| {
        answer(
            "206 Part",
            &format!("Content-Range: bytes {range}/10\r\n"),
            body,
        )
    };
    let answers = vec![
        answer("200 OK", "", "0123456789"),
        part("4-9", "456789"),
        part("2-9", "23456789"),
        part("6-9", "6789"),
        answer("206 Part", "", "456789"),
    ];
    let door = serve(door, answers);
    let (client, _file) = client(&[&registry], "{}");
    let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
    for _ in 0..3 {
        assert_eq!(
            whole(client.blob(&image, "sha256:x", 4).await.unwrap()).await,
            "456789"
        );
    }
    for _ in 0..2 {
        client
            .blob(&image, "sha256:x", 4)
            .await
            .expect_err("bytes 4 and 5 would be missing, or nobody knows");
    }
    door.join().unwrap();
}

#[tokio::test]
async fn a_body_has_a_bound_also_where_its_length_is_not_told() {
    let (door, registry) = listen();
    let endless = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
        "x".repeat(MANIFEST_BYTES_MAX + 1)
    );
    let door = serve(door, vec![endless]);
    let (client, _file) = client(&[&registry], "{}");
    let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
    let error = client.manifest(&image, "1").await.unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::Lasting(ref failure) if failure.reason == Reason::ImageInvalid
        ),
        "{error}"
    );
    drop(door);
}

#[tokio::test]
async fn a_refusal_repeats_what_the_registry_says() {
    let (door, registry) = listen();
    let body = r#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down,\nplease"}]}"#;
    let door = serve(door, vec![answer("429 No", "Retry-After: 7\r\n", body)]);
    let (client, _file) = client(&[&registry], "{}");
    let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
    let error = client.manifest(&image, "1").await.unwrap_err();
    let RegistryError::Passing(failure) = error else {
        panic!("{error}")
    };
    assert!(failure.message.contains("slow down, please"), "{failure}");
    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
    door.join().unwrap();
}
