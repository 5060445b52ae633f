//! Scans: all of a file, once: warm, cold, under a small budget, and by all cores.
//!
//! A scan of resident data by one thread only needs the processor, so these rows compare processor time: of all
//! threads, in user and kernel mode. A lap takes a tenth of a second, in which other programs run as well. The ratio of
//! two laps by the clock varies by a tenth from run to run; by processor time it varies by a hundredth. The tables also
//! show the times by the clock. Scans by several threads, and cold scans, wait for threads or the disk, so their rows
//! compare times by the clock.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};

use memmap2::Mmap;
use rayon::prelude::*;
use smmap::{MapManager, MapManagerBuilder, MappedFile};

use crate::Run;
use crate::peers::{Grid, PEERS, Read};
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, GIB, KIB, MIB, Outcome, Race, Target, build, map, read_exact_at, sum_words, timed};

const SMALL_BUDGET: u64 = 64 * MIB;

/// Sums all words of the file once.
type Task<S> = fn(&S) -> u64;

pub(crate) fn run(run: &Run) -> Option<Chapter> {
    let wanted = ["scans/warm", "scans/small budget", "scans/all cores", "scans/cold"].map(|row| run.wants(row));
    if !wanted.contains(&true) {
        return None;
    }
    let mut chapter = Chapter::new("Scans");
    let (len, cold) = (run.size(GIB, 128 * MIB), run.size(GIB / 2, 64 * MIB));
    chapter.note(format!(
        "The scan sums all words of a file. Warm scans: {} MiB, read beforehand by one long read. Cold scans: {} MiB, \
         dropped from the page cache before each scan; the contest checks that no page is left. smmap has its \
         defaults. *Fresh* includes the first map and the last unmap. The warm scan and the scan under a small budget \
         are compared by processor time (all threads, user and kernel mode); the tables also show times by the \
         clock.",
        len >> 20,
        cold >> 20
    ));
    let mut races = Vec::new();
    if wanted[..3].contains(&true) {
        let data = Data::of_len(len);
        let warm = Warm::new(&data);
        if wanted[0] {
            races.push(("warm", warm.plain(run, &mut chapter)));
        }
        if wanted[1] {
            races.push(("budget of 64 MiB", warm.small_budget(run, &mut chapter)));
        }
        if wanted[2] {
            races.push(("all cores", warm.all_cores(run, &mut chapter)));
        }
        warm.assert_kept();
    }
    if wanted[3] {
        match cold_scans(run, &Data::of_len(cold), &mut chapter) {
            Some(outcome) => races.push(("cold", outcome)),
            None => chapter.note("SKIPPED: cold scans: the OS cannot be told to drop pages from the page cache."),
        }
    }
    for (title, outcome) in &races {
        let base = outcome.names().next().expect("a race has variants");
        let race = [((*title).to_owned(), outcome)];
        chapter.times(Times::of_races(format!("Time of a scan, {title} (× {base})"), &race, base));
        // The processor time of a cold lap is mostly that of dropping the pages.
        if *title != "cold" {
            chapter.times(Times::of_work(format!("Processor time of a scan, {title} (× {base})"), &race, base));
        }
    }
    Some(chapter)
}

/// Returns the builder of the scans' managers: the defaults, so that a change of defaults shows in the results.
fn defaults() -> MapManagerBuilder {
    MapManager::builder()
}

struct Warm<'a> {
    data: &'a Data,
    file: File,
    kept: Mmap,
    /// The file of a manager that keeps all of it mapped.
    warm: MappedFile,
    manager: MapManager,
    tight: MapManager,
    tight_file: MappedFile,
    /// The length of smmap's windows in bytes.
    window: u64,
}

