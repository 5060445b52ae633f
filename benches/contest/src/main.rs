//! The contest: smmap against what people use today, at every point that they may care about, in one command.
//!
//! ```sh
//! cargo run --release --manifest-path benches/contest/Cargo.toml
//! ```
//!
//! Everything is interleaved: in each round of a race all variants take turns, in a new order, on the same reads of data
//! that is in the page cache, and a result is the median of the rounds' own ratios. What is assumed is asserted: that the
//! bytes are resident, that all variants read the same ones, that the windows of the peers have the size and the number
//! that smmap's have. A target that is missed is reported, and no more.
//!
//! In the end it writes `REPORT.md` and its plots beside the package. `-- --quick` is a smoke run of a minute at most,
//! `-- NAME` runs the rows whose names contain NAME; both print, and write no report.
//!
//! | file | rows |
//! |---|---|
//! | `hits`, `latency` | everything mapped: what stands between a reader and its bytes |
//! | `pressure`, `traces` | a budget smaller than the data: what is worth mapping |
//! | `scans` | all of a file, warm and cold |
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
mod support;
mod traces;
mod workloads;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::{Data, GIB, MIB};

/// Bytes of a window, where a row does not say otherwise.
const WINDOW: u64 = 4 * MIB;

/// What was asked for on the command line.
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
                _ if argument.starts_with('-') => return Err(format!("no such option: {argument}")),
                _ if run.filter.is_empty() => run.filter = argument,
                _ => return Err(format!("one name at most, and {argument} is another")),
            }
        }
        Ok(run)
    }

    /// Whether a row of this name runs.
    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// `full` where numbers count, `quick` in a smoke run.
    pub(crate) fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// The time of a race that takes `full` seconds where numbers count.
    pub(crate) fn seconds(&self, full: u64) -> Duration {
        if self.quick { Duration::ZERO } else { Duration::from_secs(full) }
    }

    /// Runs a race for so many seconds.
    pub(crate) fn race(&self, race: support::Race, seconds: u64) -> support::Outcome {
        let rounds = if self.quick { (2, 2) } else { (5, MOST_ROUNDS) };
        race.run_for(self.seconds(seconds), rounds.0, rounds.1)
    }
}

/// Of a race, without the one that warms up.
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
    let machine = machine::Machine::look();
    println!("{machine}");
    let mut chapters = Vec::new();
    let mut close = |chapter: Option<report::Chapter>| {
        if let Some(chapter) = chapter {
            println!("\n{}", chapter.text());
            chapters.push(chapter);
        }
    };
    // Files that were read in by one long read, before anything else touches them.
    let data = Data::of_len(run.size(2 * GIB, 256 * MIB));
    close(hits::run(&run, &data));
    close(latency::run(&run, &data));
    close(pressure::run(&run, &data));
    close(traces::run(&run, &data));
    close(scans::run(&run));
    close(scale::run(&run));
    close(python::run(&run, &data));
    println!("\n{}", report::summary(&chapters));
    if chapters.is_empty() {
        eprintln!("no row has a name with {:?} in it", run.filter);
        return ExitCode::FAILURE;
    }
    if run.quick || !run.filter.is_empty() {
        println!("no report is written of a part, or of a smoke run");
        return ExitCode::SUCCESS;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    match report::write(directory, &machine.head(start.elapsed()), &chapters) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("can't write the report: {error}");
            ExitCode::FAILURE
        }
    }
}
