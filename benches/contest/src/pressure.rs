//! Reads under a budget that is smaller than the data: the choice of windows to map.

use std::time::Duration;

use crate::hits::best_peer;
use crate::latency::Histogram;
use crate::peers::plain::{Oracle, Pread};
use crate::peers::smmap::Smmap;
use crate::peers::{Grid, PEERS, Read, Reader, Session};
use crate::plots::{self, Series};
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, KIB, Outcome, Race, Target, time, timed, timed_together};
use crate::workloads::{Lap, PageHeads, Skewed};
use crate::{MOST_ROUNDS, Run, WINDOW};

/// The number of small reads in a lap.
const READS: usize = 20_000;
/// The number of small reads in a lap of a smoke run.
const FEW_READS: usize = 1000;
/// The number of laps before the first round, in which caches learn the access frequencies.
const WARM_UP_LAPS: usize = 4;
/// The number of consecutive reads of one stream before the next stream's turn.
const TURN: usize = 32;

/// The targets of smmap in a row, as ratios of throughput.
#[derive(Clone, Copy)]
pub(crate) struct Targets {
    pub(crate) pread: f64,
    pub(crate) peer: f64,
    /// The target relative to the oracle. `None` if the hottest windows change, so that there is no oracle.
    pub(crate) oracle: Option<Target>,
}

/// The targets at any budget and skew.
pub(crate) const ANY: Targets = Targets { pread: 0.95, peer: 1.0, oracle: Some(Target::None) };
/// The targets after a cold start, and when the hot windows change.
const SHIFTS: Targets = Targets { pread: 0.9, peer: 1.0, oracle: None };

/// A row of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) percent: u64,
    pub(crate) mode: Mode,
    pub(crate) targets: Targets,
    /// The results of a prototype: × pread, × best peer, × oracle.
    pub(crate) trial: [&'static str; 3],
    /// The attempts to reach targets that are missed.
    pub(crate) tried: &'static str,
}

impl Row {
    /// Returns the name without its chapter.
    pub(crate) fn title(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(_, title)| title)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One thread; the readers keep their state from lap to lap.
    Steady,
    /// All readers are created anew in each lap.
    Cold,
    /// One thread for each stream.
    Threads,
}

/// Returns the next lap.
type Workload = Box<dyn FnMut() -> Lap>;

pub(crate) fn run(run: &Run, data: &Data) -> Option<Chapter> {
    let grid = Grid::new(WINDOW, data.len());
    let mut chapter = Chapter::new("Pressure: a budget smaller than the data");
    chapter.note(format!(
        "Reads of {} MiB of data in windows of {} MiB; the budget is a part of the data. Windows follow Zipf's law in \
         shuffled order, offsets within them are uniform, and all words of a read are summed. Reads have 64 bytes, and \
         there is one thread, unless the row says otherwise; several threads are {} of them. Results are the throughput of smmap relative to that of \
         others. The best peer is the quickest cache of the row. The oracle maps the hottest windows beforehand and \
         reads the rest.",
        data.len() >> 20,
        WINDOW >> 20,
        run.threads
    ));
    let (mut outcomes, mut tables) = (Vec::new(), Tables::new());
    for (row, workload) in rows(grid, run.size(READS as u64, FEW_READS as u64) as usize, run.threads) {
        if run.wants(row.name) {
            let outcome = measure(run, data, grid, &row, workload, 9, &mut chapter, &mut tables);
            outcomes.push((row, outcome));
        }
    }
    if outcomes.is_empty() {
        return None;
    }
    let races: Vec<_> = outcomes.iter().map(|(row, outcome)| (row.title().to_owned(), outcome)).collect();
    chapter.times(Times::of_races("Time of a read (× smmap)", &races, "smmap"));
    chapter.times(Times::of_work("Processor time, user and kernel, relative to smmap's", &races, "smmap"));
    tables.add_to(&mut chapter);
    let curve: Vec<_> = outcomes.iter().filter(|(row, _)| row.name.ends_with("% of it")).collect();
    if let Some((_, first)) = curve.first() {
        let series = first.names().map(|name| {
            let point = |(row, outcome): &&(Row, Outcome)| (row.percent as f64, 1e3 / outcome.nanos(name));
            Series { name: name.to_owned(), points: curve.iter().map(point).collect() }
        });
        let svg = plots::budget(&series.collect::<Vec<_>>());
        chapter.plot("budget.svg", "Throughput over the budget", svg);
    }
    Some(chapter)
}

