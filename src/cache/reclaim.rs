//! What the owner of a region does: scan the hazard records, then unmap, restore, or defer. Each unmap token ends here.
//!
//! The deferred list keeps tokens of regions that are still mapped and counted. A cursor reads them while they drain,
//! or the OS refused to unmap them. The collector tries the list again. So does a thread that needs room, closes,
//! collects or meets a draining slot, and a cursor that releases a draining region. A cursor that switches to another
//! window does not.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backoff::Backoff;
use super::pool::RegionPool;
use super::region::Region;
use super::room::TRANSIT_MAX;
use super::{Cache, CachedFile};
use crate::protocol::budget::{Reservation, Usage};
use crate::protocol::hazard::{ProtectedSet, acquire_after_last_reader};
use crate::protocol::slot::{Drain, Slot, UnmapToken};
use crate::protocol::sparse_table::SparseTable;

/// Regions that the OS refused to unmap after their cache was dropped. Any other cache tries again. Without one they
/// stay mapped. (A lock of `std`, because it is a static. No call happens while it is held.)
static ORPHANS: Mutex<Vec<UnmapToken<Region>>> = Mutex::new(Vec::new());

/// Regions that a trimming or collecting thread retires and then unmaps with one scan of the hazard records. The number
/// is small, because readers can use neither a region that was retired and not yet unmapped, nor its room.
const BATCH: usize = 8;

/// Why an owner did not unmap its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotFreed {
    /// The region was restored, or the OS refused the unmap.
    Retained,
    /// The region is draining and a cursor may be reading it: the token was deferred.
    Protected,
}

impl RegionPool {
    /// Unmaps a region and returns its reservation. Returns `None` if a cursor reads the region or the OS refused: the
    /// region is then restored, or stays counted on the deferred list.
    pub(super) fn reclaim(&self, token: UnmapToken<Region>) -> Option<Reservation> {
        let _transit = self.budget.enter_transit();
        // Only its clients know a detached slot, and it has none left.
        let protected =
            if token.is_detached() { Some(ProtectedSet::nothing()) } else { self.hazards.scan_after_barrier() };
        match self.reclaim_unless(protected.as_ref(), token) {
            Ok(reservation) => Some(reservation),
            Err(NotFreed::Protected) => {
                self.reclaim_all(self.take_newly_unprotected());
                None
            }
            Err(NotFreed::Retained) => None,
        }
    }

    /// [Reclaims](Self::reclaim) several regions with one scan, and returns their number and bytes to the budget.
    pub(super) fn reclaim_all(&self, mut tokens: Vec<UnmapToken<Region>>) -> Usage {
        let mut freed = Usage::default();
        let _transit = self.budget.enter_transit();
        while !tokens.is_empty() {
            let protected = self.hazards.scan_after_barrier();
            let mut any_protected = false;
            for token in tokens {
                match self.reclaim_unless(protected.as_ref(), token) {
                    Ok(reservation) => {
                        freed.items += 1;
                        freed.bytes += reservation.bytes();
                    }
                    Err(not_freed) => any_protected |= not_freed == NotFreed::Protected,
                }
            }
            tokens = if any_protected { self.take_newly_unprotected() } else { Vec::new() };
        }
        freed
    }

    /// Scans the hazard records again after a region was deferred, and takes the unprotected tokens off the deferred
    /// list. The last reader of the region may have left before the token was queued, and no other thread would retry.
    ///
    /// A token that is deferred between this scan and the taking is taken without a look at its record. So the caller
    /// scans once more before it unmaps any of them.
    fn take_newly_unprotected(&self) -> Vec<UnmapToken<Region>> {
        self.hazards.scan_after_barrier().map_or_else(Vec::new, |protected| self.take_unprotected(&protected))
    }

