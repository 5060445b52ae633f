//! [`RegionPool`]: all regions of a cache, their budget, and the choice of a victim.
//!
//! A hit takes no lock here and waits for no other thread. Making room is in `room`, and unmapping in `reclaim`.

use std::sync::{Arc, PoisonError, TryLockError};

use super::CachedFile;
use super::backoff::Backoff;
use super::region::Region;
use super::slotless::SlotlessFrequencies;
use crate::mapping::Mapping;
use crate::os::Process;
use crate::policy::{self, Earnings, Frequency};
use crate::protocol::atomics::{Clock, UserCount};
use crate::protocol::budget::{Budget, Reservation, Usage};
use crate::protocol::clock_ring::ClockRing;
use crate::protocol::hazard::{HazardDomain, ProtectedSet};
use crate::protocol::slot::{Drain, Loading, Phase, Slot, SlotRef, UnmapToken};
use crate::protocol::sparse_table::SparseTable;
use crate::stats::Tally;
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering, epoch};

/// The regions of a cache in slots, their budget and the deferred list.
pub(super) struct RegionPool {
    pub(super) budget: Arc<Budget>,
    /// The regions that could be evicted.
    pub(super) ring: ClockRing<Slot<Region>>,
    /// The cursors' hazard records.
    pub(super) hazards: Arc<HazardDomain<Region>>,
    clock: Clock,
    slotless: SlotlessFrequencies,
    /// [`Earnings`], as a word (rule 4 of `policy`).
    earnings: AtomicU32,
    /// The frequency, as a word, of the last victim that was too hot for its candidate (rule 5 of `policy`).
    admission_threshold: AtomicU32,
    /// A frequency, as a word, that is saturated whenever a required mapping does not fit within the admission limit.
    pressure: AtomicU32,
    /// Regions that are owned, but could not be unmapped yet. They are still mapped and counted.
    ///
    /// In a child of `fork`, a thread that does not exist there may hold the lock. The child never takes it, so
    /// deferred regions stay mapped there.
    deferred: Mutex<Vec<UnmapToken<Region>>>,
    process: Process,
    pub(super) unmapped: Tally,
    /// Regions unmapped to make room for others.
    pub(super) evicted: Tally,
    /// Detached regions are always in use, and are in no ring.
    detached_items: Tally,
    detached_bytes: Tally,
    /// Threads that trim, and may own regions that are neither unmapped nor deferred yet.
    pub(super) trims: UserCount,
}

impl RegionPool {
    pub(super) fn new(limit: Usage) -> Self {
        Self {
            budget: Arc::new(Budget::new(limit)),
            ring: ClockRing::default(),
            hazards: Arc::default(),
            clock: Clock::default(),
            slotless: SlotlessFrequencies::default(),
            earnings: AtomicU32::new(Earnings::NONE.to_word()),
            admission_threshold: AtomicU32::new(0),
            pressure: AtomicU32::new(0),
            deferred: Mutex::default(),
            process: Process::this(),
            unmapped: Tally::default(),
            evicted: Tally::default(),
            detached_items: Tally::default(),
            detached_bytes: Tally::default(),
            trims: UserCount::default(),
        }
    }

    /// Publishes a window of `file` for evicting threads to find. Without a `loading`, makes a detached region, which
    /// no evicting thread finds and which its last client unmaps.
    pub(super) fn publish(
        &self,
        loading: Option<Loading<'_, Region>>,
        mapping: Mapping,
        reservation: Reservation,
        file: &Arc<CachedFile>,
    ) -> SlotRef<Region> {
        let Some(loading) = loading else {
            file.detached.enter();
            self.detached_items.add(1);
            self.detached_bytes.add(reservation.bytes());
            return Slot::detached(Region::new(mapping, reservation, None, Arc::clone(file)));
        };
        // Rule 6: the slot enters the ring before it is published.
        let ring_entry = loading.enlist(&self.ring);
        loading.publish(Region::new(mapping, reservation, Some(ring_entry), Arc::clone(file)))
    }

    /// Counts an unmapped region of `bytes`.
    pub(super) fn count_unmap(&self, was_detached: bool, bytes: usize) {
        self.unmapped.add(1);
        if was_detached {
            self.detached_items.sub(1);
            self.detached_bytes.sub(bytes);
        }
    }

