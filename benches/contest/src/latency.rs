//! The latency of single hits while another thread maps and unmaps all the time.
//!
//! A reader cycles through a few windows. Another thread reads other windows, at the same pace in all variants; each of
//! its reads maps a window and so evicts another. For the raw map, that thread maps and unmaps by itself, so this row
//! shows the effect of interprocessor interrupts alone.

use std::hint::{self, black_box};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::hits;
use crate::peers::plain::{Pread, Raw};
use crate::peers::smmap::Smmap;
use crate::peers::{Grid, PEERS, Reader};
use crate::plots::{self, Series};
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, Rng, Target, median, time};
use crate::{Run, WINDOW};

/// The number of windows that the reader cycles through.
const HOT: u64 = 16;
/// The time from one map of the other thread to the next.
const PACE: Duration = Duration::from_micros(50);
/// The quantiles in the report.
const QUANTILES: [f64; 5] = [0.5, 0.99, 0.999, 0.9999, 0.99999];

pub(crate) fn run(run: &Run, data: &Data) -> Option<Chapter> {
    if !run.wants("latency") {
        return None;
    }
    let grid = Grid::new(WINDOW, data.len());
    let capacity = (grid.count() / 4) as usize;
    let smmap = Smmap::new(data, grid, capacity);
    let (raw, pread) = (Raw::new(data, grid), Pread::new(data));
    let peers: Vec<_> = PEERS.iter().map(|peer| (peer.name, (peer.open)(data, grid, capacity))).collect();
    let mut readers: Vec<(&str, &dyn Reader)> = vec![("raw", &raw), ("smmap", &smmap)];
    readers.extend(peers.iter().map(|(name, reader)| (*name, &**reader)));
    readers.push(("pread", &pread));

    // Few offsets, so that a lap also ends on time for the slow readers.
    let offsets = hits::offsets(HOT, 256);
    let lap = Duration::from_millis(run.size(250, 30));
    let started = Instant::now();
    let (least, most, budget) = (run.size(5, 2) as usize, run.size(15, 2) as usize, run.seconds(30));
    let mut laps: Vec<Vec<Lap>> = readers.iter().map(|_| Vec::new()).collect();
    let mut order: Vec<usize> = (0..readers.len()).collect();
    let mut rng = Rng::new(3);
    eprintln!("racing: latency while others evict, {} s", budget.as_secs());
    for round in 0..=most {
        if round > least && started.elapsed() > budget {
            break;
        }
        data.warm();
        rng.shuffle(&mut order);
        for &index in &order {
            let (name, reader) = readers[index];
            let measured = measure(reader, grid, &offsets, lap);
            let expected = laps[index].first().map_or(measured.sum, |first: &Lap| first.sum);
            assert_eq!(measured.sum, expected, "{name} read other bytes in round {round}");
            laps[index].push(measured);
        }
    }
    let sum = laps[0][0].sum;
    assert!(laps.iter().all(|laps| laps[0].sum == sum), "the variants read different bytes");
    smmap.assert_within_budget();
    Some(chapter(&readers, &laps))
}

fn chapter(readers: &[(&str, &dyn Reader)], laps: &[Vec<Lap>]) -> Chapter {
    let mut chapter = Chapter::new("Hits while others evict");
    let rounds = laps[0].len() - 1;
    chapter.note(format!(
        "{rounds} rounds by turns. One thread cycles through {HOT} windows of hot data; each of its reads is timed. \
         Another thread maps a window every {} µs, and so evicts another, under a budget of a quarter of the data. A \
         quantile is the median of the rounds' quantiles. All times include the clock's own, and the misses of caches \
         that evict hot windows.",
        PACE.as_micros()
    ));
    let columns = QUANTILES.map(|q| format!("p{}", trimmed(q * 100.0)));
    let columns = columns.into_iter().chain(["longest".into(), "reads".into(), "maps of the other thread".into()]);
    let mut times = Times::new("Time of a read", columns);
    let counted = |index: usize| &laps[index][1..];
    for (index, (name, _)) in readers.iter().enumerate() {
        let laps = counted(index);
        let mut cells: Vec<String> =
            QUANTILES.iter().map(|&q| time(median(laps.iter().map(|lap| lap.times.quantile(q)).collect()))).collect();
        cells.push(time(laps.iter().map(|lap| lap.times.quantile(1.0)).fold(0.0, f64::max)));
        cells.push(laps.iter().map(|lap| lap.times.count).sum::<u64>().to_string());
        cells.push(laps.iter().map(|lap| lap.maps).sum::<u64>().to_string());
        times.row(*name, cells);
    }
    let ratio = |index: usize| {
        let ratios = counted(index).iter().zip(counted(0));
        median(ratios.map(|(lap, raw)| lap.times.quantile(0.9999) / raw.times.quantile(0.9999)).collect())
    };
    let row = "p99.99 of a hit while others evict";
    chapter.finding(Finding::new(row, "smmap / raw", ratio(1), Target::AtMost(1.1)).trial("1.0"));
    let caches = (2..2 + PEERS.len()).map(|index| (readers[index].0, ratio(index)));
    let (name, best) = caches.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there is at least one peer");
    chapter.finding(Finding::new(row, format!("best peer ({name}) / raw"), best, Target::None));
    chapter.times(times);
    let series = readers.iter().enumerate().map(|(index, (name, _))| {
        let mut all = Histogram::default();
        counted(index).iter().for_each(|lap| all.add(&lap.times));
        Series { name: (*name).to_owned(), points: all.curve() }
    });
    chapter.plot("latency.svg", "Latency of hits while others evict", plots::latency(&series.collect::<Vec<_>>()));
    chapter
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

struct Lap {
    times: Histogram,
    /// The sum of one pass over the offsets; equal in all passes.
    sum: u64,
    /// The number of maps by the other thread during the lap.
    maps: u64,
}

fn measure(reader: &dyn Reader, grid: Grid, offsets: &[u64], lap: Duration) -> Lap {
    let (stop, maps) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let mut session = reader.session();
        // Heats the windows, so that policies that count accesses keep them mapped.
        let sum = (0..32).fold(0, |_, _| session.peek(offsets));
        scope.spawn(|| churn(reader, grid, &maps, &stop));
        while maps.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let (mut times, start, mapped) = (Histogram::default(), Instant::now(), maps.load(Ordering::Relaxed));
        while start.elapsed() < lap {
            black_box(session.peek_timed(offsets, &mut times));
        }
        times.calibrate();
        let maps = maps.load(Ordering::Relaxed) - mapped;
        stop.store(true, Ordering::Relaxed);
        assert_eq!(session.peek(offsets), sum, "a pass read other bytes");
        Lap { times, sum, maps }
    })
}

