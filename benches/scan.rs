//! Measures a scan: the sum of all words of a file of 1 GiB, through maps of several kinds and through reads.
//!
//! - *Warm.* Targets: smmap takes at most 1.05 × the time of a map of the whole file (fresh against fresh, warm against
//!   kept, and under a budget of 64 MiB against fresh). `BufReader` and `pread` take at least 1.5 × the time of smmap,
//!   also under that budget. The targets hold for a page cache that was filled by one long read, whose pages lie in
//!   large folios; `Data::of_len` fills it so.
//! - *Cold*, 256 MiB. No page of the file is in the page cache; the bench checks that before each lap. Target: smmap is
//!   no slower than `read`.
//! - *All cores* (feature `rayon`). Target: `par_windows` is at least 0.95 × as fast as rayon over slices of a whole
//!   map.
//! - *Small reads beside a scan.* Small reads of eight hot windows, between the windows of a scan, under a budget of
//!   sixteen windows. Target: at most 1.10 × the time of the same reads under a budget that holds all windows.
//!
//! `cargo bench --bench scan -- ratios` prints the ratios only. (The argument is a filter that matches no benchmark.)

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read as _};
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use memmap2::Mmap;
use smmap::{MapManager, MapManagerBuilder, MappedFile, Window};
use support::{
    Data, GIB, KIB, MIB, Race, Report, Rng, Target, build, map, measuring, read_exact_at, rounds, size, sum_words,
    timed,
};

mod support;

const SMALL_BUDGET: u64 = 64 * MIB;
/// The default window size on 64-bit targets.
const WINDOW: u64 = 16 * MIB;
/// The length of the data of the cold scans. The disk determines the duration of a lap, so the file is smaller.
const COLD: u64 = 256 * MIB;
/// The number of reads of hot windows after each window of the scan.
const HOT_READS: usize = 256;
const RECORD: usize = 64;

/// Sums all words of the file once.
type Task<S> = fn(&S) -> u64;

fn main() {
    let mut report = Report::new("scan");
    if measuring() {
        cold(&Data::of_len(COLD), &mut report);
    }
    let data = Data::of_len(size(GIB, 64 * MIB));
    let warm = build(defaults());
    assert!(
        warm.limits().max_mapped_bytes >= data.len(),
        "the default budget of {} bytes does not hold the data, so the warm manager would evict",
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
        scan.ratios(&mut report);
        scan.all_cores(&mut report);
        beside(&data, &mut report);
        report.print();
        assert_eq!(warm.stats().evictions, 0, "the warm manager did not keep its windows");
        let peak = tight.stats().peak_mapped_bytes;
        assert!(peak <= SMALL_BUDGET, "{peak} bytes were mapped under a budget of {SMALL_BUDGET}");
    }
}

/// Returns the builder of this bench's managers: the defaults, so that a change of defaults shows in the ratios.
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

    /// Builds and drops the manager within the lap, as `map_fresh` maps and unmaps within the lap.
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

    fn ratios(&self, report: &mut Report) {
        let expected = self.data.sum();
        let race = Self::tasks().into_iter().fold(Race::new("1 GiB of words", self.data), |race, (name, task)| {
            let scan = move || assert_eq!(task(self), expected, "{name} summed other bytes");
            race.variant(name, 1, move |_| timed(scan))
        });
        let outcome = race.run(rounds());
        report.race(
            &outcome,
            &[
                ("windows, fresh", "map, fresh", Target::AtMost(1.05)),
                ("windows, warm", "map, kept", Target::AtMost(1.05)),
                ("windows, 64 MiB", "map, fresh", Target::AtMost(1.05)),
                ("fill_buf, warm", "map, kept", Target::AtMost(1.05)),
                ("BufReader 64 KiB", "windows, fresh", Target::AtLeast(1.5)),
                ("pread 1 MiB", "windows, fresh", Target::AtLeast(1.5)),
                ("BufReader 64 KiB", "windows, 64 MiB", Target::AtLeast(1.5)),
                ("pread 1 MiB", "windows, 64 MiB", Target::AtLeast(1.5)),
            ],
        );
    }

    #[cfg(not(feature = "rayon"))]
    fn all_cores(&self, report: &mut Report) {
        report.note("SKIPPED: par_windows needs --features rayon".to_owned());
    }

    #[cfg(feature = "rayon")]
    fn all_cores(&self, report: &mut Report) {
        use rayon::prelude::*;

        fn windows(file: &MappedFile) -> u64 {
            file.par_windows()
                .map(|lease| sum_words(&lease.expect("a window of the data")))
                .reduce(|| 0, u64::wrapping_add)
        }
        let chunk = usize::try_from(WINDOW).expect("a window fits the address space");
        let slices = |map: &Mmap| map.par_chunks(chunk).map(sum_words).reduce(|| 0, u64::wrapping_add);
        let map_fresh = || slices(&map(&self.plain, 0, self.data.len()));
        let map_kept = || slices(&self.kept);
        let windows_fresh = || windows(&build(defaults()).open(self.data.path()).expect("the data opens"));
        let (windows_warm, windows_tight) = (|| windows(&self.warm), || windows(&self.tight));
        let tasks: [(&str, &dyn Fn() -> u64); 5] = [
            ("slices of a map, fresh", &map_fresh),
            ("slices of a map, kept", &map_kept),
            ("par_windows, fresh", &windows_fresh),
            ("par_windows, warm", &windows_warm),
            ("par_windows, 64 MiB", &windows_tight),
        ];
        let expected = self.data.sum();
        let race = tasks.into_iter().fold(Race::new("all cores", self.data), |race, (name, task)| {
            race.variant(name, 1, move |_| timed(|| assert_eq!(task(), expected, "{name} summed other bytes")))
        });
        report.race(
            &race.run(rounds()),
            &[
                ("slices of a map, fresh", "par_windows, fresh", Target::AtLeast(0.95)),
                ("slices of a map, kept", "par_windows, warm", Target::AtLeast(0.95)),
                ("slices of a map, fresh", "par_windows, 64 MiB", Target::AtLeast(0.95)),
            ],
        );
    }
}

