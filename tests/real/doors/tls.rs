//! TLS at the agent's own port: what it shows, whom it believes, files that change, and clients that say nothing.

use std::path::Path;

use reqwest::{Client, Identity};
use tokio::time::Instant;

use super::socket::{Squatter, confirm};
use super::*;
use crate::harness::certificates::{Authority, Certificate};

const HERE: &str = "DNS:localhost,IP:127.0.0.1";

/// Directory of the files that an agent is told to read.
struct TlsStand {
    bed: Testbed,
    dir: PathBuf,
}

impl TlsStand {
    fn new() -> Self {
        let bed = Testbed::new();
        let dir = bed.dir.join("tls");
        fs::create_dir(&dir).unwrap();
        Self { bed, dir }
    }

    fn authority(&self, name: &str) -> Authority {
        Authority::new(self.dir.join(name))
    }

    /// Puts a file where the agent reads it, as those who renew certificates do.
    fn put(&self, name: &str, file: &Path) {
        let new = self.dir.join("file.new");
        fs::copy(file, &new).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, self.dir.join(name)).unwrap();
    }

    fn show(&self, shown: &Certificate) {
        self.put("crt", &shown.certificate);
        self.put("key", &shown.key);
    }

    async fn start(&self, more: &[(&str, &str)]) -> Agent {
        let [crt, key] = ["crt", "key"].map(|name| self.dir.join(name).display().to_string());
        let files = [("CHAS_TLS_CERT_FILE", &*crt), ("CHAS_TLS_KEY_FILE", &*key)];
        Agent::start_with(&self.bed, &[&files[..], more].concat()).await
    }
}

/// A client that trusts this authority alone, and shows a certificate if it has one.
fn client(trusted: &Authority, shown: Option<&Certificate>) -> Client {
    let pem = fs::read(trusted.certificate()).unwrap();
    let trusted = reqwest::Certificate::from_pem(&pem).unwrap();
    let mut building = Client::builder().no_proxy().tls_certs_only([trusted]);
    if let Some(shown) = shown {
        let both = [&shown.key, &shown.certificate].map(|file| fs::read(file).unwrap());
        building = building.identity(Identity::from_pem(&both.concat()).unwrap());
    }
    building.build().unwrap()
}

