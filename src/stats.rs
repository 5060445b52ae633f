//! Counting without slowing anyone down: sharded relaxed counters inside, a [`Stats`] snapshot outside.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::{array, thread};

use crossbeam_utils::CachePadded;

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
    /// Takes that found the window unmapped; it was then mapped, or read. Ranges that get a mapping of their own are not
    /// counted here, only in `maps`.
    pub misses: u64,
    /// Mappings made.
    pub maps: u64,
    /// Mappings given back to the system.
    pub unmaps: u64,
    /// Ranges, or parts of one window, that were read from the file instead of mapped.
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
    /// Bytes of the regions that clients hold, in windows or by themselves, and of those that the system refused to unmap
    /// so far.
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

/// One counter for each event in each shard; a thread counts in a shard of its own as long as there are enough.
#[derive(Debug)]
pub(crate) struct Counters {
    shards: Box<[CachePadded<[AtomicU64; EVENTS]>]>,
}

impl Default for Counters {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let shards = (2 * threads).next_power_of_two().min(64);
        Self { shards: (0..shards).map(|_| CachePadded::new(array::from_fn(|_| AtomicU64::new(0)))).collect() }
    }
}

impl Counters {
    /// How many there were in this thread's shard before.
    #[inline]
    pub(crate) fn count(&self, event: Event) -> u64 {
        // Without a panic on the way, also one that never comes: it costs whoever holds something across it.
        match self.shards.get(this_thread() & (self.shards.len() - 1)) {
            Some(shard) => shard[event as usize].fetch_add(1, Ordering::Relaxed),
            None => 0,
        }
    }

    pub(crate) fn total(&self, event: Event) -> u64 {
        self.shards.iter().map(|shard| shard[event as usize].load(Ordering::Relaxed)).sum()
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

/// A small number of this thread's own.
#[inline]
fn this_thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    // While a thread ends, its number may be gone: then it counts where the first one does.
    NUMBER
        .try_with(|number| {
            if number.get() == usize::MAX {
                number.set(THREADS.fetch_add(1, Ordering::Relaxed));
            }
            number.get()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
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
    fn a_ratio_of_nothing_is_zero() {
        assert_eq!(Stats::default().hit_ratio(), 0.0);
        assert_eq!(Stats { hits: 3, misses: 1, ..Stats::default() }.hit_ratio(), 0.75);
    }
}
