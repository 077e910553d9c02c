//! `exec`: a program in a container, with the caller's input, output and terminal.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{StatusCode, Upgraded, header};
use serde_json::{Value, json};
use state::text;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::TaskTracker;

use super::agent::{Agent, TIMEOUT};
use super::fault::{AgentFault, EXIT_OWN};
use super::interrupted;
use super::logs::harmless;
use super::order::ExecFlags;
use super::screen::{Screen, input};
use super::terminal::RawTerminal;

/// Version of the protocol in which an input can end.
const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Bytes of input in one message.
const PIECE_BYTES: usize = 32 << 10;
/// Messages of input that wait to be sent.
const WAITING_MAX: usize = 8;
/// Time without a word of the agent, after which it is gone.
const SILENT_MAX: Duration = Duration::from_secs(70);
/// Time in which the agent says how the program ended, once it closes.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

type SocketSender = SplitSink<WebSocketStream<Upgraded>, Message>;
type SocketReceiver = SplitStream<WebSocketStream<Upgraded>>;

/// Runs a program; answers its exit code.
pub(super) async fn exec(agent: &Agent, flags: &ExecFlags, screen: Screen) -> anyhow::Result<u8> {
    if flags.tty && flags.interactive && !io::stdin().is_terminal() {
        bail!("the input is no terminal: leave out --tty");
    }
    let mut socket = open(agent, flags).await?;
    let raw = match flags.tty && flags.interactive {
        true => Some(RawTerminal::enter().context("cannot set the terminal")?),
        false => None,
    };
    if flags.tty {
        let size = RawTerminal::size();
        let size = json!({"Width": size.0, "Height": size.1}).to_string();
        socket.send(message(RESIZE, size.as_bytes())).await?;
    }
    let (sender, receiver) = socket.split();
    let ended = tokio::select! {
        ended = print(receiver, flags, screen) => ended,
        error = feed(sender, flags) => Err(error),
        signal = interrupted() => Ok(128 + signal),
    };
    drop(raw);
    ended
}

/// Asks for the program, and answers the connection on which it is watched.
async fn open(agent: &Agent, flags: &ExecFlags) -> anyhow::Result<WebSocketStream<Upgraded>> {
    let mut query: Vec<(&str, &str)> = Vec::new();
    query.extend(flags.command.iter().map(|word| ("command", word.as_str())));
    query.extend(
        flags
            .env
            .iter()
            .map(|variable| ("environment", variable.as_str())),
    );
    query.extend(flags.user.iter().map(|user| ("user", user.as_str())));
    query.extend(
        flags
            .workdir
            .iter()
            .map(|path| ("working_dir", path.as_str())),
    );
    query.extend(flags.interactive.then_some(("stdin", "true")));
    query.extend(flags.tty.then_some(("tty", "true")));
    let request = agent
        .get(&["containers", &flags.name, "exec"])
        .query(&query);
    let request = request
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
        .version(reqwest::Version::HTTP_11);
    // A program that finds no place waits for one for 30 s.
    let opened = tokio::time::timeout(TIMEOUT * 3, agent.open_answer(request)).await;
    let response = opened.context("the agent does not answer")??;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        bail!("the answer is no WebSocket; is this an agent?");
    }
    let upgraded = response.upgrade().await?;
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::binary([&[channel], bytes].concat())
}

/// Sends the input and the sizes of the terminal, as they come; ends with an error alone.
async fn feed(mut sender: SocketSender, flags: &ExecFlags) -> anyhow::Error {
    let fed = async {
        let (to, mut pieces) = mpsc::channel(WAITING_MAX);
        let tasks = TaskTracker::new();
        if flags.interactive {
            tasks.spawn(read_input(input()?, to.clone()));
        }
        if flags.tty {
            tasks.spawn(read_sizes(to.clone()));
        }
        drop(to);
        while let Some(piece) = pieces.recv().await {
            sender.send(piece).await?;
        }
        std::future::pending::<()>().await;
        anyhow::Ok(())
    };
    match fed.await {
        Ok(()) => anyhow::anyhow!("the input ended"),
        // The agent has closed, and says why to whoever reads.
        Err(error) => {
            tokio::time::sleep(CLOSED_WITHIN).await;
            AgentFault::Unreachable(format!("the connection broke off: {error}")).into()
        }
    }
}

