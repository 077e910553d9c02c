//! Entry point of the example server: arguments, log, and exit code.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use ring::signature::Ed25519KeyPair;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use crate::server::{Server, Settings, serve, signature};

mod server;

/// Connections that may wait to be accepted: after a power cut, all nodes connect at once.
const BACKLOG: u32 = 4096;

const ABOUT: &str = "An example of the CHaS API server (--help says more)";

const LONG_ABOUT: &str = "\
An example of the CHaS API server: nodes register with it, poll it for the set of containers to
run, and report to it.

It serves to try out the agent, to test it, and to show what a server must do for it. GET
/openapi.json describes its API. A set is a list of deploy bodies, as the agent's own API
accepts them:

  cargo run -p chas-api -- --state /tmp/chas --sets examples/sets
  CHAS_API_URL=http://127.0.0.1:8080 chas-node-agent
  curl -s http://127.0.0.1:8080/nodes
  curl -X PUT http://127.0.0.1:8080/nodes/worker-1/set -d '{\"containers\": [{\"name\": \"web\", \"image\": \"nginx:1.29\"}]}'";

const AFTER_HELP: &str = "\
A node runs its own set, or else the one named _default. Without either it keeps its containers:
deleting a set stops nothing, writing an empty one does. Removals that are too many at once
await a confirmation: POST /nodes/{id}/confirm?generation=N, with the N that GET /nodes/{id}
shows under pending_prune.

A set from a file in --sets is changed in that file. Write the file elsewhere and mv it there: a
file that is unchanged for a second counts as complete. An invalid one is logged with every
error, and the set stays as it was. Deleting a file while the server runs deletes its set.

After restoring --state from a backup, delete the file epoch in it: nodes then let removals and
changes by the old sets await a confirmation, instead of taking new generations for old ones.

Tokens: CHAS_JOIN_TOKEN and CHAS_ADMIN_TOKEN, or the files, which take precedence. Agents accept
no token of fewer than 16 characters; give them the join token as CHAS_API_TOKEN.

A production server must add: TLS; a database and several servers, in place of a directory and a
lock; operators with names, roles and an audit log; tokens that expire, and a join token for
each node (here, a holder of the join token can pass for a node that is offline); limits on
calls and connections; and a scheduler that writes the sets.

Exit codes: 0 stopped as asked; 1 failed; 2 invalid command line.";

#[derive(Parser)]
#[command(name = "chas-api", about = ABOUT, long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
struct Arguments {
    /// Address and port to listen on. Any address but loopback requires both tokens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Directory for nodes, sets and generations. Without it they end with the process, and every
    /// start is a new epoch
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Directory of set files, <node_id>.yaml and _default.yaml, checked once a second
    #[arg(long, value_name = "DIR")]
    sets: Option<PathBuf>,
    /// File with the token that nodes register with. Without one, nodes need no token
    #[arg(long, value_name = "PATH")]
    join_token_file: Option<PathBuf>,
    /// File with the token of operators. Without one, they need no token
    #[arg(long, value_name = "PATH")]
    admin_token_file: Option<PathBuf>,
    /// File of the key that signs sets, of `openssl genpkey -algorithm ed25519`; agents take the
    /// public one (`openssl pkey -pubout`) as CHAS_SET_KEY_FILE
    #[arg(long, value_name = "PATH")]
    set_key_file: Option<PathBuf>,
    /// Interval between polls that are not kept open, in whole seconds, 1s to 1h
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = seconds)]
    poll_after: Duration,
    /// Interval between reports, in whole seconds, 1s to 1h. A node without a call for three of
    /// them is offline
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds)]
    health_after: Duration,
    /// Serve other hosts without tokens: every caller may do anything
    #[arg(long)]
    insecure: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = time.subsec_nanos() == 0 && (1..=3600).contains(&time.as_secs());
    fits.then_some(time)
        .ok_or_else(|| "not in range: write whole seconds, from 1s to 1h".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "chas-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = Settings {
        state: arguments.state,
        sets: arguments.sets,
        join_token: token(arguments.join_token_file, "CHAS_JOIN_TOKEN")?,
        admin_token: token(arguments.admin_token_file, "CHAS_ADMIN_TOKEN")?,
        set_key: arguments.set_key_file.as_deref().map(set_key).transpose()?,
        poll_after: arguments.poll_after,
        health_after: arguments.health_after,
        ..Settings::default()
    };
    let is_open = settings.join_token.is_none() || settings.admin_token.is_none();
    if is_open && !arguments.listen.ip().is_loopback() && !arguments.insecure {
        bail!(
            "{} accepts calls from other hosts: set both tokens, or pass --insecure",
            arguments.listen
        );
    }
    if is_open {
        tracing::warn!(
            "no token is set for nodes, operators, or both: every caller may do anything"
        );
    }
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = listen(arguments.listen)
            .with_context(|| format!("cannot listen on {}", arguments.listen))?;
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let asked = stop.clone();
        tracker.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = asked.cancelled() => {}
            }
            asked.cancel();
        });
        let server = Server::open(settings).context("cannot open the state")?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        serve(listener, server, stop)
            .await
            .context("the server failed")
    })
}

fn set_key(file: &Path) -> anyhow::Result<Arc<Ed25519KeyPair>> {
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let key = signature::key(&pem).with_context(|| format!("{} cannot be used", file.display()))?;
    Ok(Arc::new(key))
}

/// The token from a file, which takes precedence, or from a variable. An empty variable counts as
/// unset, an empty file is an error.
fn token(file: Option<PathBuf>, variable: &str) -> anyhow::Result<Option<String>> {
    let Some(path) = file else {
        let value = std::env::var_os(variable).filter(|value| !value.is_empty());
        return value
            .map(|value| {
                value
                    .into_string()
                    .ok()
                    .with_context(|| format!("{variable} is not UTF-8"))
            })
            .transpose();
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let token = text.trim();
    ensure!(
        !token.is_empty(),
        "{} is empty: write a token into it",
        path.display()
    );
    Ok(Some(token.to_owned()))
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Raises the limit of open files: each node keeps one or two connections, and most systems allow
/// 1,024 files.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
