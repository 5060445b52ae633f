//! Hits: the cost between a reader and its bytes when everything is mapped.

use std::hint::black_box;
use std::mem;
use std::time::{Duration, Instant};

use crate::peers::plain::{Pread, Raw};
use crate::peers::smmap::{Leases, Smmap};
use crate::peers::{Grid, PEERS, Reader, Session};
use crate::plots::{self, Series};
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, GIB, Outcome, Race, Rng, Target, time, timed, timed_together, word};
use crate::{Run, WINDOW};

/// The number of windows in the rows with hot data.
const HOT: u64 = 16;
/// The number of offsets in the rows with hot data. They and the bytes at them fit the core's own caches; with more
/// offsets, the wait for memory would hide the cost of the hit.
const OFFSETS: usize = 1024;
/// The intended duration of a lap with hot data.
const LAP: Duration = Duration::from_millis(10);

pub(crate) fn run(run: &Run, data: &Data) -> Option<Chapter> {
    let wanted = |row: &&Row| run.wants(row.name);
    let threads = run.wants("hits/threads");
    if !threads && !ROWS.iter().any(|row| wanted(&row)) {
        return None;
    }
    let mut chapter = Chapter::new("Hits: everything mapped");
    chapter.note(format!(
        "Reads of 8 bytes. All windows are mapped, and their pages touched, before the measurement. Windows of {} MiB. \
         Hot data: {OFFSETS} words in {HOT} windows (or in one window, if the row says so), which fit the core's own \
         caches; consecutive reads lie in different windows. Each read depends on the one before, as in an index: its \
         bytes are part of the next offset. In the rows with *reads apart*, reads are independent, so the processor \
         overlaps them. Times are per read; with several threads, per read of one thread.",
        WINDOW >> 20
    ));
    let readers = Readers::new(data);
    let mut outcomes = Vec::new();
    for way in [Way::Follow, Way::Peek] {
        for row in ROWS.iter().filter(wanted) {
            let outcome = readers.row(run, row, way);
            readers.findings(row, way, &outcome, &mut chapter);
            outcomes.push((way, row.title, outcome));
        }
    }
    for (way, caption) in [(Way::Follow, "Time of a read"), (Way::Peek, "Time of a read, reads apart")] {
        let races = outcomes.iter().filter(|outcome| outcome.0 == way);
        let races: Vec<_> = races.map(|(_, title, outcome)| ((*title).to_owned(), outcome)).collect();
        if !races.is_empty() {
            chapter.times(Times::of_races(format!("{caption} (× raw)"), &races, "raw"));
        }
    }
    if threads {
        readers.threads(run, &mut chapter);
    }
    readers.assert_only_hits();
    Some(chapter)
}

/// The dependency between consecutive reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each read depends on the bytes of the one before.
    Follow,
    /// Reads are independent ("reads apart" in the report).
    Peek,
}

struct Row {
    name: &'static str,
    title: &'static str,
    /// The variant that smmap's target refers to.
    base: &'static str,
    target: Target,
    trial: &'static str,
    /// The number of windows that the row reads; 0 for all of the data.
    windows: u64,
    by_lease: bool,
}

const ROWS: [Row; 4] = [
    Row {
        name: "hits/within",
        title: "hit inside the cursor's window",
        base: "raw",
        target: Target::AtMost(1.1),
        trial: "1.04 to 1.12",
        windows: 1,
        by_lease: false,
    },
    Row {
        name: "hits/change",
        title: "change of window, hot data",
        base: "raw",
        target: Target::AtMost(1.35),
        trial: "1.28",
        windows: HOT,
        by_lease: false,
    },
    Row {
        name: "hits/lease",
        title: "take and drop of a lease, in one window",
        base: "quick_cache",
        target: Target::AtMost(0.6),
        trial: "0.45 to 0.8",
        windows: 1,
        by_lease: true,
    },
    Row {
        name: "hits/uniform",
        title: "uniform over 1 GiB",
        base: "raw",
        target: Target::AtMost(1.25),
        trial: "1.2",
        windows: 0,
        by_lease: false,
    },
];