    /// Unmaps a region that is not in `protected`, the result of a scan after the thread became its owner. `None` means
    /// that the barrier failed: each region then counts as protected.
    fn reclaim_unless(
        &self,
        protected: Option<&ProtectedSet<Region>>,
        token: UnmapToken<Region>,
    ) -> Result<Reservation, NotFreed> {
        if !token.is_detached() && protected.is_none_or(|protected| protected.contains_token(&token)) {
            // A region that the OS refused to unmap is not restored: a reader that has just protected it is about to
            // find the slot unmapped.
            let restored = if token.payload().unmap_was_tried() { Err(token) } else { token.restore() };
            return Err(match restored {
                Ok(()) => NotFreed::Retained,
                Err(token) => {
                    self.defer(token);
                    NotFreed::Protected
                }
            });
        }
        let was_detached = token.is_detached();
        let vacated = token.vacate(|region| {
            if let Some(entry) = region.ring_entry.take() {
                self.ring.remove(entry);
            }
            region.unmap()
        });
        match vacated {
            Ok(region) => {
                self.count_unmap(was_detached, region.reserved_bytes());
                Ok(region.into_reservation())
            }
            Err((token, _refusal)) => {
                self.defer(token);
                Err(NotFreed::Retained)
            }
        }
    }

    /// Reclaims the deferred list as far as possible now. Returns the number of regions unmapped.
    pub(super) fn retry_deferred(&self) -> usize {
        // In transit before the tokens leave the list, so that their room is always accounted for.
        let _transit = self.budget.enter_transit();
        self.reclaim_all(self.take_deferred()).items
    }

    /// Evicts unused regions, in batches, until `excess` returns 0 or no region can be evicted.
    pub(super) fn trim(&self, excess: impl Fn() -> usize) {
        self.trims.enter();
        self.retry_deferred();
        loop {
            let batch = excess().min(BATCH);
            let _transit = self.budget.enter_transit();
            let victims: Vec<_> = (0..batch).map_while(|_| self.victim()).collect();
            if victims.is_empty() {
                break;
            }
            let freed = self.reclaim_all(victims).items;
            self.evicted.add(freed);
            if freed == 0 {
                // Cursors read all of them, or the barrier failed. The next pass tries again.
                break;
            }
        }
        let _ = self.trims.leave();
    }

    /// Waits until the regions that other threads were trimming are unmapped, restored or deferred, but at most
    /// [`TRANSIT_MAX`]. Returns `true` if it waited.
    pub(super) fn wait_for_trims(&self) -> bool {
        let mut backoff = Backoff::new();
        let mut has_waited = false;
        while self.trims.count() > 0 && backoff.pause_within(TRANSIT_MAX) {
            has_waited = true;
        }
        has_waited
    }

    /// Drains these windows, and unmaps the unused ones, `batch` with one scan. Returns the number of regions unmapped.
    pub(super) fn drain_windows<'w>(
        &self,
        windows: impl Iterator<Item = &'w SparseTable<Slot<Region>>>,
        batch: usize,
    ) -> usize {
        let _transit = self.budget.enter_transit();
        let mut unmapped = 0;
        let mut tokens = Vec::with_capacity(batch);
        for windows in windows {
            windows.for_each_from(0, |_, slot| {
                tokens.extend(token_of(slot.drain()));
                if tokens.len() == batch {
                    unmapped += self.reclaim_all(mem::take(&mut tokens)).items;
                }
            });
        }
        unmapped + self.reclaim_all(tokens).items
    }

    /// Unmaps each unused region. Returns their number and bytes.
    pub(super) fn collect(&self) -> Usage {
        let _transit = self.budget.enter_transit();
        let mut freed = self.reclaim_all(self.take_deferred());
        let mut batch = Vec::with_capacity(BATCH);
        self.for_each_unused(|token| {
            batch.push(token);
            if batch.len() == BATCH {
                add(&mut freed, self.reclaim_all(mem::take(&mut batch)));
            }
        });
        add(&mut freed, self.reclaim_all(batch));
        freed
    }
}