    /// Counts an access to a window, mapped or not. Writes nothing while the window's frequency is saturated.
    #[inline(always)]
    pub(super) fn record_access(&self, slot: &Slot<Region>) {
        if !self.is_saturated(slot) {
            let accessed = Frequency::from_word(slot.frequency()).accessed(self.clock.now());
            slot.set_frequency(accessed.to_word());
        }
    }

    /// Counts an access to a window that has no slot. Returns the window's access frequency now.
    #[inline]
    pub(super) fn record_slotless_access(
        &self,
        file: &CachedFile,
        window: u64,
        windows_in_budget: impl FnOnce() -> usize,
    ) -> u8 {
        self.count(self.slotless.record_access(file, window, self.clock.now(), windows_in_budget))
    }

    /// Returns the access frequency now of a window that has no slot.
    pub(super) fn slotless_frequency(&self, file: &CachedFile, window: u64) -> u8 {
        self.count(self.slotless.get(file, window))
    }

    /// Gives the slots of a file that is opened the frequencies that were kept when it was closed last. (Slots that are
    /// made later get them in [`make_slot`](Self::make_slot).)
    pub(super) fn restore_frequencies(&self, file: &CachedFile) {
        file.windows().for_each_from(0, |window, slot| slot.set_frequency(self.slotless.get(file, window)));
    }

    /// Keeps the access frequencies of a file whose slots are about to be freed.
    pub(super) fn keep_frequencies(&self, file: &CachedFile, windows_in_budget: impl Fn() -> usize) {
        let now = self.clock.now();
        file.windows().for_each_from(0, |window, slot| {
            let frequency = Frequency::from_word(slot.frequency());
            if frequency.count(now) > 0 {
                self.slotless.keep(file, window, frequency, now, &windows_in_budget);
            }
        });
    }

