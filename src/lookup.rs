//! Name lookups of an HTTP client, on threads of their own: where no name server answers, the C
//! library keeps each of them for half a minute, and neither the disk's threads nor the agent's end
//! may wait for that.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex};
use std::thread;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, oneshot};

pub(crate) use self::near::NearAddresses;
use crate::lock::lock;
use crate::permits::KeyedPermits;

mod near;

/// Most lookups at once. More than a few hosts are asked for at the same time only where nobody
/// answers.
const LOOKUPS_MAX: usize = 32;

/// Most lookups of one name at once: a name that nobody answers for holds up no other.
const LOOKUPS_OF_NAME_MAX: usize = 2;

/// Most lookups at once of names that hosts lead to: whoever chooses names may choose many, and none
/// of them may hold up the operator's own.
const LOOKUPS_LED_TO_MAX: usize = 8;

/// Names remembered as the operator's own, besides those that a client has from its beginning.
const NAMES_MAX: usize = 256;

/// System resolver (`getaddrinfo`) for one HTTP client, or several. Clones share the bounds.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    permits: Arc<Semaphore>,
    led_to: Arc<Semaphore>,
    names: Arc<KeyedPermits>,
    /// Names that are never told again, and so never forgotten.
    own: Arc<HashSet<String>>,
    trusted: Arc<Mutex<HashSet<String>>>,
    trusts_all: bool,
    /// Addresses that it answers for `own` names only; `None`: it answers all.
    without: Option<NearAddresses>,
    ask: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

/// Name that means this node or its link, where it must not.
#[derive(Debug, thiserror::Error)]
#[error("{0} is a name of this node or of its link")]
pub(crate) struct NearName(String);

impl Default for Lookup {
    fn default() -> Self {
        Self::by(|name| Ok((name, 0).to_socket_addrs()?.collect()))
    }
}

