//! Endurance test: `cargo run --release --example soak [-- --minutes 30]`.
//!
//! Threads use a cache at random, as programs would over months. They open files, read in every way, and keep leases
//! and pass them to other threads. They prefetch, collect, close, refresh and change the limits. Meanwhile they append
//! to files, replace them by rename, delete, recreate, touch and truncate them.
//!
//! *Every byte is checked.* The bytes of a file are a function of their offset and the file's generation. Each new file
//! has a new generation, which is its first word. So a reader knows which file it has, and detects bytes of two files
//! in one read.
//!
//! *Every error is checked.* The soak counts errors that the current state explains: the budget is exceeded and the
//! call has to map; or a file was replaced, and its descriptor had been closed to stay within the limit. Any other
//! error is a failure.
//!
//! There are three sets of files:
//!
//! - *Named* files are never truncated, and no lock coordinates their readers and writers.
//! - *Locked* files are truncated. [`build`](smmap::MapManagerBuilder::build) allows that if no thread reads the file
//!   or holds a mapping, and if it is refreshed before the next read. A lock of the soak enforces this for each file.
//! - *Racing* files (feature `fault-guard`) are truncated while threads read them, without a lock.
//!
//! At the end the soak drops everything, and checks that nothing is left: no mapping in the kernel's list, no
//! descriptor, no thread. It samples the process's own memory (RssAnon) every second. After a warm-up, the trend must
//! stay below that of a leak (`Trend`, in `watch.rs`).

#![allow(unsafe_code, reason = "`build` needs the caller's promise, and `mallopt` is a foreign function")]

mod changes;
mod content;
mod process;
#[cfg(all(unix, feature = "fault-guard"))]
mod racing;
mod watch;
mod worker;
mod world;

use std::error::Error;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};
use std::{env, thread};

use smmap::{Limits, Overcommit};

use process::Held;
use watch::configure_allocator;
use worker::Worker;
use world::{Failed, World};

const HELP: &str = "\
Endurance test of smmap: random work on changing files by many threads, with every byte checked.

Usage: cargo run --release --example soak [-- OPTIONS]

  --minutes N, --seconds N   duration [default: 60 seconds]
  --threads N                working threads [default: twice the number of hardware threads, plus two]
  --seed N                   seed of the random choices [default: the time of day]
  --budget MIB               most MiB to keep mapped [default: 16]
  --help                     this text

Exit code: 0 success, 1 failure, 2 wrong arguments.";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The length of a window. Small, so that there are many windows, and a multiple of the mapping granularity of every
/// OS.
const WINDOW: u64 = 64 * KIB;
/// The longest range that may be copied instead of mapped, and so never fails because of the budget.
const SMALL: u64 = 256 * KIB;
/// The lengths of ranges that are always mapped, as a detached region if they cross a window boundary.
const LONG: Range<u64> = SMALL + 1..SMALL + 512 * KIB;
/// The longest file. A file that would grow beyond this is left alone until it is replaced or truncated.
const LONGEST: u64 = 4 * MIB;

const NAMED: usize = 16;
const LOCKED: usize = 4;
/// The limits on readers and leases that a thread keeps, and on leases that wait in the exchange between threads.
const READERS: usize = 4;
const LEASES: usize = 8;
const EXCHANGED: usize = 32;
/// The budget of a short-lived manager.
const OWN_BUDGET: u64 = 4 * WINDOW;

/// The time without any step after which the soak reports a deadlock.
const PATIENCE: Duration = Duration::from_secs(120);
/// The number of seconds between two lines of progress.
const LINE: u64 = 10;

fn main() -> ExitCode {
    let plan = match Plan::from_arguments() {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("soak: {error} (see --help)");
            return ExitCode::from(2);
        }
    };
    match soak(&plan) {
        Ok(summary) => {
            println!("soak: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(failed) => {
            println!("soak: FAILED {failed} (--seed {})", plan.seed);
            ExitCode::FAILURE
        }
    }
}

fn soak(plan: &Plan) -> Result<String, Failed> {
    configure_allocator();
    #[cfg(all(unix, feature = "fault-guard"))]
    smmap::fault_guard::install()?;
    let before = Held::of_process();
    let temporary = tempfile::Builder::new().prefix("smmap-soak-").tempdir()?;
    let world = World::new(plan, temporary.path().canonicalize()?)?;
    println!(
        "soak: {} s, {} threads, seed {}, {} MiB mapped at most, {:?}, in {}",
        plan.time.as_secs(),
        plan.threads,
        plan.seed,
        plan.budget / MIB,
        plan.overcommit(),
        world.dir.display()
    );

    let watched = thread::scope(|scope| {
        for number in 0..plan.threads {
            let world = &world;
            scope.spawn(move || {
                let work = || Worker::new(world, number).work();
                // The panic message is already printed. The other threads must end too.
                if let Err(failed) =
                    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Failed("a thread panicked".to_owned())))
                {
                    world.fail(failed);
                }
            });
        }
        let watched = world.watch();
        world.stop.store(true, Relaxed);
        watched
    });
    world.end(watched, &before)
}

struct Plan {
    time: Duration,
    threads: u64,
    seed: u64,
    budget: u64,
}

impl Plan {
    /// Parses the command line. Returns `None` if it asks for help.
    fn from_arguments() -> Result<Option<Self>, Box<dyn Error>> {
        use lexopt::prelude::*;
        let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let mut plan = Self { time: Duration::from_secs(60), threads: 2 * cores + 2, seed, budget: 16 * MIB };
        let mut arguments = lexopt::Parser::from_args(env::args_os().skip(1));
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("minutes") => plan.time = Duration::from_secs(60 * positive(arguments.value()?.parse()?)?),
                Long("seconds") => plan.time = Duration::from_secs(positive(arguments.value()?.parse()?)?),
                Long("threads") => plan.threads = positive(arguments.value()?.parse()?)?,
                Long("seed") => plan.seed = arguments.value()?.parse()?,
                Long("budget") => plan.budget = MIB * positive(arguments.value()?.parse()?)?,
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(argument.unexpected().into()),
            }
        }
        Ok(Some(plan))
    }

    fn limits(&self) -> Limits {
        Limits {
            max_mapped_bytes: self.budget,
            max_regions: 1000,
            // More than the descriptors that cannot be closed (one for each thread), but fewer than there are files.
            max_open_files: (self.threads + 16) as usize,
        }
    }

    /// Returns one of the two policies that never exceed the budget. An odd seed chooses the one that waits.
    fn overcommit(&self) -> Overcommit {
        if self.seed % 2 == 0 { Overcommit::Fail } else { Overcommit::Wait(Duration::from_millis(5)) }
    }
}

fn positive(number: u64) -> Result<u64, &'static str> {
    if number > 0 && number <= 1 << 20 { Ok(number) } else { Err("expected a number from 1 to 1048576") }
}
