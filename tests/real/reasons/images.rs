//! What goes wrong while an image is fetched: every code of it, from registries that really do so.

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::json;
use state::reason::Reason;

use super::{next_attempt, shows, tried_as_announced};
use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::http::{self, Server, answer};
use crate::harness::image::{Image, Packing, Pushed};
use crate::harness::proxy::{Fault, Proxy};
use crate::harness::registry::{Access, Registry};
use crate::stand::Stand;

pub(super) const INDUCED: &[Reason] = &[
    Reason::ImageNotFound,
    Reason::ImageBlobMissing,
    Reason::RegistryUnauthorized,
    Reason::RegistryCredentialsRefused,
    Reason::RegistryForbidden,
    Reason::RegistryNameUnknown,
    Reason::RegistryUnreachable,
    Reason::RegistryTimeout,
    Reason::RegistryCertificateInvalid,
    Reason::RegistryNotTls,
    Reason::RegistryNotInsecure,
    Reason::RegistryRedirectRefused,
    Reason::RegistryProxyFailed,
    Reason::RegistryConfigInvalid,
    Reason::RegistryRateLimited,
    Reason::RegistryTokenFailed,
    Reason::RegistryAnswerInvalid,
    Reason::RegistryError,
    Reason::ImageDownloadInterrupted,
    Reason::DigestMismatch,
    Reason::ImagePlatformMismatch,
    Reason::ImageFormatUnsupported,
    Reason::ImageInvalid,
    Reason::ImageLayerInvalid,
    Reason::ImageTooLarge,
    Reason::ImageNotPresent,
];

/// How long the registry that asks for patience asks for it.
const PATIENCE_S: u32 = 3600;

/// Everything that images are asked for at.
struct Doors {
    open: Registry,
    /// Wants a password.
    locked: Registry,
    tls: Registry,
    /// Before the open one; its faults go by repository.
    proxy: Proxy,
    /// Answers, but not as a registry.
    strange: Server,
    /// Takes connections and says nothing.
    silent: TcpListener,
}

