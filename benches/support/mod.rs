//! Shared by the benches: data that is warm in the page cache, random draws, and races.
//!
//! A *race* measures its variants by turns in one run, in a new order each round, so that noise of the machine affects
//! all of them alike. A bench reports ratios of medians and compares them with its targets. A missed target is only
//! reported: a bench fails only if one of its own assumptions fails.
//!
//! Environment: `SMMAP_BENCH_ROUNDS` is the number of rounds of each race, 31 if unset.

#![allow(dead_code, unused_imports, reason = "each bench is a crate of its own and uses a part of this module")]

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

/// Returns criterion with short times: only the races are compared with the targets.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Returns `true` if cargo asked to measure (`cargo bench`), and `false` if it asked to list the benchmarks or to try
/// each.
pub(crate) fn measuring() -> bool {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    has("--bench") && !has("--test") && !has("--list")
}

/// Returns `full` when measuring, and `small` when each benchmark is only tried once.
pub(crate) fn size(full: u64, small: u64) -> u64 {
    if measuring() { full } else { small }
}

/// Returns the number of rounds of a race.
pub(crate) fn rounds() -> usize {
    match std::env::var("SMMAP_BENCH_ROUNDS") {
        Err(_) => 31,
        Ok(text) => match text.parse() {
            Ok(rounds) if rounds > 0 => rounds,
            _ => panic!("SMMAP_BENCH_ROUNDS is {text:?}: set it to a number of at least 1"),
        },
    }
}
