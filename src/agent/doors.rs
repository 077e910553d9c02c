//! The doors of the API: where it listens, and until when it answers. One that cannot be opened is
//! tried again for ever, and keeps nothing else from working: whoever has the port must not keep
//! the node down. Where systemd listens for the agent, the agent opens no port of its own.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use state::alarm::Alarm;
use state::subnet::ContainerSubnets;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::DRAIN;
use super::first_token::admin_token;
use super::hearing::{DoorAddress, Hearing};
use crate::api::CallerToken;
use crate::api::listener::{Door, SocketDoor, TcpDoor, TlsInForce, serve};
use crate::config::Config;
use crate::journal::Journal;

/// Wait before a door is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Doors of the API.
#[derive(Debug)]
pub(super) struct Doors {
    listen: SocketAddr,
    socket: PathBuf,
    /// Fault for which there can be no socket.
    socket_fault: Option<String>,
    containers: ContainerSubnets,
    tls: Option<TlsInForce>,
    /// Whether the configuration of TLS is at fault, so that there can be no port.
    is_tls_faulty: bool,
    journal: Journal,
    /// Doors that are open, for whoever looks whether they hear.
    hearing: Hearing,
    /// Token that is yet to be made. `None`: there is one.
    token: Option<(CallerToken, PathBuf)>,
    /// Ports.
    tcp: Ports,
    /// Socket. `None`: yet to be opened.
    unix: Option<SocketDoor>,
}

/// Doors on ports.
#[derive(Debug)]
enum Ports {
    /// Port of the agent's own. `None`: yet to be opened.
    Own(Option<TcpDoor>),
    /// Ports that systemd listens on.
    Given(Vec<TcpDoor>),
}

impl Doors {
    /// Opens the doors, on the sockets of systemd if there are any, to callers with this token.
    /// They wait in front of them until they are served.
    pub(super) async fn open(
        config: &Config,
        given: Vec<std::net::TcpListener>,
        (token, tls): (CallerToken, Option<TlsInForce>),
        (journal, hearing): (Journal, Hearing),
    ) -> Self {
        let mut doors = Self {
            listen: config.api.listen,
            socket: config.state.socket(),
            socket_fault: config.state.socket_fault(),
            containers: config.network.subnets(),
            tls,
            is_tls_faulty: config.api.tls_fault.is_some(),
            journal,
            hearing,
            token: None,
            tcp: Ports::Own(None),
            unix: None,
        };
        if config.api.token.is_none() {
            let making = (token, config.state.admin_token());
            doors.token = (!doors.try_token(&making).await).then_some(making);
        }
        if let Some(fault) = &config.api.tls_fault {
            let fault = format!(
                "{fault}; nobody comes in by TCP until that is mended, and the agent restarted"
            );
            doors
                .journal
                .set_alarm(Alarm::TlsFileUnusable, "", Some(fault));
        }
        doors.tcp = if given.is_empty() {
            let (danger, narrowed) = (config.api.danger(), config.api.narrowed());
            doors.journal.set_alarm(Alarm::ApiInTheClear, "", danger);
            doors.journal.set_alarm(Alarm::ListenNarrowed, "", narrowed);
            Ports::Own(doors.try_tcp().await)
        } else {
            let given = given.into_iter();
            Ports::Given(given.filter_map(|port| doors.take(port, config)).collect())
        };
        doors.unix = doors.try_unix().await;
        doors
    }

    /// Serves the API until the agent is to stop, and then what is under way for a while.
    pub(super) async fn serve(mut self, router: axum::Router, stop: CancellationToken) {
        let (tcp, unix) = (
            std::mem::replace(&mut self.tcp, Ports::Own(None)),
            self.unix.take(),
        );
        let ports = async {
            let (router, stop) = (router.clone(), stop.clone());
            match tcp {
                Ports::Own(door) => keep(door, || self.try_tcp(), router, stop).await,
                Ports::Given(doors) => {
                    let serve = |door| serve(door, router.clone(), stop.clone());
                    drop(join_all(doors.into_iter().map(serve)).await);
                }
            }
        };
        let serving = async {
            tokio::join!(
                ports,
                keep(unix, || self.try_unix(), router.clone(), stop.clone()),
                self.keep_token(&stop)
            )
        };
        tokio::select! {
            _ = serving => {}
            // Followers of logs would keep it up for ever.
            () = async { stop.cancelled().await; tokio::time::sleep(DRAIN / 3).await } => {}
        }
    }

