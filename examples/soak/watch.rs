//! Observation of the run from outside, and of the resources left at its end.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use crate::process::{Held, mapped_below, resident_kib, surely_mapped_below};
use crate::worker::{STEPS, check_kept};
use crate::world::{Failed, World, unpoisoned};
use crate::{KIB, LINE, MIB, OWN_BUDGET, PATIENCE};

/// The observations of every second.
#[derive(Default)]
pub(crate) struct Watched {
    /// Samples: seconds since the start, and KiB of RssAnon.
    memory: Vec<(f64, f64)>,
    /// Samples: seconds since the start, and KiB that the program has allocated and not freed.
    heap: Vec<(f64, f64)>,
    /// The most bytes of the files that the kernel had mapped.
    most_mapped: u64,
}

impl World<'_> {
    /// Observes the run until its time is over or a thread fails.
    pub(crate) fn watch(&self) -> Watched {
        let began = Instant::now();
        let (mut watched, mut last_steps, mut last_step) = (Watched::default(), 0, began);
        // Each thread may currently use a manager of its own.
        let allowed = self.plan.budget + self.plan.threads * OWN_BUDGET;
        for second in 1_u64.. {
            let next = Duration::from_secs(second).min(self.plan.time);
            while began.elapsed() < next && !self.stop.load(Relaxed) {
                thread::sleep(Duration::from_millis(20).min(next.saturating_sub(began.elapsed())));
            }
            if let Some(mapped) = surely_mapped_below(&self.dir) {
                watched.most_mapped = watched.most_mapped.max(mapped);
                if mapped > allowed {
                    self.fail(Failed(format!("{mapped} bytes are mapped; the limit is {allowed}")));
                }
            }
            let at = began.elapsed().as_secs_f64();
            watched.memory.extend(resident_kib().map(|kib| (at, kib)));
            watched.heap.extend(heap_kib().map(|kib| (at, kib)));
            let steps = self.tally.steps();
            if steps > last_steps {
                (last_steps, last_step) = (steps, Instant::now());
            } else if last_step.elapsed() > PATIENCE {
                // Exit, because the threads can never be joined.
                println!("soak: FAILED no thread completed a step for {} s", PATIENCE.as_secs());
                std::process::exit(1);
            }
            if second % LINE == 0 {
                self.report(second, &watched);
            }
            if self.stop.load(Relaxed) || began.elapsed() >= self.plan.time {
                break;
            }
        }
        watched
    }

    fn report(&self, second: u64, watched: &Watched) {
        let stats = self.maps.stats();
        let memory = watched.memory.last().map_or("n/a".to_owned(), |(_, kib)| format!("{:.1} MiB", kib / 1024.0));
        let errors: u64 = self.tally.errors().iter().map(|(_, count)| count).sum();
        println!(
            "  {second:>5} s  {} steps, {} MiB checked, {} expected errors; {} KiB mapped, peak {}, {} files; \
             RssAnon {memory}",
            self.tally.steps(),
            self.tally.bytes.load(Relaxed) / MIB,
            errors,
            stats.mapped_bytes / KIB,
            stats.peak_mapped_bytes / KIB,
            stats.files,
        );
    }

    /// Drops everything, and checks that nothing is left.
    pub(crate) fn end(self, watched: Watched, before: &Held) -> Result<String, Failed> {
        let mut failures: Vec<Failed> = unpoisoned(&self.failed).take().into_iter().collect();
        for kept in unpoisoned(&self.exchange).drain(..) {
            failures.extend(check_kept(&self, &kept).err());
        }
        let Self { plan, dir, maps, locked, tally, .. } = self;
        drop(locked);
        maps.collect();
        // The collector may still be unmapping regions that it owns.
        settles(|| maps.stats().regions == 0);
        let stats = maps.stats();
        if (stats.regions, stats.mapped_bytes, stats.pinned_regions, stats.maps - stats.unmaps) != (0, 0, 0, 0) {
            failures.push(Failed(format!("regions stay mapped although nothing holds them: {stats:?}")));
        }
        if stats.peak_mapped_bytes > plan.budget || stats.peak_regions > plan.limits().max_regions {
            failures.push(Failed(format!("the budget of {} was exceeded: {stats:?}", plan.budget)));
        }
        drop(maps);
        let left = || Held::of_process().left_behind(mapped_below(&dir), before);
        settles(|| left().is_none());
        failures.extend(left());

        println!("\n  step                     times");
        for ((name, ..), count) in STEPS.iter().zip(&tally.steps) {
            println!("  {name:<22} {:>9}", count.load(Relaxed));
        }
        println!("\n  error                          times");
        for (name, count) in tally.errors() {
            println!("  {name:<28} {count:>9}");
        }
        // Fragmentation does not change the heap in use. What waits in it to be freed grows if a busy machine delays
        // threads.
        let trends = [
            ("memory", "RssAnon", Trend::of(&watched.memory, 64.0)),
            ("heap", "bytes in use", Trend::of(&watched.heap, 16.0)),
        ];
        println!("\n  bytes checked     {}", tally.bytes.load(Relaxed));
        println!("  peak mapped       {} of {} bytes, by smmap's count", stats.peak_mapped_bytes, plan.budget);
        println!("  peak mapped       {} bytes, by the kernel's lists, with short-lived managers", watched.most_mapped);
        println!("  maps, evictions   {}, {}; copies {}", stats.maps, stats.evictions, stats.copies);
        for (name, what, trend) in &trends {
            match trend {
                Some(trend) => println!("  {name:<17} {trend}, {what}"),
                None => println!("  {name:<17} not checked: too few samples after the warm-up"),
            }
        }
        if before.is_unknown() {
            println!(
                "  NOT CHECKED: mappings, descriptors, threads and memory of the process, because there is no /proc"
            );
        }
        failures.extend(trends.into_iter().filter_map(|(name, _, trend)| trend?.judge(name).err()));
        if failures.is_empty() {
            let (steps, bytes) = (tally.steps(), tally.bytes.load(Relaxed));
            return Ok(format!("{steps} steps, {bytes} bytes checked, no resource left"));
        }
        let failures: Vec<String> = failures.into_iter().map(|failed| failed.to_string()).collect();
        Err(Failed(failures.join("; ")))
    }
}