/// Returns offsets of words in the first `windows` windows. Consecutive offsets lie in different windows, if there are
/// several.
pub(crate) fn offsets(windows: u64, count: usize) -> Vec<u64> {
    let (mut rng, mut window) = (Rng::new(1), 0);
    let mut next_offset = || {
        if windows > 1 {
            window = (window + 1 + rng.below(windows - 1)) % windows;
        }
        window * WINDOW + rng.below(WINDOW / 8) * 8
    };
    (0..count).map(|_| next_offset()).collect()
}

/// All readers, with all the data that is read here mapped and touched.
struct Readers<'a> {
    data: &'a Data,
    /// The length of the data that uniform reads cover. It includes all hot windows.
    len: u64,
    raw: Raw,
    smmap: Smmap,
    pread: Pread,
    peers: Vec<(&'static str, Box<dyn Reader>)>,
}

impl<'a> Readers<'a> {
    fn new(data: &'a Data) -> Readers<'a> {
        let grid = Grid::new(WINDOW, data.len());
        // Twice the capacity that is needed: a sharded cache evicts before it is full.
        let (capacity, len) = (2 * grid.count() as usize, data.len().min(GIB));
        let peers = PEERS.iter().map(|peer| (peer.name, (peer.open)(data, grid, capacity))).collect();
        let smmap = Smmap::new(data, grid, capacity);
        let readers = Readers { data, len, raw: Raw::new(data, grid), smmap, pread: Pread::new(data), peers };
        data.warm();
        let touched: Vec<u64> = (0..len / 4096).map(|page| page * 4096).collect();
        let expected = readers.raw.session().peek(&touched);
        let touch = |name: &str, mut session: Box<dyn Session + '_>| {
            assert_eq!(session.peek(&touched), expected, "{name} read other bytes");
        };
        touch("smmap", readers.smmap.mapping_session());
        for (name, reader) in &readers.peers {
            touch(name, reader.session());
        }
        readers
    }

    /// Returns all readers, the limit (`raw`) first.
    fn readers(&self) -> Vec<(&'static str, &dyn Reader)> {
        let mut readers: Vec<(_, &dyn Reader)> = vec![("raw", &self.raw), ("smmap", &self.smmap)];
        readers.extend(self.peers.iter().map(|(name, reader)| (*name, &**reader)));
        readers.push(("pread", &self.pread));
        readers
    }

    /// Panics if any measured read was not a hit.
    fn assert_only_hits(&self) {
        let windows = (self.len / WINDOW) as usize;
        for (name, reader) in self.readers() {
            if let Some(mappings) = reader.windows() {
                assert_eq!(
                    mappings.made, windows,
                    "{name} did not map each of {windows} windows exactly once, although its capacity is ample"
                );
            }
        }
        let stats = self.smmap.assert_within_budget();
        assert!(
            stats.evictions == 0 && stats.copies == 0,
            "the budget is ample, but not every read was a hit: {stats:?}"
        );
    }

    fn row(&self, run: &Run, row: &Row, way: Way) -> Outcome {
        let leases = Leases(&self.smmap);
        let mut readers = self.readers();
        if row.by_lease {
            readers[1].1 = &leases;
        }
        let rounds = match row.windows {
            // Other offsets in each round, and so many that the core's caches hold none of the previous round.
            0 => {
                let mut rng = Rng::new(2);
                (0..16).map(|_| (0..1 << 16).map(|_| rng.below(self.len / 8) * 8).collect()).collect()
            }
            windows => vec![offsets(windows, OFFSETS)],
        };
        let rounds: Vec<Pass> = rounds.into_iter().map(|offsets| Pass::new(way, offsets, &self.raw)).collect();
        let rounds = &rounds;
        let race = readers.into_iter().fold(Race::new(row.title, self.data), |race, (name, reader)| {
            let mut session = reader.session();
            let passes = if rounds.len() == 1 { rounds[0].passes(&mut *session) } else { 1 };
            race.variant(name, passes * rounds[0].reads.len() as u64, move |round| {
                rounds[round % rounds.len()].lap(name, &mut *session, passes)
            })
        });
        run.race(race, 7)
    }

