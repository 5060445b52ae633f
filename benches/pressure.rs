//! What small random reads cost when a quarter of the data may be mapped.
//!
//! 64-byte reads over 1 GiB in 4 MiB windows under a budget of 256 MiB. Windows are drawn by Zipf's law (0.99), in a
//! shuffled order, offsets within them uniformly; all variants of a round read at the same offsets, and each round
//! has its own. Targets: smmap at least 0.9 × the throughput of `pread`, and at least 2 × that of a `quick_cache` of
//! as many windows, which maps on each miss.
//!
//! `cargo bench --bench pressure -- ratios` measures the ratios alone: no benchmark has that name.

use std::cell::Cell;
use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use memmap2::Mmap;
use smmap::{MapManager, MappedFile, Stats, Window};
use support::{
    Data, GIB, MIB, Race, Report, Rng, Target, Zipf, build, map, measuring, read_exact_at, rounds, size, timed,
    timed_together,
};

mod support;

const WINDOW: u64 = 4 * MIB;
const RECORD: usize = 64;
const EXPONENT: f64 = 0.99;
/// Reads in a lap.
const LAP: usize = 100_000;
/// Reads in an iteration of a criterion benchmark.
const BATCH: usize = 10_000;

/// Copies a record from all offsets, and returns a sum of what it saw.
type Task = fn(&Readers, &[u64]) -> u64;
type Cache = quick_cache::sync::Cache<u64, Arc<Mmap>>;

fn main() {
    let data = Data::of_len(size(GIB, 64 * MIB));
    let budget = data.len() / 4;
    let rounds = rounds();
    // The rounds that count, and the one before them.
    let offsets = offsets(data.len(), if measuring() { (rounds + 1) * LAP } else { BATCH });
    data.warm();

    let mut criterion = support::criterion();
    benchmarks(&mut criterion, &data, budget, &offsets);
    criterion.final_summary();
    if measuring() {
        let mut report = Report::new("pressure");
        let alone = one_thread(&data, budget, &offsets, rounds, &mut report);
        two_threads(&data, budget, &offsets, rounds, &mut report);
        report.print();
        let peak = alone.peak_mapped_bytes;
        assert!(peak <= budget, "{peak} bytes were mapped under a budget of {budget}: {alone:?}");
    }
}

/// Where to read, `count` times.
fn offsets(len: u64, count: usize) -> Vec<u64> {
    let mut rng = Rng::new(1);
    let mut windows: Vec<u64> = (0..len / WINDOW).collect();
    rng.shuffle(&mut windows);
    let zipf = Zipf::new(windows.len(), EXPONENT);
    let mut offset = || windows[zipf.sample(&mut rng)] * WINDOW + rng.below(WINDOW - RECORD as u64 + 1);
    (0..count).map(|_| offset()).collect()
}

/// The readers, each new: what one race taught them is not known in the next.
struct Readers {
    manager: MapManager,
    file: MappedFile,
    plain: File,
    cache: Cache,
}

impl Readers {
    fn new(data: &Data, budget: u64) -> Readers {
        let manager = build(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(budget));
        assert_eq!(manager.window_bytes(), Some(WINDOW), "the windows are not those of the other readers");
        let file = manager.open(data.path()).expect("the data opens");
        let items = usize::try_from(budget / WINDOW).expect("a small number");
        Readers { manager, file, plain: data.open(), cache: Cache::new(items) }
    }

    fn smmap(&self, offsets: &[u64]) -> u64 {
        sum_records(offsets, |record, offset| {
            let read = self.file.read_at(record, offset).expect("bytes of the data");
            assert_eq!(read, RECORD, "a record within the data came short");
        })
    }

    fn pread(&self, offsets: &[u64]) -> u64 {
        sum_records(offsets, |record, offset| {
            read_exact_at(&self.plain, record, offset).expect("bytes of the data");
        })
    }

