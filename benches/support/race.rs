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

/// The processor's time that this process has taken so far: all its threads, also what the system did for them. `None` where
/// nobody is asked for it.
#[cfg(unix)]
fn processor_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[allow(unsafe_code, reason = "std has no such clock")]
    // SAFETY: it writes one `timespec` to where it is told.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (status == 0).then(|| Duration::new(seconds, nanos))
}

#[cfg(not(unix))]
fn processor_time() -> Option<Duration> {
    None
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
    /// What is warmed before each round.
    data: Option<&'a Data>,
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
        Race { title, data: Some(data), variants: Vec::new() }
    }

    /// A race whose laps see to their data themselves.
    pub(crate) fn over_no_data(title: &'static str) -> Race<'a> {
        Race { title, data: None, variants: Vec::new() }
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
    pub(crate) fn run(self, rounds: usize) -> Outcome {
        eprintln!("racing: {}, {rounds} rounds", self.title);
        self.run_while(rounds, |_| true)
    }

    /// Runs rounds for `time`, but at least `least` and at most `most` of them.
    pub(crate) fn run_for(self, time: Duration, least: usize, most: usize) -> Outcome {
        eprintln!("racing: {}, {} s", self.title, time.as_secs());
        let start = Instant::now();
        self.run_while(most, |done| done < least || start.elapsed() < time)
    }

    fn run_while(mut self, most: usize, go_on: impl Fn(usize) -> bool) -> Outcome {
        let mut order: Vec<usize> = (0..self.variants.len()).collect();
        let mut rng = Rng::new(most as u64);
        let mut laps = vec![Laps::default(); self.variants.len()];
        let (mut rewarmed, mut rounds) = (0, 0);
        for round in 0..=most {
            if round > 0 && !go_on(rounds) {
                break;
            }
            rounds = round;
            rewarmed += usize::from(self.data.is_some_and(Data::warm));
            rng.shuffle(&mut order);
            for &index in &order {
                let before = processor_time();
                let lap = (self.variants[index].lap)(round);
                let work = before.zip(processor_time()).map(|(before, after)| after - before);
                if round > 0 {
                    laps[index].times.push(lap);
                    laps[index].work.push(work.unwrap_or(lap));
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
    laps: Laps,
}

#[derive(Clone, Debug, Default)]
struct Laps {
    /// What each lap said that it took.
    times: Vec<Duration>,
    /// The processor's time of all of it, also of what a lap does not measure.
    work: Vec<Duration>,
}

impl Measured {
    fn nanos_per_operation(&self) -> Vec<f64> {
        self.per_operation(&self.laps.times)
    }

    fn per_operation(&self, laps: &[Duration]) -> Vec<f64> {
        laps.iter().map(|lap| lap.as_nanos() as f64 / self.operations as f64).collect()
    }
}

impl Outcome {
    pub(crate) fn rounds(&self) -> usize {
        self.rounds
    }

    /// The variants, in the order in which they were added.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.variants.iter().map(|variant| variant.name)
    }

    /// The median time of an operation of `name`, in nanoseconds.
    pub(crate) fn nanos(&self, name: &str) -> f64 {
        median(self.laps(name))
    }

    fn variant(&self, name: &str) -> &Measured {
        let found = self.variants.iter().find(|variant| variant.name == name);
        found.unwrap_or_else(|| panic!("no variant {name:?} in the race {:?}", self.title))
    }

    fn laps(&self, name: &str) -> Vec<f64> {
        self.variant(name).nanos_per_operation()
    }

    /// The median of the rounds' ratios of the processor's time, of whole laps: `name`'s to that of `base`. Other work on the
    /// machine is not in it, nor is waiting. Only of the rounds that `is_asked`.
    pub(crate) fn work_ratio(&self, name: &str, base: &str, is_asked: impl Fn(usize) -> bool) -> f64 {
        let work = |name| {
            let measured = self.variant(name);
            measured.per_operation(&measured.laps.work)
        };
        let ratios = work(name).into_iter().zip(work(base)).enumerate();
        let asked: Vec<f64> = ratios.filter(|&(round, _)| is_asked(round)).map(|(_, (lap, base))| lap / base).collect();
        if asked.is_empty() { f64::NAN } else { median(asked) }
    }

    /// Of the time of `name` to the time of `base`, per operation.
    pub(crate) fn ratio(&self, name: &str, base: &str) -> Ratio {
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
pub(crate) struct Ratio {
    pub(crate) of_medians: f64,
    /// The median of the rounds' own ratios: what drifts over the run is not in it.
    pub(crate) by_round: f64,
    /// Of the quickest laps: what only ever slows is not in it.
    pub(crate) of_least: f64,
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
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
    /// Whether `ratio` is what it should be, if it should be anything.
    pub(crate) fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Target::AtMost(most) => Some(ratio <= most),
            Target::AtLeast(least) => Some(ratio >= least),
            Target::Told => None,
        }
    }

    fn verdict(self, ratio: f64) -> String {
        match self.is_met(ratio) {
            Some(met) => format!("(target {self}) {}", if met { "ok" } else { "MISSED" }),
            None => String::new(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::AtMost(most) => write!(f, "≤ {most:.2}"),
            Target::AtLeast(least) => write!(f, "≥ {least:.2}"),
            Target::Told => Ok(()),
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

    /// Adds a ratio that no race gave.
    pub(crate) fn ratio(&mut self, name: &str, ratio: f64, target: Target) {
        self.lines.push(format!("  {name:<46}{ratio:>7.2} {}", target.verdict(ratio)));
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

pub(crate) fn time(nanos: f64) -> String {
    if nanos < 1e3 {
        format!("{nanos:.2} ns")
    } else if nanos < 1e6 {
        format!("{:.2} µs", nanos / 1e3)
    } else {
        format!("{:.1} ms", nanos / 1e6)
    }
}