impl Lookup {
    /// Resolver of which most lookups are for `own` names, and for those that [`trust`](Self::trust)
    /// was told of.
    pub(crate) fn wary<'a>(own: impl Iterator<Item = &'a str>) -> Self {
        Self {
            own: Arc::new(own.map(str::to_owned).collect()),
            trusts_all: false,
            ..Self::default()
        }
    }

    fn by(ask: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            led_to: Arc::new(Semaphore::new(LOOKUPS_LED_TO_MAX)),
            names: Arc::new(KeyedPermits::new(LOOKUPS_OF_NAME_MAX)),
            own: Arc::default(),
            trusted: Arc::default(),
            trusts_all: true,
            without: None,
            ask,
        }
    }

    /// The same resolver, which answers a name of `near` addresses with [`NearName`]. What it
    /// answers is what is connected to: a second answer cannot be another.
    pub(crate) fn without(&self, near: NearAddresses) -> Self {
        Self {
            without: Some(near),
            ..self.clone()
        }
    }

    /// Notes that a name comes from the operator (a registry, a mirror), and not from what a host
    /// answered.
    pub(crate) fn trust(&self, name: &str) {
        let mut trusted = lock(&self.trusted);
        if trusted.contains(name) {
            return;
        }
        if trusted.len() >= NAMES_MAX {
            // Those in use are noted again with their next request.
            trusted.clear();
        }
        trusted.insert(name.to_owned());
    }

    fn is_trusted(&self, name: &str) -> bool {
        self.trusts_all || self.own.contains(name) || lock(&self.trusted).contains(name)
    }
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let (permits, ask) = (Arc::clone(&self.permits), self.ask);
        let is_trusted = self.is_trusted(name.as_str());
        // A name that hosts led to before it was trusted may wait for the smaller pot.
        let key = format!("{is_trusted} {}", name.as_str());
        let of_name = self.names.of(&key);
        let led_to = (!is_trusted).then(|| Arc::clone(&self.led_to));
        let without = self.without.filter(|_| !self.own.contains(name.as_str()));
        Box::pin(async move {
            let of_name = of_name.acquire_owned().await?;
            let led_to = match led_to {
                Some(led_to) => Some(led_to.acquire_owned().await?),
                None => None,
            };
            let permit = (of_name, led_to, permits.acquire_owned().await?);
            let (answer, answered) = oneshot::channel();
            // The thread may outlive its caller, and then still holds its permit.
            thread::Builder::new()
                .name("lookup".to_owned())
                .spawn(move || {
                    let found = ask(name.as_str());
                    let found = found.and_then(|found| far(found, without, name.as_str()));
                    let _nobody_waits_any_more = answer.send(found);
                    drop(permit);
                })?;
            let addresses = answered.await??;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Addresses that are not near.
fn far(
    mut found: Vec<SocketAddr>,
    near: Option<NearAddresses>,
    name: &str,
) -> io::Result<Vec<SocketAddr>> {
    let count = found.len();
    if let Some(near) = near {
        found.retain(|address| !near.holds(address.ip()));
    }
    if found.is_empty() && count > 0 {
        return Err(io::Error::other(NearName(name.to_owned())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;

    /// Name server that never answers for names below `led.`, as long as the test runs.
    fn ask_led(name: &str) -> io::Result<Vec<SocketAddr>> {
        if name.starts_with("led.") {
            loop {
                thread::park();
            }
        }
        Ok(vec![SocketAddr::from(([10, 0, 0, 1], 0))])
    }

    #[tokio::test]
    async fn names_that_hosts_lead_to_leave_lookups_for_the_operator_s_own() {
        let lookup = Lookup {
            trusts_all: false,
            ..Lookup::by(ask_led)
        };
        let mut led: Vec<_> = (0..2 * LOOKUPS_MAX)
            .map(|n| resolve(&lookup, &format!("led.{n}")))
            .collect();
        for one in &mut led {
            assert!(tokio::time::timeout(Duration::ZERO, one).await.is_err());
        }
        let of_all = LOOKUPS_MAX - lookup.permits.available_permits();
        assert_eq!(of_all, LOOKUPS_LED_TO_MAX);
        let mut before: Vec<_> = (0..LOOKUPS_OF_NAME_MAX)
            .map(|_| resolve(&lookup, "own.example"))
            .collect();
        for one in &mut before {
            assert!(tokio::time::timeout(Duration::ZERO, one).await.is_err());
        }
        lookup.trust("own.example");
        assert_eq!(resolve(&lookup, "own.example").await.unwrap().count(), 1);
        let stranger = resolve(&lookup, "stranger.example");
        let waited = tokio::time::timeout(Duration::from_millis(20), stranger).await;
        assert!(waited.is_err(), "it shares the smaller pot");
    }

    #[test]
    fn names_of_the_beginning_are_trusted_however_many_are_told_later() {
        let lookup = Lookup::wary(["proxy.example"].into_iter());
        for n in 0..=2 * NAMES_MAX {
            lookup.trust(&format!("mirror.{n}"));
        }
        assert!(lookup.is_trusted("proxy.example") && !lookup.is_trusted("stranger.example"));
        assert!(lookup.is_trusted(&format!("mirror.{}", 2 * NAMES_MAX)));
        assert!(lock(&lookup.trusted).len() <= NAMES_MAX);
    }

    #[tokio::test]
    async fn a_name_of_this_node_is_answered_to_those_who_may_be_led_there() {
        fn ask(name: &str) -> io::Result<Vec<SocketAddr>> {
            let near = SocketAddr::from(([127, 0, 0, 1], 0));
            let far = SocketAddr::from(([192, 0, 2, 1], 0));
            Ok(if name == "both.example" {
                vec![near, far]
            } else {
                vec![near]
            })
        }
        let open = Lookup {
            own: Arc::new(HashSet::from(["proxy.example".to_owned()])),
            ..Lookup::by(ask)
        };
        let walled = open.without(NearAddresses::default());
        let found = async |lookup: &Lookup, name| {
            let found = resolve(lookup, name).await;
            found
                .map_err(|error| error.to_string())
                .map(Iterator::count)
        };
        assert_eq!(found(&open, "near.example").await, Ok(1));
        assert_eq!(found(&walled, "proxy.example").await, Ok(1));
        assert_eq!(found(&walled, "both.example").await, Ok(1));
        let refused = found(&walled, "near.example").await.unwrap_err();
        assert!(
            refused.contains("near.example is a name of this node"),
            "{refused}"
        );
    }

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