/// Configures the allocator to return large freed blocks to the OS, and to use one heap for all threads.
///
/// Otherwise fragmentation of its heaps grows for an hour at a constant 3 MiB in use, which would look like a leak. The
/// one heap that remains still grows by some 15 KiB a minute at first, while the bytes in use in it stay constant.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn configure_allocator() {
    for (option, value) in [(libc::M_MMAP_THRESHOLD, 64 << 10), (libc::M_ARENA_MAX, 1)] {
        // SAFETY: the call sets a parameter of the allocator, and no other thread runs yet.
        let done = unsafe { libc::mallopt(option, value) };
        assert_eq!(done, 1, "the allocator does not know this option");
    }
}

/// Returns the KiB that are allocated and not freed. A block larger than `M_MMAP_THRESHOLD` is not among them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn heap_kib() -> Option<f64> {
    // SAFETY: the call locks the heap and counts its blocks.
    let heap = unsafe { libc::mallinfo2() };
    Some(heap.uordblks as f64 / 1024.0)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn configure_allocator() {}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn heap_kib() -> Option<f64> {
    None
}

/// Waits until `done` returns `true`, but at most ten seconds. Other threads work on it.
fn settles(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// The trend of memory after the warm-up: a straight line through the samples.
///
/// The first third of the run, but at most five minutes, is warm-up, in which caches of the allocator and of the
/// threads fill. After that, a growth of some KiB a minute (in runs shorter than two minutes, 4 MiB) plus four standard
/// errors of the slope is accepted as noise.
struct Trend {
    minutes: f64,
    /// The growth that is accepted in a long run, in KiB per minute.
    noise: f64,
    /// The slope in KiB per minute, and its standard error.
    slope: f64,
    error: f64,
    mean: f64,
}

impl Trend {
    fn of(samples: &[(f64, f64)], noise: f64) -> Option<Self> {
        let last = samples.last()?.0;
        let warm = (last / 3.0).min(300.0);
        let samples: Vec<_> = samples.iter().filter(|(at, _)| *at >= warm).map(|(at, kib)| (at / 60.0, *kib)).collect();
        let count = samples.len() as f64;
        if count < 5.0 {
            return None;
        }
        let mean_at = samples.iter().map(|(at, _)| at).sum::<f64>() / count;
        let mean = samples.iter().map(|(_, kib)| kib).sum::<f64>() / count;
        let spread: f64 = samples.iter().map(|(at, _)| (at - mean_at).powi(2)).sum();
        let slope = samples.iter().map(|(at, kib)| (at - mean_at) * (kib - mean)).sum::<f64>() / spread;
        let residuals = samples.iter().map(|(at, kib)| (kib - mean - slope * (at - mean_at)).powi(2)).sum::<f64>();
        let error = (residuals / (count - 2.0) / spread).sqrt();
        Some(Self { minutes: (last - warm) / 60.0, noise, slope, error, mean })
    }

    fn allowed(&self) -> f64 {
        // Of a run of two minutes, 80 seconds remain after the warm-up.
        let noise = if self.minutes < 80.0 / 60.0 { 4096.0 } else { self.noise };
        noise + 4.0 * self.error
    }

    fn judge(&self, name: &str) -> Result<(), Failed> {
        if self.slope > self.allowed() { Err(Failed(format!("{name} grows: {self}"))) } else { Ok(()) }
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minutes, slope, error, mean, .. } = self;
        write!(f, "{slope:+.1} KiB a minute (± {error:.1}; limit {:.0}) ", self.allowed())?;
        write!(f, "over {minutes:.1} minutes, around {:.2} MiB", mean / 1024.0)
    }
}
