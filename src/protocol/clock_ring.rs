//! [`ClockRing<T>`]: everything that could be evicted, in a ring that a shared hand goes round.
//!
//! Nobody locks it. An owner *seats* a slot before it publishes and takes it off its seat before it unmaps; evictors,
//! pinned, look at whoever sits where the hand stands. A slot that was just taken off its seat may still be looked at:
//! its memory is retired through the epoch, and its word says that there is nothing to win (rule 6).
//! Slab that were left are used again first ([`slab`](super::slab)), so the ring is as long as the largest number of slots
//! that ever sat at once.
#![allow(unsafe_code, reason = "looking at slots that their owners may retire meanwhile; rule 6 of `protocol`")]

use std::fmt;
use std::ptr::{self, NonNull};

use super::slab::Slab;
use crate::sync::{AtomicPtr, AtomicU32, Ordering, epoch};

/// A place in a [`ClockRing`]. Given back by [`ClockRing::remove`], once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RingEntry(u32);

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
    /// Slab `item`, for [`advance`](Self::advance) to find.
    ///
    /// # Safety
    ///
    /// From now until everyone has unpinned who was pinned when [`remove`](Self::remove) returned, `item` must stay
    /// allocated and must not be borrowed mutably.
    pub(crate) unsafe fn insert(&self, item: NonNull<T>) -> RingEntry {
        let seat = self.entries.claim();
        // Release: pairs with the Acquire in `look`: who sees the pointer sees what it points at.
        self.entries.at(seat).store(item.as_ptr(), Ordering::Release);
        RingEntry(seat)
    }

    /// Takes the item off its seat: whoever pins from now on does not find it.
    pub(crate) fn remove(&self, seat: RingEntry) {
        // Release: the item may be retired after this; the epoch does the rest.
        self.entries.at(seat.0).store(ptr::null_mut(), Ordering::Release);
        self.entries.release(seat.0);
    }

    /// Moves the hand on by one and looks: an item, or an empty seat.
    pub(crate) fn advance<'g>(&self, guard: &'g epoch::Guard) -> Option<&'g T> {
        let len = self.len();
        if len == 0 {
            return None;
        }
        // Relaxed: the hand orders nothing; two evictors may look at one seat.
        let at = self.hand.fetch_add(1, Ordering::Relaxed);
        self.look(at % len, guard)
    }

    /// Calls `visit` with every item that sits for as long as this takes; others may or may not be seen.
    pub(crate) fn for_each(&self, guard: &epoch::Guard, mut visit: impl FnMut(&T)) {
        for seat in 0..self.len() {
            if let Some(item) = self.look(seat, guard) {
                visit(item);
            }
        }
    }

    /// Slab, free ones too: so many calls of [`advance`](Self::advance) by one thread alone go once round.
    pub(crate) fn len(&self) -> u32 {
        self.entries.len()
    }

    fn look<'g>(&self, seat: u32, _pinned: &'g epoch::Guard) -> Option<&'g T> {
        // Acquire: pairs with the Release in `insert`.
        let item = NonNull::new(self.entries.get(seat)?.load(Ordering::Acquire))?;
        // SAFETY: it sat here after the caller had pinned, so by the promise of `insert` it is allocated until the caller
        // unpins, which it cannot do while `'g` lasts.
        Some(unsafe { item.as_ref() })
    }
}

impl<T> fmt::Debug for ClockRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClockRing").field("seats", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{ClockRing, RingEntry};
    use crate::sync::epoch;
    use std::collections::BTreeSet;
    use std::ptr::NonNull;

    fn enter(ring: &ClockRing<u32>, item: &'static u32) -> RingEntry {
        // SAFETY: statics stay.
        unsafe { ring.insert(NonNull::from(item)) }
    }

    #[test]
    fn a_turn_goes_round_all_and_left_seats_are_used_again() {
        static ITEMS: [u32; 40] = {
            let mut items = [0; 40];
            let mut i = 0;
            while i < 40 {
                items[i] = i as u32;
                i += 1;
            }
            items
        };
        let ring = ClockRing::default();
        assert_eq!(ring.advance(&epoch::pin()), None);
        let seats: Vec<RingEntry> = ITEMS.iter().map(|item| enter(&ring, item)).collect();
        let round = |n: u32| (0..n).filter_map(|_| ring.advance(&epoch::pin()).copied()).collect::<BTreeSet<_>>();
        assert_eq!(round(40), ITEMS.iter().copied().collect());
        let mut seen = BTreeSet::new();
        ring.for_each(&epoch::pin(), |item| assert!(seen.insert(*item), "{item} twice"));
        assert_eq!(seen, round(40));
        assert!(format!("{ring:?}").contains("40"));

        for left in seats.into_iter().step_by(2) {
            ring.remove(left);
        }
        assert_eq!(round(40), ITEMS.iter().copied().filter(|item| item % 2 == 1).collect());
        for item in ITEMS.iter().step_by(2) {
            let _ = enter(&ring, item);
        }
        assert_eq!(ring.len(), 40, "free seats were not used again");
        assert_eq!(round(40), ITEMS.iter().copied().collect());
    }

    #[test]
    fn threads_that_come_and_go_never_share_a_seat() {
        static ITEM: u32 = 1;
        let ring = ClockRing::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let mine = [enter(&ring, &ITEM), enter(&ring, &ITEM), enter(&ring, &ITEM)];
                        assert!(mine[0] != mine[1] && mine[1] != mine[2] && mine[0] != mine[2]);
                        mine.into_iter().for_each(|seat| ring.remove(seat));
                    }
                });
            }
        });
        assert!(ring.len() <= 12, "{} seats for 12 items at most", ring.len());
        ring.for_each(&epoch::pin(), |_| panic!("somebody sits after all have left"));
    }
}
