//! Name lookups of an HTTP client, on threads of their own: where no name server answers, the C
//! library keeps each of them for half a minute, and neither the disk's threads nor the agent's end
//! may wait for that.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::thread;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, oneshot};

/// Most lookups of one client at once. More than a few hosts are asked for at the same time only
/// where nobody answers.
const LOOKUPS_MAX: usize = 8;

/// System resolver (`getaddrinfo`) for one HTTP client.
#[derive(Debug)]
pub(crate) struct Lookup {
    permits: Arc<Semaphore>,
    ask: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl Default for Lookup {
    fn default() -> Self {
        Self::by(|name| Ok((name, 0).to_socket_addrs()?.collect()))
    }
}

impl Lookup {
    fn by(ask: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            ask,
        }
    }
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let (permits, ask) = (Arc::clone(&self.permits), self.ask);
        Box::pin(async move {
            let permit = permits.acquire_owned().await?;
            let (answer, answered) = oneshot::channel();
            // The thread may outlive its caller, and then still holds its permit.
            thread::Builder::new()
                .name("lookup".to_owned())
                .spawn(move || {
                    let _nobody_waits_any_more = answer.send(ask(name.as_str()));
                    drop(permit);
                })?;
            let addresses = answered.await??;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;

    static SILENT: Mutex<bool> = Mutex::new(true);
    static SPEAKS: Condvar = Condvar::new();

    /// Name server that is silent for a while about one name.
    fn ask(name: &str) -> io::Result<Vec<SocketAddr>> {
        if name == "unknown" {
            return Err(io::ErrorKind::NotFound.into());
        }
        if name == "silent" {
            drop(
                SPEAKS
                    .wait_while(SILENT.lock().unwrap(), |silent| *silent)
                    .unwrap(),
            );
        }
        Ok(vec![SocketAddr::from(([10, 0, 0, 1], 0))])
    }

    fn resolve(lookup: &Lookup, name: &str) -> Resolving {
        lookup.resolve(name.parse().unwrap())
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_hold_up_so_many_lookups_of_one_client_and_nothing_else()
    {
        let (first, second) = (Lookup::by(ask), Lookup::by(ask));
        let mut waiting: Vec<_> = (0..LOOKUPS_MAX)
            .map(|_| resolve(&first, "silent"))
            .collect();
        for one in &mut waiting {
            assert!(tokio::time::timeout(Duration::ZERO, one).await.is_err());
        }
        // A caller that gives up leaves the thread behind, and its permit taken.
        drop(waiting.pop());
        let mut next = resolve(&first, "quick");
        assert!(
            tokio::time::timeout(Duration::ZERO, &mut next)
                .await
                .is_err()
        );
        assert_eq!(resolve(&second, "quick").await.unwrap().count(), 1);
        assert!(resolve(&second, "unknown").await.is_err());
        *SILENT.lock().unwrap() = false;
        SPEAKS.notify_all();
        assert_eq!(next.await.unwrap().count(), 1);
        for one in waiting {
            assert_eq!(one.await.unwrap().count(), 1);
        }
    }
}
