//! Everything mapped: what stands between a reader and its bytes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::peers::plain::{Pread, Raw};
use crate::peers::smmap::{Leases, Smmap};
use crate::peers::{Grid, PEERS, Reader, Session};
use crate::plots::{self, Series};
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, GIB, Outcome, Race, Rng, Target, time, timed, timed_together};
use crate::{Run, WINDOW};

/// Windows of the rows with hot data.
const HOT: u64 = 16;
/// Their offsets: few enough that they and the bytes at them stay in the core's own caches, or the wait for memory would
/// hide what is measured.
const OFFSETS: usize = 1024;
/// How long a lap should take.
const LAP: Duration = Duration::from_millis(10);

pub(crate) fn run(run: &Run, data: &Data) -> Option<Chapter> {
    let rows = ["hits/within", "hits/change", "hits/threads", "hits/lease", "hits/uniform"];
    let wanted = rows.map(|row| run.wants(row));
    if !wanted.contains(&true) {
        return None;
    }
    let mut chapter = Chapter::new("Hits: everything mapped");
    chapter.note(format!(
        "Reads of 8 bytes, all windows mapped and touched before. Windows of {} MiB. Hot data: {OFFSETS} words in {HOT} \
         windows (one window in the first row), which stay in the core's own caches; no two reads in a row are in one \
         window. Time of one read, and of one thread's read where there are more.",
        WINDOW >> 20
    ));
    let field = Field::new(data);
    let mut races = Vec::new();
    if wanted[0] {
        races.push(("inside the window", field.within(run, &mut chapter)));
    }
    if wanted[1] {
        races.push(("change of window", field.change(run, &mut chapter)));
    }
    if wanted[3] {
        races.push(("owned, in one window", field.lease(run, &mut chapter)));
    }
    if wanted[4] {
        races.push(("uniform over 1 GiB", field.uniform(run, &mut chapter)));
    }
    let races: Vec<_> = races.iter().map(|(title, outcome)| ((*title).to_owned(), outcome)).collect();
    if !races.is_empty() {
        chapter.times(Times::of_races("Time of a read (× raw)", &races, "raw"));
    }
    if wanted[2] {
        field.threads(run, &mut chapter);
    }
    field.assert_only_hits();
    Some(chapter)
}

/// Offsets of words in the first `windows` windows, no two in a row in the same one (if there are more than one).
pub(crate) fn offsets(windows: u64, count: usize) -> Vec<u64> {
    let (mut rng, mut window) = (Rng::new(1), 0);
    let mut elsewhere = || {
        if windows > 1 {
            window = (window + 1 + rng.below(windows - 1)) % windows;
        }
        window * WINDOW + rng.below(WINDOW / 8) * 8
    };
    (0..count).map(|_| elsewhere()).collect()
}

/// All readers, with everything that is read here mapped and touched.
struct Field<'a> {
    data: &'a Data,
    /// What the uniform reads are in; at least all that is hot.
    len: u64,
    raw: Raw,
    smmap: Smmap,
    pread: Pread,
    peers: Vec<(&'static str, Box<dyn Reader>)>,
}

impl<'a> Field<'a> {
    fn new(data: &'a Data) -> Field<'a> {
        let grid = Grid::new(WINDOW, data.len());
        // Room for more than is mapped: a cache in shards evicts before it is full.
        let (capacity, len) = (2 * grid.count() as usize, data.len().min(GIB));
        let peers = PEERS.iter().map(|peer| (peer.name, (peer.open)(data, grid, capacity))).collect();
        let smmap = Smmap::new(data, grid, capacity);
        let field = Field { data, len, raw: Raw::new(data, grid), smmap, pread: Pread::new(data), peers };
        data.warm();
        let touched: Vec<u64> = (0..len / 4096).map(|page| page * 4096).collect();
        let expected = field.raw.session().peek(&touched);
        let touch = |name: &str, mut session: Box<dyn Session + '_>| {
            assert_eq!(session.peek(&touched), expected, "{name} read other bytes");
        };
        touch("smmap", field.smmap.mapping_session());
        for (name, reader) in &field.peers {
            touch(name, reader.session());
        }
        field
    }

