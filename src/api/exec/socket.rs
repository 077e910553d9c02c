//! A program that is watched while it runs, over a `WebSocket`: input, output and a terminal's size
//! in messages (`channels`), and its end as the last of them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts as _, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Map, Value, json};
use state::spec::exec::ExecSpec;
use tokio::sync::mpsc;

use super::channels;
use crate::api::NodeApi;
use crate::api::access::{Access, AccessEnd};
use crate::api::containers::find_managed;
use crate::api::error::Problem;
use crate::api::query::{self, Named, RawQuery};
use crate::exec::{ExecEnd, ExecInput, ExecOrder, ExecOutput, ExecSession};
use crate::view::Naming;

/// Bytes of a client's message. Its input waits where it comes faster than the program reads.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes that wait to be sent; each message is sent before the next is made.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// Interval of pings, which every client answers.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Silence after which a client is gone.
const SILENCE_MAX: Duration = Duration::from_secs(70);
/// Time in which a client that was told of the end closes its side.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// Parameters that are given once.
const SINGLE: [&str; 6] = ["user", "working_dir", "stdin", "stdout", "stderr", "tty"];

/// Whether a request asks for a `WebSocket`.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Runs a program that its caller watches.
pub(in crate::api) async fn watch<N: NodeApi>(
    State(node): State<Arc<N>>,
    access: Access,
    Named(name): Named,
    query: RawQuery,
    request: axum::extract::Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    run(&*node, access, &name, query, parts).await
}

/// Runs a program for a request that asks for a `WebSocket`, whichever its method.
pub(super) async fn run<N: NodeApi>(
    node: &N,
    access: Access,
    name: &str,
    query: RawQuery,
    mut parts: Parts,
) -> Result<Response, Problem> {
    let id = find_managed(node, &access, name, Naming::Exact)?;
    let wish = Wish::read(query)?;
    parts.method = Method::GET;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|error| {
        Problem::Request(format!(
            "{}; a program is watched over a WebSocket, or run to its end by POST with a JSON body",
            error.body_text()
        ))
    })?;
    let upgrade = upgrade
        .protocols(channels::VERSIONS)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .max_write_buffer_size(UNSENT_BYTES_MAX);
    let version = upgrade.selected_protocol().cloned().ok_or_else(|| {
        let versions = channels::VERSIONS.join(" or ");
        Problem::Request(format!(
            "the request's Sec-WebSocket-Protocol names nothing that is spoken here; offer {versions}"
        ))
    })?;
    // Before the upgrade: a program that cannot be run is answered as by every other call.
    let session = node.exec(id, wish.order, access.peer.is_local()).await?;
    let watched = WatchedSession {
        shows: wish.shows,
        has_close: version == channels::VERSIONS[0],
        end: access.end,
    };
    Ok(upgrade.on_upgrade(move |socket| watched.serve(socket, session)))
}

/// Wish of a request, as its parameters tell it.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    order: ExecOrder,
    shows: Shows,
}

/// Streams that the client wants to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shows {
    stdout: bool,
    stderr: bool,
}

impl Wish {
    /// Reads the parameters as Kubernetes has them, and `user`, `working_dir` and `environment`
    /// beside these. Without a command, which then says nothing of these, it is the container's own
    /// program.
    fn read(query: RawQuery) -> Result<Self, Problem> {
        let Query(pairs) = query.map_err(|error| Problem::Request(error.body_text()))?;
        let (mut command, mut environment, mut single) = (Vec::new(), Map::new(), Map::new());
        for (key, value) in pairs {
            match key.as_str() {
                "command" => command.push(Value::from(value)),
                "environment" => {
                    let (name, value) = value.split_once('=').ok_or_else(|| {
                        Problem::Request("environment is not NAME=VALUE".to_owned())
                    })?;
                    environment.insert(name.to_owned(), value.into());
                }
                known if SINGLE.contains(&known) => {
                    if single.insert(key.clone(), value.into()).is_some() {
                        return Err(Problem::Request(format!("{key} is given twice")));
                    }
                }
                _ => {
                    return Err(Problem::Request(format!(
                        "unknown parameter {key}; known are command, environment, {}",
                        SINGLE.join(", ")
                    )));
                }
            }
        }
        let stdin = flag(&mut single, "stdin", false)?;
        let stdout = flag(&mut single, "stdout", true)?;
        let tty = flag(&mut single, "tty", false)?;
        let stderr = flag(&mut single, "stderr", !tty)?;
        if command.is_empty() && environment.is_empty() && single.is_empty() {
            let order = ExecOrder {
                input: stdin,
                terminal: tty,
                ..ExecOrder::default()
            };
            let shows = Shows { stdout, stderr };
            return Ok(Self { order, shows });
        }
        let mut body = json!({"command": command, "environment": environment, "tty": tty});
        for (key, value) in single {
            body[key] = value;
        }
        let spec = ExecSpec::parse(&body).map_err(Problem::Invalid)?;
        Ok(Self {
            order: ExecOrder {
                command: spec.command,
                user: spec.user,
                working_dir: spec.working_dir,
                environment: spec.environment,
                input: stdin,
                terminal: spec.tty,
                non_root_rule: None,
            },
            shows: Shows { stdout, stderr },
        })
    }
}

