//! Simulated histories of a node: the real store, queue, plan and reconciler on a runtime in
//! memory, in virtual time, with all faults drawn from a seed. `contrib/simulate --help`.
//!
//! Each run without arguments plants faults around the agent (`plants`), all of which are to be found.
//! Whoever changes the simulation shows again that it finds faults. These were planted one at a
//! time, and found by the seed in parentheses: a turn begun while another runs (2); a removal not
//! done (2); the backoff reset at each whole look (3); a change acknowledged and not written (3); a
//! record forgotten though it was deployed again (49); a created task taken for a running one (1);
//! observations not read at a start (64); the older of the two copies taken (1); a start of the boot before
//! taken for one of this boot, so that nobody waits (9).

#![allow(
    clippy::too_many_lines,
    reason = "a row of a table stands over several lines"
)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a simulation has nobody to tell but whoever runs it"
)]

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use chas_node_agent::runtime;

mod bodies;
mod chas;
mod client;
mod dice;
mod disk;
mod files;
mod history;
mod judge;
#[path = "../support/memory_runtime.rs"]
mod memory_runtime;
mod operator;
mod plants;
mod probes;
mod silence;
mod verdicts;
mod world;

/// Default number of histories: some seconds on two cores.
const SEEDS: u64 = 300;
/// Each history of this many is run twice, and must be the same both times.
const TWICE_EVERY: u64 = 50;

struct Asked {
    first: u64,
    seeds: u64,
    one: Option<u64>,
    /// Whether faults are planted once all is well.
    plants: bool,
}

fn asked() -> Option<Asked> {
    let mut asked = Asked {
        first: 1,
        seeds: SEEDS,
        one: None,
        plants: true,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        // A filter of `cargo test`, which names another test.
        if !word.starts_with('-') {
            (asked.seeds, asked.plants) = (0, false);
            continue;
        }
        if word == "--plants" {
            (asked.seeds, asked.plants) = (0, true);
            continue;
        }
        asked.plants = false;
        let number: u64 = words.next()?.parse().ok()?;
        match word.as_str() {
            "--first" => asked.first = number,
            "--seeds" => asked.seeds = number,
            "--seed" => asked.one = Some(number),
            _ => return None,
        }
    }
    Some(asked)
}

/// Runs one seed; a panic is a fault like any other.
fn one(seed: u64) -> Result<(), String> {
    let run = || {
        std::panic::catch_unwind(|| history::run(seed, false))
            .unwrap_or_else(|_| Err("it panicked".to_owned()))
    };
    let hash = run()?;
    if seed.is_multiple_of(TWICE_EVERY) && run() != Ok(hash) {
        return Err("the same seed had another history".to_owned());
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(asked) = asked() else {
        eprintln!("usage: [--seeds N] [--first N] | --seed N | --plants");
        return ExitCode::from(2);
    };
    if let Some(seed) = asked.one {
        // The agent's own log lines, where `RUST_LOG` asks for them.
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .without_time()
            .init();
        return match history::run(seed, true) {
            Ok(hash) => {
                println!("seed {seed}: well, {hash:016x}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                println!("seed {seed}: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let (next, done, failed) = (
        AtomicU64::new(asked.first),
        AtomicU64::new(0),
        Mutex::new(None::<(u64, String)>),
    );
    let end = asked.first + asked.seeds;
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end || failed.lock().unwrap().is_some() {
                return;
            }
            if let Err(why) = one(seed) {
                // The first one, also where a later one failed before it.
                let mut failed = failed.lock().unwrap();
                if failed.as_ref().is_none_or(|(first, _)| seed < *first) {
                    *failed = Some((seed, why));
                }
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(1000) {
                print!("{done} of {} histories\r", asked.seeds);
                let _nobody_looks = std::io::stdout().flush();
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            threads.spawn(work);
        }
    });
    match failed.into_inner().unwrap() {
        None => {
            println!(
                "{} histories from seed {} on: every invariant held",
                asked.seeds, asked.first
            );
            if asked.plants {
                plant()
            } else {
                ExitCode::SUCCESS
            }
        }
        Some((seed, why)) => {
            println!(
                "seed {seed}: {why}\nagain, with all that happened: contrib/simulate --seed {seed}"
            );
            ExitCode::FAILURE
        }
    }
}

/// Plants every fault.
fn plant() -> ExitCode {
    match plants::all_found() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}
