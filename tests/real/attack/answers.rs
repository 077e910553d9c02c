//! Registries that answer with intent: what of it is refused, and that no page they lead to is read aloud.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use chas_node_agent::registry::RegistryConfig;
use chas_node_agent::runtime::containerd::ContainerdClient;
use chas_node_agent::runtime::containerd::image::{Images, RoomConfig};
use chas_node_agent::runtime::{PullProgress, RuntimeError};
use futures_util::future::join_all;
use serde_json::json;
use state::reason::Reason;
use state::reference::ImageReference;
use state::spec::ImagePull;
use tokio_util::sync::CancellationToken;

use crate::harness::Testbed;
use crate::harness::http::{Head, Server, answer};

/// What stands on a page that only this machine can read.
const SECRET: &str = "db_password=hunter2";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A repository of the hostile registry; the reason of the refusal, and a part of its message.
const ROWS: &[(&str, Reason, &str)] = {
    use Reason::{
        DigestMismatch, ImageInvalid, RegistryAnswerInvalid, RegistryError, RegistryRateLimited,
        RegistryRedirectRefused, RegistryTimeout, RegistryTokenFailed, RegistryUnauthorized,
        RegistryUnreachable,
    };
    &[
        (
            "lead-clear",
            RegistryRedirectRefused,
            "list plain.invalid under registry.insecure",
        ),
        ("lead-file", RegistryRedirectRefused, "not TLS"),
        (
            "lead-user",
            RegistryRedirectRefused,
            "a user and a password",
        ),
        (
            "lead-long",
            RegistryRedirectRefused,
            "more than 16384 bytes",
        ),
        ("lead-nowhere", RegistryRedirectRefused, "no URL"),
        ("lead-round", RegistryRedirectRefused, "more than 5 times"),
        ("lead-page-400", RegistryError, "400"),
        ("lead-page-403", RegistryError, "403"),
        ("lead-page-503", RegistryError, "503"),
        ("lead-page-200", RegistryAnswerInvalid, "no manifest"),
        ("lead-closed", RegistryUnreachable, "the agent's log"),
        ("lead-tls", RegistryUnreachable, "the agent's log"),
        (
            "realm-clear",
            RegistryRedirectRefused,
            "list plain.invalid under registry.insecure",
        ),
        (
            "realm-password",
            RegistryRedirectRefused,
            "registry.token_hosts",
        ),
        ("realm-nowhere", RegistryAnswerInvalid, "no URL"),
        ("realm-page-400", RegistryTokenFailed, "400"),
        ("realm-page-200", RegistryTokenFailed, "without one"),
        ("realm-round", RegistryRedirectRefused, "more than 5 times"),
        ("token-huge", ImageInvalid, "larger than"),
        ("challenge-odd", RegistryUnauthorized, "auth_file"),
        ("challenge-giant", RegistryUnreachable, "without an answer"),
        ("words", RegistryError, "red"),
        ("wait-for-ever", RegistryRateLimited, "429"),
        ("slow", RegistryTimeout, "nothing"),
        ("manifest-endless", ImageInvalid, "larger than"),
        ("manifest-deep", RegistryAnswerInvalid, "no manifest"),
        ("manifest-layers", ImageInvalid, "layers"),
        ("manifest-sizes", ImageInvalid, "manifest"),
        ("manifest-names", ImageInvalid, "no sha256 digest"),
        ("index-many", ImageInvalid, "12000 variants"),
        ("digest-lie", DigestMismatch, "instead of"),
    ]
};

