//! The contest: smmap against the usual alternatives, in one command.
//!
//! ```sh
//! cargo run --release --manifest-path benches/contest/Cargo.toml
//! ```
//!
//! Variants are interleaved: in each round of a race, all of them do the same reads by turns, in a new order. The data
//! is in the page cache, and a result is the median of the rounds' own ratios. The contest asserts its assumptions: the
//! data is resident, all variants read the same bytes, and the peers' windows have the same length and number as
//! smmap's. A missed target is only reported.
//!
//! A full run ends by writing `REPORT.md` and its plots beside the package. `-- --quick` is a smoke run of at most a
//! minute. `-- NAME` runs the rows whose names contain NAME. Both only print, and write no report.
//!
//! | file | rows |
//! |---|---|
//! | `hits`, `latency` | everything mapped: the cost between a reader and its bytes |
//! | `pressure`, `traces` | a budget smaller than the data: the choice of windows to map |
//! | `scans` | all of a file, warm and cold |
//! | `steps` | small steps through `Read`, `BufRead` and `Seek` |
//! | `scale` | many files, many windows |
//! | `python` | Python's smmap |

mod hits;
mod latency;
mod machine;
mod peers;
mod plots;
mod pressure;
mod python;
mod report;
mod scale;
mod scans;
mod steps;
mod support;
mod traces;
mod workloads;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::{Data, GIB, MIB};

/// The length of a window in bytes, unless a row says otherwise.
const WINDOW: u64 = 4 * MIB;

/// The options of the command line.
pub(crate) struct Run {
    quick: bool,
    filter: String,
}

impl Run {
    fn from_args() -> Result<Run, String> {
        let mut run = Run { quick: false, filter: String::new() };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--quick" => run.quick = true,
                _ if argument.starts_with('-') => return Err(format!("unknown option: {argument}")),
                _ if run.filter.is_empty() => run.filter = argument,
                _ => return Err(format!("more than one NAME: {argument}")),
            }
        }
        Ok(run)
    }

    /// Returns `true` if the command line selects the row of this name.
    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// Returns `full`, or `quick` in a smoke run.
    pub(crate) fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Returns the duration of a race: `full` seconds, or zero in a smoke run.
    pub(crate) fn seconds(&self, full: u64) -> Duration {
        if self.quick { Duration::ZERO } else { Duration::from_secs(full) }
    }

    /// Runs a race for `seconds` seconds.
    pub(crate) fn race(&self, race: support::Race, seconds: u64) -> support::Outcome {
        let rounds = if self.quick { (2, 2) } else { (5, MOST_ROUNDS) };
        race.run_for(self.seconds(seconds), rounds.0, rounds.1)
    }
}

/// The largest number of counted rounds of a race.
const MOST_ROUNDS: usize = 31;

fn main() -> ExitCode {
    let run = match Run::from_args() {
        Ok(run) => run,
        Err(error) => {
            eprintln!(
                "{error}\nusage: cargo run --release --manifest-path benches/contest/Cargo.toml -- [--quick] [NAME]"
            );
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    let machine = machine::Machine::query();
    println!("{machine}");
    let mut chapters = Vec::new();
    let mut close = |chapter: Option<report::Chapter>| {
        if let Some(chapter) = chapter {
            println!("\n{}", chapter.text());
            chapters.push(chapter);
        }
    };
    // Created first: the long read must fill the page cache before any other access.
    let data = Data::of_len(run.size(2 * GIB, 256 * MIB));
    close(hits::run(&run, &data));
    close(latency::run(&run, &data));
    close(pressure::run(&run, &data));
    close(traces::run(&run, &data));
    close(scans::run(&run));
    close(steps::run(&run));
    close(scale::run(&run));
    close(python::run(&run, &data));
    println!("\n{}", report::summary(&chapters));
    if chapters.is_empty() {
        eprintln!("no row's name contains {:?}", run.filter);
        return ExitCode::FAILURE;
    }
    if run.quick || !run.filter.is_empty() {
        println!("no report written: it needs a full run without --quick and NAME");
        return ExitCode::SUCCESS;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    match report::write(directory, &machine.head(start.elapsed()), &chapters) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write the report: {error}");
            ExitCode::FAILURE
        }
    }
}
