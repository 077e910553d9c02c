//! The doors of the API: who comes in, by which one, and what those hear who do not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::harness::Testbed;
use crate::harness::agent::{Agent, PROGRAM};
use crate::stand::{Stand, eventually};

mod socket;
mod tls;

/// Longest wait for the end of an answer.
const ANSWERED: Duration = Duration::from_secs(10);

/// Sends bytes, and reads all that comes until the connection ends; nothing if it stays open.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
) -> String {
    let mut answer = Vec::new();
    // Whoever is sent away at once may hear of it while he still speaks.
    let _sent = stream.write_all(bytes).await;
    let read = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(ANSWERED, read).await;
    if ended.is_err() {
        answer.extend_from_slice(b"[it stays open]");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends bytes to the agent over TCP.
pub(crate) async fn over_tcp(agent: &Agent, bytes: &[u8]) -> String {
    let stream = TcpStream::connect(agent.address()).await.unwrap();
    exchange(stream, bytes).await
}

/// The status of an answer; 0: there is none.
pub(crate) fn status(answer: &str) -> u16 {
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn state_file(agent: &Agent, name: &str) -> PathBuf {
    PathBuf::from(&agent.environment()["CHAS_STATE_DIR"]).join(name)
}

pub(crate) fn socket_of(agent: &Agent) -> PathBuf {
    PathBuf::from(&agent.environment()["CHAS_RUN_DIR"]).join("agent.sock")
}

/// Asks the agent by its socket, without a token.
async fn by_socket(agent: &Agent, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let stream = UnixStream::connect(socket_of(agent)).await;
    let answer = exchange(stream.expect("it listens"), request.as_bytes()).await;
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let value = serde_json::from_str(text).unwrap_or(Value::String(text.to_owned()));
    (status(&answer), value)
}

/// The names of the alarms that stand, with their messages.
async fn alarms(agent: &Agent) -> Vec<(String, String)> {
    let (_, health) = by_socket(agent, "GET", "/health", None).await;
    let alarms = health["alarms"].as_array().cloned().unwrap_or_default();
    let text = |alarm: &Value, field: &str| alarm[field].as_str().unwrap_or_default().to_owned();
    alarms
        .iter()
        .map(|alarm| (text(alarm, "name"), text(alarm, "message")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_token_makes_one_that_root_alone_reads() {
    let bed = Testbed::new();
    let mut agent = Agent::start_with(&bed, &[("CHAS_TOKEN", "")]).await;
    let path = state_file(&agent, "admin-token");
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    let token = fs::read_to_string(&path).unwrap().trim().to_owned();
    assert!(token.len() >= 40, "{token}");
    let told = agent.log();
    assert!(told.contains("admin token made") && told.contains(path.to_str().unwrap()));
    assert!(!told.contains(&token));
    // What a page in a browser on this host, and any user of it, could do to an agent without one.
    let deploy = json!({"name": "csrf", "image": "nginx"}).to_string();
    let simple = format!(
        "POST /containers/deploy HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{deploy}",
        deploy.len()
    );
    assert_eq!(status(&over_tcp(&agent, simple.as_bytes()).await), 403);
    let ask = async |agent: &Agent, method: &str, token: &str| {
        let request = format!(
            "{method} /containers/csrf HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        over_tcp(agent, request.as_bytes()).await
    };
    let refused = ask(&agent, "DELETE", "").await;
    assert_eq!(status(&refused), 401);
    for told in [path.to_str().unwrap(), socket_of(&agent).to_str().unwrap()] {
        assert!(refused.contains(told), "{refused}");
    }
    assert_eq!(status(&ask(&agent, "GET", &token).await), 404);
    // It stays, over a restart, and over a reload that takes a configured one away.
    agent.terminate();
    agent.start_again().await;
    assert_eq!(status(&ask(&agent, "GET", &token).await), 404);
    agent.signal(rustix::process::Signal::HUP);
    eventually("it is read again", async || {
        agent.log().contains("configuration reloaded")
    })
    .await;
    assert_eq!(status(&ask(&agent, "GET", &token).await), 404);
    assert_eq!(agent.log().matches("admin token made").count(), 1);
    // Callers have it: that others can read it is told, and takes it from nobody.
    agent.terminate();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    agent.start_again().await;
    eventually("it is told", async || {
        let alarms = alarms(&agent).await;
        let told = alarms.iter().find(|(name, _)| name == "SecretReadable");
        told.is_some_and(|(_, message)| message.contains(path.to_str().unwrap()))
    })
    .await;
    assert_eq!(status(&ask(&agent, "GET", &token).await), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_on_the_bridge_reaches_the_api() {
    // The firewall is not who keeps them out here.
    let open = [
        ("CHAS_LISTEN", "0.0.0.0"),
        ("CHAS_PLAIN_HTTP", "true"),
        ("CHAS_HOST_ACCESS", "open"),
    ];
    let stand = Stand::with(Testbed::new(), &open).await;
    let gateway = stand.bed.subnet.replace(".0/24", ".1");
    let port = stand.agent.address();
    let port = port.rsplit_once(':').unwrap().1;
    // The host's address on its own network, if it has one.
    let way_out = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let lan = way_out
        .connect("192.0.2.1:9")
        .and_then(|()| way_out.local_addr())
        .map_or_else(|_| gateway.clone(), |address| address.ip().to_string());
    let script = format!(
        "for a in {gateway} {lan}; do wget -T 5 -q -O - http://$a:{port}/livez && echo open $a || echo shut $a; done; \
         echo asked; sleep 1000"
    );
    stand
        .agent
        .deploy_and_wait(&stand.script("prober", &script, &json!({})))
        .await;
    let log = stand.printed("prober", "asked").await;
    assert!(log.contains(&format!("shut {gateway}")), "{log}");
    assert!(
        log.contains(&format!("shut {lan}")) && !log.contains("open"),
        "{log}"
    );
    let probe = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for (address, says) in [("127.0.0.1", 200), (&lan, 200), (&gateway, 0)] {
        if address == gateway && lan == gateway && says == 200 {
            continue;
        }
        let stream = TcpStream::connect(format!("{address}:{port}"))
            .await
            .unwrap();
        assert_eq!(status(&exchange(stream, probe).await), says, "{address}");
    }
    let told = stand.agent.log();
    let line = told
        .lines()
        .find(|line| line.contains("connection refused"));
    assert!(
        line.is_some_and(|line| line.contains("containers' network")),
        "{line:?}"
    );
    let stands = alarms(&stand.agent).await;
    assert!(
        stands
            .iter()
            .any(|(name, message)| name == "ApiInTheClear" && message.contains("api.plain_http")),
        "{stands:?}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_systemd_s_is_served() {
    // As systemd does once somebody calls, and in the same process.
    let bed = Testbed::new();
    let program = bed.dir.join("activated");
    let script = format!(
        "#!/bin/sh\nexec systemd-socket-activate -l $ACTIVATED:$NODE_PORT $(env | sed 's/=.*//; s/^/-E /') {PROGRAM}\n"
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for (address, plain) in [("127.0.0.1", "false"), ("0.0.0.0", "true")] {
        let variables = [("ACTIVATED", address), ("CHAS_PLAIN_HTTP", plain)];
        let agent = Agent::start_program(&bed, &program, &variables).await;
        let (status, _) = agent.get("/containers").await;
        let stands: Vec<_> = alarms(&agent)
            .await
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(status, 200);
        assert!(!stands.contains(&"ListenFailed".to_owned()), "{stands:?}");
        let in_the_clear = stands.contains(&"ApiInTheClear".to_owned());
        assert_eq!(in_the_clear, address == "0.0.0.0", "{stands:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_may_not_be_listened_on_narrows_the_door_and_keeps_no_node_down() {
    // A node whose state was lost looks new, and its configuration is from before.
    let bed = Testbed::new();
    let agent = Agent::start_with(&bed, &[("CHAS_LISTEN", "0.0.0.0")]).await;
    let (status, health) = agent.get("/health").await;
    assert_eq!(status, 200);
    let mut stand = health["alarms"].as_array().unwrap().iter();
    let narrowed = stand.find(|alarm| alarm["name"] == "ListenNarrowed");
    let narrowed = narrowed.expect("the alarm stands");
    assert_eq!(narrowed["health"], "degraded");
    let message = narrowed["message"].as_str().unwrap();
    assert!(message.contains("api.plain_http"), "{message}");
    let port = agent.address();
    let port = port.rsplit_once(':').unwrap().1;
    let other = TcpStream::connect(format!("127.0.0.2:{port}")).await;
    assert!(other.is_err(), "it listens beyond 127.0.0.1");
}
