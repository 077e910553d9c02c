//! Wrong tokens by caller: whoever tries one after the other is made to wait.
//!
//! A wrong token that is sent again is no other guess: a program with an old token, which asks for
//! ever, shuts nobody out.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::caller::{CallerKey, CallerPeer};
use crate::lock::lock;

/// Time in which a caller has its guesses.
const WINDOW: Duration = Duration::from_secs(60);
/// Guesses of a caller in that time: enough for a person with several tokens at hand, and for a
/// program none at all.
const GUESSES_MAX: usize = 10;
/// Callers that are remembered. Of more, the one whose guess is longest ago is forgotten.
const CALLERS_MAX: usize = 1024;

/// Wrong tokens of one caller.
#[derive(Debug, Default)]
struct Tried {
    /// Fingerprints of the last minute's, oldest first.
    recent: VecDeque<(u64, Instant)>,
    /// The last time that the log was to tell of one, and of guessing.
    told: [Option<Instant>; 2],
}

/// Line of the log that a wrong token is worth: of each kind one a minute for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guess {
    /// Line that it is wrong.
    Wrong,
    /// Line that it was the last one that the caller has for now.
    Last,
    /// No line.
    Untold,
}

/// Wrong tokens of the last minute.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    fingerprints: RandomState,
    tried: Mutex<BTreeMap<CallerKey, Tried>>,
}

impl Guesses {
    /// The time until this caller has a guess again. `None`: it has one.
    pub(super) fn wait(&self, peer: CallerPeer) -> Option<Duration> {
        let tried = lock(&self.tried);
        let of_caller = tried.get(&peer.key())?;
        let marks = of_caller.recent.iter();
        let mut recent = marks.map(|(_, at)| *at).filter(is_recent);
        let oldest = recent.next()?;
        let is_full = 1 + recent.count() >= GUESSES_MAX;
        is_full.then(|| WINDOW.saturating_sub(oldest.elapsed()))
    }

    /// Notes a wrong token.
    pub(super) fn note(&self, peer: CallerPeer, token: &[u8]) -> Guess {
        let fingerprint = self.fingerprints.hash_one(token);
        let mut tried = lock(&self.tried);
        let key = peer.key();
        if tried.len() >= CALLERS_MAX && !tried.contains_key(&key) {
            forget_one(&mut tried);
        }
        let of_caller = tried.entry(key).or_default();
        let recent = &mut of_caller.recent;
        recent.retain(|(_, at)| is_recent(at));
        let is_again = recent.iter().any(|(before, _)| *before == fingerprint);
        if !is_again {
            recent.push_back((fingerprint, Instant::now()));
        }
        let is_last = !is_again && recent.len() == GUESSES_MAX;
        let told = &mut of_caller.told[usize::from(is_last)];
        if told.as_ref().is_some_and(is_recent) {
            return Guess::Untold;
        }
        *told = Some(Instant::now());
        match is_last {
            true => Guess::Last,
            false => Guess::Wrong,
        }
    }
}

fn is_recent(at: &Instant) -> bool {
    at.elapsed() < WINDOW
}

/// Forgets the caller whose last guess is longest ago.
fn forget_one(tried: &mut BTreeMap<CallerKey, Tried>) {
    let last = |of_caller: &Tried| of_caller.recent.back().map(|(_, at)| *at);
    let oldest = tried.iter().min_by_key(|(_, of_caller)| last(of_caller));
    if let Some(key) = oldest.map(|(key, _)| *key) {
        tried.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn peer(number: u32) -> CallerPeer {
        CallerPeer::Tcp(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_ten_guesses_a_minute_and_another_one_its_own() {
        let guesses = Guesses::default();
        for number in 0..9_u8 {
            let expected = if number == 0 {
                Guess::Wrong
            } else {
                Guess::Untold
            };
            assert_eq!(guesses.note(peer(1), &[number]), expected, "{number}");
            assert_eq!(guesses.wait(peer(1)), None, "{number}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(guesses.note(peer(1), b"tenth"), Guess::Last);
        assert_eq!(guesses.wait(peer(1)), Some(Duration::from_secs(51)));
        assert_eq!(guesses.wait(peer(2)), None);
        tokio::time::advance(Duration::from_secs(51)).await;
        assert_eq!(guesses.wait(peer(1)), None);
        assert_eq!(guesses.note(peer(1), b"eleventh"), Guess::Untold);
        assert_eq!(guesses.wait(peer(1)), Some(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_token_that_is_sent_for_ever_is_one_guess() {
        let guesses = Guesses::default();
        let mut told = 0;
        for _ in 0..1000 {
            match guesses.note(peer(1), b"the token of last week") {
                Guess::Wrong => told += 1,
                Guess::Untold => {}
                Guess::Last => panic!("one token is no guessing"),
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(guesses.wait(peer(1)), None);
        // In 100 s it is told twice.
        assert_eq!(told, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_old_tokens_behind_one_address_the_log_tells_each_minute() {
        let guesses = Guesses::default();
        let mut told = 0;
        for second in 0..300_u32 {
            let token = match second % 15 {
                0 => b"one",
                7 => b"two",
                _ => {
                    tokio::time::advance(Duration::from_secs(1)).await;
                    continue;
                }
            };
            told += u32::from(guesses.note(peer(1), token) == Guess::Wrong);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_callers_guess_they_take_a_bounded_room() {
        let guesses = Guesses::default();
        for number in 0..3000 {
            guesses.note(peer(number), b"a");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let tried = lock(&guesses.tried);
        assert_eq!(tried.len(), CALLERS_MAX);
        assert!(tried.contains_key(&peer(2999).key()) && !tried.contains_key(&peer(0).key()));
    }
}
