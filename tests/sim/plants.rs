//! Faults that are planted, one at a time, in what surrounds the reconciler: each takes the part of the
//! agent that would be at fault, and is found. Nothing of the agent itself is switched.

use std::cell::Cell;

use crate::history;

/// Planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// A next generation takes the host ports with its start.
    TakesPorts,
    /// A process does not tell of which restart it is, so that the restart is done again.
    HidesRestart,
    /// A boot is taken for the one before, in which all were started: nobody waits for others.
    MissesBoot,
    /// What is acknowledged is not on the disk.
    LosesWrites,
    /// A process that works is said not to.
    CallsUnhealthy,
    /// A process that does not work is said to, so that it gets the ports.
    CallsReady,
    /// A CHaS that is away is said to answer, so that nothing rests for its silence.
    HearsAnswers,
    /// A CHaS that answers is said to be away.
    HearsNoAnswer,
    /// A way back by hand leads to another generation than the one that was asked for.
    MistakesGeneration,
    /// Whoever stops what runs on a drained node is not there.
    MissesDrain,
    /// An order about the node is acknowledged, and carried out by nobody.
    LosesOrder,
}

/// Every planted fault.
const ALL: [Plant; 11] = [
    Plant::TakesPorts,
    Plant::HidesRestart,
    Plant::MissesBoot,
    Plant::LosesWrites,
    Plant::CallsUnhealthy,
    Plant::CallsReady,
    Plant::HearsAnswers,
    Plant::HearsNoAnswer,
    Plant::MistakesGeneration,
    Plant::MissesDrain,
    Plant::LosesOrder,
];

/// Histories within which each is found.
const FOUND_WITHIN: u64 = 300;

thread_local! {
    static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
}

/// Whether this fault is planted in the histories of this thread.
pub(crate) fn is(plant: Plant) -> bool {
    PLANTED.get() == Some(plant)
}

/// Plants each fault in turn, and tells which seed found it, and how.
///
/// # Errors
/// The faults that were not found.
pub(crate) fn all_found() -> Result<(), String> {
    let mut unfound = Vec::new();
    for plant in ALL {
        PLANTED.set(Some(plant));
        let run = |seed| {
            let ran = std::panic::catch_unwind(|| history::run(seed, false));
            match ran.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                Ok(_) => None,
                Err(why) => Some(format!("planted {plant:?}, found by seed {seed}: {why}")),
            }
        };
        let found = (1..=FOUND_WITHIN).find_map(run);
        PLANTED.set(None);
        match found {
            Some(found) => println!("{found}"),
            None => unfound.push(format!("{plant:?}")),
        }
    }
    match unfound.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "not found by {FOUND_WITHIN} seeds: {}",
            unfound.join(", ")
        )),
    }
}
