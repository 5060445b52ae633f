//! The parts of the benches' shared code that the contest uses: data, draws, races.

#![allow(dead_code, reason = "the contest uses only a part of the shared code")]

#[path = "../../support/access.rs"]
mod access;
#[path = "../../support/data.rs"]
mod data;
#[path = "../../support/draw.rs"]
mod draw;
#[path = "../../support/race.rs"]
mod race;

pub(crate) use access::{GIB, KIB, MIB, build, map, read_exact_at};
pub(crate) use data::{Data, directory, sum_words, word};
pub(crate) use draw::{Rng, Zipf};
pub(crate) use race::{Outcome, Race, Target, median, time, timed, timed_together};
