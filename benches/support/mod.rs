//! What the benches share: data that is warm in the page cache, a small random source, and races.
//!
//! A *race* measures its variants by turns in one run, in a new order each round, so that the machine's noise meets
//! all of them alike. What a bench reports are ratios of medians against its targets. A ratio that misses its target
//! is reported, and no more: a bench exits with an error only where its own assumptions fail.
//!
//! Environment: `SMMAP_BENCH_ROUNDS` is the number of rounds of each race, 31 if unset.

#![allow(dead_code, unused_imports, reason = "each bench is a crate of its own and uses its part of this module")]

mod data;
mod draw;
mod race;

use std::fs::File;
use std::io;
use std::time::Duration;

use criterion::Criterion;

pub(crate) use data::{Data, sum_words};
pub(crate) use draw::{Rng, Zipf};
pub(crate) use race::{Race, Report, Target, timed, timed_together};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

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

/// `pread` until `buffer` is full, wherever the platform keeps it.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// `pread` until `buffer` is full, wherever the platform keeps it.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// A plain map of `len` bytes from `offset`, which is what smmap is measured against.
pub(crate) fn map(file: &File, offset: u64, len: u64) -> memmap2::Mmap {
    let mut options = memmap2::MmapOptions::new();
    options.offset(offset).len(usize::try_from(len).expect("a length that fits the address space"));
    #[allow(unsafe_code, reason = "memmap2's own face is the peer of the bench")]
    // SAFETY: the data of the benches is written once, under another name, and nobody changes it afterwards.
    let mapped = unsafe { options.map(file) };
    mapped.unwrap_or_else(|error| panic!("can't map {len} bytes at {offset}: {error}"))
}

/// A manager over data that never changes.
pub(crate) fn build(builder: smmap::MapManagerBuilder) -> smmap::MapManager {
    #[allow(unsafe_code, reason = "the promise of smmap, which is unsafe to make")]
    // SAFETY: the data of the benches is written once, under another name, and nobody changes it afterwards.
    let manager = unsafe { builder.build() };
    manager.unwrap_or_else(|error| panic!("can't build a manager: {error}"))
}