    /// Makes the token, once that is possible.
    async fn keep_token(&self, stop: &CancellationToken) {
        let Some(making) = &self.token else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
            if self.try_token(making).await {
                return;
            }
        }
    }

    /// Makes the token, or takes the one that was made before. False: neither is possible now.
    async fn try_token(&self, (token, path): &(CallerToken, PathBuf)) -> bool {
        let (subject, path) = (path.display().to_string(), path.clone());
        let made = tokio::task::spawn_blocking(move || admin_token(&path)).await;
        let made = made.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let made = self.tell(&subject, made);
        let is_made = made.is_some();
        made.into_iter().for_each(|made| token.begin_with(made));
        is_made
    }

    /// A port that systemd listens on, unless it is for callers that may not come.
    fn take(&self, port: std::net::TcpListener, config: &Config) -> Option<TcpDoor> {
        let taken = port.local_addr().and_then(|address| {
            port.set_nonblocking(true)?;
            Ok((address, TcpListener::from_std(port)?))
        });
        let (address, listener) = match taken {
            Ok(taken) => taken,
            Err(error) => return self.tell("systemd", Err(error)),
        };
        if self.is_tls_faulty {
            return None;
        }
        let subject = address.to_string();
        if let Some(fault) = config.api.fault_of_given(address) {
            return self.tell(&subject, Err(fault));
        }
        if address.port() != self.listen.port() {
            tracing::warn!(%address, listen = %self.listen, "port of systemd is another than api.port");
        }
        let danger = config.api.danger_of(address);
        self.journal
            .set_alarm(Alarm::ApiInTheClear, &subject, danger);
        self.hearing.note(&subject, Some(DoorAddress::Tcp(address)));
        Some(self.tcp_door(listener))
    }

    fn tcp_door(&self, listener: TcpListener) -> TcpDoor {
        TcpDoor::new(listener, self.containers, self.tls.clone())
    }

    async fn try_tcp(&self) -> Option<TcpDoor> {
        if self.is_tls_faulty {
            return None;
        }
        let listening = TcpListener::bind(self.listen).await;
        let subject = self.listen.to_string();
        let address = listening
            .as_ref()
            .ok()
            .map(|_| DoorAddress::Tcp(self.listen));
        self.hearing.note(&subject, address);
        let opened = listening.map(|listener| self.tcp_door(listener));
        self.tell(&subject, opened)
    }

    async fn try_unix(&self) -> Option<SocketDoor> {
        let subject = self.socket.display().to_string();
        if let Some(fault) = &self.socket_fault {
            return self.tell(&subject, Err(fault));
        }
        let opened = SocketDoor::open(&self.socket).await;
        let address = opened.as_ref().ok();
        let address = address.map(|_| DoorAddress::Socket(self.socket.clone()));
        self.hearing.note(&subject, address);
        self.tell(&subject, opened)
    }

    /// Raises or clears the alarm of a door.
    fn tell<D, E: fmt::Display>(&self, subject: &str, opened: Result<D, E>) -> Option<D> {
        let (door, fault) = match opened {
            Ok(door) => (Some(door), None),
            Err(error) => (None, Some(error.to_string())),
        };
        self.journal.set_alarm(Alarm::ListenFailed, subject, fault);
        door
    }
}

/// Serves a door, once it is open, until the agent is to stop. One that is lost is opened anew; what
/// came in by it is served to its end.
async fn keep<D: Door, F: Future<Output = Option<D>>>(
    mut door: Option<D>,
    open: impl Fn() -> F,
    router: axum::Router,
    stop: CancellationToken,
) {
    let mut serving = FuturesUnordered::new();
    while !stop.is_cancelled() {
        let Some(opened) = door.take() else {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(()) = serving.next() => continue,
                () = tokio::time::sleep(RETRY) => {}
            }
            door = open().await;
            continue;
        };
        let (lost, shut) = (opened.lost(), stop.child_token());
        serving.push(serve(opened, router.clone(), shut.clone()));
        let drained = async { while serving.next().await.is_some() {} };
        tokio::select! {
            () = drained => break,
            () = lost => shut.cancel(),
        }
        door = open().await;
    }
    while serving.next().await.is_some() {}
}
