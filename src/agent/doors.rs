//! The doors of the API: where it listens, and until when it answers.

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::DRAIN;
use crate::api;
use crate::config::ApiSection;

/// Doors of the API, open and not yet served.
pub(super) struct Doors {
    listener: TcpListener,
}

impl Doors {
    /// Opens the doors. Callers wait in front of them until they are served.
    ///
    /// # Errors
    /// The address to listen on is taken, or not this host's.
    pub(super) async fn open(section: &ApiSection) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(section.listen)
            .await
            .with_context(|| format!("cannot listen on {}", section.listen))?;
        Ok(Self { listener })
    }

    /// Serves the API until the agent is to stop, and then what is under way for a while.
    pub(super) async fn serve(self, router: axum::Router, stop: CancellationToken) {
        let serving = api::listener::serve(self.listener, router, stop.clone());
        tokio::select! {
            () = serving => {}
            // Followers of logs would keep it up for ever.
            () = async { stop.cancelled().await; tokio::time::sleep(DRAIN / 3).await } => {}
        }
    }
}