/// The registry: each repository is one trick.
fn serve(head: &Head, stream: &mut TcpStream, page: &str) -> io::Result<()> {
    let host = head.header("host").unwrap_or_default().to_owned();
    let path = head.second();
    if path.starts_with("/token-huge") {
        let token = json!({"token": "t".repeat(300 << 10)}).to_string();
        return answer(stream, "200 OK", &[], &token);
    }
    if path.starts_with("/round") {
        return answer(stream, "302 Found", &[("Location", "/round")], "");
    }
    let trick = path.split('/').nth(2).unwrap_or_default();
    let lead =
        |stream: &mut TcpStream, to: &str| answer(stream, "302 Found", &[("Location", to)], "");
    let challenge = |stream: &mut TcpStream, with: &str| {
        answer(
            stream,
            "401 Unauthorized",
            &[("WWW-Authenticate", with)],
            "",
        )
    };
    let realm = |stream: &mut TcpStream, to: &str| {
        challenge(
            stream,
            &format!(
                "Bearer realm=\"{to}\",service=\"x\",scope=\"repository:other/private:pull,push\""
            ),
        )
    };
    let index = |stream: &mut TcpStream, body: &str| {
        answer(stream, "200 OK", &[("Content-Type", INDEX)], body)
    };
    let manifest = |stream: &mut TcpStream, body: &str| {
        answer(stream, "200 OK", &[("Content-Type", MANIFEST)], body)
    };
    let part = |digest: &str, size: i64| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size});
    let digest = format!("sha256:{}", "0".repeat(64));
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2});
    match trick {
        "lead-clear" => lead(stream, "http://plain.invalid/x"),
        "lead-file" => lead(stream, "file:///etc/shadow"),
        "lead-user" => lead(stream, &format!("http://admin:admin@{page}/200")),
        "lead-long" => lead(stream, &format!("http://{page}/{}", "x".repeat(17_000))),
        "lead-nowhere" => lead(stream, "http://["),
        "lead-round" | "realm-loop" => lead(stream, "/round"),
        "lead-closed" => lead(stream, "https://127.0.0.1:1/x"),
        "lead-tls" => lead(stream, &format!("https://{page}/200")),
        "realm-clear" => realm(stream, "http://plain.invalid/x"),
        "realm-password" => realm(stream, "https://tokens.invalid/x"),
        "realm-nowhere" => realm(stream, "tokens"),
        "realm-round" => realm(stream, &format!("http://{host}/round")),
        "token-huge" => realm(stream, &format!("http://{host}/token-huge")),
        "challenge-odd" => challenge(stream, "Negotiate oRQwEqADCgEBoQsGCSqGSIb3EgECAg=="),
        "challenge-giant" => challenge(stream, &format!("Bearer realm=\"{}\"", "x".repeat(1 << 20))),
        "words" => {
            let body = json!({"errors": [{"code": "X", "message": "\u{1b}[31mred\u{9b}31m\nnew line"}]});
            answer(stream, "400 Bad Request", &[], &body.to_string())
        }
        "wait-for-ever" => answer(stream, "429 Too Many Requests", &[("Retry-After", "99999999999")], ""),
        "slow" => {
            for _ in 0..200 {
                stream.write_all(b"H")?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
        "manifest-endless" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {MANIFEST}\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 65536])?;
            }
        }
        "manifest-deep" => manifest(stream, &"[".repeat(100_000)),
        "manifest-layers" => {
            let layers: Vec<_> = (0..5000).map(|_| part(&digest, 1)).collect();
            manifest(stream, &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).to_string())
        }
        "manifest-sizes" => {
            manifest(stream, &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": part(&digest, -1), "layers": [part(&digest, i64::MIN)]}).to_string())
        }
        "manifest-names" => {
            let named = part("sha256:../../../etc/shadow", 1);
            manifest(stream, &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": named, "layers": [part(&digest, 1)]}).to_string())
        }
        "index-many" => {
            let entry = json!({"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": {"os": "plan9", "architecture": "vax"}});
            let entries = vec![entry.to_string(); 12_000].join(",");
            index(stream, &format!(r#"{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [{entries}]}}"#))
        }
        "digest-lie" => manifest(stream, "{}"),
        _ => match trick.split_once("-page-") {
            Some(("lead", status)) => lead(stream, &format!("http://{page}/{status}")),
            Some((_, status)) => realm(stream, &format!("http://{page}/{status}")),
            None => answer(stream, "500 Internal Server Error", &[], ""),
        },
    }
}

/// A page of this machine. Whoever is led there with a secret is told apart.
fn page() -> Server {
    Server::start(|head, mut stream| {
        let status = head.second()[1..]
            .split(['?', '/'])
            .next()
            .unwrap_or_default()
            .to_owned();
        let shown = head.header("authorization").unwrap_or_default();
        answer(
            stream.get_mut(),
            &format!("{status} Page"),
            &[],
            &format!("{SECRET} {shown}"),
        )
    })
}

#[tokio::test]
async fn every_trick_of_a_registry_has_its_refusal_and_no_page_is_read_aloud() {
    let bed = Testbed::new();
    let page = page();
    let at_page = page.address().to_string();
    let registry = Server::start(move |head, mut stream| serve(&head, stream.get_mut(), &at_page));
    let address = registry.address().to_string();
    let auth_file = bed.dir.join("auth.json");
    let entry = json!({"auths": {format!("{address}/realm-password"): {"username": "chas", "password": "s3cret"}}});
    std::fs::write(&auth_file, entry.to_string()).expect("a file");
    let config = RegistryConfig {
        insecure: vec![address.clone(), page.address().to_string()],
        auth_file: Some(auth_file),
        answer_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(2),
        retry_initial: Duration::from_millis(20),
        attempts_max: 2,
        pulls_per_registry: 64,
        pulls_max: 64,
        ..RegistryConfig::default()
    };
    let client = ContainerdClient::new(&bed.containerd.socket(), &bed.namespace);
    let images =
        Images::new(client, config, RoomConfig::default()).expect("the configuration is good");
    let pulled = join_all(ROWS.iter().map(async |(trick, ..)| {
        let digest = "0".repeat(64);
        let image = match *trick {
            "digest-lie" => format!("{address}/{trick}@sha256:{digest}"),
            _ => format!("{address}/{trick}:1"),
        };
        let image: ImageReference = image.parse().expect("a reference");
        let progress = PullProgress::default();
        images
            .ensure(
                &image,
                (ImagePull::Always, &[]),
                &progress,
                &CancellationToken::new(),
            )
            .await
    }));
    let mut wrong = Vec::new();
    for ((trick, reason, part), result) in ROWS.iter().zip(pulled.await) {
        let Err(RuntimeError::Failed(failure)) = result else {
            wrong.push(format!("{trick}: {result:?}"));
            continue;
        };
        let message = &failure.message;
        let is_clean = !message.contains("hunter2") && !message.chars().any(char::is_control);
        let waits = failure.retry_after.unwrap_or_default();
        if failure.reason != *reason
            || !message.contains(part)
            || !is_clean
            || waits > Duration::from_secs(6 * 3600)
        {
            wrong.push(format!("{trick}: {failure:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