impl Doors {
    fn new(bed: &Testbed) -> Self {
        let open = Registry::open(bed);
        let proxy = Proxy::before(open.address());
        Self {
            proxy,
            open,
            locked: Registry::start(bed, Access::Password, false),
            tls: Registry::start(bed, Access::Open, true),
            strange: strange(),
            silent: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    fn silent(&self) -> String {
        self.silent.local_addr().unwrap().to_string()
    }

    /// `localhost` is another registry than `127.0.0.1`, at the same door.
    fn insecure(&self) -> String {
        let (proxy, strange) = (self.proxy.address(), self.strange.address().to_string());
        let (locked, tls) = (local(&self.locked), local(&self.tls));
        [
            self.open.address(),
            &proxy,
            self.locked.address(),
            &locked,
            &tls,
            &strange,
            &self.silent(),
        ]
        .join(",")
    }
}

fn local(registry: &Registry) -> String {
    registry.address().replace("127.0.0.1", "localhost")
}

/// Leads to a host that may not be spoken to in the clear, to a token service that fails, or to a page for people.
fn strange() -> Server {
    Server::start(|head, mut stream| {
        let (host, stream) = (head.header("host").unwrap_or_default(), stream.get_mut());
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
        match head.second().split('/').nth(2) {
            Some("led") => answer(
                stream,
                "302 Found",
                &[("Location", "http://plain.invalid/")],
                "",
            ),
            Some("token") => answer(
                stream,
                "401 Unauthorized",
                &[("WWW-Authenticate", &challenge)],
                "",
            ),
            Some("page") => answer(
                stream,
                "200 OK",
                &[("Content-Type", "text/html")],
                "<html>please log in</html>",
            ),
            _ => answer(stream, "500 Internal Server Error", &[], ""),
        }
    })
}

/// An image with a layer that no other test's has: what is on the node already is not asked for.
fn unlike_any(name: &str) -> Image {
    Image::busybox().layer(Packing::Gzip, &[("/name", name.repeat(200).as_bytes())])
}

async fn faulty_images(doors: &Doors) {
    let push = async |name: &str, image: Image| -> Pushed {
        image.push(&doors.open, &format!("{name}:1")).await
    };
    push("far", unlike_any("far").architecture("s390x")).await;
    push(
        "format",
        unlike_any("format").layer_type("application/vnd.example.encrypted"),
    )
    .await;
    push("invalid", unlike_any("invalid").claims_layers(1)).await;
    push("archive", unlike_any("archive").no_archive()).await;
    let zeros = vec![0; 20 << 20];
    push(
        "vast",
        unlike_any("vast").layer(Packing::Gzip, &[("/zeros", &zeros)]),
    )
    .await;
    let lost = push("lost", unlike_any("lost")).await;
    let url = format!(
        "http://{}/v2/lost/blobs/{}",
        doors.open.push_address(),
        lost.layers[1]
    );
    assert_eq!(
        http::client().delete(url).send().await.unwrap().status(),
        202
    );
    for (name, fault) in [
        ("cut", Fault::Reset { after_bytes: 0 }),
        ("changed", Fault::Corrupt { at_byte: 10 }),
    ] {
        let pushed = push(name, unlike_any(name)).await;
        doors.proxy.inject(&pushed.layers[1], usize::MAX, fault);
    }
    for (name, code, retry_after_s) in [
        ("forbidden", 403, None),
        ("failing", 503, None),
        ("limited", 429, Some(PATIENCE_S)),
    ] {
        doors.proxy.inject(
            &format!("/v2/{name}/"),
            usize::MAX,
            Fault::Status {
                code,
                retry_after_s,
            },
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_to_fetch_an_image_has_its_own_reason() {
    let bed = Testbed::new();
    let doors = Doors::new(&bed);
    faulty_images(&doors).await;
    let auth_file = bed.dir.join("auth.json");
    let wrong = json!({"auths": {local(&doors.locked): {"username": "chas", "password": "wrong"}}});
    std::fs::write(&auth_file, wrong.to_string()).unwrap();
    let hosts = bed.dir.join("certs.d");
    std::fs::create_dir_all(hosts.join("configured.example")).unwrap();
    std::fs::write(hosts.join("configured.example/hosts.toml"), "server = ").unwrap();
    let variables = [
        ("CHAS_REGISTRY_INSECURE", doors.insecure()),
        ("CHAS_REGISTRY_AUTH_FILE", auth_file.display().to_string()),
        ("CHAS_REGISTRY_STALL_TIMEOUT", "1s".to_owned()),
        ("CHAS_IMAGE_MAX_UNPACKED", "16Mi".to_owned()),
        ("CHAS_REGISTRY_HOSTS_DIR", hosts.display().to_string()),
        ("HTTPS_PROXY", "http://127.0.0.1:1".to_owned()),
        ("NO_PROXY", "registry.invalid".to_owned()),
    ];
    let agent = Agent::start_with(
        &bed,
        &variables
            .each_ref()
            .map(|(name, value)| (*name, value.as_str())),
    )
    .await;
    let (open, proxy, strange) = (
        doors.open.address(),
        doors.proxy.address(),
        doors.strange.address().to_string(),
    );
    let cases = [
        (Reason::ImageNotFound, "absent", open, "absent"),
        (Reason::ImageBlobMissing, "lost", open, "blob sha256"),
        (
            Reason::RegistryUnauthorized,
            "anonymous",
            doors.locked.address(),
            "auth_file",
        ),
        (
            Reason::RegistryCredentialsRefused,
            "wrong",
            &local(&doors.locked),
            "password",
        ),
        (Reason::RegistryForbidden, "forbidden", &proxy, "403"),
        (
            Reason::RegistryNameUnknown,
            "named",
            "registry.invalid",
            "registry.invalid",
        ),
        (
            Reason::RegistryUnreachable,
            "away",
            "127.0.0.1:1",
            "refused",
        ),
        (
            Reason::RegistryTimeout,
            "silent",
            &doors.silent(),
            "nothing for 1 s",
        ),
        (
            Reason::RegistryCertificateInvalid,
            "stranger",
            doors.tls.address(),
            "ca_file",
        ),
        (
            Reason::RegistryNotTls,
            "plain",
            &local(&doors.open),
            "registry.insecure",
        ),
        (
            Reason::RegistryNotInsecure,
            "secure",
            &local(&doors.tls),
            "take it out",
        ),
        (
            Reason::RegistryRedirectRefused,
            "led",
            &strange,
            "plain.invalid",
        ),
        (
            Reason::RegistryProxyFailed,
            "proxied",
            "proxied.example",
            "proxy 127.0.0.1:1",
        ),
        (
            Reason::RegistryConfigInvalid,
            "configured",
            "configured.example",
            "hosts.toml",
        ),
        (Reason::RegistryRateLimited, "limited", &proxy, "429"),
        (Reason::RegistryTokenFailed, "token", &strange, "token"),
        (
            Reason::RegistryAnswerInvalid,
            "page",
            &strange,
            "login page",
        ),
        (Reason::RegistryError, "failing", &proxy, "503"),
        (Reason::ImageDownloadInterrupted, "cut", &proxy, "broke"),
        (Reason::DigestMismatch, "changed", &proxy, "something else"),
        (Reason::ImagePlatformMismatch, "far", open, "s390x"),
        (Reason::ImageFormatUnsupported, "format", open, "encrypted"),
        (Reason::ImageInvalid, "invalid", open, "3 layers"),
        (Reason::ImageLayerInvalid, "archive", open, "tar"),
        (Reason::ImageTooLarge, "vast", open, "image.max_unpacked"),
        (Reason::ImageNotPresent, "never", open, "never"),
    ];
    assert_eq!(cases.map(|(reason, ..)| reason), INDUCED);
    let deployed = join_all(cases.map(async |(reason, name, registry, _)| {
        let pull = if reason == Reason::ImageNotPresent {
            "never"
        } else {
            "if-not-present"
        };
        agent
            .deploy(
                &json!({"name": name, "image": format!("{registry}/{name}:1"), "image_pull": pull}),
            )
            .await
    }));
    assert!(deployed.await.iter().all(|(status, _)| *status == 202));
    for (reason, name, _, part) in cases {
        shows(&agent, name, reason, part).await;
    }
    // What is asked for is what is announced, and what is announced is when it is tried.
    let limited = shows(&agent, "limited", Reason::RegistryRateLimited, "429").await;
    let asked = Duration::from_secs(u64::from(PATIENCE_S));
    let wait = next_attempt(&limited)
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(wait <= asked && wait > asked - asked / 20, "{wait:?}");
    let again: Vec<_> = cases
        .iter()
        .map(|(_, name, ..)| *name)
        .filter(|name| *name != "limited")
        .collect();
    tried_as_announced(&agent, &again).await;
    // Their images end with the test's directory, and so they before it.
    let Doors {
        open, locked, tls, ..
    } = doors;
    drop((locked, tls));
    Stand {
        agent,
        registry: open,
        bed,
    }
    .end()
    .await;
}
