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
//! minute. `-- NAME` runs the rows whose names contain NAME. Both only print, and write no report. `-- --threads N`
//! sets the number of threads of the rows with several threads: one per core by default.
//!
//! | file | rows |
//! |---|---|
//! | `hits`, `latency` | everything mapped: the cost between a reader and its bytes |
//! | `pressure`, `traces` | a budget smaller than the data: the choice of windows to map |
//! | `scans` | all of a file, warm and cold |
//! | `cold` | data that is not in memory: bytes from the disk, and time; hits at the starts of windows |
//! | `requests` | a file that is opened for each request |
//! | `scale` | many files, many windows |
//! | `python` | Python's smmap |
//!
//! A chapter is a module with a function `run` that returns `None` if no row of it is wanted. Its only other trace is a
//! line in [`CHAPTERS`].

mod cold;
mod hits;
mod latency;
mod machine;
mod peers;
mod plots;
mod pressure;
mod python;
mod report;
mod requests;
mod scale;
mod scans;
mod support;
mod traces;
mod workloads;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::{Data, GIB, MIB};

/// The length of a window in bytes, unless a row says otherwise.
const WINDOW: u64 = 4 * MIB;

/// Makes a chapter of the report, if a row of it is wanted.
type MakeChapter = fn(&Run, &Data) -> Option<report::Chapter>;

/// The chapters, in the order of the report.
const CHAPTERS: &[MakeChapter] = &[
    hits::run,
    latency::run,
    pressure::run,
    traces::run,
    |run, _| scans::run(run),
    |run, _| cold::run(run),
    |run, _| requests::run(run),
    |run, _| scale::run(run),
    python::run,
];

const USAGE: &str =
    "usage: cargo run --release --manifest-path benches/contest/Cargo.toml -- [--quick] [--threads N] [NAME]";

/// The options of the command line.
pub(crate) struct Run {
    quick: bool,
    filter: String,
    /// The number of threads of the rows with several threads.
    pub(crate) threads: usize,
}

impl Run {
    fn from_args() -> Result<Run, String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut run = Run { quick: false, filter: String::new(), threads: cores };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => run.quick = true,
                "--threads" => {
                    let threads =
                        arguments.next().and_then(|number| number.parse().ok()).filter(|&threads| threads > 0);
                    run.threads = threads.ok_or("--threads needs a number of at least 1")?;
                }
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
            eprintln!("{error}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    let machine = machine::Machine::query();
    println!("{machine}");
    let mut chapters = Vec::new();
    // Created first: the long read must fill the page cache before any other access.
    let data = Data::of_len(run.size(2 * GIB, 256 * MIB));
    for make in CHAPTERS {
        if let Some(chapter) = make(&run, &data) {
            println!("\n{}", chapter.text());
            chapters.push(chapter);
        }
    }
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
