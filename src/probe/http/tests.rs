use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::*;

fn probe(port: u16) -> HttpProbe {
    HttpProbe {
        path: "/healthz?a=b".to_owned(),
        port,
        headers: [("X-Token".to_owned(), "t".to_owned())].into(),
        status: state::spec::StatusRange::default(),
    }
}

/// What is said of a server that answers `answer` in pieces, and the request that it got.
async fn answer_to(pieces: &[&[u8]]) -> (Result<String, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let count = stream.read(&mut request).await.unwrap();
        for piece in pieces {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(stream);
        String::from_utf8_lossy(&request[..count]).into_owned()
    };
    let probe = probe(port);
    let timeout = Duration::from_secs(5);
    let asking = ask(Ipv4Addr::LOCALHOST.into(), &probe, timeout);
    let (said, request) = tokio::join!(asking, serving);
    (said.unwrap(), request)
}

/// Pieces of an answer, and what is said of it.
type Case = (&'static [&'static [u8]], Result<&'static str, &'static str>);

#[tokio::test]
async fn an_answer_counts_by_its_code_and_is_told_with_its_body() {
    let cases: [Case; 12] = [
        (
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"],
            Ok("HTTP 200"),
        ),
        (&[b"HTTP/1.0 204 No Content\r\n\r\n"], Ok("HTTP 204")),
        (
            &[
                b"HT",
                b"TP/1.1 302",
                b" Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
            ],
            Ok("HTTP 302"),
        ),
        (&[b"HTTP/1.1 503 \r\n\r\ndb down"], Err("HTTP 503")),
        (&[b"HTTP/1.1 404\n"], Err("HTTP 404")),
        (
            &[b"SSH-2.0-OpenSSH\r\n"],
            Err("speak HTTP/1: \"SSH-2.0-OpenSSH"),
        ),
        (&[b"HTTP/1.1 2000 OK\r\n"], Err("does not speak")),
        (&[b"HTTP/1.1 abc OK\r\n"], Err("does not speak")),
        (&[b"HTTP/2 200\r\n"], Err("does not speak")),
        (&[b"\xff\xfe\n"], Err("does not speak")),
        (&[b"HTTP/1.1 200 OK"], Err("does not speak")),
        (&[], Err("without an answer")),
    ];
    for (pieces, expected) in cases {
        let (said, request) = answer_to(pieces).await;
        match (&said, expected) {
            (Ok(said), Ok(expected)) => assert_eq!(said, expected),
            (Err(fault), Err(part)) => assert!(fault.contains(part), "{fault}"),
            _ => panic!("{said:?}"),
        }
        assert!(
            request.starts_with("GET /healthz?a=b HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{request}"
        );
        assert!(
            request.contains("\r\nX-Token: t\r\n") && request.ends_with("\r\n\r\n"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_server_that_sends_without_end_is_heard_no_longer_than_needed() {
    let mut flood = [[b'a'; 4096].as_slice(); 4096];
    let (line, _) = answer_to(&flood).await;
    assert!(line.unwrap_err().contains("does not speak"));
    flood[0] = b"HTTP/1.1 200 OK\r\n\r\n";
    let (long, _) = answer_to(&flood).await;
    assert!(long.unwrap().len() < 300);
}

#[tokio::test]
async fn a_server_that_keeps_the_connection_open_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let calls = TaskTracker::new();
    calls.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let began = tokio::time::Instant::now();
    let probe = probe(port);
    // Its first line was in time, whatever follows.
    let timeout = Duration::from_millis(150);
    let said = ask(Ipv4Addr::LOCALHOST.into(), &probe, timeout).await;
    assert_eq!(said, Some(Ok("HTTP 200".to_owned())));
    assert!(began.elapsed() < Duration::from_secs(2));
}

/// What a server reads behind its answer, where it has closed its side or has not.
async fn end_of(closes: bool) -> std::io::Result<usize> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        if closes {
            stream.shutdown().await.unwrap();
        }
        stream.read(&mut [0; 4096]).await
    };
    let probe = probe(port);
    let asking = ask(Ipv4Addr::LOCALHOST.into(), &probe, Duration::from_secs(5));
    let (said, end) = tokio::join!(asking, serving);
    assert_eq!(said, Some(Ok("HTTP 200".to_owned())));
    end
}

#[tokio::test]
async fn a_server_that_closed_first_is_kept_from_waiting_and_another_sees_a_usual_end() {
    assert_eq!(end_of(false).await.unwrap(), 0);
    let reset = end_of(true).await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn an_answer_is_told_with_the_begin_of_its_body() {
    let answer = b"HTTP/1.1 503 x\r\nA: b\r\n\r\n db down\n";
    assert_eq!(told(503, answer), "HTTP 503: db down");
    assert_eq!(told(503, b"HTTP/1.1 503 x\r\nA: b\r\n"), "HTTP 503");
}
