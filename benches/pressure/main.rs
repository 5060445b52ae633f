//! Measures small reads when the budget holds only a part of the data.
//!
//! The data is 2 GiB in windows of 4 MiB. The reads follow Zipf's law, or are uniform, or alternate with a scan, or
//! move to new hot windows; some cases use two threads or a cold start. The cases named `trace: …` imitate databases;
//! the eviction policy was not tuned on them.
//!
//! In a round, all readers read the same offsets by turns; each round has its own offsets. The readers:
//!
//! - `smmap`: `Cursor::slice`, without a copy.
//! - `smmap read_at`: copies.
//! - `pread`: plain reads of the file.
//! - `quick_cache`: maps the window on each miss, and reads the map without a copy.
//! - `oracle`: maps the hottest windows of the trace beforehand, and uses `pread` for the rest.
//!
//! `cargo bench --bench pressure -- ratios` prints the ratios only. (The argument is a filter that matches no
//! benchmark.) If `SMMAP_BENCH_CASES` is set, only the cases whose names contain its value run.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use smmap::Stats;

use readers::{Readers, Task};
use support::{Data, GIB, KIB, MIB, Race, Report, Target, measuring, rounds, size, timed, timed_together};
use trace::{Draw, Read, Trace};

mod readers;
#[path = "../support/mod.rs"]
mod support;
mod trace;

/// The number of reads in a lap.
const LAP: usize = 20_000;
/// The number of laps in round 0, which warms up and is not counted.
const WARM: usize = 5;
/// The number of reads in an iteration of a criterion benchmark.
const BATCH: usize = 10_000;

/// One race.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    draw: Draw,
    /// The length of each read in bytes. Traces choose their own lengths.
    record: u64,
    /// The budget in percent of the data.
    budget: u64,
    threads: usize,
    /// If set, fresh readers without mappings take over after this many reads. (The oracle always has its mappings.)
    life: Option<usize>,
    /// The least throughput relative to `pread`, to `quick_cache` (the peer) and to the oracle.
    of_pread: f64,
    of_peer: Option<f64>,
    of_oracle: Option<f64>,
}

/// The defaults: targets that hold at any budget, skew and record length.
const ANY: Case = Case {
    name: "",
    draw: Draw::Zipf(0.99),
    record: 64,
    budget: 25,
    threads: 1,
    life: None,
    of_pread: 0.95,
    of_peer: Some(1.0),
    of_oracle: None,
};

/// The targets while the policy still learns which windows are hot.
const CHANGING: Case = Case { of_pread: 0.9, of_peer: None, ..ANY };

const CASES: [Case; 22] = [
    Case { name: "25 %, Zipf 0.99", of_pread: 1.8, of_peer: Some(5.0), of_oracle: Some(0.9), ..ANY },
    Case { name: "5 %, Zipf 0.99", budget: 5, ..ANY },
    Case { name: "50 %, Zipf 0.99", budget: 50, ..ANY },
    Case { name: "100 %, Zipf 0.99", budget: 100, ..ANY },
    Case { name: "25 %, Zipf 0.7", draw: Draw::Zipf(0.7), ..ANY },
    Case { name: "25 %, Zipf 1.2", draw: Draw::Zipf(1.2), ..ANY },
    Case { name: "5 %, uniform", draw: Draw::Uniform, budget: 5, ..ANY },
    Case { name: "25 %, uniform", draw: Draw::Uniform, ..ANY },
    Case { name: "100 %, uniform", draw: Draw::Uniform, budget: 100, ..ANY },
    Case { name: "25 %, Zipf 0.99, 4 KiB", record: 4 * KIB, ..ANY },
    Case { name: "25 %, Zipf 0.99, 64 KiB", record: 64 * KIB, ..ANY },
    Case { name: "25 %, half of it a scan", draw: Draw::HalfScan(0.99), ..ANY },
    Case { name: "25 %, two threads", threads: 2, ..ANY },
    Case { name: "25 %, cold start", life: Some(LAP), ..CHANGING },
    Case { name: "100 %, cold start", life: Some(LAP), budget: 100, ..CHANGING },
    Case { name: "100 %, cold start, 1,000 reads", life: Some(1_000), budget: 100, ..CHANGING },
    Case { name: "25 %, other windows each 20,000 reads", draw: Draw::Shifting(0.99), ..CHANGING },
    Case { name: "trace: B-tree, leaves by Zipf 0.99", draw: Draw::BTree(Some(0.99)), ..ANY },
    Case { name: "trace: B-tree, leaves uniform", draw: Draw::BTree(None), ..ANY },
    Case { name: "trace: delta chains of a pack", draw: Draw::Pack, ..ANY },
    Case { name: "trace: row groups of columns", draw: Draw::Columns, ..ANY },
    Case { name: "trace: look-ups in a genome", draw: Draw::Genome, ..ANY },
];

