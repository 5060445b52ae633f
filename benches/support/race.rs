//! Races: variants of one task measured by turns, and the table of their ratios.

#![allow(
    clippy::disallowed_methods,
    reason = "the clock and the threads of the benches are here, and no room of the library is meant"
)]

use std::fmt;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::data::Data;
use super::draw::Rng;

/// How long `work` takes.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// How long `threads` threads take that do `work(thread)` at once, from the first one's start to the last one's end.
///
/// Each does `prepare(thread)` first, which is not measured: a thread's first step into a library is its dearest.
pub(crate) fn timed_together(threads: usize, prepare: impl Fn(usize) + Sync, work: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(threads);
    let (barrier, prepare, work) = (&barrier, &prepare, &work);
    let spans: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let run = |thread| {
            move || {
                prepare(thread);
                barrier.wait();
                let start = Instant::now();
                work(thread);
                (start, Instant::now())
            }
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().expect("a measured thread panicked")).collect()
    });
    let start = spans.iter().map(|span| span.0).min().expect("at least one thread");
    let end = spans.iter().map(|span| span.1).max().expect("at least one thread");
    end - start
}

/// Variants of one task, measured by turns.
pub(crate) struct Race<'a> {
    title: &'static str,
    data: &'a Data,
    variants: Vec<Variant<'a>>,
}

struct Variant<'a> {
    name: &'static str,
    operations: u64,
    lap: Box<dyn FnMut(usize) -> Duration + 'a>,
}

impl fmt::Debug for Race<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variants.iter().map(|variant| variant.name).collect();
        f.debug_struct("Race").field("title", &self.title).field("variants", &names).finish_non_exhaustive()
    }
}

impl<'a> Race<'a> {
    pub(crate) fn new(title: &'static str, data: &'a Data) -> Race<'a> {
        Race { title, data, variants: Vec::new() }
    }

    /// Adds a variant whose lap is `operations` operations. The lap gets the round (0 is the one that warms up, and
    /// is not counted), and says how long the part took that is to be measured.
    pub(crate) fn variant(
        mut self,
        name: &'static str,
        operations: u64,
        lap: impl FnMut(usize) -> Duration + 'a,
    ) -> Race<'a> {
        self.variants.push(Variant { name, operations, lap: Box::new(lap) });
        self
    }

    /// Runs all rounds, with the data warm before each.
    pub(crate) fn run(mut self, rounds: usize) -> Outcome {
        eprintln!("racing: {}, {rounds} rounds", self.title);
        let mut order: Vec<usize> = (0..self.variants.len()).collect();
        let mut rng = Rng::new(rounds as u64);
        let mut laps = vec![Vec::with_capacity(rounds); self.variants.len()];
        let mut rewarmed = 0;
        for round in 0..=rounds {
            rewarmed += usize::from(self.data.warm());
            rng.shuffle(&mut order);
            for &index in &order {
                let lap = (self.variants[index].lap)(round);
                if round > 0 {
                    laps[index].push(lap);
                }
            }
        }
        let variants = self.variants.iter().zip(laps);
        Outcome {
            title: self.title,
            rounds,
            rewarmed,
            variants: variants
                .map(|(variant, laps)| Measured { name: variant.name, operations: variant.operations, laps })
                .collect(),
        }
    }
}

/// What a race measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    title: &'static str,
    rounds: usize,
    rewarmed: usize,
    variants: Vec<Measured>,
}

#[derive(Debug)]
struct Measured {
    name: &'static str,
    operations: u64,
    laps: Vec<Duration>,
}

impl Measured {
    fn nanos_per_operation(&self) -> Vec<f64> {
        self.laps.iter().map(|lap| lap.as_nanos() as f64 / self.operations as f64).collect()
    }
}

impl Outcome {
    fn laps(&self, name: &str) -> Vec<f64> {
        let found = self.variants.iter().find(|variant| variant.name == name);
        found.unwrap_or_else(|| panic!("no variant {name:?} in the race {:?}", self.title)).nanos_per_operation()
    }

    /// Of the time of `name` to the time of `base`, per operation.
    fn ratio(&self, name: &str, base: &str) -> Ratio {
        let (laps, base) = (self.laps(name), self.laps(base));
        let by_round = laps.iter().zip(&base).map(|(lap, base)| lap / base).collect();
        Ratio {
            of_least: least(&laps) / least(&base),
            by_round: median(by_round),
            of_medians: median(laps) / median(base),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Ratio {
    of_medians: f64,
    /// The median of the rounds' own ratios: what drifts over the run is not in it.
    by_round: f64,
    /// Of the quickest laps: what only ever slows is not in it.
    of_least: f64,
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// What a ratio should be. It is the ratio of medians that is held against it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// No target, for information.
    Told,
}

impl Target {
    fn verdict(self, ratio: f64) -> String {
        let word = |met| if met { "ok" } else { "MISSED" };
        match self {
            Target::AtMost(most) => format!("(target ≤ {most:.2}) {}", word(ratio <= most)),
            Target::AtLeast(least) => format!("(target ≥ {least:.2}) {}", word(ratio >= least)),
            Target::Told => String::new(),
        }
    }
}

/// The table that a bench ends with.
#[derive(Debug)]
pub(crate) struct Report {
    title: &'static str,
    lines: Vec<String>,
}

impl Report {
    pub(crate) fn new(title: &'static str) -> Report {
        Report { title, lines: Vec::new() }
    }

    /// Adds a race: its medians, and the ratios `(name, base, target)` of time per operation.
    pub(crate) fn race(&mut self, outcome: &Outcome, ratios: &[(&str, &str, Target)]) {
        let rewarmed = match outcome.rewarmed {
            0 => String::new(),
            times => format!(", data read again before {times} of them"),
        };
        self.lines.push(format!("{}: {} rounds by turns{rewarmed}", outcome.title, outcome.rounds));
        for variant in &outcome.variants {
            let mut laps = variant.nanos_per_operation();
            laps.sort_by(f64::total_cmp);
            let (least, most) = (laps[0], laps[laps.len() - 1]);
            let median = median(laps);
            self.lines.push(format!("  {:<32}{} ({} to {})", variant.name, time(median), time(least), time(most)));
        }
        for &(name, base, target) in ratios {
            let ratio = outcome.ratio(name, base);
            self.lines.push(format!(
                "  {:<46}{:>7.2} (by round {:.2}, of least {:.2}) {}",
                format!("{name} / {base}"),
                ratio.of_medians,
                ratio.by_round,
                ratio.of_least,
                target.verdict(ratio.of_medians)
            ));
        }
    }

    /// Adds a line of its own.
    pub(crate) fn note(&mut self, line: String) {
        self.lines.push(line);
    }

    pub(crate) fn print(&self) {
        println!("\n{}: medians of time per operation (least to most), and ratios of the medians", self.title);
        for line in &self.lines {
            println!("{}", line.trim_end());
        }
    }
}

fn time(nanos: f64) -> String {
    if nanos < 1e3 {
        format!("{nanos:.2} ns")
    } else if nanos < 1e6 {
        format!("{:.2} µs", nanos / 1e3)
    } else {
        format!("{:.1} ms", nanos / 1e6)
    }
}
