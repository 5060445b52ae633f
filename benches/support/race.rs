//! Races, which measure the variants of one task by turns, and the table of their ratios.

#![allow(clippy::disallowed_methods, reason = "benches need the clock and threads; the lint guards the library")]

use std::fmt;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::data::Data;
use super::draw::Rng;

/// Returns the duration of `work`.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Returns the processor time of this process so far: of all threads, in user and kernel mode. Returns `None` if the
/// platform has no such clock.
#[cfg(unix)]
fn processor_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[allow(unsafe_code, reason = "std has no such clock")]
    // SAFETY: the call writes one `timespec` to `time`, which is valid for the write.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (status == 0).then(|| Duration::new(seconds, nanos))
}

#[cfg(not(unix))]
fn processor_time() -> Option<Duration> {
    None
}

/// Runs `work(thread)` in `threads` threads at once. Returns the time from the first start to the last end.
///
/// Each thread runs `prepare(thread)` first, which is not measured: a thread's first call into a library is its
/// slowest.
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

/// The variants of one task, measured by turns.
pub(crate) struct Race<'a> {
    title: &'static str,
    /// The data that is warmed before each round.
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

    /// Returns a race whose laps prepare their own data.
    pub(crate) fn over_no_data(title: &'static str) -> Race<'a> {
        Race { title, data: None, variants: Vec::new() }
    }

    /// Adds a variant whose lap is `operations` operations.
    ///
    /// The lap gets the number of the round (round 0 warms up and is not counted), and returns the time of its measured
    /// part.
    pub(crate) fn variant(
        mut self,
        name: &'static str,
        operations: u64,
        lap: impl FnMut(usize) -> Duration + 'a,
    ) -> Race<'a> {
        self.variants.push(Variant { name, operations, lap: Box::new(lap) });
        self
    }

    /// Runs all rounds, and warms the data before each.
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

    fn run_while(mut self, most: usize, continues: impl Fn(usize) -> bool) -> Outcome {
        let mut order: Vec<usize> = (0..self.variants.len()).collect();
        let mut rng = Rng::new(most as u64);
        let mut laps = vec![Laps::default(); self.variants.len()];
        let (mut rewarmed, mut rounds) = (0, 0);
        for round in 0..=most {
            if round > 0 && !continues(rounds) {
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

/// The measurements of a race.
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
    /// The measured time of each lap.
    times: Vec<Duration>,
    /// The processor time of each whole lap, including the parts that the lap does not measure.
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

    /// Returns the names of the variants, in the order in which they were added.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.variants.iter().map(|variant| variant.name)
    }

    /// Returns the median time of an operation of `name`, in nanoseconds.
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

    /// Returns the median of the rounds' ratios of processor time: whole laps of `name` to whole laps of `base`.
    ///
    /// Processor time includes neither waiting nor other work on the machine. Only rounds for which `counts` returns
    /// `true` count. Returns NaN if there is none.
    pub(crate) fn work_ratio(&self, name: &str, base: &str, counts: impl Fn(usize) -> bool) -> f64 {
        let work = |name| {
            let measured = self.variant(name);
            measured.per_operation(&measured.laps.work)
        };
        let ratios = work(name).into_iter().zip(work(base)).enumerate();
        let counted: Vec<f64> = ratios.filter(|&(round, _)| counts(round)).map(|(_, (lap, base))| lap / base).collect();
        if counted.is_empty() { f64::NAN } else { median(counted) }
    }

    /// Returns the ratio of the time of `name` to the time of `base`, per operation.
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
    /// The median of the ratios of the single rounds. Drift over the run does not affect it.
    pub(crate) by_round: f64,
    /// The ratio of the quickest laps. Disturbances, which only ever slow a lap down, do not affect it.
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

/// The target of a ratio. The ratio of medians is compared with it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// No target: the ratio is only reported.
    None,
}

impl Target {
    /// Returns `true` if `ratio` meets the target, and `None` if there is no target.
    pub(crate) fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Target::AtMost(most) => Some(ratio <= most),
            Target::AtLeast(least) => Some(ratio >= least),
            Target::None => None,
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
            Target::None => Ok(()),
        }
    }
}

/// The table that a bench prints at its end.
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

    /// Adds a ratio that was not measured by a race.
    pub(crate) fn ratio(&mut self, name: &str, ratio: f64, target: Target) {
        self.lines.push(format!("  {name:<46}{ratio:>7.2} {}", target.verdict(ratio)));
    }

    /// Adds a line of text.
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