async fn read_input(mut stdin: tokio::fs::File, to: mpsc::Sender<Message>) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let next = match stdin.read(&mut piece).await {
            Ok(0) => message(CLOSE, &[STDIN]),
            Ok(count) => message(STDIN, &piece[..count]),
            // The program must not take half of an input for the whole.
            Err(_) => Message::Close(None),
        };
        let is_last = !matches!(&next, Message::Binary(bytes) if bytes.first() == Some(&STDIN));
        if to.send(next).await.is_err() || is_last {
            return;
        }
    }
}

async fn read_sizes(to: mpsc::Sender<Message>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    while changes.recv().await.is_some() {
        let (width, height) = RawTerminal::size();
        let size = json!({"Width": width, "Height": height}).to_string();
        if to.send(message(RESIZE, size.as_bytes())).await.is_err() {
            return;
        }
    }
}

/// Prints what the program prints, until it ends; answers its exit code.
async fn print(
    mut receiver: SocketReceiver,
    flags: &ExecFlags,
    screen: Screen,
) -> anyhow::Result<u8> {
    // What a program does to its own terminal is meant for it.
    let is_raw = flags.raw || flags.tty;
    loop {
        // An agent that lives asks each 20 s whether this end does.
        let received = tokio::time::timeout(SILENT_MAX, receiver.next()).await;
        let silent =
            |_| AgentFault::Unreachable("the agent is silent; the program may run on".to_owned());
        let Some(received) = received.map_err(silent)? else {
            break;
        };
        let received = received.map_err(|error| {
            AgentFault::Unreachable(format!("the connection broke off: {error}"))
        })?;
        let Message::Binary(bytes) = received else {
            continue;
        };
        let Some((channel, bytes)) = bytes.split_first() else {
            continue;
        };
        match *channel {
            STDOUT if is_raw || !screen.is_terminal => screen.bytes(bytes)?,
            STDOUT => screen.write(&shown(bytes))?,
            STDERR if is_raw || !io::stderr().is_terminal() => screen.error_bytes(bytes)?,
            STDERR => screen.error_bytes(shown(bytes).as_bytes())?,
            STATUS => return code(bytes),
            _ => {}
        }
    }
    Err(AgentFault::Unreachable("the connection ended before the program".to_owned()).into())
}

/// Printed bytes, line by line without anything that acts on a terminal.
fn shown(bytes: &[u8]) -> String {
    let lines = bytes.split(|byte| *byte == b'\n').map(harmless);
    lines.collect::<Vec<_>>().join("\n")
}

/// Exit code by the last message.
fn code(bytes: &[u8]) -> anyhow::Result<u8> {
    let status: Value = serde_json::from_slice(bytes)?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    if status["reason"] == "NonZeroExitCode" {
        let code = status["details"]["causes"][0]["message"].as_str();
        let code = code.and_then(|code| code.parse::<u32>().ok());
        return Ok(code
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(EXIT_OWN));
    }
    let why = status["message"].as_str();
    let why = why.unwrap_or("the program was ended");
    bail!("{}", text::shown(why, text::MESSAGE_CHARS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_tells_the_exit_code_or_why_there_is_none() {
        assert_eq!(code(br#"{"status":"Success"}"#).unwrap(), 0);
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"message":"7"}]}}"#;
        assert_eq!(code(failed).unwrap(), 7);
        let gone =
            br#"{"status":"Failure","reason":"ContainerEnded","message":"the container ended"}"#;
        assert_eq!(code(gone).unwrap_err().to_string(), "the container ended");
        assert_eq!(shown(b"a\x07\nb"), "a\\u0007\nb");
    }
}