/// Asks over TLS; the status and the problem's code. `None`: nobody is believed.
async fn ask(
    agent: &Agent,
    client: &Client,
    (method, path): (&str, &str),
    token: Option<&str>,
) -> Option<(u16, String)> {
    let url = format!("https://{}{path}", agent.address());
    let mut request = client.request(method.parse().unwrap(), url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
    Some((status, body["code"].as_str().unwrap_or_default().to_owned()))
}

const LIST: (&str, &str) = ("GET", "/containers");

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_taken_over_without_a_restart() {
    let stand = TlsStand::new();
    let (old, new) = (stand.authority("old"), stand.authority("new"));
    stand.show(&old.issue("one", HERE));
    let agent = stand.start(&[("CHAS_LISTEN", "0.0.0.0")]).await;
    let token = agent.environment()["CHAS_TOKEN"].clone();
    let pid = agent.pid();
    let trusts = async |authority: &Authority| {
        let answer = ask(&agent, &client(authority, None), LIST, Some(&token)).await;
        answer.is_some_and(|(status, _)| status == 200)
    };
    assert!(trusts(&old).await && !trusts(&new).await);
    // With TLS other hosts may call, and nothing is said in the clear.
    let doors = [
        "ApiInTheClear",
        "ListenNarrowed",
        "ListenFailed",
        "TlsFileUnusable",
        "TlsExpiring",
    ];
    let stands: Vec<_> = alarms(&agent)
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(
        !stands.iter().any(|name| doors.contains(&name.as_str())),
        "{stands:?}"
    );
    let plain =
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    assert_eq!(status(&over_tcp(&agent, plain.as_bytes()).await), 0);
    // The half of a pair is none: what was shown is shown on.
    let next = new.issue("two", HERE);
    stand.put("crt", &next.certificate);
    agent.signal(rustix::process::Signal::HUP);
    let unusable = async || {
        let mut stand = alarms(&agent).await.into_iter();
        stand
            .find(|(name, _)| name == "TlsFileUnusable")
            .map(|(_, message)| message)
    };
    eventually("the half is told of", async || {
        unusable()
            .await
            .is_some_and(|message| message.contains("no pair"))
    })
    .await;
    assert!(trusts(&old).await);
    stand.put("key", &next.key);
    // Nobody tells the agent: it looks by itself.
    eventually("the other is shown", async || trusts(&new).await).await;
    assert!(!trusts(&old).await && unusable().await.is_none());
    assert_eq!(agent.pid(), pid);
    // The command line, with and without the authority.
    let url = format!("https://{}", agent.address());
    let ca = new.certificate().display().to_string();
    let (_, told) = confirm(&agent, &["--address", &url, "--ca-file", &ca]);
    assert!(told.contains("no CHaS is configured"), "{told}");
    let (_, told) = confirm(&agent, &["--address", &url]);
    assert!(told.contains("no agent answers"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_one_has_the_token_s_role() {
    let stand = TlsStand::new();
    let (own, clients, other) = (
        stand.authority("own"),
        stand.authority("clients"),
        stand.authority("other"),
    );
    stand.show(&own.issue("server", HERE));
    stand.put("ca", &clients.certificate());
    let list =
        "clients:\n- name: ci\n  role: deploy\n  names: [web-*]\n  certificates: [CI.example]\n";
    let file = stand.dir.join("clients.yaml");
    fs::write(&file, list).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let ca = stand.dir.join("ca").display().to_string();
    let more = [
        ("CHAS_TLS_CLIENT_CA_FILE", &*ca),
        ("CHAS_CLIENTS_FILE", file.to_str().unwrap()),
    ];
    let agent = stand.start(&more).await;
    let token = agent.environment()["CHAS_TOKEN"].clone();
    let known = clients.issue("known", "DNS:ci.example,DNS:other.example");
    let unknown = clients.issue("unknown", "DNS:nobody.example");
    let stranger = other.issue("stranger", "DNS:ci.example");
    let confirming = ("POST", "/desired-state/confirm");
    let answer = |status, code: &str| Some((status, code.to_owned()));
    for (shown, call, token, expected) in [
        (None, ("GET", "/livez"), None, answer(200, "")),
        (None, LIST, None, answer(401, "Unauthorized")),
        (None, LIST, Some(&*token), answer(200, "")),
        (None, confirming, Some(&token), answer(409, "Conflict")),
        (Some(&known), LIST, None, answer(200, "")),
        (Some(&known), confirming, None, answer(403, "RoleTooLow")),
        // A token that is sent counts, and a wrong one is no better for it.
        (
            Some(&known),
            confirming,
            Some(&token),
            answer(409, "Conflict"),
        ),
        (
            Some(&known),
            LIST,
            Some("no token"),
            answer(401, "Unauthorized"),
        ),
        (Some(&unknown), LIST, None, answer(401, "Unauthorized")),
        (Some(&stranger), LIST, None, None),
    ] {
        let client = client(&own, shown);
        let found = ask(&agent, &client, call, token).await;
        assert_eq!(
            found,
            expected,
            "{call:?} {:?}",
            shown.map(|shown| &shown.key)
        );
    }
    let (url, own_ca) = (format!("https://{}", agent.address()), own.certificate());
    let [own_ca, crt, key] =
        [&own_ca, &known.certificate, &known.key].map(|path| path.display().to_string());
    let arguments = [
        "--address",
        &url,
        "--ca-file",
        &own_ca,
        "--cert-file",
        &crt,
        "--key-file",
        &key,
    ];
    let (_, told) = confirm(&agent, &arguments);
    assert!(told.contains("no CHaS is configured"), "{told}");
    // Taken from the file, the name is nobody's, on a connection that is there as well.
    let kept = client(&own, Some(&known));
    assert_eq!(ask(&agent, &kept, LIST, None).await, answer(200, ""));
    fs::write(&file, "clients: []\n").unwrap();
    agent.signal(rustix::process::Signal::HUP);
    eventually("it is nobody's", async || {
        ask(&agent, &kept, LIST, None).await == answer(401, "Unauthorized")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_handshakes_end() {
    let stand = TlsStand::new();
    let own = stand.authority("own");
    stand.show(&own.issue("server", HERE));
    let agent = stand.start(&[]).await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(agent.address()).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a greeting.
            let _closed_for_the_next = stream.write_all(&[22, 3, 1, 2, 0, 1]).await;
        }
        silent.push(stream);
    }
    let asked = Instant::now();
    let live = ask(&agent, &client(&own, None), ("GET", "/livez"), None).await;
    assert_eq!(live.map(|(status, _)| status), Some(200));
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    for mut stream in silent {
        let mut bytes = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut bytes));
        assert!(end.await.is_ok(), "one stays open");
    }
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(8),
        "who is slow is cut off: {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slip_in_a_key_of_tls_shuts_the_port_and_keeps_no_container_away() {
    let mut stand = Stand::new().await;
    let body = stand.script("web", "while :; do sleep 1; done", &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    let pid = stand.pid(&shown).unwrap().parse().unwrap();
    stand.agent.kill_9();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    // The other key is forgotten. Somebody else answers at the port, where the agent must not.
    stand.agent.set("CHAS_TLS_CERT_FILE", "/nonexistent/crt");
    let squatter = Squatter::on(&stand.agent.address());
    stand.agent.start_again().await;
    eventually("the container is back, and the alarm stands", async || {
        if UnixStream::connect(socket_of(&stand.agent)).await.is_err() {
            return false;
        }
        let (_, shown) = by_socket(&stand.agent, "GET", "/containers/web", None).await;
        let stands = alarms(&stand.agent).await;
        let told = stands.iter().find(|(name, _)| name == "TlsFileUnusable");
        let is_told = told.is_some_and(|(_, message)| message.contains("requires api.key_file"));
        assert!(
            stands.iter().all(|(name, _)| name != "ListenFailed"),
            "{stands:?}"
        );
        is_told && shown["status"] == "running" && shown["restart_count"] == 1
    })
    .await;
    drop(squatter);
    let connected = TcpStream::connect(stand.agent.address()).await;
    assert!(connected.is_err(), "{connected:?}");
    stand.agent.terminate();
    stand.agent.set("CHAS_TLS_CERT_FILE", "");
    stand.agent.start_again().await;
    stand.end().await;
}
