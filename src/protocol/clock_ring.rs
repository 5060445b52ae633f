//! [`ClockRing<T>`]: the candidates for eviction, in a ring that a shared clock hand visits.
//!
//! The ring has no lock. A loader inserts a slot before it publishes it, and the owner removes the slot before it
//! unmaps it. An evicting thread pins the epoch and visits the entry at the hand. It may still visit a slot that was
//! just removed. The slot's memory is retired through the epoch, and its word then refuses `retire` (rule 6).
//!
//! Free entries are reused first ([`slab`](super::slab)). So the ring has as many entries as there ever were slots in
//! it at one time.
#![allow(unsafe_code, reason = "visiting slots whose owners may retire them concurrently; rule 6 of `protocol`")]

use std::ptr::{self, NonNull};

use super::slab::Slab;
use crate::sync::{AtomicPtr, AtomicU32, Ordering, epoch};

/// An entry of a [`ClockRing`]. [`ClockRing::remove`] consumes it, so an entry is removed at most once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RingEntry(u32);

/// A ring of pointers, walked by a shared clock hand.
pub(crate) struct ClockRing<T> {
    entries: Slab<AtomicPtr<T>>,
    hand: AtomicU32,
}

impl<T> Default for ClockRing<T> {
    fn default() -> Self {
        Self { entries: Slab::default(), hand: AtomicU32::new(0) }
    }
}

impl<T> ClockRing<T> {
    /// Inserts `item`, so that [`advance`](Self::advance) finds it.
    ///
    /// # Safety
    ///
    /// `item` must stay allocated and must not be borrowed mutably, until all threads have unpinned that were pinned
    /// when [`remove`](Self::remove) returned.
    pub(crate) unsafe fn insert(&self, item: NonNull<T>) -> RingEntry {
        let index = self.entries.claim();
        // Release: pairs with the Acquire in `item_at`. It publishes the item.
        self.entries.at(index).store(item.as_ptr(), Ordering::Release);
        RingEntry(index)
    }

    /// Removes the item. A thread that pins the epoch after this call does not find it.
    pub(crate) fn remove(&self, entry: RingEntry) {
        // Release: pairs with the Acquire in `item_at`. The epoch keeps the item for the threads that found it before.
        self.entries.at(entry.0).store(ptr::null_mut(), Ordering::Release);
        self.entries.release(entry.0);
    }

    /// Moves the hand to the next entry and returns its item. Returns `None` if the entry is empty.
    pub(crate) fn advance<'g>(&self, guard: &'g epoch::Guard) -> Option<&'g T> {
        let len = self.len();
        if len == 0 {
            return None;
        }
        // Relaxed: the hand orders no other access. Two threads may visit the same entry.
        let position = self.hand.fetch_add(1, Ordering::Relaxed);
        self.item_at(position % len, guard)
    }

    /// Returns the item at `fraction` / 2³² of the ring's length, without the hand. Returns `None` if the entry is
    /// empty.
    pub(crate) fn item_near<'g>(&self, fraction: u32, guard: &'g epoch::Guard) -> Option<&'g T> {
        // Less than the length, so it fits.
        self.item_at(((u64::from(fraction) * u64::from(self.len())) >> 32) as u32, guard)
    }

    /// Calls `visit` with every item that is in the ring during the whole call, and perhaps with others.
    pub(crate) fn for_each(&self, guard: &epoch::Guard, mut visit: impl FnMut(&T)) {
        for index in 0..self.len() {
            if let Some(item) = self.item_at(index, guard) {
                visit(item);
            }
        }
    }

    /// Returns the number of entries, empty ones included. This many calls of [`advance`](Self::advance) visit each
    /// once.
    pub(crate) fn len(&self) -> u32 {
        self.entries.len()
    }

    fn item_at<'g>(&self, index: u32, _pinned: &'g epoch::Guard) -> Option<&'g T> {
        // Acquire: pairs with the Release in `insert`, which publishes the item.
        let item = NonNull::new(self.entries.get(index)?.load(Ordering::Acquire))?;
        // SAFETY: the item was in the ring after the caller had pinned. By the promise of `insert` it stays allocated
        // until the caller unpins, which it cannot do during `'g`.
        Some(unsafe { item.as_ref() })
    }
}

#[cfg(test)]
mod tests {
    use super::{ClockRing, RingEntry};
    use crate::sync::epoch;
    use std::collections::BTreeSet;
    use std::ptr::NonNull;

    fn insert(ring: &ClockRing<u32>, item: &u32) -> RingEntry {
        // SAFETY: the items of these tests outlive the ring, and do not change.
        unsafe { ring.insert(NonNull::from(item)) }
    }

    #[test]
    fn advance_visits_all_items_and_freed_entries_are_reused() {
        let items = Vec::from_iter(0..40);
        let ring = ClockRing::default();
        assert_eq!(ring.advance(&epoch::pin()), None);
        let entries: Vec<RingEntry> = items.iter().map(|item| insert(&ring, item)).collect();
        let round = |n: u32| (0..n).filter_map(|_| ring.advance(&epoch::pin()).copied()).collect::<BTreeSet<_>>();
        assert_eq!(round(40), items.iter().copied().collect());
        let mut seen = BTreeSet::new();
        ring.for_each(&epoch::pin(), |item| assert!(seen.insert(*item), "item {item} was visited twice"));
        assert_eq!(seen, round(40));

        for entry in entries.into_iter().step_by(2) {
            ring.remove(entry);
        }
        assert_eq!(round(40), items.iter().copied().filter(|item| item % 2 == 1).collect());
        for item in items.iter().step_by(2) {
            let _ = insert(&ring, item);
        }
        assert_eq!(ring.len(), 40, "free entries were not reused");
        assert_eq!(round(40), items.iter().copied().collect());
    }

    #[test]
    fn concurrent_inserts_never_share_an_entry() {
        static ITEM: u32 = 1;
        let ring = ClockRing::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let own = [insert(&ring, &ITEM), insert(&ring, &ITEM), insert(&ring, &ITEM)];
                        assert!(own[0] != own[1] && own[1] != own[2] && own[0] != own[2]);
                        own.into_iter().for_each(|entry| ring.remove(entry));
                    }
                });
            }
        });
        assert!(ring.len() <= 12, "{} entries for at most 12 items", ring.len());
        ring.for_each(&epoch::pin(), |_| panic!("an item is in the ring after all were removed"));
    }
}