impl Cache {
    /// Drains a region in which a fault was found: its clients keep it, and it is unmapped with the last one.
    pub(super) fn drain_if_faulted(&self, slot: &Slot<Region>) {
        let _transit = self.regions.budget.enter_transit();
        if slot.take().is_ok_and(|client| client.mapping().is_faulted()) {
            self.regions.reclaim_all(token_of(slot.drain()).into_iter().collect());
        }
    }

    /// Tries the deferred list again for a cursor that left a draining region.
    #[cold]
    pub(crate) fn retry_deferred_for_cursor(&self) {
        self.regions.retry_deferred();
    }
}

impl CachedFile {
    /// Unmaps a region of this file whose last client was dropped.
    pub(super) fn reclaim_from_client(self: Arc<Self>, token: UnmapToken<Region>) {
        if token.is_detached() {
            // Unlike the last handle, the last detached region triggers nothing.
            let _ = self.detached.leave();
        }
        match self.cache.upgrade() {
            Some(cache) => drop(cache.regions.reclaim(token)),
            None => {
                acquire_after_last_reader();
                reclaim_orphan(token);
            }
        }
    }
}

/// Unmaps a region whose cache is dropped: there is no budget, ring or deferred list any more.
pub(super) fn reclaim_orphan(token: UnmapToken<Region>) {
    let vacated = token.vacate(|region| {
        region.ring_entry = None;
        region.unmap()
    });
    if let Err((token, _refusal)) = vacated {
        orphans().push(token);
    }
}

/// Tries again to unmap regions that the OS refused to unmap after their cache was dropped.
pub(super) fn retry_orphans() {
    let waiting = mem::take(&mut *orphans());
    waiting.into_iter().for_each(reclaim_orphan);
}

fn orphans() -> MutexGuard<'static, Vec<UnmapToken<Region>>> {
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the token, if draining made the caller the owner.
pub(super) fn token_of(drained: Drain<Region>) -> Option<UnmapToken<Region>> {
    match drained {
        Drain::Owned(token) => Some(token),
        Drain::Held | Drain::Nothing => None,
    }
}

