//! An agent that plays its part for tests of the client.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use tokio::task::JoinHandle;

use super::agent::{Agent, NetworkWay, Way};

/// A client of an agent that gives these answers, each over a connection of its own; and the heads of
/// the requests, once it has given all.
pub(super) async fn served(answers: Vec<String>) -> (Agent, JoinHandle<Vec<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = tokio::task::spawn_blocking(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head = lines
                .map(Result::unwrap)
                .take_while(|line| !line.is_empty());
            asked.push(head.collect());
            let (status, body) = answer.split_once('\n').unwrap();
            let answer = format!("HTTP/1.1 {status} OK\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    let way = Way::Network(NetworkWay {
        address,
        insecure: true,
        ca_file: None,
        identity: None,
        token: None,
    });
    (Agent::open(way).await.unwrap(), asked)
}
