//! Threads for work that blocks or changes its netns.

use std::future::Future;

use tokio::sync::oneshot;

use super::NetworkError;

/// Runs `work` on a thread of its own, so that a change of netns ends with it and never reaches one
/// of tokio's threads.
///
/// `work` runs to its end although the caller went away.
pub(super) async fn on_own_thread<T, W>(name: &str, work: W) -> Result<T, NetworkError>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T, NetworkError> + Send + 'static,
{
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        // The caller may have gone away, and then nobody wants the result.
        .spawn(move || drop(done.send(work())))
        .map_err(|error| NetworkError::failed("cannot start a thread", error))?;
    result.await.map_err(|error| {
        NetworkError::failed("the thread that changes a netns ended early", error)
    })?
}

/// Runs a future on the calling thread alone.
pub(super) fn block_on<T>(
    work: impl Future<Output = Result<T, NetworkError>>,
) -> Result<T, NetworkError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NetworkError::failed("cannot start an executor", error))?
        .block_on(work)
}

/// Runs file work where it may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| NetworkError::failed("the thread for file work ended early", error))?
}
