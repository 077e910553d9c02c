//! The running server: answers calls, reads set files, saves its state, and stops.

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

use super::files::SetFiles;
use super::{Server, routes};

/// Time until a registration is on the disk.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// Time until a report is on the disk. Reports matter less: each node sends another within its
/// health interval.
const SAVE_REPORTS_AFTER: Duration = Duration::from_secs(10);
/// Pause after a save, as a multiple of its time: saving takes at most a tenth of the time.
const SAVE_REST: u32 = 10;
/// Silence after which a connection is probed for a peer that vanished. Longer than any poll is
/// kept open.
const VANISHED_AFTER: Duration = Duration::from_secs(150);
/// Time that calls have to finish when the server stops. Polls that are kept open end at once.
const GRACE: Duration = Duration::from_secs(5);

/// Serves calls on `listener` until `stop`. Every answered change is on the disk when this returns.
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
        // Before the first node polls, so that it does not hear that it has no set, only because it
        // was not read yet. Twice, since only a file that is the same in two checks is applied.
        let files = look(SetFiles::new(directory), &server).await?;
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
        // Answers are small: Nagle's algorithm would only delay them. Without keepalives, a node
        // that vanished would keep its connection for ever.
        let set = stream.set_nodelay(true).and_then(|()| {
            sockopt::set_socket_keepalive(&*stream, true)?;
            Ok(sockopt::set_tcp_keepidle(&*stream, VANISHED_AFTER)?)
        });
        if let Err(error) = set {
            tracing::debug!(%error, "cannot set the options of a connection");
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
            tracing::error!(%error, "cannot save the nodes; retrying");
        }
        saved = Instant::now();
        rest = SAVE_AFTER.max(began.elapsed() * SAVE_REST);
    }
}

async fn look(mut files: SetFiles, server: &Arc<Server>) -> io::Result<SetFiles> {
    let server = Arc::clone(server);
    let looked = move || {
        files.look(&server);
        files
    };
    Ok(tokio::task::spawn_blocking(looked).await?)
}

async fn follow(mut files: SetFiles, server: Arc<Server>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(server.settings.look_after))
        .await
        .is_some()
    {
        files = match look(files, &server).await {
            Ok(files) => files,
            // The runtime stops, or a check panicked, which is a bug.
            Err(error) => {
                return tracing::error!(%error, "set files are no longer checked");
            }
        };
    }
}
