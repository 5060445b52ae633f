//! What a scan costs: all words of a warm 1 GiB file are summed, through maps of all kinds and through reads.
//!
//! Targets: smmap at most 1.10 × a map of the whole file (fresh against fresh, warm against kept, and under a budget
//! of 64 MiB against fresh), and at least 1.4 × faster than `BufReader` and `pread`.
//!
//! Warm is not warm: the targets are for a file that was read in by one long read, whose pages lie in large folios.
//! `Data::of_len` sees to it.
//!
//! `cargo bench --bench scan -- ratios` measures the ratios alone: no benchmark has that name.

use std::fs::File;
use std::io::{BufRead, BufReader};

use criterion::{Criterion, SamplingMode, Throughput};
use memmap2::Mmap;
use smmap::{MapManager, MapManagerBuilder, MappedFile};
use support::{
    Data, GIB, KIB, MIB, Race, Report, Target, build, map, measuring, read_exact_at, rounds, size, sum_words, timed,
};

mod support;

const SMALL_BUDGET: u64 = 64 * MIB;

/// Sums all words of the file once.
type Task<S> = fn(&S) -> u64;

fn main() {
    let data = Data::of_len(size(GIB, 64 * MIB));
    let warm = build(defaults());
    assert!(
        warm.limits().max_mapped_bytes >= data.len(),
        "the default budget of {} bytes does not hold the data, so no manager is ever warm",
        warm.limits().max_mapped_bytes
    );
    let tight = build(defaults().max_mapped_bytes(SMALL_BUDGET));
    let plain = data.open();
    let scan = Scan {
        data: &data,
        kept: map(&plain, 0, data.len()),
        plain,
        warm: warm.open(data.path()).expect("the data opens"),
        tight: tight.open(data.path()).expect("the data opens"),
    };

    let mut criterion = support::criterion();
    scan.benchmarks(&mut criterion);
    criterion.final_summary();
    if measuring() {
        scan.ratios();
        assert_eq!(warm.stats().evictions, 0, "the warm manager did not keep its windows");
        let peak = tight.stats().peak_mapped_bytes;
        assert!(peak <= SMALL_BUDGET, "{peak} bytes were mapped under a budget of {SMALL_BUDGET}");
    }
}

/// The managers of this bench: all defaults. Here, because a change of defaults should show.
fn defaults() -> MapManagerBuilder {
    MapManager::builder()
}

struct Scan<'a> {
    data: &'a Data,
    plain: File,
    kept: Mmap,
    warm: MappedFile,
    tight: MappedFile,
}

impl Scan<'_> {
    fn map_fresh(&self) -> u64 {
        sum_words(&map(&self.plain, 0, self.data.len()))
    }

    fn map_kept(&self) -> u64 {
        sum_words(&self.kept)
    }

    /// From the manager's making to its end, as the fresh map is made and unmapped.
    fn windows_fresh(&self) -> u64 {
        let manager = build(defaults());
        windows(&manager.open(self.data.path()).expect("the data opens"))
    }

    fn windows_warm(&self) -> u64 {
        windows(&self.warm)
    }

    fn windows_tight(&self) -> u64 {
        windows(&self.tight)
    }

    fn fill_buf_warm(&self) -> u64 {
        buffered(self.warm.cursor())
    }

    fn buf_reader(&self) -> u64 {
        buffered(BufReader::with_capacity(64 * KIB as usize, self.data.open()))
    }

    fn pread(&self) -> u64 {
        let mut buffer = vec![0; MIB as usize];
        let starts = (0..self.data.len()).step_by(MIB as usize);
        starts.fold(0_u64, |sum, start| {
            read_exact_at(&self.plain, &mut buffer, start).expect("bytes of the data");
            sum.wrapping_add(sum_words(&buffer))
        })
    }

    fn tasks() -> [(&'static str, Task<Self>); 8] {
        [
            ("map, fresh", Self::map_fresh),
            ("map, kept", Self::map_kept),
            ("windows, fresh", Self::windows_fresh),
            ("windows, warm", Self::windows_warm),
            ("windows, 64 MiB", Self::windows_tight),
            ("fill_buf, warm", Self::fill_buf_warm),
            ("BufReader 64 KiB", Self::buf_reader),
            ("pread 1 MiB", Self::pread),
        ]
    }

    fn benchmarks(&self, criterion: &mut Criterion) {
        let expected = self.data.sum();
        let mut group = criterion.benchmark_group("scan");
        group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Bytes(self.data.len()));
        for (name, task) in Self::tasks() {
            group.bench_function(name, |b| {
                self.data.warm();
                b.iter(|| assert_eq!(task(self), expected, "{name} summed other bytes"));
            });
        }
        group.finish();
    }

    fn ratios(&self) {
        let expected = self.data.sum();
        let race = Self::tasks().into_iter().fold(Race::new("1 GiB of words", self.data), |race, (name, task)| {
            let scan = move || assert_eq!(task(self), expected, "{name} summed other bytes");
            race.variant(name, 1, move |_| timed(scan))
        });
        let outcome = race.run(rounds());
        let mut report = Report::new("scan");
        report.race(
            &outcome,
            &[
                ("windows, fresh", "map, fresh", Target::AtMost(1.10)),
                ("windows, warm", "map, kept", Target::AtMost(1.10)),
                ("windows, 64 MiB", "map, fresh", Target::AtMost(1.10)),
                ("fill_buf, warm", "map, kept", Target::Told),
                ("BufReader 64 KiB", "windows, fresh", Target::AtLeast(1.4)),
                ("pread 1 MiB", "windows, fresh", Target::AtLeast(1.4)),
                ("BufReader 64 KiB", "windows, 64 MiB", Target::Told),
                ("pread 1 MiB", "windows, 64 MiB", Target::Told),
            ],
        );
        report.print();
    }
}

fn windows(file: &MappedFile) -> u64 {
    file.windows().fold(0_u64, |sum, lease| sum.wrapping_add(sum_words(&lease.expect("a window of the data"))))
}

fn buffered(mut reader: impl BufRead) -> u64 {
    let mut sum = 0_u64;
    loop {
        let bytes = reader.fill_buf().expect("bytes of the data");
        if bytes.is_empty() {
            return sum;
        }
        sum = sum.wrapping_add(sum_words(bytes));
        let consumed = bytes.len();
        reader.consume(consumed);
    }
}
