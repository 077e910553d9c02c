//! The process of the example: arguments, logging, run, exit code.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use crate::server::{Server, Settings, serve};

mod server;

/// Connections that may wait to be accepted: after a power cut, all nodes come at once.
const BACKLOG: u32 = 4096;

const ABOUT: &str = "An example of the CHaS API server (--help says more)";

const LONG_ABOUT: &str = "\
An example of the CHaS API server: nodes register with it, pull from it what they are to run, and report to it.

It is for trying the agent, for its tests, and to show all that a server has to do for it. GET /openapi.json says how to
speak to it; each set is a list of the deploy bodies that the agent's own API takes:

  cargo run --example chas-api -- --state /tmp/chas --sets examples/sets
  CHAS_API_URL=http://127.0.0.1:8080 chas-node-agent
  curl -s http://127.0.0.1:8080/nodes
  curl -X PUT http://127.0.0.1:8080/nodes/worker-1/set -d '{\"containers\": [{\"name\": \"web\", \"image\": \"nginx:1.29\"}]}'";

const AFTER_HELP: &str = "\
A node has its own set, or else the one named _default, or else none: then it keeps what it runs. So taking a set away stops
nothing; writing an empty one does. What a node finds too much to stop at once it holds until
POST /nodes/{id}/confirm?generation=N, where N is what GET /nodes/{id} shows under pending_prune.

A set that comes from a file of --sets is changed in the file. Write it elsewhere and mv it there: a file that nobody writes to
for a second counts as whole. One that is not valid is logged with every fault, and the set stays as it was. A file that is
deleted while the server runs takes its set along.

Who sets --state back to a backup deletes the file epoch in it: nodes then hold back what the old sets would stop or change,
instead of taking new generations for ones that they have seen.

Tokens: CHAS_JOIN_TOKEN and CHAS_ADMIN_TOKEN, or the files. A file wins. Agents take none of fewer than 16 characters; they
are given the join token as CHAS_API_TOKEN.

What a real one must add: TLS; a database and more than one server, where this one has a directory and a lock; operators
with names, roles and an audit log; tokens that expire, and join tokens for one node each (here, who has the join token may
pass for a node that is offline); limits on how often anybody asks, and how many connections there are;
and something that decides what is to run where, instead of whoever writes the sets.

Exit codes: 0 ended as asked to; 1 failed; 2 the command line is wrong.";

#[derive(Parser)]
#[command(name = "chas-api", about = ABOUT, long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
struct Arguments {
    /// Where to listen. Beyond this machine's own addresses both tokens are needed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where to keep nodes, sets and generations. Without it they end with the process, and every start is a new epoch
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where to read sets from: <node_id>.yaml and _default.yaml, looked at once a second
    #[arg(long, value_name = "DIR")]
    sets: Option<PathBuf>,
    /// The file with the token that nodes register with. Without one, nodes need no token at all
    #[arg(long, value_name = "PATH")]
    join_token_file: Option<PathBuf>,
    /// The file with the token that operators show. Without one, they need none
    #[arg(long, value_name = "PATH")]
    admin_token_file: Option<PathBuf>,
    /// What nodes are told to wait between polls that are not held
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = seconds)]
    poll_after: Duration,
    /// What nodes are told to wait between reports; three times that without a word, and a node is offline
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds)]
    health_after: Duration,
    /// Lets everybody in who can reach an address of --listen, where there are no tokens
    #[arg(long)]
    insecure: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = time.subsec_nanos() == 0 && (1..=3600).contains(&time.as_secs());
    fits.then_some(time)
        .ok_or_else(|| "must be whole seconds, from 1s to 1h".to_owned())
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
        poll_after: arguments.poll_after,
        health_after: arguments.health_after,
        ..Settings::default()
    };
    let is_open = settings.join_token.is_none() || settings.admin_token.is_none();
    if is_open && !arguments.listen.ip().is_loopback() && !arguments.insecure {
        bail!(
            "{} can be reached by others: set both tokens, or say --insecure",
            arguments.listen
        );
    }
    if is_open {
        tracing::warn!(
            "there is no token for nodes, for operators, or for both: whoever gets here may do anything"
        );
    }
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = listen(arguments.listen).with_context(|| arguments.listen.to_string())?;
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
        let server = Server::open(settings).context("the state")?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        serve(listener, server, stop).await.context("the server")
    })
}

/// The file wins. An empty variable counts as unset, an empty file is a mistake.
fn token(file: Option<PathBuf>, variable: &str) -> anyhow::Result<Option<String>> {
    let Some(path) = file else {
        let value = std::env::var_os(variable).filter(|value| !value.is_empty());
        return value
            .map(|value| {
                value
                    .into_string()
                    .ok()
                    .with_context(|| format!("{variable} is not text"))
            })
            .transpose();
    };
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let token = text.trim();
    ensure!(!token.is_empty(), "{} is empty", path.display());
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

/// Each node holds a connection or two, and most systems begin with 1,024 files.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "no more files can be open than before");
    }
}
