//! Tests of the client over real sockets: the meaning of each answer, its limits of size and time.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::chas::ChasCalls as _;
use crate::chas::client::{CallTimeouts, ChasClient, ChasErrorKind, PollReply};
use crate::chas::credentials::{ChasCredentials, Tokens, Transport};
use crate::config::{ChasSection, Secret};

/// An answer to a request; the last one is sent again and again.
#[derive(Clone)]
enum Answer {
    /// Bytes, after which the connection is closed.
    Whole(Vec<u8>),
    /// Bytes that are sent over and over, with a pause in between.
    Drip(Vec<u8>, Duration),
    /// No bytes at all.
    Silence,
}

struct Door {
    chas: ChasSection,
    asked: Arc<Mutex<Vec<String>>>,
    _open: AbortOnDropHandle<()>,
}

async fn door(answers: Vec<Answer>) -> Door {
    // Other tests of this process may have.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let open = tokio_util::task::TaskTracker::new().spawn(async move {
        let mut next = 0;
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 16 << 10];
            let length = socket.read(&mut head).await.unwrap();
            log.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&head[..length]).into_owned());
            let answer = answers[next.min(answers.len() - 1)].clone();
            next += 1;
            match answer {
                Answer::Whole(bytes) => drop(socket.write_all(&bytes).await),
                Answer::Drip(bytes, pause) => {
                    while socket.write_all(&bytes).await.is_ok() {
                        tokio::time::sleep(pause).await;
                    }
                }
                Answer::Silence => tokio::time::sleep(Duration::from_secs(3600)).await,
            }
        }
    });
    let chas = ChasSection {
        url,
        token: None,
        token_file: None,
        ca_file: None,
        identity: None,
        plain_http: false,
        set_key_file: None,
    };
    Door {
        chas,
        asked,
        _open: AbortOnDropHandle::new(open),
    }
}

fn client(chas: &ChasSection, issued: Option<&Path>) -> ChasClient {
    let tokens = Arc::new(Tokens::new(chas, issued.map(Path::to_owned)));
    let credentials = ChasCredentials {
        transport: Arc::new(Transport::new(chas)),
        tokens,
    };
    let [answer, body] = [300, 300].map(Duration::from_millis);
    ChasClient::new(chas.url.clone(), "n".to_owned(), credentials)
        .with_timeouts(CallTimeouts { answer, body })
}

fn http(head: &str, body: &str) -> Answer {
    let length = if head.contains("ength") {
        String::new()
    } else {
        format!("ReportContent-Length: {}\r\n", body.len())
    };
    Answer::Whole(format!("HTTP/1.1 {head}{length}Connection: close\r\n\r\n{body}").into_bytes())
}

const SET: &str = r#"{"node_id":"n","epoch":"e","generation":3,"complete":true,"containers":[]}"#;

