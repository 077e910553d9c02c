//! Section `api`: the agent's own API, where it listens, and for whom.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::Secret;

/// Section `api`: the agent's own API.
#[derive(Clone, Debug)]
pub struct ApiSection {
    /// Address and port the API listens on.
    pub listen: SocketAddr,
    /// Callers that the address is for.
    pub exposure: Exposure,
    /// Whether other hosts may call over plain HTTP.
    pub plain_http: bool,
    /// Files of the TLS that is spoken over TCP. `None`: plain HTTP is.
    pub tls: Option<ApiTls>,
    /// Fault of the keys that name these files. `None`: there is none. With one, TCP stays shut.
    pub tls_fault: Option<String>,
    /// Token that callers over TCP present. `None`: the one that the agent makes.
    pub token: Option<Secret>,
    /// File of the clients that may call besides the bearers of the token.
    pub clients_file: PathBuf,
    /// Names by which the node is called, besides its own.
    pub hosts: Vec<String>,
}

fn is_for_others(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Files of the TLS of the API, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTls {
    /// Certificate that the agent shows, with its chain.
    pub certificate: PathBuf,
    /// Key of the certificate.
    pub key: PathBuf,
    /// Authorities whose certificates prove who a client is. `None`: tokens alone do.
    pub client_authorities: Option<PathBuf>,
}

/// Callers that the API's address is for, and the way they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Callers on this host: it is a loopback address.
    ThisHost,
    /// Other hosts, over TLS.
    Tls,
    /// Other hosts, over plain HTTP, as the operator says in so many words.
    PlainHttp,
    /// Other hosts, over plain HTTP: the node is from before that had to be said.
    EarlierDefault,
    /// Callers on this host, in place of those of other hosts at this address, for nobody has said
    /// that they may call over plain HTTP.
    Narrowed(IpAddr),
}

impl ApiSection {
    /// The danger in an address where `api.plain_http` counts. `None`: it is for this host.
    #[must_use]
    pub fn danger_of(&self, address: SocketAddr) -> Option<String> {
        (is_for_others(address) && self.tls.is_none()).then(|| {
            format!(
                "{address} takes tokens from other hosts over plain HTTP, as api.plain_http says"
            )
        })
    }

    /// The cause for which an address that systemd listens on is not served. `None`: it is.
    #[must_use]
    pub fn fault_of_given(&self, address: SocketAddr) -> Option<String> {
        let is_safe = self.plain_http || self.tls.is_some();
        (is_for_others(address) && !is_safe).then(|| {
            "systemd listens there for other hosts, which would send their token over plain HTTP: \
             it is not served. Set api.cert_file and api.key_file, let its socket listen on \
             127.0.0.1, or set api.plain_http to true"
                .to_owned()
        })
    }

    /// The danger in where the API listens, and its end. `None`: there is none.
    #[must_use]
    pub fn danger(&self) -> Option<String> {
        let listen = self.listen;
        match self.exposure {
            Exposure::ThisHost | Exposure::Tls | Exposure::Narrowed(_) => None,
            Exposure::PlainHttp => self.danger_of(listen),
            Exposure::EarlierDefault => Some(format!(
                "{listen} takes tokens from other hosts over plain HTTP, as version 0.1 did: set \
                 api.listen to 127.0.0.1, or api.plain_http to true if it is meant so"
            )),
        }
    }

    /// The address that is not listened on, and the remedy. `None`: all that was asked for is.
    #[must_use]
    pub fn narrowed(&self) -> Option<String> {
        let Exposure::Narrowed(asked) = self.exposure else {
            return None;
        };
        Some(format!(
            "api.listen is {asked}, which would take tokens from other hosts over plain HTTP: only {} \
             is listened on. Set api.cert_file and api.key_file, or api.plain_http to true if it is \
             meant so, or api.listen to 127.0.0.1",
            self.listen
        ))
    }
}
