//! Ports that systemd listens on for the agent, from boot on: no other program can have them while
//! the agent is down.

use std::net::TcpListener;

use listenfd::ListenFd;

/// Listening TCP sockets that systemd handed over. They are handed over once.
pub(super) fn inherited() -> Vec<TcpListener> {
    let mut given = ListenFd::from_env();
    let numbers = 0..given.len();
    let take = |number| match given.take_tcp_listener(number) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(number, %error, "socket of systemd not served");
            None
        }
    };
    numbers.filter_map(take).collect()
}
