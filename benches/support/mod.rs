//! What the benches share: data that is warm in the page cache, a small random source, and races.
//!
//! A *race* measures its variants by turns in one run, in a new order each round, so that the machine's noise meets
//! all of them alike. What a bench reports are ratios of medians against its targets. A ratio that misses its target
//! is reported, and no more: a bench exits with an error only where its own assumptions fail.
//!
//! Environment: `SMMAP_BENCH_ROUNDS` is the number of rounds of each race, 31 if unset.

#![allow(dead_code, unused_imports, reason = "each bench is a crate of its own and uses its part of this module")]

mod access;
mod data;
mod draw;
mod race;

use std::time::Duration;

use criterion::Criterion;

pub(crate) use access::{GIB, KIB, MIB, build, map, read_exact_at};
pub(crate) use data::{Data, sum_words};
pub(crate) use draw::{Rng, Zipf};
pub(crate) use race::{Race, Report, Target, timed, timed_together};

/// The benches' criterion: short, because the races are what the targets are held against.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Whether cargo asked to measure (`cargo bench`), rather than to list or to try each benchmark once.
pub(crate) fn measuring() -> bool {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    has("--bench") && !has("--test") && !has("--list")
}

/// `full` where numbers count, `small` where each benchmark is only tried once.
pub(crate) fn size(full: u64, small: u64) -> u64 {
    if measuring() { full } else { small }
}

/// The number of rounds of a race.
pub(crate) fn rounds() -> usize {
    match std::env::var("SMMAP_BENCH_ROUNDS") {
        Err(_) => 31,
        Ok(text) => match text.parse() {
            Ok(rounds) if rounds > 0 => rounds,
            _ => panic!("SMMAP_BENCH_ROUNDS is {text:?}, and should be a number of at least 1"),
        },
    }
}
