use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Outcome of a call to a collector that answers so, and then keeps the connection open.
async fn called(answer: Vec<u8>) -> SendOutcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://u:pa55@{}/v1/traces", listener.local_addr().unwrap());
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("x-key", "k3y".parse().unwrap());
    let signal = SignalSettings {
        url: url.parse().unwrap(),
        headers,
        timeout: Duration::from_millis(700),
    };
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let collector = Collector::new(signal, &CertificateFiles::default()).unwrap();
    assert_eq!(collector.host(), "127.0.0.1");
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let count = stream.read(&mut [0; 4096]).await.unwrap();
        assert!(count > 0);
        // The client may hang up before it has all of it.
        stream.write_all(&answer).await.ok();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serving => unreachable!("it hangs"),
        outcome = collector.send(Bytes::from_static(b"body")) => outcome,
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn each_answer_says_what_becomes_of_the_data() {
    let taken = |refused, fault: &str| SendOutcome::Taken {
        refused,
        fault: fault.to_owned(),
    };
    let part = OtlpAnswer {
        partial: Some(PartialSuccess {
            rejected: 2,
            message: "x".repeat(1000),
        }),
    };
    let huge = vec![0; ANSWER_BYTES_MAX + 1];
    for (head, body, outcome) in [
        ("200 OK", Vec::new(), taken(0, "")),
        (
            "200 OK",
            part.encode_to_vec(),
            taken(2, &"x".repeat(TOLD_BYTES_MAX)),
        ),
        ("202 Accepted", b"\xff<html>".to_vec(), taken(0, "")),
        ("200 OK", huge, taken(0, "")),
    ] {
        assert_eq!(called(answer(head, &body)).await, outcome, "{head}");
    }
    for (head, is_for_ever, after) in [
        ("429 Too Many Requests\r\nretry-after: 7", false, Some(7)),
        ("503 Service Unavailable", false, None),
        ("503 Service Unavailable\r\nretry-after: soon", false, None),
        ("500 Internal Server Error", true, None),
        ("401 Unauthorized", true, None),
        (
            "307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/",
            true,
            None,
        ),
    ] {
        match called(answer(head, b"")).await {
            SendOutcome::Failed { retry_after, .. } => {
                let seconds = retry_after.map(|after| after.as_secs());
                assert_eq!((false, seconds), (is_for_ever, after), "{head}");
            }
            SendOutcome::Refused { fault } => {
                assert!(is_for_ever && fault.contains(&head[..3]), "{head}: {fault}");
            }
            outcome @ SendOutcome::Taken { .. } => panic!("{head}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_silent_or_speaks_no_http_is_given_up_and_no_secret_is_told() {
    for (answer, told) in [(&b""[..], "700ms"), (b"SSH-2.0\r\n\r\n", "HTTP")] {
        let outcome = called(answer.to_vec()).await;
        let SendOutcome::Failed { fault, retry_after } = outcome else {
            panic!("{outcome:?}");
        };
        assert!(fault.contains(told) && retry_after.is_none(), "{fault}");
        assert!(!fault.contains("pa55") && !fault.contains("k3y"), "{fault}");
    }
}