fn rows(grid: Grid, count: usize, threads: usize) -> Vec<(Row, Workload)> {
    let row = |name, percent, targets, trial| Row { name, percent, mode: Mode::Steady, targets, trial, tried: "" };
    let skewed = |len: u64, exponent: Option<f64>, reads: usize| -> Workload {
        let mut skewed = Skewed::new(grid, len, exponent);
        Box::new(move || vec![skewed.take(reads)])
    };
    let zipf = || skewed(64, Some(0.99), count);
    let main = Targets { pread: 1.8, peer: 5.0, oracle: Some(Target::AtLeast(0.9)) };
    let none = ["", "", ""];
    vec![
        (row("pressure/5 % of it", 5, ANY, ["1.47", "7.2", "0.99"]), zipf()),
        (row("pressure/25 % of it", 25, main, ["2.19", "6.3", "1.00"]), zipf()),
        (row("pressure/50 % of it", 50, ANY, ["2.80", "4.7", "0.89"]), zipf()),
        (row("pressure/100 % of it", 100, ANY, ["6.0", "1.24", "0.98"]), zipf()),
        (row("pressure/25 %, Zipf 0.7", 25, ANY, ["1.57", "7.1", "0.99"]), skewed(64, Some(0.7), count)),
        (row("pressure/25 %, Zipf 1.2", 25, ANY, ["2.90", "4.9", "0.98"]), skewed(64, Some(1.2), count)),
        (
            Row {
                tried: "no window is mapped in vain there, so only a cheaper copy helps",
                ..row("pressure/5 %, uniform", 5, ANY, ["0.98", "8.2", "0.99"])
            },
            skewed(64, None, count),
        ),
        (row("pressure/25 %, 4 KiB reads", 25, ANY, ["1.45", "2.8", "0.96"]), skewed(4 * KIB, Some(0.99), count)),
        (
            row("pressure/25 %, 64 KiB reads", 25, ANY, ["1.21", "1.23", "1.02"]),
            skewed(64 * KIB, Some(0.99), count / 10),
        ),
        (row("pressure/25 %, half of it a scan", 25, ANY, ["1.41", "2.1", "1.22"]), {
            let (mut skewed, mut scan) = (Skewed::new(grid, 64, Some(0.99)), PageHeads::new(grid));
            Box::new(move || vec![skewed.take(count / 2), scan.take(count / 2)])
        }),
        (row("pressure/25 %, reshuffled every 20,000 reads", 25, SHIFTS, ["1.57", "4.4", ""]), {
            let mut skewed = Skewed::new(grid, 64, Some(0.99));
            Box::new(move || {
                skewed.reshuffle();
                vec![skewed.take(count)]
            })
        }),
        (Row { mode: Mode::Threads, ..row("pressure/25 %, several threads", 25, ANY, ["2.14", "26", "0.93"]) }, {
            let mut skewed = Skewed::new(grid, 64, Some(0.99));
            Box::new(move || (0..threads).map(|_| skewed.take(count / threads)).collect())
        }),
        (Row { mode: Mode::Cold, ..row("pressure/25 %, cold start", 25, SHIFTS, none) }, zipf()),
        (
            Row {
                mode: Mode::Cold,
                tried: "mapping sooner from the start; it is slower than `pread` if the reads end early (the pressure \
                        bench's 1,000 cold reads: 0.6 × `pread` if each first access maps)",
                ..row("pressure/100 %, cold start", 100, Targets { peer: 0.95, ..SHIFTS }, none)
            },
            zipf(),
        ),
    ]
}

/// A variant of a row: its name, and a function that creates its reader.
type Entry<'a> = (&'static str, Make<'a>);

/// Creates a reader.
type Make<'a> = Box<dyn Fn() -> Box<dyn Reader + 'a> + 'a>;

/// The tables that have a line for each row.
pub(crate) struct Tables {
    work: Times,
    tails: Times,
}

impl Tables {
    pub(crate) fn new() -> Tables {
        let work = ["hit ratio", "maps", "copies", "evictions", "overcommits"];
        let tails =
            ["p99", "p99.9", "longest"].iter().flat_map(|tail| ["smmap", "pread"].map(|of| format!("{tail}, {of}")));
        Tables {
            work: Times::new("The work of smmap, from the first lap on", work.map(str::to_owned)),
            tails: Times::new("The slowest reads, each timed by itself, after the race", tails),
        }
    }

    pub(crate) fn add_to(self, chapter: &mut Chapter) {
        chapter.times(self.work);
        chapter.times(self.tails);
    }
}