pub(super) fn add(sum: &mut Usage, more: Usage) {
    sum.items += more.items;
    sum.bytes += more.bytes;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::WhenFull;
    use crate::cache::load::tests::{Opened, WINDOW};
    use crate::cache::region::tests::REFUSES_UNMAP;
    use crate::cache::room::RoomPolicy;
    use crate::cache::window_guard::WindowGuard;
    use crate::protocol::slot::Phase;

    /// Maps a window, and drains it as its owner.
    fn drained(opened: &Opened, window: u64) -> UnmapToken<Region> {
        drop(opened.cache.map_window(&opened.file, window, WINDOW));
        token_of(opened.slot(window).drain()).expect("the window has no client")
    }

    /// The last reader of a region may leave after the owner's scan and before the token is on the list.
    #[test]
    fn owner_that_defers_a_region_scans_the_deferred_list_again() {
        let reclaims: [fn(&RegionPool, UnmapToken<Region>) -> usize; 2] = [
            |pool, token| pool.reclaim(token).map_or(0, |_| unreachable!("a cursor reads the region")),
            |pool, token| pool.reclaim_all(vec![token]).items,
        ];
        for (reclaim, unmapped) in reclaims.into_iter().zip([0, 1]) {
            let opened = Opened::new(8, 3 * WINDOW);
            let (cache, pool) = (&opened.cache, &opened.cache.regions);
            let (mut left, mut stays) = (cache.window_guard(&opened.file), cache.window_guard(&opened.file));
            (0..3).for_each(|window| drop(cache.map_window(&opened.file, window, WINDOW)));
            let read = |guard: &mut WindowGuard, window| {
                assert!(guard.protect(opened.slot(window), window * WINDOW, (window + 1) * WINDOW));
            };
            read(&mut left, 0);
            assert!(pool.reclaim(drained(&opened, 0)).is_none());
            // A cursor that switches to another window does not try the list again.
            read(&mut left, 2);
            read(&mut stays, 1);
            assert_eq!(pool.budget.used().items, 3);
            assert_eq!(reclaim(pool, drained(&opened, 1)), unmapped);
            assert_eq!(pool.budget.used().items, 2, "the region that its reader has left is unmapped");
        }
    }

    /// The region left the ring, so no evicting thread would find it. A reader that has just protected it finds it
    /// unmapped.
    #[test]
    fn region_that_the_os_refused_to_unmap_is_not_restored() {
        let opened = Opened::new(8, WINDOW);
        let pool = &opened.cache.regions;
        drop(opened.cache.map_window(&opened.file, 0, WINDOW));
        let mut guard = opened.cache.window_guard(&opened.file);
        assert!(guard.protect(opened.slot(0), 0, WINDOW));
        let protected = pool.hazards.scan_unordered();
        guard.release();
        REFUSES_UNMAP.set(true);
        assert!(pool.reclaim(pool.victim().expect("the region is unused")).is_none());
        let token = pool.take_deferred().pop().expect("the OS refused the unmap");
        assert_eq!(pool.reclaim_unless(Some(&protected), token).err(), Some(NotFreed::Protected));
        assert_eq!(opened.slot(0).snapshot().phase(), Phase::Retiring);
        REFUSES_UNMAP.set(false);
        assert_eq!(pool.retry_deferred(), 1);
    }

    #[test]
    fn trim_collect_shut_down_and_required_room_try_refused_unmaps_again() {
        let retries: [fn(&Opened); 4] = [
            |opened| opened.cache.regions.trim(|| 0),
            |opened| assert_eq!(opened.cache.collect().regions, 1),
            |opened| opened.cache.shut_down(),
            |opened| {
                let (slot, policy) = (opened.slot(1), RoomPolicy::Required(WhenFull::Fail));
                opened.cache.load_window(&opened.file, slot, 1, WINDOW, policy).map(drop).unwrap();
            },
        ];
        for retry in retries {
            let opened = Opened::new(1, 2 * WINDOW);
            drop(opened.cache.map_window(&opened.file, 0, WINDOW));
            REFUSES_UNMAP.set(true);
            let pool = &opened.cache.regions;
            assert!(pool.reclaim(pool.victim().expect("the region is unused")).is_none());
            REFUSES_UNMAP.set(false);
            retry(&opened);
            assert_eq!(opened.slot(0).snapshot().phase(), Phase::Vacant);
        }
    }

    /// Each refused unmap costs a system call and takes a region from its readers.
    #[test]
    fn room_is_not_searched_in_each_region_if_the_os_refuses_to_unmap() {
        let opened = Opened::new(30, 31 * WINDOW);
        (0..30).for_each(|window| drop(opened.cache.map_window(&opened.file, window, WINDOW)));
        REFUSES_UNMAP.set(true);
        let policy = RoomPolicy::Required(WhenFull::Fail);
        assert!(opened.cache.load_window(&opened.file, opened.slot(30), 30, WINDOW, policy).is_err());
        let refused = opened.cache.regions.pinned().items;
        assert!((1..30).contains(&refused), "{refused} of 30");
    }

    #[test]
    fn orphan_that_the_os_refused_to_unmap_is_tried_again() {
        let opened = Opened::new(8, WINDOW);
        let token = drained(&opened, 0);
        REFUSES_UNMAP.set(true);
        reclaim_orphan(token);
        REFUSES_UNMAP.set(false);
        // Another test's thread may have taken the token and refuse as well, for a moment.
        let is_unmapped = (0..10_000).any(|_| {
            retry_orphans();
            std::thread::yield_now();
            opened.slot(0).snapshot().phase() == Phase::Vacant
        });
        assert!(is_unmapped);
    }

    #[test]
    fn region_without_a_fault_does_not_drain() {
        let opened = Opened::new(8, WINDOW);
        drop(opened.cache.map_window(&opened.file, 0, WINDOW));
        opened.cache.drain_if_faulted(opened.slot(0));
        assert_eq!(opened.slot(0).snapshot().phase(), Phase::Mapped);
    }
}
