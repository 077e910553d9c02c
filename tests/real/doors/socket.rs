//! The socket: root's own door, which neither another user nor whoever has the port gets anything of.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::time::Instant;

use super::*;

/// Runs `confirm --list` as an operator does.
pub(super) fn confirm(agent: &Agent, arguments: &[&str]) -> (Option<i32>, String) {
    confirm_in(agent, arguments, &[])
}

fn confirm_in(
    agent: &Agent,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["confirm", "--list"]).args(arguments);
    let output = command
        .env_clear()
        .envs(agent.environment())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = [output.stderr, output.stdout].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// A program that has the agent's port while the agent is down, answers everything, and keeps what it hears.
pub(super) struct Squatter {
    heard: Arc<Mutex<String>>,
    stopping: Arc<AtomicBool>,
    port: String,
    acceptor: Option<JoinHandle<()>>,
}

impl Squatter {
    pub(super) fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let (heard, stopping) = (
            Arc::new(Mutex::new(String::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (hears, stops) = (Arc::clone(&heard), Arc::clone(&stopping));
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stops.load(Ordering::SeqCst) {
                    break;
                }
                let mut stream = stream;
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap_or(0);
                hears
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes[..read]));
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\
                      Connection: close\r\n\r\n{\"chas\":{}}",
                );
            }
        });
        Self {
            heard,
            stopping,
            port: address.to_owned(),
            acceptor: Some(acceptor),
        }
    }

    fn heard(&self) -> String {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(&self.port);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_never_speaks_to_whoever_has_the_port() {
    let bed = Testbed::new();
    let mut agent = Agent::start(&bed).await;
    let (code, said) = confirm(&agent, &[]);
    assert!(
        code == Some(1) && said.contains("no CHaS is configured"),
        "{said}"
    );
    // Whatever else is wrong with the configuration by now.
    let wrong = [
        ("HEALTH_INTERVAL", "often"),
        ("CHAS_TOKEN_FILE", "/nonexistent"),
    ];
    let (_, said) = confirm_in(&agent, &[], &wrong);
    assert!(said.contains("no CHaS is configured"), "{said}");
    agent.terminate();
    let squatter = Squatter::on(&agent.address());
    let (code, said) = confirm(&agent, &[]);
    assert!(
        code == Some(2) && said.contains("no agent answers at"),
        "{said}"
    );
    assert!(said.contains("agent.sock"), "{said}");
    let address = agent.address();
    let (code, said) = confirm(&agent, &["--address", &address]);
    assert!(code == Some(1) && said.contains("--insecure"), "{said}");
    assert_eq!(squatter.heard(), "");
    // Nor does it keep the agent down: that one has its socket, says what is wrong, and tries again.
    agent.start_again().await;
    eventually("the socket is served", async || {
        UnixStream::connect(socket_of(&agent)).await.is_ok()
    })
    .await;
    let failed = |stands: &[(String, String)]| {
        let mut failed = stands.iter().filter(|(name, _)| name == "ListenFailed");
        failed.next().map(|(_, message)| message.clone())
    };
    let message = failed(&alarms(&agent).await).expect("the alarm stands");
    assert!(message.contains(&agent.address()), "{message}");
    squatter.heard.lock().unwrap().clear();
    let (_, said) = confirm(&agent, &[]);
    assert!(said.contains("no CHaS is configured"), "{said}");
    assert_eq!(squatter.heard(), "");
    drop(squatter);
    eventually("the port is the agent's", async || {
        let health = agent.call("GET", "/health", None).await;
        health.is_some_and(|(_, health)| health["uptime"].is_number())
    })
    .await;
    eventually("the alarm ends", async || {
        failed(&alarms(&agent).await).is_none()
    })
    .await;
    let (_, said) = confirm(&agent, &["--address", &address, "--insecure"]);
    assert!(said.contains("no CHaS is configured"), "{said}");
}

/// Asks the socket as nobody, from the socket's own directory.
fn ask_as_nobody(socket: &Path) -> Output {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args([
            "curl",
            "-sS",
            "--max-time",
            "5",
            "--unix-socket",
            "agent.sock",
        ])
        .arg("http://agent/livez")
        .current_dir(socket.parent().unwrap());
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_gets_nothing() {
    let bed = Testbed::new();
    let agent = Agent::start(&bed).await;
    let socket = socket_of(&agent);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode(&socket), mode(socket.parent().unwrap())),
        (0o600, 0o700)
    );
    let answer = ask_as_nobody(&socket);
    assert!(
        !answer.status.success() && answer.stdout.is_empty(),
        "{answer:?}"
    );
    // Whoever gave everybody the file has given away nothing.
    for (path, mode) in [(socket.parent().unwrap(), 0o755), (socket.as_path(), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let answer = ask_as_nobody(&socket);
    assert!(
        !answer.status.success() && answer.stdout.is_empty(),
        "{answer:?}"
    );
    let told = agent.log();
    let line = told
        .lines()
        .find(|line| line.contains("connection refused"));
    assert!(
        line.is_some_and(|line| line.contains("uid 65534")),
        "{line:?}"
    );
    let (status, listed) = by_socket(&agent, "GET", "/containers", None).await;
    assert_eq!((status, &listed["containers"]), (200, &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_silent_clients_of_tcp_do_not_slow_the_socket() {
    let stand = Stand::new().await;
    let mut silent = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(stand.agent.address()).await.unwrap();
        if number % 2 == 0 {
            let half = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ";
            let _closed_for_the_next = stream.write_all(half).await;
        }
        silent.push(stream);
    }
    let body = stand.script("web", "sleep 1000", &json!({"state": "stopped"}));
    for (method, path, body, expected) in [
        ("GET", "/livez", None, 200),
        ("POST", "/containers/deploy", Some(&body), 202),
        ("GET", "/containers", None, 200),
    ] {
        let began = Instant::now();
        let (status, answer) = by_socket(&stand.agent, method, path, body).await;
        assert_eq!(status, expected, "{path}: {answer}");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{path}: {:?}",
            began.elapsed()
        );
    }
    drop(silent);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_swept_away_is_made_again_and_none_where_others_could() {
    let bed = Testbed::new();
    let agent = Agent::start(&bed).await;
    let socket = socket_of(&agent);
    let directory = socket.parent().unwrap();
    let answers = async || UnixStream::connect(socket_of(&agent)).await.is_ok();
    fs::remove_file(&socket).unwrap();
    eventually("it is there again", answers).await;
    assert!(agent.log().contains("socket lost"), "{}", agent.log());
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(&socket).unwrap();
    eventually("the alarm stands", async || {
        let (_, health) = agent.get("/health").await;
        let alarms = health["alarms"].as_array().unwrap();
        alarms.iter().any(|alarm| {
            let message = alarm["message"].as_str().unwrap();
            alarm["name"] == "ListenFailed" && message.contains("mode 0777")
        })
    })
    .await;
    assert!(!socket.exists());
    // The command line would not speak to one that somebody puts there, either.
    let stranger = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    drop(stranger);
    eventually("it is made once they cannot", answers).await;
}
