//! Requests: each opens a file by its path, reads one record of it, and closes it, as a server of static files does.
//!
//! The plain way is `open`, `pread` and `close`. A cache of maps by path is quicker, but does not notice that a file was
//! replaced: it only shows how much the look at the file costs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::Mmap;
use smmap::{MapManager, Window};

use crate::Run;
use crate::report::{Chapter, Finding, Times};
use crate::support::{
    KIB, MIB, Outcome, Race, Rng, Target, Zipf, build, directory, map, read_exact_at, sum_words, timed, word,
};

/// The number of files. Requests follow Zipf's law (0.99).
const FILES: u64 = 256;
/// The length of a file, and of its only window.
const LEN: u64 = 64 * KIB;
/// The number of different laps. The rounds use them by turns.
const LAPS: usize = 8;

struct Row {
    name: &'static str,
    /// The bytes of a record.
    record: u64,
    /// The part of the files that the budget holds, in percent.
    percent: u64,
    /// The target of the hit ratio.
    hits: Target,
}

const ROWS: [Row; 3] = [
    Row { name: "requests/4 KiB, all files fit the budget", record: 4 * KIB, percent: 100, hits: Target::AtLeast(0.9) },
    Row {
        name: "requests/64 KiB, all files fit the budget",
        record: 64 * KIB,
        percent: 100,
        hits: Target::AtLeast(0.9),
    },
    Row { name: "requests/4 KiB, a quarter of the files fits", record: 4 * KIB, percent: 25, hits: Target::None },
];

impl Row {
    /// Returns the name without its chapter.
    fn title(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(_, title)| title)
    }
}

pub(crate) fn run(run: &Run) -> Option<Chapter> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| run.wants(row.name)).collect();
    if rows.is_empty() {
        return None;
    }
    let paths = write_files();
    let mut chapter = Chapter::new("Requests: a file is opened for each read");
    chapter.note(format!(
        "{FILES} files of {} KiB, in the page cache. A request opens one of them by its path, reads a record at a random \
         place of it, and closes the file. Results are the throughput of smmap (`open`, then `lease`) relative to that of \
         `open`, `pread` and `close`. The cache of maps (quick_cache) keeps a map by path, and does not look at the file \
         again.",
        LEN >> 10
    ));
    let mut work = Times::new(
        "The work of smmap, over all requests",
        ["requests", "hit ratio", "maps", "copies", "evictions", "open files at the end"].map(str::to_owned),
    );
    let mut outcomes = Vec::new();
    for row in rows {
        let title = row.title();
        let (outcome, hit_ratio) = race(run, row, &paths, &mut work);
        // A smoke run is too short for the policy to learn.
        let target = if run.quick { Target::None } else { row.hits };
        chapter.finding(Finding::new(title, "hit ratio", hit_ratio, target));
        let by_round = |name: &str| outcome.ratio(name, "smmap").by_round;
        chapter.finding(Finding::new(title, "× open and pread", by_round("open and pread"), Target::None));
        chapter.finding(Finding::new(title, "× cache of maps by path", by_round("cache of maps"), Target::None));
        outcomes.push((title, outcome));
    }
    let races: Vec<_> = outcomes.iter().map(|(name, outcome)| ((*name).to_owned(), outcome)).collect();
    chapter.times(Times::of_races("Time of a request (× smmap)", &races, "smmap"));
    chapter.times(work);
    Some(chapter)
}

/// Writes the files, unless they are there, and reads them into the page cache.
fn write_files() -> Vec<PathBuf> {
    let directory = directory().join("smmap-contest-requests");
    fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("cannot create {}: {error}", directory.display()));
    let path = |file: u64| {
        let path = directory.join(format!("{file}"));
        let words = (0..LEN / 8).map(|index| word(file * LEN / 8 + index));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        if fs::read(&path).ok().as_ref() != Some(&bytes) {
            fs::write(&path, &bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        }
        path
    };
    (0..FILES).map(path).collect()
}

/// Races the ways to serve the requests. Returns the outcome, and the hit ratio of smmap.
fn race(run: &Run, row: &Row, paths: &[PathBuf], work: &mut Times) -> (Outcome, f64) {
    let count = run.size(5000, 500) as usize;
    let (mut rng, zipf) = (Rng::new(21), Zipf::new(paths.len(), 0.99));
    let mut request = || {
        let offset = rng.below((LEN - row.record) / 8 + 1) * 8;
        (&paths[zipf.sample(&mut rng)], offset)
    };
    let laps: Vec<Vec<(&PathBuf, u64)>> = (0..LAPS).map(|_| (0..count).map(|_| request()).collect()).collect();
    let budget = FILES * LEN * row.percent / 100;
    let builder = MapManager::builder().window(Window::Sliding { bytes: LEN.min(MIB) }).max_mapped_bytes(budget);
    let manager = build(builder);
    let cache = quick_cache::sync::Cache::<PathBuf, Arc<Mmap>>::new((budget / LEN) as usize);
    let mut buffer = vec![0; row.record as usize];
    let sums: Vec<u64> = laps
        .iter()
        .map(|lap| {
            total(lap, &mut |path, offset| {
                read_exact_at(&File::open(path).expect("the file opens"), &mut buffer, offset).expect("a record");
                sum_words(&buffer)
            })
        })
        .collect();
    let timed_lap = |round: usize, name: &str, read: &mut dyn FnMut(&PathBuf, u64) -> u64| {
        let (lap, mut sum) = (round % LAPS, 0);
        let took = timed(|| sum = total(&laps[lap], read));
        assert_eq!(sum, sums[lap], "{name} read other bytes in round {round}");
        took
    };
    let race = Race::over_no_data(row.name)
        .variant("smmap", count as u64, |round| {
            timed_lap(round, "smmap", &mut |path, offset| {
                let file = manager.open(path).expect("the file opens");
                sum_words(&file.lease(offset..offset + row.record).expect("a record"))
            })
        })
        .variant("open and pread", count as u64, |round| {
            timed_lap(round, "pread", &mut |path, offset| {
                read_exact_at(&File::open(path).expect("the file opens"), &mut buffer, offset).expect("a record");
                sum_words(&buffer)
            })
        })
        .variant("cache of maps", count as u64, |round| {
            timed_lap(round, "the cache of maps", &mut |path, offset| {
                let mapped = cache.get(path).unwrap_or_else(|| {
                    let mapped = Arc::new(map(&File::open(path).expect("the file opens"), 0, LEN));
                    cache.insert(path.clone(), Arc::clone(&mapped));
                    mapped
                });
                sum_words(&mapped[offset as usize..][..row.record as usize])
            })
        });
    let outcome = run.race(race, 6);
    let stats = manager.stats();
    assert!(stats.peak_mapped_bytes <= budget, "the budget was exceeded: {stats:?}");
    let requests = (outcome.rounds() + 1) * count;
    let cells = [
        requests.to_string(),
        format!("{:.1} %", 100.0 * stats.hit_ratio()),
        stats.maps.to_string(),
        stats.copies.to_string(),
        stats.evictions.to_string(),
        stats.open_files.to_string(),
    ];
    work.row(row.title(), cells.into());
    (outcome, stats.hit_ratio())
}

/// Returns the sum over all requests of a lap.
fn total(lap: &[(&PathBuf, u64)], read: &mut dyn FnMut(&PathBuf, u64) -> u64) -> u64 {
    lap.iter().fold(0, |sum, &(path, offset)| sum.wrapping_add(read(path, offset)))
}