    /// All of them, the limit first.
    fn readers(&self) -> Vec<(&'static str, &dyn Reader)> {
        let mut readers: Vec<(_, &dyn Reader)> = vec![("raw", &self.raw), ("smmap", &self.smmap)];
        readers.extend(self.peers.iter().map(|(name, reader)| (*name, &**reader)));
        readers.push(("pread", &self.pread));
        readers
    }

    /// Asserts that what was told of hits was of hits.
    fn assert_only_hits(&self) {
        let windows = (self.len / WINDOW) as usize;
        for (name, reader) in self.readers() {
            if let Some(mappings) = reader.windows() {
                assert_eq!(
                    mappings.made, windows,
                    "{name} mapped {windows} windows with ample room, and not once each"
                );
            }
        }
        let stats = self.smmap.assert_within_budget();
        assert!(stats.evictions == 0 && stats.copies == 0, "an ample budget, and still not only hits: {stats:?}");
    }

    fn race<'r>(
        &'r self,
        title: &'static str,
        readers: Vec<(&'static str, &'r dyn Reader)>,
        offsets: &'r [u64],
    ) -> Race<'r> {
        let expected = self.raw.session().peek(offsets);
        readers.into_iter().fold(Race::new(title, self.data), |race, (name, reader)| {
            let mut session = reader.session();
            let passes = passes(&mut *session, offsets);
            race.variant(name, passes * offsets.len() as u64, move |_| {
                lap(name, &mut *session, offsets, passes, expected)
            })
        })
    }

    fn within(&self, run: &Run, chapter: &mut Chapter) -> Outcome {
        let offsets = offsets(1, OFFSETS);
        let outcome = run.race(self.race("hit inside the window", self.readers(), &offsets), 8);
        let row = "hit inside the cursor's window";
        against(chapter, &outcome, row, Target::AtMost(1.1), "1.04 to 1.12");
        outcome
    }

    fn change(&self, run: &Run, chapter: &mut Chapter) -> Outcome {
        let offsets = offsets(HOT, OFFSETS);
        let outcome = run.race(self.race("change of window, hot data", self.readers(), &offsets), 8);
        against(chapter, &outcome, "change of window, hot data", Target::AtMost(1.35), "1.28");
        outcome
    }

    fn lease(&self, run: &Run, chapter: &mut Chapter) -> Outcome {
        let leases = Leases(&self.smmap);
        let mut readers = self.readers();
        readers[1].1 = &leases;
        let offsets = offsets(1, OFFSETS);
        let outcome = run.race(self.race("lease take and drop", readers, &offsets), 8);
        let row = "lease: take and drop";
        let ratio = outcome.ratio("smmap", "quick_cache").by_round;
        let finding = Finding::new(row, "smmap / a get of quick_cache", ratio, Target::AtMost(0.6));
        chapter.finding(finding.trial("0.45 to 0.8"));
        let (name, ratio) = best_peer(&outcome);
        chapter.finding(Finding::new(row, format!("best peer ({name}) / smmap"), ratio, Target::Told));
        outcome
    }

    fn uniform(&self, run: &Run, chapter: &mut Chapter) -> Outcome {
        let mut rng = Rng::new(2);
        // Other ones in each round, and so many that the caches of the core hold none from the round before.
        let offsets: Vec<u64> = (0..1 << 20).map(|_| rng.below(self.len / 8) * 8).collect();
        let rounds: Vec<&[u64]> = offsets.chunks_exact(1 << 16).collect();
        let mut raw = self.raw.session();
        let expected: Vec<u64> = rounds.iter().map(|offsets| raw.peek(offsets)).collect();
        let (rounds, expected) = (&rounds, &expected);
        let race =
            self.readers().into_iter().fold(Race::new("uniform over 1 GiB", self.data), |race, (name, reader)| {
                let mut session = reader.session();
                race.variant(name, 1 << 16, move |round| {
                    let round = round % rounds.len();
                    lap(name, &mut *session, rounds[round], 1, expected[round])
                })
            });
        let outcome = run.race(race, 12);
        against(chapter, &outcome, "uniform over 1 GiB, all mapped", Target::AtMost(1.25), "1.2");
        outcome
    }

    /// One thread and more, all of them on the same windows.
    fn threads(&self, run: &Run, chapter: &mut Chapter) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = (2 * cores).clamp(4, 16);
        let counts: Vec<usize> = (0..).map(|power| 1 << power).take_while(|&threads| threads <= most).collect();
        let offsets = &offsets(HOT, OFFSETS)[..];
        let expected = self.raw.session().peek(offsets);
        let mut race = Race::new("threads on the same windows, hot data", self.data);
        let mut names = Vec::new();
        for (name, reader) in self.readers() {
            // The more of them, the dearer a read, and the longer a lap: so a shorter one.
            let passes = passes(&mut *reader.session(), offsets).div_ceil(4);
            let mut variants = Vec::new();
            for &threads in &counts {
                let variant: &'static str = format!("{name} @{threads}").leak();
                variants.push(variant);
                race = race.variant(variant, passes * offsets.len() as u64, move |_| {
                    let pass = |passes| lap(name, &mut *reader.session(), offsets, passes, expected);
                    let work = |_| {
                        pass(passes);
                    };
                    let prepare = |_| {
                        pass(1);
                    };
                    timed_together(threads, prepare, work)
                });
            }
            names.push((name, variants));
        }
        let outcome = run.race(race, 20);
        let mut times = Times::new(
            "Threads on the same windows: time of a thread's read",
            counts.iter().map(|threads| format!("{threads}")).chain(["2, together / alone".to_owned()]),
        );
        let mut series = Vec::new();
        for (name, variants) in &names {
            let ratio = outcome.ratio(variants[1], variants[0]).by_round;
            let mut cells: Vec<String> = variants.iter().map(|variant| time(outcome.nanos(variant))).collect();
            cells.push(format!("{ratio:.2}"));
            times.row(*name, cells);
            if *name == "smmap" {
                let row = "change of window, two threads on the same windows";
                chapter.finding(Finding::new(row, "together / alone", ratio, Target::AtMost(1.1)).trial("1.01"));
            }
            let throughput = |(&threads, variant): (&usize, &&str)| {
                let threads = threads as f64;
                (threads, threads * 1e3 / outcome.nanos(variant))
            };
            series.push(Series {
                name: (*name).to_owned(),
                points: counts.iter().zip(variants).map(throughput).collect(),
            });
        }
        chapter.times(times);
        chapter.plot("threads.svg", "Throughput over threads", plots::threads(&series));
    }
}

