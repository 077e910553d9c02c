//! Places of large bodies in memory. Where none is free, the body that has been on its way longest
//! gives up its own, once it has had its time: one that comes slowly keeps nobody out.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Problem;
use crate::lock::lock;

/// Time that a large body has its place for while others wait: 1 MiB comes in it at 4 Mbit/s.
const TURN: Duration = Duration::from_secs(2);
/// Wait for a place. With it, a body's time is over before its connection is cut.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(4);

/// A large body that is on its way.
#[derive(Debug)]
struct ComingBody {
    since: Instant,
    lost: CancellationToken,
}

#[derive(Debug)]
struct ComingBodies {
    number: u64,
    /// Bodies that may lose their place, by number: the oldest first.
    coming: BTreeMap<u64, ComingBody>,
}

/// The places of all large bodies.
#[derive(Debug)]
pub(super) struct Places {
    free: Semaphore,
    bodies: Mutex<ComingBodies>,
}

/// The place of one large body that is on its way.
#[derive(Debug)]
pub(super) struct BodyPlace {
    permit: SemaphorePermit<'static>,
    entry: PlaceEntry,
}

/// The entry of a body that is on its way; taken out when it is dropped.
#[derive(Debug)]
struct PlaceEntry {
    places: &'static Places,
    number: u64,
    lost: CancellationToken,
}

impl Drop for PlaceEntry {
    fn drop(&mut self) {
        lock(&self.places.bodies).coming.remove(&self.number);
    }
}

impl BodyPlace {
    /// Waits until another body needs the place. Without a place, for ever.
    pub(super) async fn is_lost(place: Option<&Self>) {
        match place {
            Some(place) => place.entry.lost.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The place of a body that is read, which nobody else gets before it is given back.
    pub(super) fn of_read(self) -> SemaphorePermit<'static> {
        self.permit
    }
}

impl Places {
    /// Places for so many bodies, all free.
    pub(super) const fn new(places: usize) -> Self {
        let bodies = ComingBodies {
            number: 0,
            coming: BTreeMap::new(),
        };
        Self {
            free: Semaphore::const_new(places),
            bodies: Mutex::new(bodies),
        }
    }

    /// A place for a body, in the order of those who ask.
    ///
    /// # Errors
    /// Too many others wait.
    pub(super) async fn take(&'static self) -> Result<BodyPlace, Problem> {
        let mut free = std::pin::pin!(self.free.acquire());
        let one = async {
            tokio::select! {
                biased;
                permit = &mut free => permit,
                // Each who waits has one give way, so that there is a place for each.
                () = self.make_room() => free.await,
            }
        };
        let permit = tokio::time::timeout(WAIT_MAX, one).await;
        let permit = permit.map_err(|_| {
            Problem::Busy(
                "as many large bodies as the agent takes at once are under way".to_owned(),
            )
        })?;
        Ok(self.place(permit.expect("nobody closes the semaphore")))
    }

    fn place(&'static self, permit: SemaphorePermit<'static>) -> BodyPlace {
        let mut bodies = lock(&self.bodies);
        bodies.number += 1;
        let (number, lost) = (bodies.number, CancellationToken::new());
        let body = ComingBody {
            since: Instant::now(),
            lost: lost.clone(),
        };
        bodies.coming.insert(number, body);
        let entry = PlaceEntry {
            places: self,
            number,
            lost,
        };
        BodyPlace { permit, entry }
    }

    /// Takes the place of the oldest body, once it has had its time.
    async fn make_room(&self) {
        loop {
            let oldest = lock(&self.bodies)
                .coming
                .first_key_value()
                .map(|(number, body)| (*number, body.since + TURN));
            let Some((number, end)) = oldest else {
                // All are read, or on their way out: places are free soon.
                tokio::time::sleep(TURN).await;
                continue;
            };
            tokio::time::sleep_until(end).await;
            if let Some(body) = lock(&self.bodies).coming.remove(&number) {
                return body.lost.cancel();
            }
        }
    }
}

/// The answer to a body that lost its place.
pub(super) fn lost() -> Problem {
    let seconds = TURN.as_secs();
    Problem::Busy(format!(
        "the request body took longer than {seconds}s, and others waited for its place; send it again"
    ))
}