#[tokio::test]
async fn each_answer_to_a_poll_means_one_thing() {
    let set = |head: &str| http(head, SET);
    for (answer, expected, part) in [
        (
            http("200 OK\r\n", ""),
            ChasErrorKind::InvalidResponse,
            "empty",
        ),
        (
            http("304 Same\r\n", ""),
            ChasErrorKind::InvalidResponse,
            "named no set",
        ),
        (
            http("204 No ReportContent\r\n", ""),
            ChasErrorKind::InvalidResponse,
            "empty",
        ),
        (
            http("200 OK\r\nContent-Length: 500\r\n", &SET[..20]),
            ChasErrorKind::InvalidResponse,
            "broke off",
        ),
        (
            http("200 OK\r\nContent-Type: text/html\r\n", "<html>"),
            ChasErrorKind::InvalidResponse,
            "not JSON",
        ),
        (
            set("206 Partial\r\n"),
            ChasErrorKind::InvalidResponse,
            "206",
        ),
        (
            http("302 Found\r\nLocation: http://portal/\r\n", ""),
            ChasErrorKind::InvalidResponse,
            "302",
        ),
        (
            http("200 OK\r\n", &SET.replace("\"n\"", "\"m\"")),
            ChasErrorKind::InvalidResponse,
            "\"m\"",
        ),
        (
            http("401 No\r\n", r#"{"title":"no token"}"#),
            ChasErrorKind::Unauthorized,
            "no token",
        ),
        (
            http("403 No\r\n", "<html>"),
            ChasErrorKind::Unauthorized,
            "403",
        ),
        (
            http("404 No\r\n", r#"{"code":"node_unknown"}"#),
            ChasErrorKind::NodeUnknown,
            "404",
        ),
        (
            http("404 No\r\n", "not here"),
            ChasErrorKind::NotOffered,
            "404",
        ),
        (http("405 No\r\n", ""), ChasErrorKind::NotOffered, "405"),
        (http("501 No\r\n", ""), ChasErrorKind::NotOffered, "501"),
        (
            http("409 No\r\n", r#"{"code":"identity_conflict"}"#),
            ChasErrorKind::IdentityConflict,
            "409",
        ),
        (http("400 No\r\n", ""), ChasErrorKind::Refused, "400"),
        (
            http("500 No\r\n", r#"{"detail":"it broke"}"#),
            ChasErrorKind::Unreachable,
            "it broke",
        ),
        (http("503 No\r\n", ""), ChasErrorKind::Unreachable, "503"),
        (http("429 No\r\n", ""), ChasErrorKind::Unreachable, "429"),
        (
            Answer::Whole(b"SSH-2.0-OpenSSH\r\n".to_vec()),
            ChasErrorKind::Unreachable,
            "",
        ),
        (Answer::Whole(Vec::new()), ChasErrorKind::Unreachable, ""),
        (
            Answer::Silence,
            ChasErrorKind::Unreachable,
            "no answer within",
        ),
    ] {
        let door = door(vec![answer]).await;
        let error = client(&door.chas, None)
            .poll(None, 0, Duration::ZERO)
            .await
            .unwrap_err();
        assert_eq!(error.kind, expected, "{error}");
        assert!(error.message.contains(part), "{part:?} is not in {error}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_too_slow_is_given_up() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n".to_vec();
    let large = Answer::Whole([head.clone(), vec![b' '; 10_000_000]].concat());
    let slow = Answer::Drip(head, Duration::from_millis(50));
    for (answer, part) in [
        (large, "larger than 4194304 bytes"),
        (slow, "incomplete after"),
    ] {
        let door = door(vec![answer]).await;
        let began = Instant::now();
        let error = client(&door.chas, None)
            .poll(None, 0, Duration::ZERO)
            .await
            .unwrap_err();
        assert!(
            error.kind == ChasErrorKind::InvalidResponse && error.message.contains(part),
            "{error}"
        );
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn a_set_comes_with_its_tag_and_the_next_question_bears_it() {
    let first = http(
        "200 OK\r\nETag: \"t1\"\r\nPreference-Applied: wait=1\r\n",
        SET,
    );
    let door = door(vec![first, http("304 Same\r\n", "")]).await;
    let client = client(&door.chas, None);
    let PollReply::Set(listing) = client.poll(None, 7, Duration::ZERO).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (
            listing.set.generation,
            listing.set.etag.as_deref(),
            listing.set.requested_at_seq
        ),
        (3, Some("\"t1\""), 7)
    );
    assert!(matches!(
        client
            .poll(listing.set.etag.as_deref(), 7, Duration::ZERO)
            .await,
        Ok(PollReply::Unchanged { waited: false })
    ));
    let asked = door.asked.lock().unwrap();
    assert!(
        asked[0].starts_with("GET /base/nodes/n/desired-state HTTP/1.1\r\n")
            && !asked[0].contains("if-none-match")
    );
    assert!(
        asked[1].contains("if-none-match: \"t1\"\r\n") && asked[1].contains("prefer: wait=0\r\n"),
        "{}",
        asked[1]
    );
}

#[tokio::test]
async fn a_server_may_ask_to_be_left_alone_for_a_while_but_not_for_ever() {
    for (header, expected) in [
        ("7", Some(7)),
        ("999999999", Some(3600)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("0", None),
        ("soon", None),
    ] {
        let door = door(vec![http(
            &format!("503 No\r\nRetry-After: {header}\r\n"),
            "",
        )])
        .await;
        let error = client(&door.chas, None)
            .poll(None, 0, Duration::ZERO)
            .await
            .unwrap_err();
        assert_eq!(
            error.retry_after,
            expected.map(Duration::from_secs),
            "{header}"
        );
    }
}

/// Tokens of the requests so far.
fn shown(door: &Door) -> Vec<String> {
    let asked = door.asked.lock().unwrap();
    let token = |head: &String| {
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: Bearer "));
        line.unwrap_or("nothing").to_owned()
    };
    asked.iter().map(token).collect()
}

#[tokio::test]
async fn the_token_in_a_file_is_read_anew_and_may_be_missing() {
    let mut door = door(vec![http("401 No\r\n", "")]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t");
    door.chas.token_file = Some(path.clone());
    let client = client(&door.chas, None);
    let mut error = client.poll(None, 0, Duration::ZERO).await.unwrap_err();
    assert!(
        error.kind == ChasErrorKind::TlsRejected && error.message.contains("cannot read"),
        "{error}"
    );
    for (text, kind) in [
        ("one\n", ChasErrorKind::Unauthorized),
        ("", ChasErrorKind::TlsRejected),
        ("two", ChasErrorKind::Unauthorized),
    ] {
        std::fs::write(&path, text).unwrap();
        // Both of a link's loops find out, whichever asks first.
        let before = error.credentials_fingerprint;
        error = client.poll(None, 0, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(
            client.has_other_credentials(before).await
                && !client
                    .has_other_credentials(error.credentials_fingerprint)
                    .await,
            "{text:?}"
        );
    }
    assert_eq!(shown(&door), ["one", "two"]);
}

fn given_and_kept(door: &mut Door) -> (tempfile::TempDir, std::path::PathBuf) {
    door.chas.token = Some(Secret::new("given"));
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("token");
    (directory, kept)
}

#[tokio::test]
async fn what_chas_issues_is_shown_from_then_on_until_it_is_refused() {
    let welcome = http("201 Created\r\n", r#"{"token":"issued"}"#);
    let same = || http("304 Same\r\n", "");
    let refused = http("401 No\r\n", "");
    let mut door = door(vec![
        welcome,
        same(),
        same(),
        refused.clone(),
        refused.clone(),
        same(),
        http("403 No\r\n", ""),
    ])
    .await;
    let (_directory, kept) = given_and_kept(&mut door);
    let poll = async |client: &ChasClient| {
        client
            .poll(Some("\"t\""), 0, Duration::ZERO)
            .await
            .map_err(|error| error.kind)
    };
    let first = client(&door.chas, Some(&kept));
    let registration = super::fake::registration();
    assert!(first.register(&registration).await.is_ok());
    poll(&first).await.unwrap();
    // Over a restart, too.
    let again = client(&door.chas, Some(&kept));
    poll(&again).await.unwrap();
    // CHaS does not know it any more: the node is to register with what it was given. Where that is
    // worth nothing either, the first answer may have been a mistake.
    assert_eq!(poll(&again).await.unwrap_err(), ChasErrorKind::NodeUnknown);
    let error = again.register(&registration).await.unwrap_err();
    assert_eq!(error.kind, ChasErrorKind::Unauthorized);
    assert!(
        !again
            .has_other_credentials(error.credentials_fingerprint)
            .await,
        "the operator gave nothing else, so that is no reason for haste"
    );
    poll(&again).await.unwrap();
    // That it may not do something is no word on the token.
    for _ in 0..2 {
        assert_eq!(poll(&again).await.unwrap_err(), ChasErrorKind::Unauthorized);
    }
    assert_eq!(
        shown(&door),
        [
            "given", "issued", "issued", "issued", "given", "issued", "issued", "issued"
        ]
    );
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn what_chas_issued_is_shown_to_it_alone_and_until_the_operator_gives_another() {
    let mut first = door(vec![http("200 OK\r\n", r#"{"token":"issued"}"#)]).await;
    let (_directory, kept) = given_and_kept(&mut first);
    let registration = super::fake::registration();
    assert!(
        client(&first.chas, Some(&kept))
            .register(&registration)
            .await
            .is_ok()
    );
    let mut other = door(vec![http("401 No\r\n", "")]).await;
    other.chas.token.clone_from(&first.chas.token);
    assert!(
        client(&other.chas, Some(&kept))
            .register(&registration)
            .await
            .is_err()
    );
    assert_eq!(shown(&other), ["given"]);
    first.chas.token = Some(Secret::new("another"));
    assert!(
        client(&first.chas, Some(&kept))
            .register(&registration)
            .await
            .is_ok()
    );
    assert_eq!(shown(&first), ["given", "another"]);
}

#[tokio::test]
async fn an_issued_token_that_cannot_be_read_now_is_read_later() {
    let answers = vec![http("200 OK\r\n", r#"{"token":"issued"}"#)];
    let mut door = door(answers).await;
    let (_directory, kept) = given_and_kept(&mut door);
    let first = client(&door.chas, Some(&kept));
    let registration = super::fake::registration();
    assert!(first.register(&registration).await.is_ok());
    let away = kept.with_extension("away");
    std::fs::rename(&kept, &away).unwrap();
    std::fs::create_dir(&kept).unwrap();
    let second = client(&door.chas, Some(&kept));
    assert!(second.poll(None, 7, Duration::ZERO).await.is_err());
    std::fs::remove_dir(&kept).unwrap();
    std::fs::rename(&away, &kept).unwrap();
    assert!(second.poll(None, 7, Duration::ZERO).await.is_err());
    assert_eq!(shown(&door), ["given", "given", "issued"]);
}

#[tokio::test]
async fn a_server_without_tokens_that_refuses_its_own_is_registered_with_again() {
    let door = door(vec![
        http("200 OK\r\n", r#"{"token":"issued"}"#),
        http("401 No\r\n", ""),
    ])
    .await;
    let client = client(&door.chas, None);
    assert!(client.register(&super::fake::registration()).await.is_ok());
    assert_eq!(
        client.poll(None, 0, Duration::ZERO).await.unwrap_err().kind,
        ChasErrorKind::NodeUnknown
    );
    assert_eq!(shown(&door), ["nothing", "issued"]);
}