fn main() {
    let data = Data::of_len(size(2 * GIB, 64 * MIB));
    data.warm();
    let mut criterion = support::criterion();
    benchmarks(&mut criterion, &data);
    criterion.final_summary();
    if measuring() {
        let wanted = std::env::var("SMMAP_BENCH_CASES").unwrap_or_default();
        let mut report = Report::new("pressure");
        for case in CASES.iter().filter(|case| case.name.contains(&wanted)) {
            // A third of the usual rounds: there are many races, and `quick_cache`, which maps on each miss, is slow.
            case.race(&data, rounds().div_ceil(3), &mut report);
        }
        report.print();
    }
}

fn benchmarks(criterion: &mut Criterion, data: &Data) {
    let budget = data.len() / 4;
    let trace = Trace::new(ANY.draw, ANY.record, data.len(), BATCH, 1, 8);
    let readers = Readers::new(data, budget, &trace);
    let mut group = criterion.benchmark_group("pressure");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, task) in Readers::ALL {
        group.bench_function(name, |b| {
            data.warm();
            let mut rounds = (0..=8).cycle();
            b.iter(|| task(&readers, trace.lap(rounds.next().expect("the cycle never ends"))));
        });
    }
    group.finish();
}

impl Case {
    fn race(&self, data: &Data, rounds: usize, report: &mut Report) {
        let budget = data.len() * self.budget / 100;
        let trace = &Trace::new(self.draw, self.record, data.len(), LAP, WARM, rounds);
        let readers = &Readers::new(data, budget, trace);
        // The round, and the sum of the reader that ran first in it. The other readers must get the same sum.
        let seen = &Cell::new((usize::MAX, 0));
        let race = Readers::ALL.into_iter().fold(Race::new(self.name, data), |race, (name, task)| {
            race.variant(name, LAP as u64, move |round| {
                let reads = trace.lap(round);
                let (time, sum) = match self.life {
                    Some(life) => {
                        let lives = reads.chunks(life);
                        lives
                            .map(|reads| self.lap(&Readers::new(data, budget, trace), task, reads))
                            .fold((Duration::ZERO, 0_u64), |(time, sum), (more, seen)| {
                                (time + more, sum.wrapping_add(seen))
                            })
                    }
                    None => self.lap(readers, task, reads),
                };
                if seen.get().0 == round {
                    assert_eq!(sum, seen.get().1, "{name} read other bytes in round {round}");
                }
                seen.set((round, sum));
                time
            })
        });
        let outcome = race.run(rounds);
        let target = |target: Option<f64>| target.map_or(Target::None, Target::AtLeast);
        let targets = [
            ("pread", "smmap", Target::AtLeast(self.of_pread)),
            ("pread", "smmap read_at", Target::AtLeast(self.of_pread)),
            ("quick_cache", "smmap", target(self.of_peer)),
            ("oracle", "smmap", target(self.of_oracle)),
        ];
        report.race(&outcome, &targets);
        for (name, manager) in [("smmap", &readers.sliced), ("smmap read_at", &readers.copied)] {
            let stats = manager.stats();
            report.note(line(name, &stats, budget));
            let peak = stats.peak_mapped_bytes;
            assert!(peak <= budget, "{peak} bytes were mapped under a budget of {budget}: {stats:?}");
        }
    }

    /// Returns the time of a lap and the sum over the bytes read (0 if several threads read).
    fn lap(&self, readers: &Readers, task: Task, reads: &[Read]) -> (Duration, u64) {
        if self.threads == 1 {
            let mut sum = 0;
            let time = timed(|| sum = task(readers, reads));
            return (time, sum);
        }
        let part = |thread: usize| &reads[thread * reads.len() / self.threads..][..reads.len() / self.threads];
        let prepare = |thread: usize| {
            black_box(task(readers, &part(thread)[..1]));
        };
        let work = |thread: usize| {
            black_box(task(readers, part(thread)));
        };
        (timed_together(self.threads, prepare, work), 0)
    }
}

fn line(name: &str, stats: &Stats, budget: u64) -> String {
    format!(
        "  {name}: {} hits ({:.1} %), {} misses, {} maps, {} copies, {} evictions, {} overcommits, \
         peak {:.1} of {:.1} MiB mapped",
        stats.hits,
        100.0 * stats.hit_ratio(),
        stats.misses,
        stats.maps,
        stats.copies,
        stats.evictions,
        stats.overcommits,
        stats.peak_mapped_bytes as f64 / MIB as f64,
        budget as f64 / MIB as f64,
    )
}
