//! The server at work: it answers, reads files, saves, and stops.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use rustix::net::sockopt;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::files::Files;
use super::{Server, routes};

/// Registrations are on the disk that soon.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// Reports are worth less: each node sends another one within its health interval.
const SAVE_REPORTS_AFTER: Duration = Duration::from_secs(10);
/// Of the time, so much at most is spent on saving: one part in ten.
const SAVE_REST: u32 = 10;
/// Longer than anything is held: a connection that is silent for so long may have nobody at its other end.
const VANISHED_AFTER: Duration = Duration::from_secs(150);
/// What is under way when the server is to stop has so long. Polls that are held end at once.
const GRACE: Duration = Duration::from_secs(5);

/// Answers on `listener` until `stop`. Everything that was answered is on the disk when it returns.
///
/// # Errors
/// The socket fails, or the nodes cannot be saved at the end.
pub(crate) async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    stop: CancellationToken,
) -> io::Result<()> {
    server.wake.send_replace(false);
    let tracker = TaskTracker::new();
    if let Some(directory) = server.settings.sets.clone() {
        // Before the first node asks: it is not to hear that there is no set, just because it was not read yet.
        // Twice, since only what stays as it is from look to look is taken.
        let files = look(Files::new(directory), &server).await?;
        tokio::time::sleep(server.settings.look_after).await;
        let files = look(files, &server).await?;
        tracker.spawn(follow(files, Arc::clone(&server), stop.clone()));
    }
    tracker.spawn(save_now_and_then(Arc::clone(&server), stop.clone()));
    tracker.close();
    let asked = {
        let (server, stop) = (Arc::clone(&server), stop.clone());
        async move {
            stop.cancelled().await;
            server.wake.send_replace(true);
        }
    };
    let listener = listener.tap_io(|stream| {
        // Answers are small and wait for nothing: Nagle's algorithm would only delay them. A node that vanished without a word
        // would keep its connection for ever.
        let set = stream.set_nodelay(true).and_then(|()| {
            sockopt::set_socket_keepalive(&*stream, true)?;
            Ok(sockopt::set_tcp_keepidle(&*stream, VANISHED_AFTER)?)
        });
        if let Err(error) = set {
            tracing::debug!(%error, "a connection stays as it came");
        }
    });
    let serving =
        axum::serve(listener, routes::router(Arc::clone(&server))).with_graceful_shutdown(asked);
    let served = tokio::select! {
        served = serving => served,
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    };
    stop.cancel();
    tracker.wait().await;
    save(&server).await?;
    served
}

async fn save(server: &Arc<Server>) -> io::Result<()> {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || server.save()).await?
}

async fn save_now_and_then(server: Arc<Server>, stop: CancellationToken) {
    let (mut rest, mut saved) = (SAVE_AFTER, Instant::now());
    while stop
        .run_until_cancelled(tokio::time::sleep(rest))
        .await
        .is_some()
    {
        let reports =
            server.unsaved_reports.load(Ordering::Relaxed) && saved.elapsed() >= SAVE_REPORTS_AFTER;
        if !reports && !server.unsaved.load(Ordering::Relaxed) {
            continue;
        }
        let began = Instant::now();
        if let Err(error) = save(&server).await {
            tracing::error!(%error, "the nodes cannot be saved; tried again");
        }
        saved = Instant::now();
        rest = SAVE_AFTER.max(began.elapsed() * SAVE_REST);
    }
}

async fn look(mut files: Files, server: &Arc<Server>) -> io::Result<Files> {
    let server = Arc::clone(server);
    let looked = move || {
        files.look(&server);
        files
    };
    Ok(tokio::task::spawn_blocking(looked).await?)
}

async fn follow(mut files: Files, server: Arc<Server>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(server.settings.look_after))
        .await
        .is_some()
    {
        files = match look(files, &server).await {
            Ok(files) => files,
            // The runtime ends, or a look panicked, which is a fault of this program.
            Err(error) => {
                return tracing::error!(%error, "the files with sets are not followed any more");
            }
        };
    }
}