/// Races all readers over a workload. Adds the findings to the chapter, and smmap's counts and the tails to `tables`.
#[expect(clippy::too_many_arguments, reason = "the parts of a row")]
pub(crate) fn measure(
    run: &Run,
    data: &Data,
    grid: Grid,
    row: &Row,
    mut workload: Workload,
    seconds: u64,
    chapter: &mut Chapter,
    tables: &mut Tables,
) -> Outcome {
    let capacity = (grid.count() * row.percent / 100) as usize;
    let most = run.size(MOST_ROUNDS as u64, 2) as usize;
    let mut warm_up: Vec<Lap> = (0..WARM_UP_LAPS).map(|_| workload()).collect();
    if row.percent == 100 && row.mode == Mode::Steady {
        // Everything will be mapped, so touch each page once: first-touch faults would distort the first rounds.
        warm_up.push(vec![PageHeads::new(grid).take((data.len() / (4 * KIB)) as usize)]);
    }
    let laps: Vec<Lap> = (0..=most).map(|_| workload()).collect();
    let smmap = Smmap::new(data, grid, capacity);
    let mut entries: Vec<Entry> = vec![
        (
            "smmap",
            match row.mode {
                Mode::Cold => Box::new(|| Box::new(Smmap::new(data, grid, capacity))),
                Mode::Steady | Mode::Threads => Box::new(|| Box::new(&smmap)),
            },
        ),
        ("pread", Box::new(|| Box::new(Pread::new(data)))),
    ];
    if row.targets.oracle.is_some() {
        let mut accesses = vec![0; grid.count() as usize];
        for read in laps.iter().flatten().flatten() {
            accesses[grid.locate(read.offset).0 as usize] += 1;
        }
        entries.push(("oracle", Box::new(move || Box::new(Oracle::new(data, grid, capacity, &accesses)))));
    }
    entries
        .extend(PEERS.iter().map(|peer| -> Entry { (peer.name, Box::new(move || (peer.open)(data, grid, capacity))) }));

    // The sum of the first variant of each round. The other variants must get the same sum.
    let seen: Vec<std::cell::Cell<Option<u64>>> = vec![std::cell::Cell::new(None); laps.len()];
    let agree = |name: &str, round: usize, sum: u64| {
        let first = seen[round].get().unwrap_or(sum);
        assert_eq!(sum, first, "{name} read other bytes in round {round} of {}", row.name);
        seen[round].set(Some(sum));
    };
    let reads = laps[0].iter().map(Vec::len).sum::<usize>() as u64;
    let kept: Vec<(&str, Box<dyn Reader>)> = match row.mode {
        Mode::Cold => Vec::new(),
        Mode::Steady | Mode::Threads => entries.iter().map(|(name, make)| (*name, make())).collect(),
    };
    let mut race = Race::new(row.name, data);
    for (index, (name, make)) in entries.iter().enumerate() {
        let (laps, warm_up, agree) = (&laps, &warm_up, &agree);
        race = match row.mode {
            Mode::Steady => {
                let mut sessions: Vec<_> = laps[0].iter().map(|_| kept[index].1.session()).collect();
                race.variant(name, reads, move |round| {
                    if round == 0 {
                        warm_up.iter().for_each(|lap| _ = by_turns(&mut sessions, lap));
                    }
                    let mut sum = 0;
                    let lap = timed(|| sum = by_turns(&mut sessions, &laps[round]));
                    agree(name, round, sum);
                    lap
                })
            }
            Mode::Cold => race.variant(name, reads, move |round| {
                let (mut sum, mut reader) = (0, None);
                let lap = timed(|| {
                    let reader = &**reader.insert(make());
                    let mut sessions: Vec<_> = laps[round].iter().map(|_| reader.session()).collect();
                    sum = by_turns(&mut sessions, &laps[round]);
                });
                agree(name, round, sum);
                lap
            }),
            Mode::Threads => {
                let reader = &*kept[index].1;
                race.variant(name, reads, move |round| {
                    if round == 0 {
                        warm_up.iter().for_each(|lap| _ = together(reader, lap));
                    }
                    let (lap, sum) = together(reader, &laps[round]);
                    agree(name, round, sum);
                    lap
                })
            }
        };
    }
    let outcome = run.race(race, seconds);
    let stats = smmap.assert_within_budget();
    let threads = if row.mode == Mode::Threads { laps[0].len() } else { 1 };
    for (name, reader) in &kept {
        let Some(mappings) = reader.windows() else { continue };
        assert!(mappings.made > 0, "{name} mapped nothing in {}", row.name);
        // Each thread may map one window before it evicts another, and a sharded cache rounds its capacity up.
        let most = capacity + capacity / 8 + threads;
        if mappings.most > most {
            let excess =
                format!("{name} had up to {} windows mapped instead of {capacity} in {}", mappings.most, row.name);
            assert!(PEERS.iter().any(|peer| peer.name == *name && !peer.is_prompt), "{excess}");
            chapter.note(format!("{excess}: it unmaps evicted windows later."));
        }
    }
    findings(row, &outcome, chapter);
    if row.mode != Mode::Cold {
        let hit_ratio = format!("{:.1} %", 100.0 * stats.hit_ratio());
        let counts = [stats.maps, stats.copies, stats.evictions, stats.overcommits].map(|count| count.to_string());
        tables.work.row(row.title(), [hit_ratio].into_iter().chain(counts).collect());
    }
    let timed = &laps[1..=(run.size(TIMED_LAPS as u64, 1) as usize).min(most)];
    // The first two variants are smmap and pread.
    let readers = [0, 1].map(|index| (kept.get(index).map(|(_, reader)| &**reader), &entries[index].1));
    tables.tails.row(row.title(), tails(row.mode, readers, timed));
    outcome
}