/// Maps one window after the other, except the hot ones, until `stop` is set.
fn churn(reader: &dyn Reader, grid: Grid, maps: &AtomicU64, stop: &AtomicBool) {
    let mut session = reader.mapping_session();
    let cold = grid.count() - HOT;
    let mut next = Instant::now();
    for index in 0_u64.. {
        let window = HOT + index % cold;
        assert_ne!(session.peek(&[window * grid.window_bytes()]), 0, "no word of the data is zero");
        maps.fetch_add(1, Ordering::Relaxed);
        // A thread that fell behind its pace does not catch up.
        next = (next + PACE).max(Instant::now());
        while Instant::now() < next {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            hint::spin_loop();
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// A histogram of times: 32 buckets for each doubling, so neighbouring buckets differ by at most 3 %.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    /// Nanoseconds per tick of the clock, measured from `begun` until `calibrate`.
    tick: f64,
    begun: (Instant, u64),
}

const FINE: u32 = 5;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; 64 << FINE], count: 0, tick: 1.0, begun: (Instant::now(), ticks()) }
    }
}

impl Histogram {
    #[inline]
    pub(crate) fn start(&self) -> u64 {
        ticks()
    }

    #[inline]
    pub(crate) fn stop(&mut self, start: u64) {
        self.buckets[bucket(ticks().saturating_sub(start))] += 1;
        self.count += 1;
    }

    /// Computes the length of a tick. Call it after the last measurement.
    pub(crate) fn calibrate(&mut self) {
        let (instant, tick) = self.begun;
        self.tick = instant.elapsed().as_nanos() as f64 / ticks().wrapping_sub(tick).max(1) as f64;
    }

    pub(crate) fn add(&mut self, other: &Histogram) {
        self.tick = other.tick;
        self.count += other.count;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, more)| *sum += more);
    }

    /// Returns the quantile in nanoseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let rank = ((self.count as f64 * quantile).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let found = self.buckets.iter().position(|&count| {
            seen += count;
            seen >= rank
        });
        middle(found.expect("the ranks end at the number of times")) * self.tick
    }

    /// Returns the distribution: pairs of a number of nines (2 is the 99 % quantile) and the time at that quantile.
    fn curve(&self) -> Vec<(f64, f64)> {
        let nines = (0..=20).map(|step| f64::from(step) / 4.0);
        nines.map(|nines| (nines, self.quantile(1.0 - 10_f64.powf(-nines)))).collect()
    }
}

fn bucket(ticks: u64) -> usize {
    let log = ticks.max(1).ilog2();
    if log < FINE {
        ticks as usize
    } else {
        (((log - FINE + 1) << FINE) + ((ticks >> (log - FINE)) as u32 & ((1 << FINE) - 1))) as usize
    }
}

/// Returns the middle of a bucket, in ticks.
fn middle(bucket: usize) -> f64 {
    let (octave, within) = (bucket >> FINE, (bucket & ((1 << FINE) - 1)) as f64);
    match octave {
        0 => within,
        _ => (within + 0.5 + f64::from(1 << FINE)) * 2_f64.powi(octave as i32 - 1),
    }
}

/// Reads the finest clock of the platform.
#[cfg(target_arch = "x86_64")]
#[inline]
fn ticks() -> u64 {
    #[allow(unsafe_code, reason = "std does not read the time stamp counter")]
    // SAFETY: every x86_64 has the counter and the fence. The fence keeps earlier instructions from completing after
    // the read.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_rdtsc()
    }
}

/// Reads the finest clock of the platform.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn ticks() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_any_time_are_within_three_percent() {
        let mut last = 0;
        for ticks in (0..5000).chain([1 << 20, (1 << 40) + 12345, u64::MAX / 2]) {
            let at = bucket(ticks);
            assert!(at >= last, "the bucket of {ticks} is below that of a smaller time");
            last = at;
            assert!((middle(at) - ticks as f64).abs() <= (ticks as f64 * 0.03).max(0.5), "{ticks}: {}", middle(at));
        }
    }

    #[test]
    fn quantiles_of_uniform_times_match_their_ranks() {
        let mut times = Histogram::default();
        for ticks in 0..1000 {
            times.buckets[bucket(ticks)] += 1;
            times.count += 1;
        }
        assert!((times.quantile(0.5) - 500.0).abs() < 15.0);
        assert!((times.quantile(1.0) - 999.0).abs() < 30.0);
    }
}
