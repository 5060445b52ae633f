//! [`Stats`], and the counters behind it: sharded by thread, so that counting a hit writes to no shared cache line.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::{array, thread};

use crossbeam_utils::CachePadded;

use crate::protocol::atomics::ThreadIds;

/// The events of a manager since it was built, and the amounts that it holds now. The counters of different threads are
/// read one after the other, so under load a snapshot does not describe a single instant.
///
/// # Examples
///
/// ```
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// let file = maps.open("Cargo.toml")?;
/// file.prefetch(..)?;
/// let lease = file.lease(..)?;
/// let stats = maps.stats();
/// assert_eq!((stats.misses, stats.maps, stats.hits, stats.pinned_regions), (1, 1, 1, 1));
/// assert!(stats.mapped_bytes >= file.len());
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Stats {
    /// Accesses of a window that was already mapped. Reads of a cursor inside the window that it holds are not counted.
    pub hits: u64,
    /// Accesses of a window that was not mapped; the window was then mapped, or the range was read from the file.
    /// Detached regions of large ranges are not counted here, only in `maps`.
    pub misses: u64,
    /// Mappings made, including copies of windows that take their place.
    pub maps: u64,
    /// Mappings unmapped.
    pub unmaps: u64,
    /// Ranges, or parts of a range in one window, that were read from the file instead of mapped.
    pub copies: u64,
    /// Regions unmapped to make room for others.
    pub evictions: u64,
    /// Mappings made, and descriptors opened, beyond the limits because everything in the budget was in use.
    pub overcommits: u64,
    /// Bytes mapped now, in whole pages, including the bytes reserved for mappings in progress.
    pub mapped_bytes: u64,
    /// The highest value of [`mapped_bytes`](Self::mapped_bytes) so far.
    pub peak_mapped_bytes: u64,
    /// Regions mapped now, including mappings in progress.
    pub regions: usize,
    /// The highest value of [`regions`](Self::regions) so far.
    pub peak_regions: usize,
    /// Bytes, in whole pages, of the regions that leases, cursors and buffers hold now, and of those that the OS
    /// refused to unmap so far. Each region is counted once. A window that a cursor has left for another one is not
    /// counted.
    pub pinned_bytes: u64,
    /// The number of regions counted in [`pinned_bytes`](Self::pinned_bytes).
    pub pinned_regions: usize,
    /// Descriptors open now.
    pub open_files: usize,
    /// The highest value of [`open_files`](Self::open_files) so far.
    pub peak_open_files: usize,
    /// Files known now: those with handles or with regions.
    pub files: usize,
    /// Files that the OS refused to map, so that they are read instead ([`Unmappable`](crate::ErrorKind::Unmappable)).
    /// A file counts again if it was forgotten and is opened again.
    pub unmappable_files: u64,
}

impl Stats {
    /// Returns the ratio of hits to hits and misses, from 0.0 to 1.0. Returns 0.0 before the first access.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(smmap::Stats::default().hit_ratio(), 0.0);
    /// ```
    pub fn hit_ratio(&self) -> f64 {
        let accesses = self.hits + self.misses;
        if accesses == 0 { 0.0 } else { self.hits as f64 / accesses as f64 }
    }
}

/// An event of a reader's hot path, counted per thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An access of a mapped window.
    Hit,
    /// A miss for which a mapping is attempted.
    Miss,
    /// A miss that is read from the file, so also a copy. The access counts in the window's access frequency.
    ReadMiss,
    /// As `ReadMiss`, for a repeated access, which does not count in the frequency.
    ReadRepeat,
    /// A mapping made.
    Map,
    /// A copy that is neither `ReadMiss` nor `ReadRepeat`.
    Copy,
    /// A mapping made, or a descriptor opened, beyond the limits.
    Overcommit,
    /// A file found that the OS does not map.
    Unmappable,
}

const EVENTS: usize = Event::Unmappable as usize + 1;

/// The counters of all events, in shards of one cache line each.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Shards of one thread each, by the thread's number.
    own: Box<[Shard]>,
    /// Shards of the other threads. Their number is a power of two.
    shared: Box<[Shard]>,
}

type Shard = CachePadded<[AtomicU64; EVENTS]>;

impl Default for Counters {
    fn default() -> Self {
        let shards =
            |count: usize| (0..count).map(|_| CachePadded::new(array::from_fn(|_| AtomicU64::new(0)))).collect();
        let count = (2 * thread::available_parallelism().map_or(1, usize::from)).next_power_of_two().min(64);
        Self { own: shards(count), shared: shards(count) }
    }
}

