//! All chance of a history, from its seed: one line of numbers a thread, for the agent takes some of them through plain
//! functions.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
    static CALM: Cell<bool> = const { Cell::new(false) };
}

/// Begins the line of this seed.
pub(crate) fn seed(seed: u64) {
    STATE.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
    CALM.set(false);
}

/// From now on nothing goes wrong, and nothing takes long.
pub(crate) fn calm(calm: bool) {
    CALM.set(calm);
}

pub(crate) fn is_calm() -> bool {
    CALM.get()
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn random() -> u64 {
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number below `end`.
pub(crate) fn below(end: u64) -> u64 {
    random() % end.max(1)
}

pub(crate) fn index(length: usize) -> usize {
    usize::try_from(below(u64::try_from(length).unwrap())).unwrap()
}

/// True in so many of a hundred.
pub(crate) fn chance(percent: u64) -> bool {
    below(100) < percent
}

pub(crate) fn millis(end: u64) -> Duration {
    Duration::from_millis(below(end))
}

/// How long one part of a call takes: mostly nothing worth naming, now and then long.
pub(crate) fn pause() -> Duration {
    match below(if CALM.get() { 10 } else { 40 }) {
        0..10 => Duration::ZERO,
        10..30 => millis(20),
        30..38 => millis(200),
        _ => millis(3000),
    }
}

/// A disk's.
pub(crate) fn disk_pause() -> Duration {
    if chance(80) {
        Duration::ZERO
    } else {
        millis(30)
    }
}

/// A wait between nothing and `ceiling`.
pub(crate) fn draw(ceiling: Duration) -> Duration {
    Duration::from_millis(below(u64::try_from(ceiling.as_millis()).unwrap() + 1))
}
