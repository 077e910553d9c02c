//! As much of HTTP/1.1 as the fakes serve: one request a connection, each on a thread of its own, so that a test that
//! blocks (in `ctr`, say) does not stop them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A request's or response's first line and headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// As in `GET /v2/ HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn read(stream: &mut impl BufRead) -> io::Result<Self> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.by_ref().take(64 << 10).read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let first = lines.next().unwrap_or_default();
        let headers = lines.filter_map(|line| {
            line.split_once(':')
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        });
        Ok(Self {
            first,
            headers: headers.collect(),
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The part of the first line between its spaces: a request's target, a response's status.
    pub(crate) fn second(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0)
    }

    /// Writes it for a connection that ends with the message.
    pub(crate) fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in self
            .headers
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("connection"))
        {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}Connection: close\r\n\r\n").as_bytes())
    }
}

/// Answers with a status, headers and a body.
pub(crate) fn answer(
    stream: &mut impl Write,
    status: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<()> {
    let mut head = Head {
        first: format!("HTTP/1.1 {status}"),
        headers: Vec::new(),
    };
    head.headers.extend(
        headers
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned())),
    );
    head.headers
        .push(("Content-Length".to_owned(), body.len().to_string()));
    head.write(stream)?;
    stream.write_all(body.as_bytes())
}

/// A server on a free port. Ends with the value.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Calls `serve` for each request to a port of 127.0.0.1, with the connection after the request's head.
    pub(crate) fn start(
        serve: impl Fn(Head, BufReader<TcpStream>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST, serve)
    }

    /// As [`Self::start`], on another address of this computer.
    pub(crate) fn start_on(
        address: Ipv4Addr,
        serve: impl Fn(Head, BufReader<TcpStream>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, serve) = (Arc::clone(&stopping), Arc::new(serve));
        let acceptor = thread::spawn(move || {
            for stream in listener
                .incoming()
                .take_while(|_| !stop.load(Ordering::SeqCst))
                .flatten()
            {
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    // The other side may go away at any time: that is its business, and the test's.
                    let _ = Head::read(&mut stream).and_then(|head| serve(head, stream));
                });
            }
        });
        Self {
            address,
            stopping,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// A client for plain HTTP. Asking for one without a TLS provider would panic, even though no TLS is spoken.
pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("nothing in it can fail")
}

/// One that believes any certificate, as only a test may.
pub(crate) fn trusting_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .expect("nothing in it can fail")
}