    fn quick_cache(&self, offsets: &[u64]) -> u64 {
        sum_records(offsets, |record, offset| {
            let (index, within) = (offset / WINDOW, (offset % WINDOW) as usize);
            let mapped = self.cache.get(&index).unwrap_or_else(|| {
                let mapped = Arc::new(map(&self.plain, index * WINDOW, WINDOW));
                self.cache.insert(index, Arc::clone(&mapped));
                mapped
            });
            record.copy_from_slice(&mapped[within..within + RECORD]);
        })
    }

    fn tasks() -> [(&'static str, Task); 3] {
        [("smmap", Self::smmap), ("pread", Self::pread), ("quick_cache", Self::quick_cache)]
    }
}

#[inline]
fn sum_records(offsets: &[u64], read: impl Fn(&mut [u8; RECORD], u64)) -> u64 {
    let mut record = [0; RECORD];
    offsets.iter().fold(0_u64, |sum, &offset| {
        read(&mut record, offset);
        let (word, _) = black_box(&record).split_first_chunk().expect("a record is longer than a word");
        sum.wrapping_add(u64::from_le_bytes(*word))
    })
}

fn benchmarks(criterion: &mut Criterion, data: &Data, budget: u64, offsets: &[u64]) {
    let readers = Readers::new(data, budget);
    let mut group = criterion.benchmark_group("pressure");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, task) in Readers::tasks() {
        group.bench_function(name, |b| {
            data.warm();
            let mut batches = offsets.chunks_exact(BATCH).cycle();
            b.iter(|| task(&readers, batches.next().expect("at least one batch")));
        });
    }
    group.finish();
}

/// The offsets of a round.
fn lap(offsets: &[u64], round: usize) -> &[u64] {
    &offsets[round * LAP..(round + 1) * LAP]
}

fn one_thread(data: &Data, budget: u64, offsets: &[u64], rounds: usize, report: &mut Report) -> Stats {
    let readers = &Readers::new(data, budget);
    // What the readers saw in the round's first lap: the others must see the same.
    let seen = Cell::new((usize::MAX, 0));
    let race = Readers::tasks().into_iter().fold(Race::new("1 thread", data), |race, (name, task)| {
        let seen = &seen;
        race.variant(name, LAP as u64, move |round| {
            let mut sum = 0;
            let lap = timed(|| sum = task(readers, lap(offsets, round)));
            if seen.get().0 == round {
                assert_eq!(sum, seen.get().1, "{name} read other bytes in round {round}");
            }
            seen.set((round, sum));
            lap
        })
    });
    let outcome = race.run(rounds);
    report.race(&outcome, &[("pread", "smmap", Target::AtLeast(0.9)), ("quick_cache", "smmap", Target::AtLeast(2.0))]);
    let stats = readers.manager.stats();
    report.note(line(&stats, budget));
    stats
}

/// Half of each lap for each thread, from the same readers.
fn two_threads(data: &Data, budget: u64, offsets: &[u64], rounds: usize, report: &mut Report) {
    let readers = &Readers::new(data, budget);
    let race =
        Readers::tasks().into_iter().fold(Race::new("2 threads, half of the reads each", data), |race, variant| {
            let (name, task) = variant;
            race.variant(name, LAP as u64, move |round| together(lap(offsets, round), |half| task(readers, half)))
        });
    let outcome = race.run(rounds);
    report.race(&outcome, &[("pread", "smmap", Target::Told), ("quick_cache", "smmap", Target::Told)]);
    report.note(line(&readers.manager.stats(), budget));
}

fn together(offsets: &[u64], task: impl Fn(&[u64]) -> u64 + Sync) -> Duration {
    let (first, second) = offsets.split_at(offsets.len() / 2);
    let halves = [first, second];
    let prepare = |thread: usize| {
        black_box(task(&halves[thread][..1]));
    };
    let work = |thread: usize| {
        black_box(task(halves[thread]));
    };
    timed_together(2, prepare, work)
}

fn line(stats: &Stats, budget: u64) -> String {
    format!(
        "  smmap: {} hits ({:.1} %), {} misses, {} maps, {} copies, {} evictions, {} overcommits, \
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