/// Takes a flag out of the parameters; other languages write them in other letters.
fn flag(single: &mut Map<String, Value>, key: &str, default: bool) -> Result<bool, Problem> {
    let Some(value) = single.remove(key) else {
        return Ok(default);
    };
    query::flag(key, value.as_str().unwrap_or_default())
}

/// Way in which a program is watched.
struct WatchedSession {
    shows: Shows,
    /// Whether the client may close its input alone.
    has_close: bool,
    end: AccessEnd,
}

/// Cause for which nothing more is carried between client and program.
enum Over {
    /// The program ended.
    Ended,
    /// The client is gone.
    Gone,
    /// The client may call no more.
    Revoked,
}

impl WatchedSession {
    /// Carries a session to its end, or its client's.
    async fn serve(self, socket: WebSocket, mut session: ExecSession) {
        let _until_it_is_told = session.token();
        let (mut to_client, mut from_client) = socket.split();
        let input = session.input.clone();
        let over = tokio::select! {
            () = take(&mut from_client, &input, self.has_close) => Over::Gone,
            over = give(&mut to_client, &mut session.output, self.shows) => over,
            () = self.end.clone().reached() => Over::Revoked,
        };
        let end = match over {
            Over::Ended => session.end().await,
            Over::Gone => return,
            Over::Revoked => session.cut().end().await,
        };
        let _gone = tokio::time::timeout(
            CLOSED_WITHIN,
            farewell(&mut to_client, &mut from_client, &end),
        )
        .await;
    }
}

/// Takes what a client sends, until it is gone.
async fn take(from: &mut SplitStream<WebSocket>, input: &mpsc::Sender<ExecInput>, has_close: bool) {
    while let Ok(Some(Ok(message))) = tokio::time::timeout(SILENCE_MAX, from.next()).await {
        let bytes = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        if let Some(message) = channels::read(&bytes, has_close) {
            // A program that has ended takes no more, and its client is told of it.
            let _ended = input.send(message).await;
        }
    }
}

/// Gives a client what the program prints, until either has ended.
async fn give(
    to: &mut SplitSink<WebSocket, Message>,
    output: &mut mpsc::Receiver<ExecOutput>,
    shows: Shows,
) -> Over {
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        let message = tokio::select! {
            piece = output.recv() => match piece {
                None => return Over::Ended,
                Some(ExecOutput::Stdout(_)) if !shows.stdout => continue,
                Some(ExecOutput::Stderr(_)) if !shows.stderr => continue,
                Some(piece) => Message::Binary(channels::printed(&piece)),
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        if to.send(message).await.is_err() {
            return Over::Gone;
        }
    }
}

/// Tells a client of the end, and waits until it has closed its side.
async fn farewell(
    to: &mut SplitSink<WebSocket, Message>,
    from: &mut SplitStream<WebSocket>,
    end: &ExecEnd,
) {
    let close = CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    };
    let status = Message::Binary(channels::status(end));
    if to.send(status).await.is_ok() && to.send(Message::Close(Some(close))).await.is_ok() {
        while let Some(Ok(_)) = from.next().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(query: &str) -> Result<Wish, Problem> {
        let uri = format!("/x?{query}").parse().unwrap();
        Wish::read(Ok(Query::try_from_uri(&uri).unwrap()))
    }

    #[test]
    fn parameters_are_read_as_kubernetes_writes_them() {
        let read = wish(
            "command=sh&command=-c&command=a%20b&stdin=True&tty=1&user=web&environment=A%3Db%3Dc&working_dir=%2Fsrv",
        );
        let read = read.unwrap();
        assert_eq!(read.order.command, ["sh", "-c", "a b"]);
        assert_eq!(read.order.environment["A"], "b=c");
        assert_eq!(read.order.user.as_deref(), Some("web"));
        assert_eq!(read.order.working_dir.as_deref(), Some("/srv"));
        assert!(read.order.input && read.order.terminal);
        let shows = |query| wish(query).unwrap().shows;
        let both = Shows {
            stdout: true,
            stderr: true,
        };
        assert_eq!(shows("command=id"), both);
        assert!(!shows("command=id&tty=true").stderr);
        assert!(!shows("command=id&stdout=false").stdout);
        assert!(!wish("command=id").unwrap().order.input);
        let own = wish("stdin=true&tty=true").unwrap().order;
        assert!(own.is_own() && own.input && own.terminal, "{own:?}");
        assert!(wish("").unwrap().order.is_own());
    }

    #[test]
    fn parameters_that_mean_nothing_are_refused() {
        for (query, says) in [
            ("command=id&container=web", "unknown parameter container"),
            ("command=id&user=a&user=b", "user is given twice"),
            ("command=id&stdin=maybe", "neither true nor false"),
            ("command=id&environment=A", "NAME=VALUE"),
        ] {
            let Err(Problem::Request(text)) = wish(query) else {
                panic!("{query}")
            };
            assert!(text.contains(says), "{text}");
        }
        for beside in [
            "user=web",
            "working_dir=%2F",
            "environment=A%3Db",
            "command=",
        ] {
            let faults = wish(beside);
            assert!(
                matches!(&faults, Err(Problem::Invalid(all)) if all.len() == 1),
                "{faults:?}"
            );
        }
        let faults = wish("user=a%20b");
        assert!(
            matches!(&faults, Err(Problem::Invalid(all)) if all.len() == 2),
            "{faults:?}"
        );
    }
}