impl<'a> Warm<'a> {
    fn new(data: &'a Data) -> Warm<'a> {
        let manager = build(defaults());
        assert!(manager.limits().max_mapped_bytes >= data.len(), "the default budget does not hold the data");
        let tight = build(defaults().max_mapped_bytes(SMALL_BUDGET));
        let file = data.open();
        Warm {
            kept: map(&file, 0, data.len()),
            warm: manager.open(data.path()).expect("the data opens"),
            window: manager.window_bytes().expect("the default window is a sliding one"),
            manager,
            tight_file: tight.open(data.path()).expect("the data opens"),
            tight,
            file,
            data,
        }
    }

    fn assert_kept(&self) {
        assert_eq!(self.manager.stats().evictions, 0, "the warm manager did not keep its windows");
        let peak = self.tight.stats().peak_mapped_bytes;
        assert!(peak <= SMALL_BUDGET, "{peak} bytes were mapped under a budget of {SMALL_BUDGET}");
    }

    fn map_fresh(&self) -> u64 {
        sum_words(&map(&self.file, 0, self.data.len()))
    }

    fn map_kept(&self) -> u64 {
        sum_words(&self.kept)
    }

    fn windows_fresh(&self) -> u64 {
        windows(&build(defaults()).open(self.data.path()).expect("the data opens"))
    }

    fn windows_kept(&self) -> u64 {
        windows(&self.warm)
    }

    fn windows_tight(&self) -> u64 {
        windows(&self.tight_file)
    }

    fn cursor_kept(&self) -> u64 {
        buffered(self.warm.cursor())
    }

    fn cursor_tight(&self) -> u64 {
        buffered(self.tight_file.cursor())
    }

    fn buf_reader(&self) -> u64 {
        buffered(BufReader::with_capacity(64 * KIB as usize, self.data.open()))
    }

    fn pread(&self) -> u64 {
        pread(&self.file, self.data.len())
    }

    fn par_windows_fresh(&self) -> u64 {
        par_windows(&build(defaults()).open(self.data.path()).expect("the data opens"))
    }

    fn par_windows_kept(&self) -> u64 {
        par_windows(&self.warm)
    }

    fn par_map_fresh(&self) -> u64 {
        self.par_map(&map(&self.file, 0, self.data.len()))
    }

    fn par_map_kept(&self) -> u64 {
        self.par_map(&self.kept)
    }

    /// Sums slices of a map that are as long as windows.
    fn par_map(&self, map: &Mmap) -> u64 {
        map.par_chunks(self.window as usize).map(sum_words).reduce(|| 0, u64::wrapping_add)
    }

    fn race<'r>(&'r self, title: &'static str, tasks: &[(&'static str, Task<Self>)]) -> Race<'r> {
        tasks.iter().fold(Race::new(title, self.data), |race, &(name, task)| {
            race.variant(name, 1, move |_| {
                timed(|| assert_eq!(task(self), self.data.sum(), "{name} summed other bytes"))
            })
        })
    }

    fn plain(&self, run: &Run, chapter: &mut Chapter) -> Outcome {
        let race = self.race(
            "warm scan",
            &[
                ("map, fresh", Self::map_fresh),
                ("map, kept", Self::map_kept),
                ("smmap windows, fresh", Self::windows_fresh),
                ("smmap windows, kept", Self::windows_kept),
                ("smmap cursor, kept", Self::cursor_kept),
                ("BufReader of 64 KiB", Self::buf_reader),
                ("pread of 1 MiB", Self::pread),
            ],
        );
        let outcome = run.race(race, 25);
        let mut add = |name: &str, base: &str, target, trial| {
            let ratio = outcome.work_ratio(name, base, |_| true);
            chapter.finding(Finding::new("warm scan", format!("{name} / {base}"), ratio, target).trial(trial));
        };
        add("smmap windows, fresh", "map, fresh", Target::AtMost(1.05), "1.02 to 1.1");
        add("smmap windows, kept", "map, kept", Target::AtMost(1.05), "1.0");
        add("smmap cursor, kept", "map, kept", Target::AtMost(1.05), "");
        add("BufReader of 64 KiB", "smmap windows, fresh", Target::AtLeast(1.5), "1.5 to 1.8");
        add("pread of 1 MiB", "smmap windows, fresh", Target::AtLeast(1.5), "1.5 to 1.8");
        outcome
    }

    fn small_budget(&self, run: &Run, chapter: &mut Chapter) -> Outcome {
        let mut race = self.race(
            "scan under a budget of 64 MiB",
            &[
                ("map, fresh", Self::map_fresh),
                ("smmap windows", Self::windows_tight),
                ("smmap cursor", Self::cursor_tight),
                ("BufReader of 64 KiB", Self::buf_reader),
                ("pread of 1 MiB", Self::pread),
            ],
        );
        // In reads of 1 MiB, as a user of such a cache would scan.
        let grid = Grid::new(self.window, self.data.len());
        let capacity = (SMALL_BUDGET / self.window) as usize;
        let pieces: Vec<Read> =
            (0..self.data.len() / MIB).map(|piece| Read { offset: piece * MIB, len: MIB as u32 }).collect();
        for peer in PEERS {
            let (reader, pieces, data) = ((peer.open)(self.data, grid, capacity), pieces.clone(), self.data);
            race = race.variant(peer.name, 1, move |_| {
                timed(|| assert_eq!(reader.session().sum(&pieces), data.sum(), "{} summed other bytes", peer.name))
            });
        }
        let outcome = run.race(race, 45);
        let mut add = |name: &str, base: &str, target| {
            let ratio = outcome.work_ratio(name, base, |_| true);
            chapter.finding(Finding::new("scan under a budget of 64 MiB", format!("{name} / {base}"), ratio, target));
        };
        add("smmap windows", "map, fresh", Target::AtMost(1.05));
        add("smmap cursor", "map, fresh", Target::AtMost(1.05));
        add("BufReader of 64 KiB", "smmap windows", Target::AtLeast(1.5));
        add("pread of 1 MiB", "smmap windows", Target::AtLeast(1.5));
        // The quickest of nine nearly equal results is partly luck. So the even rounds choose the best peer, and the
        // odd rounds give its result.
        let (is_even, is_odd) = (|round: usize| round % 2 == 0, |round: usize| round % 2 == 1);
        let choice = |name: &str| outcome.work_ratio(name, "smmap windows", is_even);
        let best = PEERS.iter().map(|peer| peer.name);
        let best = best.min_by(|a, b| choice(a).total_cmp(&choice(b))).expect("there is at least one peer");
        chapter.finding(Finding::new(
            "scan under a budget of 64 MiB",
            format!("{best} / smmap windows"),
            outcome.work_ratio(best, "smmap windows", is_odd),
            Target::AtLeast(1.0),
        ));
        outcome
    }

    fn all_cores(&self, run: &Run, chapter: &mut Chapter) -> Outcome {
        let race = self.race(
            "scan by all cores",
            &[
                ("slices of a map, fresh", Self::par_map_fresh),
                ("slices of a map, kept", Self::par_map_kept),
                ("smmap par_windows, fresh", Self::par_windows_fresh),
                ("smmap par_windows, kept", Self::par_windows_kept),
            ],
        );
        let outcome = run.race(race, 20);
        for (how, measure) in [("fresh", "throughput: par_windows / slices, fresh"), ("kept", "…, kept")] {
            let ratio =
                outcome.ratio(&format!("slices of a map, {how}"), &format!("smmap par_windows, {how}")).by_round;
            chapter.finding(Finding::new("rayon, all cores", measure, ratio, Target::AtLeast(0.95)));
        }
        outcome
    }
}