/// Scans the data with an empty page cache at the start of each lap.
fn cold(data: &Data, report: &mut Report) {
    if !data.chill() {
        report.note("SKIPPED: cold scans: the OS cannot be told to drop the data from the page cache".to_owned());
        return;
    }
    let read = || {
        let (mut file, mut buffer, mut sum) = (data.open(), vec![0; MIB as usize], 0_u64);
        for _ in 0..data.len() / MIB {
            file.read_exact(&mut buffer).expect("bytes of the data");
            sum = sum.wrapping_add(sum_words(&buffer));
        }
        sum
    };
    let open = |builder| build(builder).open(data.path()).expect("the data opens");
    let map_cold = || sum_words(&map(&data.open(), 0, data.len()));
    let windows_cold = || windows(&open(defaults()));
    let windows_tight = || windows(&open(defaults().max_mapped_bytes(SMALL_BUDGET)));
    let fill_buf = || buffered(open(defaults()).cursor());
    let tasks: [(&str, &dyn Fn() -> u64); 5] = [
        ("read 1 MiB", &read),
        ("map", &map_cold),
        ("windows", &windows_cold),
        ("windows, 64 MiB", &windows_tight),
        ("fill_buf", &fill_buf),
    ];
    let expected = data.sum();
    let race = tasks.into_iter().fold(Race::new("cold", data), |race, (name, task)| {
        race.variant(name, 1, move |_| {
            assert!(data.chill(), "pages of the data stay in the page cache");
            timed(|| assert_eq!(task(), expected, "{name} summed other bytes"))
        })
    });
    report.race(
        &race.run(rounds()),
        &[
            ("windows", "read 1 MiB", Target::AtMost(1.0)),
            ("windows, 64 MiB", "read 1 MiB", Target::AtMost(1.0)),
            ("fill_buf", "read 1 MiB", Target::AtMost(1.0)),
            ("map", "read 1 MiB", Target::None),
        ],
    );
}

/// Reads a few hot windows between the windows of a scan over the others.
fn beside(data: &Data, report: &mut Report) {
    let open = |windows: u64| {
        let manager = build(defaults().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(windows * WINDOW));
        manager.open(data.path()).expect("the data opens")
    };
    let (count, hot) = (data.len() / WINDOW, 8);
    assert!(count > 2 * 16, "a scan of {count} windows is too short for a budget of 16");
    let files = [open(count + count / 8), open(16)];
    let mut rng = Rng::new(1);
    let offsets: Vec<u64> = (0..HOT_READS).map(|_| rng.below(hot * WINDOW - RECORD as u64)).collect();
    let read_hot = |file: &MappedFile| {
        let mut record = [0; RECORD];
        for &offset in &offsets {
            file.read_exact_at(black_box(&mut record), offset).expect("bytes of the data");
        }
    };
    for file in &files {
        (0..4).for_each(|_| read_hot(file));
    }
    let lap = |file: &MappedFile| {
        let mut time = Duration::ZERO;
        for lease in file.windows().skip(usize::try_from(hot).expect("the number of windows fits usize")) {
            black_box(sum_words(&lease.expect("a window of the data")));
            time += timed(|| read_hot(file));
        }
        time
    };
    let operations = (count - hot) * HOT_READS as u64;
    let (all, tight) = (files[0].clone(), files[1].clone());
    let race = Race::new("small reads of 8 hot windows beside a scan", data)
        .variant("the budget holds all", operations, move |_| lap(&all))
        .variant("the budget holds 16 windows", operations, move |_| lap(&tight));
    let outcome = race.run(rounds());
    report.race(&outcome, &[("the budget holds 16 windows", "the budget holds all", Target::AtMost(1.10))]);
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