    /// Makes the slot of a window, which takes over the window's access frequency.
    #[cold]
    pub(super) fn make_slot<'f>(&self, file: &'f CachedFile, window: u64) -> &'f Slot<Region> {
        let made = file.windows().at(window);
        for window in SparseTable::<Slot<Region>>::made_with(window) {
            if let Some(slot) = file.windows().get(window).filter(|slot| slot.frequency() == 0) {
                slot.set_frequency(self.slotless.get(file, window));
            }
        }
        made
    }

    /// Returns `true` if one more access would not change the window's frequency.
    #[inline]
    fn is_saturated(&self, slot: &Slot<Region>) -> bool {
        slot.frequency() == Frequency::saturated(self.clock.now()).to_word()
    }

    /// Returns the access frequency of a window now.
    pub(super) fn frequency(&self, slot: &Slot<Region>) -> u8 {
        self.count(slot.frequency())
    }

    fn count(&self, word: u32) -> u8 {
        Frequency::from_word(word).count(self.clock.now())
    }

    /// Advances the policy's clock by `accesses` to windows that are not mapped.
    pub(super) fn tick(&self, accesses: u32, windows_in_budget: usize, has_room: bool) {
        self.clock.tick(accesses, policy::clock_period(windows_in_budget, has_room));
    }

    /// Returns what mappings have earned lately.
    #[inline]
    pub(super) fn earnings(&self) -> Earnings {
        // Relaxed: a heuristic, which orders no other access.
        Earnings::from_word(self.earnings.load(Ordering::Relaxed))
    }

    /// Adds a mapped window, which `number` selects, to the earnings. Without room, forgets them: the frequencies of
    /// mapped windows then say nothing of windows that are mapped next.
    pub(super) fn sample_earnings(&self, has_room: bool, number: u32) {
        let earnings = if has_room {
            // Fibonacci hashing, as in `slotless`: consecutive numbers are far apart in the ring, where the oldest
            // windows come first.
            let guard = epoch::pin();
            let Some(slot) = self.ring.item_near(number.wrapping_mul(0x9E37_79B9), &guard) else { return };
            self.earnings().sampled(self.frequency(slot))
        } else {
            Earnings::NONE
        };
        // Relaxed: a heuristic. A lost update loses one sample.
        self.earnings.store(earnings.to_word(), Ordering::Relaxed);
    }

    /// Returns the frequency of the last victim that was too hot for its candidate. A colder candidate need not search.
    pub(super) fn admission_threshold(&self) -> u8 {
        // Relaxed: a heuristic, which orders no other access.
        self.count(self.admission_threshold.load(Ordering::Relaxed))
    }

    /// Records that a required mapping did not fit within the admission limit.
    pub(super) fn note_pressure(&self) {
        // Relaxed: a heuristic, as in `admission_threshold`.
        self.pressure.store(Frequency::saturated(self.clock.now()).to_word(), Ordering::Relaxed);
    }

    /// Returns `true` if a required mapping recently did not fit within the admission limit.
    pub(super) fn under_pressure(&self) -> bool {
        // Relaxed: a heuristic, as in `admission_threshold`.
        policy::under_pressure(self.count(self.pressure.load(Ordering::Relaxed)))
    }

    /// Retires an unused region: the one with the lowest access frequency in a sample or, if no sample has
    /// one, any that is found. Returns `None` if there is none.
    pub(super) fn victim(&self) -> Option<UnmapToken<Region>> {
        let guard = epoch::pin();
        let protected = self.hazards.scan_unordered();
        let mut left = self.ring.len();
        while left > 0 {
            if let Some(token) = self.sample(&mut left, &protected, &guard).into_iter().find_map(Slot::retire) {
                return Some(token);
            }
        }
        // Other threads may have advanced the shared hand past a victim. This thread looks at each entry once, without
        // the hand.
        let mut token = None;
        self.ring.for_each(&guard, |slot| {
            if token.is_none() && !protected.contains(slot) {
                token = slot.retire();
            }
        });
        token
    }

    /// Retires an unused region for a candidate: one of the next few, if its frequency is at most `at_most`.
    pub(super) fn victim_at_most(&self, at_most: u8) -> Option<UnmapToken<Region>> {
        let guard = epoch::pin();
        // If nearly all regions are in use, the candidate does not search for the exception.
        let mut left = self.ring.len().min(8 * policy::SAMPLE as u32);
        for slot in self.sample(&mut left, &self.hazards.scan_unordered(), &guard) {
            if self.frequency(slot) > at_most {
                // Relaxed: a heuristic, as in `admission_threshold`.
                self.admission_threshold.store(slot.frequency(), Ordering::Relaxed);
                return None;
            }
            if let Some(token) = slot.retire() {
                return Some(token);
            }
        }
        None
    }

    /// Returns the next few unused regions, the one with the lowest frequency first. `left` limits the ring entries
    /// examined.
    fn sample<'g>(
        &self,
        left: &mut u32,
        protected: &ProtectedSet<Region>,
        guard: &'g epoch::Guard,
    ) -> Vec<&'g Slot<Region>> {
        let mut sample = Vec::with_capacity(policy::SAMPLE);
        while *left > 0 && sample.len() < policy::SAMPLE {
            *left -= 1;
            sample.extend(self.ring.advance(guard).filter(|slot| is_unused(slot) && !protected.contains(slot)));
        }
        sample.sort_by_cached_key(|slot| self.frequency(slot));
        sample
    }

    /// Retires each unused region, one after the other, and passes its token to `each`.
    pub(super) fn for_each_unused(&self, mut each: impl FnMut(UnmapToken<Region>)) {
        let protected = self.hazards.scan_unordered();
        self.ring.for_each(&epoch::pin(), |slot| {
            if protected.contains(slot) {
                return;
            }
            if let Some(token) = slot.retire() {
                each(token);
            }
        });
    }

    /// Drains every region, and passes the tokens of unused ones to `each`.
    pub(super) fn drain_all(&self, mut each: impl FnMut(UnmapToken<Region>)) {
        self.ring.for_each(&epoch::pin(), |slot| {
            if let Drain::Owned(token) = slot.drain() {
                each(token);
            }
        });
    }

    /// Returns the number and bytes of regions in use: detached, with clients, protected by cursors, or refused by the
    /// OS. O(regions + cursors).
    pub(super) fn pinned(&self) -> Usage {
        let mut pinned =
            Usage { bytes: self.detached_bytes.total() as usize, items: self.detached_items.total() as usize };
        let mut add = |region: &Region| {
            pinned.bytes += region.reserved_bytes();
            pinned.items += 1;
        };
        let protected = self.hazards.scan_unordered();
        // Reading a payload takes a client of it. One more client does no harm where there is one, or a protection.
        self.ring.for_each(&epoch::pin(), |slot| {
            let client = slot.join().or_else(|| if protected.contains(slot) { slot.take().ok() } else { None });
            if let Some(client) = client {
                add(&client);
            }
        });
        // A deferred region whose last reader has left is not in use. Detached regions are counted already.
        let is_in_use = |token: &&UnmapToken<Region>| {
            !token.is_detached() && (protected.contains_token(token) || token.payload().unmap_was_tried())
        };
        let deferred = self.deferred();
        deferred.iter().flat_map(|tokens| tokens.iter()).filter(is_in_use).for_each(|token| add(token.payload()));
        pinned
    }

    /// Puts a token on the deferred list. In a child of `fork` the region stays mapped as long as the child lives.
    pub(super) fn defer(&self, token: UnmapToken<Region>) {
        if let Some(mut deferred) = self.deferred() {
            deferred.push(token);
        }
    }

    /// Takes all tokens off the deferred list.
    pub(super) fn take_deferred(&self) -> Vec<UnmapToken<Region>> {
        self.deferred().map_or_else(Vec::new, |mut deferred| std::mem::take(&mut *deferred))
    }

    /// Takes the tokens off the deferred list that were deferred for readers and are not in `protected`.
    pub(super) fn take_unprotected(&self, protected: &ProtectedSet<Region>) -> Vec<UnmapToken<Region>> {
        let is_free =
            |token: &UnmapToken<Region>| !token.payload().unmap_was_tried() && !protected.contains_token(token);
        self.deferred().map_or_else(Vec::new, |mut deferred| {
            let (free, kept) = std::mem::take(&mut *deferred).into_iter().partition(is_free);
            *deferred = kept;
            free
        })
    }

    /// Takes all tokens off the deferred list without its lock.
    pub(super) fn take_deferred_mut(&mut self) -> Vec<UnmapToken<Region>> {
        std::mem::take(self.deferred.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    fn deferred(&self) -> Option<MutexGuard<'_, Vec<UnmapToken<Region>>>> {
        if !self.process.is_this() {
            return None;
        }
        // The lock is held for moments, and hands tokens from one thread to another. The thread sanitizer does not see
        // how the standard library waits for a lock, but it sees a successful `try_lock`.
        let mut backoff = Backoff::new();
        loop {
            match self.deferred.try_lock() {
                Ok(deferred) => return Some(deferred),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => backoff.pause(),
            }
        }
    }
}