/// Runs the cold scans. Returns `None` if the platform cannot drop pages from the page cache.
fn cold_scans(run: &Run, data: &Data, chapter: &mut Chapter) -> Option<Outcome> {
    if !data.chill() {
        return None;
    }
    let tasks: [(&str, Task<Data>); 7] = [
        ("read of 1 MiB", |data| {
            let (mut file, mut buffer, mut sum) = (data.open(), vec![0; MIB as usize], 0_u64);
            loop {
                match file.read(&mut buffer).expect("bytes of the data") {
                    0 => return sum,
                    len => sum = sum.wrapping_add(sum_words(&buffer[..len])),
                }
            }
        }),
        ("pread of 1 MiB", |data| pread(&data.open(), data.len())),
        ("BufReader of 64 KiB", |data| buffered(BufReader::with_capacity(64 * KIB as usize, data.open()))),
        ("map of the whole file", |data| sum_words(&map(&data.open(), 0, data.len()))),
        ("smmap windows", |data| windows(&build(defaults()).open(data.path()).expect("the data opens"))),
        ("smmap cursor", |data| buffered(build(defaults()).open(data.path()).expect("the data opens").cursor())),
        ("smmap par_windows", |data| par_windows(&build(defaults()).open(data.path()).expect("the data opens"))),
    ];
    let race = tasks.into_iter().fold(Race::over_no_data("cold scan"), |race, (name, task)| {
        race.variant(name, 1, move |_| {
            assert!(data.chill(), "the OS no longer drops pages from the page cache");
            timed(|| assert_eq!(task(data), data.sum(), "{name} summed other bytes"))
        })
    });
    let outcome = run.race(race, 60);
    for name in ["smmap windows", "smmap cursor"] {
        let ratio = outcome.ratio(name, "read of 1 MiB").by_round;
        let finding = Finding::new("cold scan", format!("{name} / read of 1 MiB"), ratio, Target::AtMost(1.0));
        chapter.finding(finding);
    }
    Some(outcome)
}

fn windows(file: &MappedFile) -> u64 {
    file.windows().fold(0_u64, |sum, lease| sum.wrapping_add(sum_words(&lease.expect("a window of the data"))))
}

fn par_windows(file: &MappedFile) -> u64 {
    let sums = file.par_windows().map(|lease| sum_words(&lease.expect("a window of the data")));
    sums.reduce(|| 0, u64::wrapping_add)
}

fn pread(file: &File, len: u64) -> u64 {
    let mut buffer = vec![0; MIB as usize];
    (0..len).step_by(MIB as usize).fold(0_u64, |sum, start| {
        read_exact_at(file, &mut buffer, start).expect("bytes of the data");
        sum.wrapping_add(sum_words(&buffer))
    })
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
