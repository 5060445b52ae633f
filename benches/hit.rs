//! Measures the cost of a hit (reading bytes of a window that is already mapped) against plain alternatives.
//!
//! Targets, as ratios of medians:
//!
//! - `Cursor::slice` within its window: at most 1.15 × a slice of a plain map of the whole file.
//! - Taking and dropping a `Lease`: at most 1.0 × getting and dropping an `Arc<Mmap>` of a `quick_cache`, with one
//!   thread and with two threads on one window.
//!
//! `cargo bench --bench hit -- ratios` prints the ratios only. (The argument is a filter that matches no benchmark.)

use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use memmap2::Mmap;
use smmap::{Cursor, MapManager, MappedFile};
use support::{
    Data, MIB, Race, Report, Rng, Target, build, map, measuring, read_exact_at, rounds, timed, timed_together,
};

mod support;

type Cache = quick_cache::sync::Cache<u64, Arc<Mmap>>;

/// The number of windows in the data. All of them are mapped, both in the manager and in the `quick_cache`.
const WINDOWS: u64 = 4;
/// The number of offsets in a pass. They and the bytes at them fit the core's own caches; with more offsets, the wait
/// for memory would hide the cost of the hit.
const OFFSETS: usize = 1024;
/// The length of a small record in bytes.
const RECORD: usize = 64;

fn main() {
    let manager = build(MapManager::builder());
    let window = manager.window_bytes().expect("the default window is a sliding one");
    let data = Data::of_len((WINDOWS * window).next_multiple_of(MIB));
    assert!(
        manager.limits().max_mapped_bytes >= data.len(),
        "the default budget of {} bytes does not hold {WINDOWS} windows, so not every read would be a hit",
        manager.limits().max_mapped_bytes
    );
    let file = manager.open(data.path()).expect("the data opens");
    let subject = Subject::new(&data, file, window);

    let mut criterion = support::criterion();
    subject.benchmarks(&mut criterion);
    criterion.final_summary();
    if measuring() {
        subject.ratios();
        subject.assert_only_hits(&manager);
    }
}

/// The sources of all variants, each mapped and read once before the measurement.
struct Subject<'a> {
    data: &'a Data,
    file: MappedFile,
    plain: File,
    whole: Mmap,
    cache: Cache,
    window_bits: u32,
    /// Offsets of records in window 0.
    near: Vec<u64>,
    /// Offsets of records in all windows. Two consecutive offsets lie in different windows.
    far: Vec<u64>,
}