/// The number of laps in which each read is timed.
const TIMED_LAPS: usize = 7;

/// Returns the p99, the p99.9 and the longest time of a read, each of both readers. They take turns, lap by lap. A reader
/// that is not kept is created anew in each lap.
fn tails<'a>(mode: Mode, readers: [(Option<&dyn Reader>, &Make<'a>); 2], laps: &[Lap]) -> Vec<String> {
    let mut all = [Histogram::default(), Histogram::default()];
    for lap in laps {
        for ((kept, make), all) in readers.iter().zip(&mut all) {
            let fresh = if kept.is_none() { Some(make()) } else { None };
            let reader = kept.or(fresh.as_deref()).expect("a reader that is not kept is fresh");
            let time = |reads: &Vec<Read>| {
                let mut times = Histogram::default();
                std::hint::black_box(reader.session().sum_timed(reads, &mut times));
                times.calibrate();
                times
            };
            let times: Vec<Histogram> = match mode {
                Mode::Steady | Mode::Cold => lap.iter().map(time).collect(),
                Mode::Threads => std::thread::scope(|scope| {
                    let threads: Vec<_> = lap.iter().map(|reads| scope.spawn(move || time(reads))).collect();
                    threads.into_iter().map(|thread| thread.join().expect("a measured thread panicked")).collect()
                }),
            };
            times.iter().for_each(|times| all.add(times));
        }
    }
    [0.99, 0.999, 1.0].iter().flat_map(|&quantile| all.each_ref().map(|times| time(times.quantile(quantile)))).collect()
}

fn findings(row: &Row, outcome: &Outcome, chapter: &mut Chapter) {
    let times = |name: &str| outcome.ratio(name, "smmap").by_round;
    let mut add = |what: String, result, target, trial| {
        chapter.finding(Finding::new(row.title(), what, result, target).trial(trial).tried(row.tried));
    };
    add("× pread".into(), times("pread"), Target::AtLeast(row.targets.pread), row.trial[0]);
    let (name, ratio) = best_peer(outcome);
    add(format!("× best peer ({name})"), ratio, Target::AtLeast(row.targets.peer), row.trial[1]);
    if let Some(target) = row.targets.oracle {
        add("× oracle".into(), times("oracle"), target, row.trial[2]);
    }
}

/// Runs a lap in one thread, with one session for each stream. Returns the sum over all reads.
fn by_turns(sessions: &mut [Box<dyn Session + '_>], lap: &Lap) -> u64 {
    let mut sum = 0_u64;
    let mut turns: Vec<_> = lap.iter().map(|reads| reads.chunks(TURN)).collect();
    loop {
        let mut done = true;
        for (session, turns) in sessions.iter_mut().zip(&mut turns) {
            if let Some(reads) = turns.next() {
                sum = sum.wrapping_add(session.sum(reads));
                done = false;
            }
        }
        if done {
            return sum;
        }
    }
}

/// Runs a lap with one thread for each stream. Returns the time and the sum over all reads.
fn together(reader: &dyn Reader, lap: &Lap) -> (Duration, u64) {
    let sums: Vec<_> = lap.iter().map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
    let sum = |reads: &[Read]| reader.session().sum(reads);
    let prepare = |thread: usize| _ = std::hint::black_box(sum(&lap[thread][..1]));
    let work = |thread: usize| sums[thread].store(sum(&lap[thread]), std::sync::atomic::Ordering::Relaxed);
    let took = timed_together(lap.len(), prepare, work);
    (took, sums.into_iter().fold(0, |total, sum| total.wrapping_add(sum.into_inner())))
}
