//! Endurance: `cargo run --release --example soak [-- --minutes 30]`.
//!
//! Threads do at random what programs do to a cache in months: they open, read in every way, keep leases and hand them to
//! each other, prefetch, collect, close, refresh and change the limits, while files are appended to, replaced by rename,
//! deleted, made anew, touched and cut.
//!
//! *Every byte is checked.* A file's bytes are a function of its generation (each file that is made has a new one, which
//! is its first word) and of their offset, so a reader knows which file it has, and two files in one read are noticed. So
//! is each error: those that the moment explains are counted (over the budget, where a call has to map; a file that was
//! replaced while its descriptor was given up), all others are failures.
//!
//! There are sets of files:
//!
//! - *named* ones are never made shorter, and nobody looks out for anybody;
//! - *cut* ones are, which [`build`](smmap::MapManagerBuilder::build) allows while nobody reads or holds them, and if they
//!   are refreshed before they are read again: each has a lock of the soak's own for that;
//! - with the feature `fault-guard`, *torn* ones are cut under their readers, without a lock.
//!
//! In the end everything is dropped, and nothing may be left: no mapping in the kernel's list, no descriptor, no thread.
//! Memory of the process's own (RssAnon) is looked at each second; its trend after a warm-up has to stay below what a leak
//! would be (`Trend`, in `watch.rs`).

#![allow(unsafe_code, reason = "`build`, where the caller makes a promise, and an option of the allocator")]

mod changes;
mod content;
mod process;
#[cfg(feature = "fault-guard")]
mod torn;
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
use watch::give_memory_back;
use worker::Worker;
use world::{Failed, World};

const HELP: &str = "\
Endurance of smmap: random work on changing files by many threads, every byte checked.

Usage: cargo run --release --example soak [-- OPTIONS]

  --minutes N, --seconds N   how long [default: 60 seconds]
  --threads N                threads that work [default: twice as many as the machine runs at once, and two]
  --seed N                   of the random choices [default: the time of day]
  --budget MIB               most MiB to keep mapped [default: 16]
  --help                     this text

Exit code: 0 all was as it should be, 1 it was not, 2 the arguments were wrong.";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Small, so that there are many of them, and a granule on every system.
const WINDOW: u64 = 64 * KIB;
/// A range up to this may be copied, and then never fails for the budget.
const SMALL: u64 = 256 * KIB;
/// Ranges that are always mapped, by themselves where windows meet.
const LONG: Range<u64> = SMALL + 1..SMALL + 512 * KIB;
/// A file is replaced or cut rather than let grow beyond this.
const LONGEST: u64 = 4 * MIB;

const NAMED: usize = 16;
const CUT: usize = 4;
/// What one thread keeps at a time, and how many leases are on their way from one thread to another.
const READERS: usize = 4;
const LEASES: usize = 8;
const POST: usize = 32;
/// What a manager that comes and goes may map.
const OWN_BUDGET: u64 = 4 * WINDOW;

/// So long may pass without a single step before that is taken for a deadlock.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two lines of progress.
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
    give_memory_back();
    #[cfg(feature = "fault-guard")]
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
                // The message of a panic is out already; the others are to end, too.
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
    /// `None` when only help is asked for.
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
            // One for each thread that may not be given up, and fewer than there are files.
            max_open_files: (self.threads + 16) as usize,
        }
    }

    /// Never more than the budget, with and without patience.
    fn overcommit(&self) -> Overcommit {
        if self.seed % 2 == 0 { Overcommit::Fail } else { Overcommit::Wait(Duration::from_millis(5)) }
    }
}

fn positive(number: u64) -> Result<u64, &'static str> {
    if number > 0 && number <= 1 << 20 { Ok(number) } else { Err("a number from 1 to 1048576 is needed") }
}