impl<'a> Subject<'a> {
    fn new(data: &'a Data, file: MappedFile, window: u64) -> Subject<'a> {
        assert!(window.is_power_of_two(), "a window of {window} bytes cannot be found by a shift");
        let plain = data.open();
        let whole = map(&plain, 0, data.len());
        let cache = Cache::new(64);
        for index in 0..WINDOWS {
            cache.insert(index, Arc::new(map(&plain, index * window, window)));
        }
        let mut rng = Rng::new(1);
        let near = (0..OFFSETS).map(|_| rng.below(window - RECORD as u64)).collect();
        let mut index = 0;
        let mut elsewhere = || {
            index = (index + 1 + rng.below(WINDOWS - 1)) % WINDOWS;
            index * window + rng.below(window - RECORD as u64)
        };
        let far = (0..OFFSETS).map(|_| elsewhere()).collect();
        data.warm();
        // `window_at` always maps the window, so every later read is a hit.
        let mut cursor = file.cursor();
        for index in 0..WINDOWS {
            let bytes = cursor.window_at(index * window).expect("a window of the data");
            assert_eq!(bytes.len() as u64, window, "window {index} has another length than the bench expects");
        }
        Subject { data, file, plain, whole, cache, window_bits: window.trailing_zeros(), near, far }
    }

    fn assert_only_hits(&self, manager: &MapManager) {
        let stats = manager.stats();
        assert!(
            stats.evictions == 0 && stats.copies == 0,
            "{WINDOWS} windows fit the budget, but not every read was a hit: {stats:?}"
        );
    }

    // The tasks. Each reads once at every offset, and returns a sum over the bytes.

    fn plain_slice(&self, offsets: &[u64]) -> u64 {
        let whole: &[u8] = black_box(&self.whole);
        offsets.iter().fold(0, |sum, &offset| {
            let offset = offset as usize;
            add(sum, &whole[offset..offset + 8])
        })
    }

    fn cursor_slice(&self, cursor: &mut Cursor, offsets: &[u64]) -> u64 {
        offsets.iter().fold(0, |sum, &offset| add(sum, cursor.slice(offset..offset + 8).expect("bytes of the data")))
    }

    fn lease(&self, offsets: &[u64]) -> u64 {
        offsets.iter().fold(0, |sum, &offset| {
            let lease = self.file.lease(offset..offset + RECORD as u64).expect("bytes of the data");
            sum.wrapping_add(u64::from(lease[0]))
        })
    }

    fn cached(&self, offsets: &[u64]) -> u64 {
        offsets.iter().fold(0, |sum, &offset| {
            // Shift and mask, so that the alternative to smmap does not pay for a division.
            let (index, within) = (offset >> self.window_bits, offset & ((1 << self.window_bits) - 1));
            let mapped = self.cache.get(&index).expect("all windows are in the cache");
            sum.wrapping_add(u64::from(mapped[within as usize]))
        })
    }

    fn read_at(&self, offsets: &[u64]) -> u64 {
        let mut record = [0; RECORD];
        offsets.iter().fold(0, |sum, &offset| {
            let read = self.file.read_at(&mut record, offset).expect("bytes of the data");
            assert_eq!(read, RECORD, "`read_at` returned fewer bytes than a record within the data has");
            add(sum, &black_box(&record)[..8])
        })
    }

    fn pread(&self, offsets: &[u64]) -> u64 {
        let mut record = [0; RECORD];
        offsets.iter().fold(0, |sum, &offset| {
            read_exact_at(&self.plain, &mut record, offset).expect("bytes of the data");
            add(sum, &black_box(&record)[..8])
        })
    }

    fn benchmarks(&self, criterion: &mut Criterion) {
        let (near, far) = (&self.near[..], &self.far[..]);

        self.data.warm();
        let mut group = criterion.benchmark_group("hit/within");
        group.throughput(Throughput::Elements(OFFSETS as u64));
        group.bench_function("slice", |b| b.iter(|| self.plain_slice(near)));
        let mut cursor = self.file.cursor();
        group.bench_function("cursor", |b| b.iter(|| self.cursor_slice(&mut cursor, near)));
        group.finish();

        self.data.warm();
        let mut group = criterion.benchmark_group("hit/change");
        group.throughput(Throughput::Elements(OFFSETS as u64));
        group.bench_function("slice", |b| b.iter(|| self.plain_slice(far)));
        group.bench_function("cursor", |b| b.iter(|| self.cursor_slice(&mut cursor, far)));
        group.finish();

        self.data.warm();
        let mut group = criterion.benchmark_group("hit/owned");
        group.throughput(Throughput::Elements(OFFSETS as u64));
        group.bench_function("lease", |b| b.iter(|| self.lease(near)));
        group.bench_function("quick_cache", |b| b.iter(|| self.cached(near)));
        group.finish();

        self.data.warm();
        let mut group = criterion.benchmark_group("hit/copied");
        group.throughput(Throughput::Elements(OFFSETS as u64));
        group.bench_function("read_at", |b| b.iter(|| self.read_at(near)));
        group.bench_function("pread", |b| b.iter(|| self.pread(near)));
        group.finish();
    }

    fn ratios(&self) {
        let rounds = rounds();
        let (near, far) = (&self.near[..], &self.far[..]);
        let mut report = Report::new("hit");

        let mut cursor = self.file.cursor();
        let outcome = Race::new("8 bytes within the window", self.data)
            .variant("slice", reads(4000), |_| repeat(4000, || self.plain_slice(near)))
            .variant("cursor", reads(4000), |_| repeat(4000, || self.cursor_slice(&mut cursor, near)))
            .run(rounds);
        report.race(&outcome, &[("cursor", "slice", Target::AtMost(1.15))]);

        let outcome = Race::new("take and drop, 1 byte read", self.data)
            .variant("lease", reads(1000), |_| repeat(1000, || self.lease(near)))
            .variant("quick_cache", reads(1000), |_| repeat(1000, || self.cached(near)))
            .run(rounds);
        report.race(&outcome, &[("lease", "quick_cache", Target::AtMost(1.0))]);

        let outcome = Race::new("take and drop, 2 threads on one window", self.data)
            .variant("lease", reads(1000), |_| repeat_together(1000, || self.lease(near)))
            .variant("quick_cache", reads(1000), |_| repeat_together(1000, || self.cached(near)))
            .run(rounds);
        report.race(&outcome, &[("lease", "quick_cache", Target::AtMost(1.0))]);

        let outcome = Race::new("8 bytes, another window each time", self.data)
            .variant("slice", reads(100), |_| repeat(100, || self.plain_slice(far)))
            .variant("cursor", reads(100), |_| repeat(100, || self.cursor_slice(&mut cursor, far)))
            .variant("quick_cache", reads(100), |_| repeat(100, || self.cached(far)))
            .run(rounds);
        report.race(&outcome, &[("cursor", "slice", Target::None), ("cursor", "quick_cache", Target::None)]);

        let outcome = Race::new("64 bytes copied", self.data)
            .variant("read_at", reads(200), |_| repeat(200, || self.read_at(near)))
            .variant("pread", reads(200), |_| repeat(200, || self.pread(near)))
            .run(rounds);
        report.race(&outcome, &[("read_at", "pread", Target::None)]);

        report.print();
    }
}

#[inline]
fn add(sum: u64, word: &[u8]) -> u64 {
    sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("8 bytes")))
}

/// Returns the number of reads in a lap of `passes` passes. Each pass reads once at every offset.
fn reads(passes: u64) -> u64 {
    passes * OFFSETS as u64
}

fn repeat(passes: u64, mut pass: impl FnMut() -> u64) -> Duration {
    timed(|| {
        for _ in 0..passes {
            black_box(pass());
        }
    })
}

/// Runs `passes` passes in each of two threads. The lap ends when both are done, so it gives the time per read of *one*
/// thread.
fn repeat_together(passes: u64, pass: impl Fn() -> u64 + Sync) -> Duration {
    let prepare = |_| {
        black_box(pass());
    };
    let work = |_| {
        for _ in 0..passes {
            black_box(pass());
        }
    };
    timed_together(2, prepare, work)
}
