//! Name lookups of an HTTP client, on threads of their own: where no name server answers, the C
//! library keeps each of them for half a minute, and neither the disk's threads nor the agent's end
//! may wait for that.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, oneshot};

use crate::lock::lock;

/// Most lookups at once. More than a few hosts are asked for at the same time only where nobody
/// answers.
const LOOKUPS_MAX: usize = 32;

/// Most lookups of one name at once: a name that nobody answers for holds up no other.
const LOOKUPS_OF_NAME_MAX: usize = 2;

/// Names remembered before those without a lookup are cleared away.
const NAMES_MAX: usize = 256;

/// System resolver (`getaddrinfo`) for one HTTP client, or several. Clones share the bounds.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    permits: Arc<Semaphore>,
    names: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
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
            names: Arc::default(),
            ask,
        }
    }

    fn permits_of(&self, name: &str) -> Arc<Semaphore> {
        let mut names = lock(&self.names);
        if let Some(permits) = names.get(name).and_then(Weak::upgrade) {
            return permits;
        }
        if names.len() >= NAMES_MAX {
            names.retain(|_, permits| permits.strong_count() > 0);
        }
        let permits = Arc::new(Semaphore::new(LOOKUPS_OF_NAME_MAX));
        names.insert(name.to_owned(), Arc::downgrade(&permits));
        permits
    }
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let (permits, ask) = (Arc::clone(&self.permits), self.ask);
        let of_name = self.permits_of(name.as_str());
        Box::pin(async move {
            let permit = (
                of_name.acquire_owned().await?,
                permits.acquire_owned().await?,
            );
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
    async fn a_name_that_nobody_answers_for_holds_up_no_other() {
        let (first, second) = (Lookup::by(ask), Lookup::by(ask));
        let mut waiting: Vec<_> = (0..2 * LOOKUPS_MAX)
            .map(|_| resolve(&first, "silent"))
            .collect();
        for one in &mut waiting {
            assert!(tokio::time::timeout(Duration::ZERO, one).await.is_err());
        }
        // A caller that gives up leaves the thread behind, and its permit taken.
        drop(waiting.remove(0));
        let third = tokio::time::timeout(Duration::ZERO, &mut waiting[2]).await;
        assert!(third.is_err());
        assert_eq!(resolve(&first, "quick").await.unwrap().count(), 1);
        assert_eq!(resolve(&second, "quick").await.unwrap().count(), 1);
        assert!(resolve(&second, "unknown").await.is_err());
        *SILENT.lock().unwrap() = false;
        SPEAKS.notify_all();
        for one in waiting {
            assert_eq!(one.await.unwrap().count(), 1);
        }
    }
}
