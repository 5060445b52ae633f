//! Counting without slowing anyone down: sharded relaxed counters inside, a [`Stats`] snapshot outside.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::{array, thread};

use crossbeam_utils::CachePadded;

use crate::protocol::atomics::ThreadIds;

/// What a cache has done, and holds, at one moment. Made by [`MapManager::stats`](crate::MapManager::stats).
///
/// The events are counted from the start of the manager; the amounts are those of the moment. Counters of different
/// threads are read one after the other, so under load a snapshot is not of one single instant.
///
/// ```
/// # use smmap::MapManager;
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
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
    /// Takes of a window that was mapped already. A cursor that goes on reading in its window takes nothing and is not
    /// counted.
    pub hits: u64,
    /// Takes that found the window unmapped; it was then mapped, or read. AddressTable that get a mapping of their own are not
    /// counted here, only in `maps`.
    pub misses: u64,
    /// Mappings made.
    pub maps: u64,
    /// Mappings given back to the system.
    pub unmaps: u64,
    /// AddressTable, or parts of one window, that were read from the file instead of mapped.
    pub copies: u64,
    /// Regions unmapped to make room for others.
    pub evictions: u64,
    /// Mappings made, or descriptors opened, beyond the limits, because all that was there was in use.
    pub overcommits: u64,
    /// Bytes mapped, in whole pages, with what is reserved for mappings under way.
    pub mapped_bytes: u64,
    /// The most that [`mapped_bytes`](Self::mapped_bytes) ever was.
    pub peak_mapped_bytes: u64,
    /// Regions mapped, with those under way.
    pub regions: usize,
    /// The most that [`regions`](Self::regions) ever was.
    pub peak_regions: usize,
    /// Bytes of the regions that leases, cursors and buffers hold, each counted once, in windows or by themselves, and of
    /// those that the system refused to unmap so far. What a cursor has left by going on is not among them.
    pub pinned_bytes: u64,
    /// How many regions these are.
    pub pinned_regions: usize,
    /// Descriptors open.
    pub open_files: usize,
    /// The most that [`open_files`](Self::open_files) ever was.
    pub peak_open_files: usize,
    /// Files known: those with handles or with regions.
    pub files: usize,
}

impl Stats {
    /// Hits among all takes, 0.0 to 1.0; 0.0 before the first.
    ///
    /// ```
    /// assert_eq!(smmap::Stats::default().hit_ratio(), 0.0);
    /// ```
    pub fn hit_ratio(&self) -> f64 {
        let takes = self.hits + self.misses;
        if takes == 0 { 0.0 } else { self.hits as f64 / takes as f64 }
    }
}

/// What readers do, so often that counting must not make them meet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Hit,
    /// A miss that is to be mapped.
    Miss,
    /// A miss that is read, and so a copy: of a touch that counts.
    Cold,
    /// The same, of one that does not.
    Again,
    Map,
    /// A copy that is none of those.
    Copy,
    Overcommit,
}

const EVENTS: usize = Event::Overcommit as usize + 1;

/// One counter for each event in each shard. A thread has a shard of its own, where it counts as cheaply as in a variable;
/// those that are too many share what is there for them.
#[derive(Debug)]
pub(crate) struct Counters {
    own: Box<[Shard]>,
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
    /// How many there were in this thread's shard before.
    #[inline]
    pub(crate) fn count(&self, event: Event) -> u64 {
        let number = this_thread();
        if let Some(shard) = self.own.get(number) {
            // No other thread writes here, so there is nothing to be done at once.
            let counter = &shard[event as usize];
            let before = counter.load(Ordering::Relaxed);
            counter.store(before + 1, Ordering::Relaxed);
            return before;
        }
        // Without a panic on the way, also one that never comes: it costs whoever holds something across it.
        match self.shared.get(number & (self.shared.len() - 1)) {
            Some(shard) => shard[event as usize].fetch_add(1, Ordering::Relaxed),
            None => 0,
        }
    }

    pub(crate) fn total(&self, event: Event) -> u64 {
        let shards = self.own.iter().chain(&self.shared);
        shards.map(|shard| shard[event as usize].load(Ordering::Relaxed)).sum()
    }
}

/// A count of what is seldom, or takes a call of the system anyway: one word for all threads.
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

/// ThreadIds from here on are of more threads than one.
const OWN: usize = 64;

/// Not looked for yet.
const UNKNOWN: usize = usize::MAX;

/// Those below [`OWN`]: of threads that live.
static NUMBERS: OnceLock<ThreadIds> = OnceLock::new();

thread_local! {
    static NUMBER: Number = const { Number(Cell::new(UNKNOWN)) };
}

/// A number of this thread's: a small one that no other has while it lives; or if all of those are taken, some larger one.
#[inline]
fn this_thread() -> usize {
    // While a thread ends, its number may be gone: then it counts among the others.
    NUMBER.try_with(Number::get).unwrap_or(OWN)
}

/// What a thread gives back when it ends.
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
    fn nothing_is_lost_between_threads() {
        let counters = Counters::default();
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| (0..100).for_each(|_| _ = counters.count(Event::Hit)));
            }
        });
        assert_eq!((counters.total(Event::Hit), counters.total(Event::Miss)), (10_000, 0));
    }

    #[test]
    fn threads_that_live_at_once_have_numbers_of_their_own_as_far_as_these_go() {
        const THREADS: usize = OWN + 20;
        let (all_are_there, counters) = (Barrier::new(THREADS), Counters::default());
        let numbers: Vec<_> = thread::scope(|scope| {
            let count = || {
                let number = this_thread();
                all_are_there.wait();
                (0..1_000).for_each(|_| _ = counters.count(Event::Hit));
                assert_eq!(this_thread(), number);
                number
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread that ends")).collect()
        });
        let own: HashSet<_> = numbers.iter().filter(|&&number| number < OWN).collect();
        // Fewer than there are, since other tests' threads have some; and no two the same.
        assert_eq!(own.len(), numbers.iter().filter(|&&number| number < OWN).count());
        assert_eq!(counters.total(Event::Hit), 1_000 * THREADS as u64);
    }

    #[test]
    fn a_ratio_of_nothing_is_zero() {
        assert_eq!(Stats::default().hit_ratio(), 0.0);
        assert_eq!(Stats { hits: 3, misses: 1, ..Stats::default() }.hit_ratio(), 0.75);
    }
}