    fn findings(&self, row: &Row, way: Way, outcome: &Outcome, chapter: &mut Chapter) {
        let ratio = outcome.ratio("smmap", row.base).by_round;
        let measure = format!("smmap / {}", row.base);
        let (title, target, at_least) = match way {
            Way::Follow => (row.title.to_owned(), row.target, Target::AtLeast(1.0)),
            Way::Peek => (format!("{}, reads apart", row.title), Target::None, Target::None),
        };
        chapter.finding(Finding::new(title.clone(), measure, ratio, target).trial(row.trial));
        // Not for leases: some peers only lend bytes to a closure, and return no reference that could be kept.
        if !row.by_lease {
            let (best, by_best) = best_peer(outcome);
            chapter.finding(Finding::new(title, format!("best peer ({best}) / smmap"), by_best, at_least));
        }
    }

    /// Measures one and several threads on the same windows.
    fn threads(&self, run: &Run, chapter: &mut Chapter) {
        // Also more threads than cores.
        let most = (2 * run.threads).clamp(4, 256);
        let counts: Vec<usize> = (0..).map(|power| 1 << power).take_while(|&threads| threads <= most).collect();
        let hot_pass = &Pass::new(Way::Follow, offsets(HOT, OFFSETS), &self.raw);
        let mut race = Race::new("threads on the same windows, hot data", self.data);
        let mut names = Vec::new();
        for (name, reader) in self.readers() {
            // A quarter of a lap: reads get slower with more threads, and a lap would take too long.
            let passes = hot_pass.passes(&mut *reader.session()).div_ceil(4);
            let mut variants = Vec::new();
            for &threads in &counts {
                let variant: &'static str = format!("{name} @{threads}").leak();
                variants.push(variant);
                race = race.variant(variant, passes * hot_pass.reads.len() as u64, move |_| {
                    let pass = |passes| hot_pass.lap(name, &mut *reader.session(), passes);
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

/// Returns the quickest cache, and the ratio of its time to smmap's.
pub(crate) fn best_peer(outcome: &Outcome) -> (&'static str, f64) {
    let ratios = PEERS.iter().map(|peer| (peer.name, outcome.ratio(peer.name, "smmap").by_round));
    ratios.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there is at least one peer")
}

/// The reads of a pass, and the sum that each reader must return.
struct Pass {
    way: Way,
    /// Offsets, or links from one offset to the next (see [`Session::follow`]).
    reads: Vec<u64>,
    sum: u64,
}

impl Pass {
    fn new(way: Way, mut offsets: Vec<u64>, raw: &Raw) -> Pass {
        let sum = raw.session().peek(&offsets);
        if way == Way::Follow {
            let mut last = 0;
            for offset in &mut offsets {
                last = mem::replace(offset, *offset ^ last);
                last = word(last / 8);
            }
        }
        Pass { way, reads: offsets, sum }
    }

    fn pass(&self, session: &mut dyn Session) -> u64 {
        let reads = black_box(&self.reads[..]);
        match self.way {
            Way::Follow => session.follow(reads),
            Way::Peek => session.peek(reads),
        }
    }

    /// Returns how many passes a session completes in the time of a lap.
    fn passes(&self, session: &mut dyn Session) -> u64 {
        let start = Instant::now();
        let mut passes = 0;
        while start.elapsed() < LAP {
            black_box(self.pass(session));
            passes += 1;
        }
        passes
    }

    fn lap(&self, name: &str, session: &mut dyn Session, passes: u64) -> Duration {
        let mut sum = 0_u64;
        let lap = timed(|| (0..passes).for_each(|_| sum = sum.wrapping_add(self.pass(session))));
        assert_eq!(sum, self.sum.wrapping_mul(passes), "{name} read other bytes");
        lap
    }
}