impl Counters {
    /// Counts an event. Returns the count of this thread's shard before it.
    #[inline]
    pub(crate) fn count(&self, event: Event) -> u64 {
        self.counter(event).count()
    }

    /// Returns this thread's counter of an event. A caller that then holds a guard counts without a call that could
    /// unwind, so the guard can stay in a register.
    #[inline]
    pub(crate) fn counter(&self, event: Event) -> Counter<'_> {
        let number = this_thread();
        match self.own.get(number) {
            Some(shard) => Counter { count: &shard[event as usize], is_own: true },
            None => {
                let shard = &self.shared[number & (self.shared.len() - 1)];
                Counter { count: &shard[event as usize], is_own: false }
            }
        }
    }

    /// Returns the count of an event over all threads. Concurrent events may be missed.
    pub(crate) fn total(&self, event: Event) -> u64 {
        let shards = self.own.iter().chain(&self.shared);
        shards.map(|shard| shard[event as usize].load(Ordering::Relaxed)).sum()
    }
}

/// The counter of one event in one shard.
pub(crate) struct Counter<'c> {
    count: &'c AtomicU64,
    is_own: bool,
}

impl Counter<'_> {
    /// Counts an event. Returns the count before it.
    #[inline]
    pub(crate) fn count(self) -> u64 {
        if self.is_own {
            // Relaxed, without a read-modify-write: no other thread writes to this shard.
            let before = self.count.load(Ordering::Relaxed);
            self.count.store(before + 1, Ordering::Relaxed);
            before
        } else {
            self.count.fetch_add(1, Ordering::Relaxed)
        }
    }
}

/// A counter that all threads share, for events that are rare or that make a system call anyway.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The first thread number that several threads may share. Smaller numbers belong to one living thread each.
const OWN: usize = 64;

const UNKNOWN: usize = usize::MAX;

/// The numbers below [`OWN`] that living threads have.
static NUMBERS: OnceLock<ThreadIds> = OnceLock::new();

thread_local! {
    static NUMBER: Number = const { Number(Cell::new(UNKNOWN)) };
}

/// Returns this thread's number, which is [`OWN`] or larger if all smaller ones are taken or if the thread is ending.
#[inline]
fn this_thread() -> usize {
    // The access fails while the thread ends, after its number was freed: the thread then uses a shared shard.
    NUMBER.try_with(Number::get).unwrap_or(OWN)
}

/// A thread's number, or [`UNKNOWN`]. It is free again after the thread has ended.
struct Number(Cell<usize>);

impl Number {
    #[inline]
    fn get(&self) -> usize {
        if self.0.get() == UNKNOWN { self.find() } else { self.0.get() }
    }

    #[cold]
    fn find(&self) -> usize {
        static OTHERS: AtomicUsize = AtomicUsize::new(OWN);
        let own = NUMBERS.get_or_init(ThreadIds::default).take();
        self.0.set(own.map_or_else(|| OTHERS.fetch_add(1, Ordering::Relaxed), |number| number as usize));
        self.0.get()
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if let (Some(numbers), number @ 0..OWN) = (NUMBERS.get(), self.0.get()) {
            numbers.leave(number as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn counters_of_concurrent_threads_lose_no_event() {
        let counters = Counters::default();
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| (0..100).for_each(|_| _ = counters.count(Event::Hit)));
            }
        });
        assert_eq!((counters.total(Event::Hit), counters.total(Event::Miss)), (10_000, 0));
    }

    #[test]
    fn concurrent_threads_have_distinct_numbers_below_the_bound() {
        const THREADS: usize = OWN + 20;
        let (all_started, counters) = (Barrier::new(THREADS), Counters::default());
        let numbers: Vec<_> = thread::scope(|scope| {
            let count = || {
                let number = this_thread();
                all_started.wait();
                (0..1_000).for_each(|_| _ = counters.count(Event::Hit));
                assert_eq!(this_thread(), number);
                number
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread does not panic")).collect()
        });
        let own: HashSet<_> = numbers.iter().filter(|&&number| number < OWN).collect();
        // Threads of other tests have taken some of the numbers. The numbers here are distinct.
        assert_eq!(own.len(), numbers.iter().filter(|&&number| number < OWN).count());
        assert_eq!(counters.total(Event::Hit), 1_000 * THREADS as u64);
    }

    #[test]
    fn hit_ratio_before_the_first_access_is_zero() {
        assert_eq!(Stats::default().hit_ratio(), 0.0);
        assert_eq!(Stats { hits: 3, misses: 1, ..Stats::default() }.hit_ratio(), 0.75);
    }
}