/// smmap against the limit, and the best of the caches against smmap.
fn against(chapter: &mut Chapter, outcome: &Outcome, row: &str, target: Target, trial: &'static str) {
    let ratio = outcome.ratio("smmap", "raw").by_round;
    chapter.finding(Finding::new(row, "smmap / raw", ratio, target).trial(trial));
    let (name, ratio) = best_peer(outcome);
    chapter.finding(Finding::new(row, format!("best peer ({name}) / smmap"), ratio, Target::AtLeast(1.0)));
}

/// The quickest of the caches, and its time × smmap's.
pub(crate) fn best_peer(outcome: &Outcome) -> (&'static str, f64) {
    let ratios = PEERS.iter().map(|peer| (peer.name, outcome.ratio(peer.name, "smmap").by_round));
    ratios.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are peers")
}

/// How often a session goes through `offsets` in a lap.
fn passes(session: &mut dyn Session, offsets: &[u64]) -> u64 {
    let start = Instant::now();
    let mut passes = 0;
    while start.elapsed() < LAP {
        black_box(session.peek(offsets));
        passes += 1;
    }
    passes
}

fn lap(name: &str, session: &mut dyn Session, offsets: &[u64], passes: u64, expected: u64) -> Duration {
    let mut sum = 0_u64;
    let lap = timed(|| (0..passes).for_each(|_| sum = sum.wrapping_add(session.peek(black_box(offsets)))));
    assert_eq!(sum, expected.wrapping_mul(passes), "{name} read other bytes");
    lap
}
