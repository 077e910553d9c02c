//! HTTP probe: one request over a connection of its own. Of the answer, the first line counts; no
//! redirect is followed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use state::spec::HttpProbe;

use super::ProbeResult;
use super::connection::ProbeConnection;
use super::exec::silence;
use super::tcp::fault;

/// Bytes of an answer that are read. A server that sends more has its connection closed.
const ANSWER_BYTES_MAX: usize = 8 << 10;
/// Bytes in which the first line ends.
const LINE_BYTES_MAX: usize = 512;
/// Time for the rest of an answer, once its first line is here: so a server is not cut off in the
/// middle of it.
const REST: Duration = Duration::from_millis(200);

/// Most pieces of the rest that are taken: one that sends it byte by byte costs no more.
const PIECES_MAX: usize = 16;

/// Asks. Only the first line of the answer has to come within `timeout`.
pub(super) async fn ask(address: IpAddr, probe: &HttpProbe, timeout: Duration) -> ProbeResult {
    let address = SocketAddr::new(address, probe.port);
    let mut answer = Vec::with_capacity(1024);
    let first = tokio::time::timeout(timeout, first_line(address, probe, &mut answer)).await;
    let (code, mut connection) = match first {
        Err(_) => return Some(Err(silence(timeout))),
        Ok(Err(fault)) => return fault,
        Ok(Ok(begun)) => begun,
    };
    let _rest_or_not = tokio::time::timeout(REST, rest(&mut connection, &mut answer)).await;
    connection.end();
    // At the host's own address another program may be the one that speaks.
    let told = match address.ip().is_loopback() {
        true => format!("HTTP {code}"),
        false => told(code, &answer),
    };
    Some(if probe.status.has(code) {
        Ok(told)
    } else {
        Err(told)
    })
}

/// Asks, and reads the first line of the answer: its code.
async fn first_line(
    address: SocketAddr,
    probe: &HttpProbe,
    answer: &mut Vec<u8>,
) -> Result<(u16, ProbeConnection), ProbeResult> {
    let broken = |error: std::io::Error| fault(probe.port, &error);
    let mut connection = ProbeConnection::open_to_send(address)
        .await
        .map_err(broken)?;
    let request = request(address, probe);
    connection
        .write_all(request.as_bytes())
        .await
        .map_err(broken)?;
    let line_end = loop {
        if let Some(end) = answer.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        if answer.len() > LINE_BYTES_MAX {
            return Err(Some(Err(no_http(probe.port, answer))));
        }
        let count = connection.read(answer).await.map_err(broken)?;
        if count == 0 && answer.is_empty() {
            let port = probe.port;
            let closed = format!("port {port} closed the connection without an answer");
            return Err(Some(Err(closed)));
        }
        if count == 0 {
            return Err(Some(Err(no_http(probe.port, answer))));
        }
    };
    match code(&answer[..line_end]) {
        Some(code) => Ok((code, connection)),
        None => Err(Some(Err(no_http(probe.port, answer)))),
    }
}

fn request(address: SocketAddr, probe: &HttpProbe) -> String {
    let mut request = format!("GET {} HTTP/1.1\r\n", probe.path);
    let has = |wanted: &str| {
        probe
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case(wanted))
    };
    if !has("host") {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    if !has("user-agent") {
        let version = env!("CARGO_PKG_VERSION");
        request.push_str(&format!(
            "User-Agent: chas-node-agent/{version} (health probe)\r\n"
        ));
    }
    if !has("accept") {
        request.push_str("Accept: */*\r\n");
    }
    for (name, value) in &probe.headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: close\r\n\r\n");
    request
}

/// Code of a first line such as `HTTP/1.1 200 OK`.
fn code(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.trim_end().split(' ');
    words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))?;
    let code = words.next().filter(|code| code.len() == 3)?;
    code.parse().ok().filter(|code| (100..=599).contains(code))
}

fn no_http(port: u16, answer: &[u8]) -> String {
    let begin = String::from_utf8_lossy(&answer[..answer.len().min(64)]);
    format!("port {port} does not speak HTTP/1: {begin:?}")
}

/// Reads what follows, until the answer or its room ends.
async fn rest(connection: &mut ProbeConnection, answer: &mut Vec<u8>) {
    for _ in 0..PIECES_MAX {
        if answer.len() >= ANSWER_BYTES_MAX || is_complete(answer) {
            return;
        }
        match connection.read(answer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Parts of an answer: its head, and its body as far as it is here.
fn parts(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((&answer[..end], &answer[end + 4..]))
}

/// Whether the answer is here to its end, as far as its head tells of one.
fn is_complete(answer: &[u8]) -> bool {
    let Some((head, body)) = parts(answer) else {
        return false;
    };
    let head = String::from_utf8_lossy(head);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        value.trim().parse::<usize>().ok().filter(|_| is_length)
    });
    length.is_some_and(|length| body.len() >= length)
}

/// The answer in a line: its code, and the begin of its body.
fn told(code: u16, answer: &[u8]) -> String {
    let body = parts(answer).map_or(&[][..], |(_, body)| body);
    let body = String::from_utf8_lossy(&body[..body.len().min(256)]);
    let body = body.trim();
    if body.is_empty() {
        format!("HTTP {code}")
    } else {
        format!("HTTP {code}: {body}")
    }
}

#[cfg(test)]
mod tests;