/// Returns the number of draining windows that have clients or a loader, or that are in `protected`.
pub(super) fn count_held(windows: &SparseTable<Slot<Region>>, protected: &ProtectedSet<Region>) -> usize {
    let mut count = 0;
    windows.for_each_from(0, |_, slot| {
        let now = slot.snapshot();
        let is_held = now.clients() > 0 || now.phase() == Phase::Loading || protected.contains(slot);
        count += usize::from(now.is_draining() && is_held);
    });
    count
}

fn is_unused(slot: &Slot<Region>) -> bool {
    let now = slot.snapshot();
    now.phase() == Phase::Mapped && now.clients() == 0 && !now.is_draining()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::descriptors;
    use crate::cache::load::tests::{Opened, WINDOW};
    use crate::cache::region::RegionRef;
    use crate::cache::region::tests::REFUSES_UNMAP;
    use crate::cache::room::{RoomPolicy, TRANSIT_MAX, WhenFull};
    use std::time::Instant;

    const WINDOWS: u64 = 100;

    /// A cache with room for a file of 100 windows.
    struct Setting {
        opened: Opened,
    }

    impl Setting {
        fn new() -> Self {
            Self { opened: Opened::new(WINDOWS, WINDOWS * WINDOW) }
        }

        fn pool(&self) -> &RegionPool {
            &self.opened.cache.regions
        }

        /// Maps a window that has this access frequency, at the next entry of the ring.
        fn map(&self, window: u64, frequency: u8) -> RegionRef {
            (0..frequency).for_each(|_| self.pool().record_access(self.opened.slot(window)));
            self.opened.cache.map_window(&self.opened.file, window, WINDOW)
        }

        /// Returns the window of a victim, after unmapping it.
        fn unmap(&self, victim: Option<UnmapToken<Region>>) -> Option<u64> {
            let token = victim?;
            let mut window = None;
            self.opened.file.windows().for_each_from(0, |index, slot| {
                if slot.snapshot().phase() == Phase::Retiring {
                    assert_eq!(window.replace(index), None, "two windows are retiring");
                }
            });
            drop(self.pool().reclaim(token).expect("the OS unmaps the window"));
            window
        }

        fn victim(&self) -> Option<u64> {
            self.unmap(self.pool().victim())
        }

        fn victim_at_most(&self, at_most: u8) -> Option<u64> {
            self.unmap(self.pool().victim_at_most(at_most))
        }
    }

    fn of(windows: usize) -> Usage {
        Usage { bytes: windows * WINDOW as usize, items: windows }
    }

    #[test]
    fn earnings_are_the_mean_frequency_of_all_mapped_windows() {
        let setting = Setting::new();
        setting.pool().sample_earnings(true, 0);
        assert_eq!(setting.pool().earnings(), Earnings::NONE, "there is no mapped window");
        // The windows that were mapped first, and those mapped last, are not alike.
        (0..WINDOWS).for_each(|window| drop(setting.map(window, if window < WINDOWS / 2 { 0 } else { 40 })));
        let mut sum = 0;
        for number in 0..1_000 {
            setting.pool().sample_earnings(true, number);
            sum += setting.pool().earnings().to_word();
        }
        let mean = sum / 1_000 / 16;
        assert!((18..=22).contains(&mean), "{mean}");
    }

    #[test]
    fn frequency_counts_accesses_up_to_saturation_and_halves_with_the_clock() {
        let pool = RegionPool::new(of(100));
        let slot = Slot::default();
        for frequency in 0..u8::MAX {
            assert_eq!(pool.frequency(&slot), frequency);
            pool.record_access(&slot);
        }
        let saturated = slot.frequency();
        pool.record_access(&slot);
        assert_eq!((pool.frequency(&slot), slot.frequency()), (u8::MAX, saturated));

        let period = policy::clock_period(3, false);
        (1..period).for_each(|_| pool.tick(1, 3, false));
        assert_eq!(pool.frequency(&slot), u8::MAX);
        pool.tick(1, 3, false);
        assert_eq!(pool.frequency(&slot), u8::MAX / 2);
    }

    #[test]
    fn victim_is_the_coldest_unused_region_of_a_sample() {
        let setting = Setting::new();
        let _used: Vec<_> = (0..7).map(|window| setting.map(window, 0)).collect();
        for (window, frequency) in (7..).zip([9, 3, 3, 3, 1, 3, 3, 3, 0]) {
            drop(setting.map(window, frequency));
        }
        assert_eq!(setting.victim(), Some(11), "the coldest of the first {}", policy::SAMPLE);
        let rest: Vec<_> = std::iter::from_fn(|| setting.victim()).collect();
        assert_eq!((rest.len(), rest.first()), (8, Some(&15)), "{rest:?}");
        assert!(rest.iter().all(|&window| window >= 7), "{rest:?}");
        assert_eq!(setting.pool().budget.used(), of(7));
    }

    #[test]
    fn candidate_searches_only_a_few_ring_entries() {
        for (used, found) in [(60, Some(60)), (63, Some(63)), (64, None), (70, None)] {
            let setting = Setting::new();
            let _used: Vec<_> = (0..used).map(|window| setting.map(window, 0)).collect();
            drop(setting.map(used, 0));
            assert_eq!(setting.victim_at_most(u8::MAX), found, "behind {used} regions in use");
        }
    }

    #[test]
    fn hotter_region_stays_and_raises_the_admission_threshold() {
        let setting = Setting::new();
        drop(setting.map(0, 8));
        assert_eq!(setting.pool().admission_threshold(), 0);
        assert_eq!(setting.victim_at_most(7), None);
        assert_eq!(setting.pool().admission_threshold(), 8);
        assert_eq!(setting.victim_at_most(8), Some(0));
    }

    #[test]
    fn refused_unmaps_are_deferred_and_counted_once() {
        let setting = Setting::new();
        let pool = setting.pool();
        drop(setting.map(0, 0));
        let detached = setting
            .opened
            .cache
            .map_detached(&setting.opened.file, WINDOW..2 * WINDOW, RoomPolicy::Required(WhenFull::Exceed))
            .unwrap();
        let held = setting.map(2, 0);
        drop(setting.map(3, 0));
        assert_eq!(pool.pinned(), of(2), "one with a client, and a detached one");

        REFUSES_UNMAP.set(true);
        while let Some(token) = pool.victim() {
            assert!(pool.reclaim(token).is_none());
        }
        drop(detached);
        drop(held);
        assert_eq!((pool.retry_deferred(), pool.retry_deferred()), (0, 0));
        assert_eq!(pool.pinned(), of(3), "two that left the ring, and a detached one");
        assert_eq!(pool.budget.used(), of(4));

        REFUSES_UNMAP.set(false);
        assert_eq!((pool.retry_deferred(), pool.retry_deferred()), (3, 0));
        assert_eq!((pool.pinned(), pool.budget.used()), (of(0), of(1)), "the region that was held is unused now");
        assert_eq!(pool.collect(), of(1));
        assert_eq!(pool.budget.used(), of(0));
    }

    #[test]
    fn collect_and_close_wait_for_a_thread_that_trims() {
        let setting = Setting::new();
        let cache = &setting.opened.cache;
        setting.pool().trims.enter();
        let start = Instant::now();
        assert_eq!(cache.collect().regions, 0);
        assert!(start.elapsed() >= TRANSIT_MAX);
        let start = Instant::now();
        assert_eq!(cache.close(setting.opened.on_disk.path()).unmapped, 0);
        assert!(start.elapsed() >= TRANSIT_MAX);
        assert!(setting.pool().trims.leave());
        setting.pool().trim(|| 0);
        assert_eq!(setting.pool().trims.count(), 0);
    }

    #[test]
    #[cfg(unix)]
    fn close_of_a_directory_waits_once_for_a_thread_that_trims() {
        let files = descriptors::tests::Setting::new(100);
        let _open: Vec<_> = (0..50).map(|number| files.open(number)).collect();
        files.cache.regions.trims.enter();
        let start = Instant::now();
        files.cache.close(files.directory.path());
        let waited = start.elapsed();
        assert!(waited >= TRANSIT_MAX && waited < 25 * TRANSIT_MAX, "{waited:?}");
    }

    #[test]
    fn refused_unmaps_are_not_tried_again_for_a_reader_that_left() {
        let setting = Setting::new();
        let pool = setting.pool();
        drop(setting.map(0, 0));
        REFUSES_UNMAP.set(true);
        assert!(pool.reclaim(pool.victim().expect("the region is unused")).is_none());
        assert!(pool.take_unprotected(&ProtectedSet::nothing()).is_empty());
        assert_eq!(pool.take_deferred().into_iter().map(|token| pool.defer(token)).count(), 1);
    }

    /// Another thread advances the shared hand past the only victim.
    #[test]
    fn victim_is_found_beside_a_thread_that_advances_the_hand() {
        let setting = Setting::new();
        let pool = setting.pool();
        let _used: Vec<_> = (0..60).map(|window| setting.map(window, 0)).collect();
        drop(setting.map(60, 0));
        let (advanced, is_done) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while is_done.load(Ordering::Relaxed) == 0 {
                    pool.ring.advance(&epoch::pin());
                    advanced.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut is_found = true;
            while is_found && advanced.load(Ordering::Relaxed) < 200_000 {
                is_found = pool.victim().is_some_and(|token| token.restore().is_ok());
            }
            is_done.store(1, Ordering::Relaxed);
            assert!(is_found);
        });
    }

    #[test]
    fn protected_regions_are_neither_victims_nor_unused() {
        let setting = Setting::new();
        let pool = setting.pool();
        (0..2).for_each(|window| drop(setting.map(window, 0)));
        let mut guard = setting.opened.cache.window_guard(&setting.opened.file);
        assert!(guard.protect(setting.opened.slot(0), 0, WINDOW));
        let mut unused = Vec::new();
        pool.for_each_unused(|token| unused.push(token));
        assert_eq!(unused.len(), 1);
        assert!(pool.victim().is_none());
        assert_eq!(pool.reclaim_all(unused), of(1));
    }

    /// A thread that trims may restore a region that its reader has left since.
    #[test]
    fn collect_unmaps_what_a_trimming_thread_restored() {
        let setting = Setting::new();
        let pool = setting.pool();
        drop(setting.map(0, 0));
        pool.trims.enter();
        let token = pool.victim().expect("the region is unused");
        std::thread::scope(|scope| {
            let collected = scope.spawn(|| setting.opened.cache.collect().regions);
            std::thread::sleep(TRANSIT_MAX / 10);
            assert!(token.restore().is_ok());
            assert!(pool.trims.leave());
            assert_eq!(collected.join().unwrap(), 1);
        });
    }

    /// A thread that does not exist in the child may hold the list's lock.
    #[test]
    #[cfg(unix)]
    #[allow(unsafe_code, reason = "a child of `fork`")]
    fn child_of_fork_does_not_wait_for_the_deferred_list() {
        let pool = RegionPool::new(of(1));
        let list = pool.deferred.lock().unwrap();
        // SAFETY: the child allocates nothing, takes no lock, and ends without destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child if it waits.
            unsafe { libc::alarm(5) };
            let is_empty = pool.take_deferred().is_empty();
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!is_empty)) };
        }
        drop(list);
        let mut status = -1;
        // SAFETY: writes the status of this process's child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child waited for the lock");
    }
}
