//! Random numbers of a history, from its seed: one sequence for each thread, because the agent
//! takes some through plain functions.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
    static CALM: Cell<bool> = const { Cell::new(false) };
}

/// Begins the sequence of this seed.
pub(crate) fn seed(seed: u64) {
    STATE.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
    CALM.set(false);
}

/// Switches all faults and long waits off or on.
pub(crate) fn calm(calm: bool) {
    CALM.set(calm);
}

pub(crate) fn is_calm() -> bool {
    CALM.get()
}

/// Next number of the sequence, by SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn random() -> u64 {
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Number below `end`.
pub(crate) fn below(end: u64) -> u64 {
    random() % end.max(1)
}

pub(crate) fn index(length: usize) -> usize {
    usize::try_from(below(u64::try_from(length).unwrap())).unwrap()
}

/// True in `percent` of a hundred cases.
pub(crate) fn chance(percent: u64) -> bool {
    below(100) < percent
}

pub(crate) fn millis(end: u64) -> Duration {
    Duration::from_millis(below(end))
}

/// Time that one part of a call takes: mostly next to none, now and then seconds.
pub(crate) fn pause() -> Duration {
    match below(if CALM.get() { 10 } else { 40 }) {
        0..10 => Duration::ZERO,
        10..30 => millis(20),
        30..38 => millis(200),
        _ => millis(3000),
    }
}

/// Time that a write to the disk takes.
pub(crate) fn disk_pause() -> Duration {
    if chance(80) {
        Duration::ZERO
    } else {
        millis(30)
    }
}

/// Wait between nothing and `ceiling`.
pub(crate) fn draw(ceiling: Duration) -> Duration {
    Duration::from_millis(below(u64::try_from(ceiling.as_millis()).unwrap() + 1))
}
