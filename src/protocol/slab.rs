//! [`Slab<T>`]: places with numbers, taken and left by anybody, without a lock.
//!
//! Those that were left are taken again first, newest first, by a stack whose head carries a counter against ABA; so there
//! are as many as were ever taken at once. A place stays where it is for as long as the table lives, taken or not: whoever
//! wants to see them all looks at each number below [`len`](Slab::len).

use std::fmt;

use super::radix_table::RadixTable;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

pub(crate) struct Slab<T> {
    places: RadixTable<Place<T>>,
    /// Places ever made.
    len: AtomicU32,
    /// Low half: 1 + the free place on top, or 0. High half: how often the stack was popped.
    free: AtomicU64,
}

struct Place<T> {
    item: T,
    /// While the place is free: 1 + the next free one, or 0.
    below: AtomicU32,
}

impl<T: Default> Default for Place<T> {
    fn default() -> Self {
        Self { item: T::default(), below: AtomicU32::new(0) }
    }
}

impl<T: Default> Default for Slab<T> {
    fn default() -> Self {
        Self { places: RadixTable::default(), len: AtomicU32::new(0), free: AtomicU64::new(0) }
    }
}

impl<T: Default> Slab<T> {
    /// The number of a place that is the caller's until he leaves it.
    pub(crate) fn claim(&self) -> u32 {
        self.pop().unwrap_or_else(|| {
            // Relaxed: the number is all that is handed out.
            let number = self.len.fetch_add(1, Ordering::Relaxed);
            assert!(number < u32::MAX, "there are at most 2³² − 1 places");
            number
        })
    }

    /// For the next one. What the caller did there before, the next one sees.
    pub(crate) fn release(&self, number: u32) {
        self.push(number);
    }

    /// What is at the place of that number.
    pub(crate) fn at(&self, number: u32) -> &T {
        &self.places.at(number.into()).item
    }

    /// The same, if it was ever used; never waits for who is just making it.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number.into()).map(|place| &place.item)
    }

    /// Places, free ones too.
    pub(crate) fn len(&self) -> u32 {
        // Relaxed: one that is made meanwhile is found next time. Who must not miss any has a fence before this, which whoever
        // took the place has after that.
        self.len.load(Ordering::Relaxed)
    }

    fn pop(&self) -> Option<u32> {
        // Acquire: pairs with the Release in `push`, which wrote `below`.
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let top = (head as u32).checked_sub(1)?;
            // Relaxed: if another pops this place and frees it again meanwhile, what is read here may be wrong; then the
            // counter has moved, and the exchange fails.
            let below = self.places.at(top.into()).below.load(Ordering::Relaxed);
            let popped = (head >> 32).wrapping_add(1);
            // Acquire, also on failure: as above, for the head that is looked at next.
            match self.free.compare_exchange_weak(
                head,
                (popped << 32) | u64::from(below),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(top),
                Err(actual) => head = actual,
            }
        }
    }

    fn push(&self, number: u32) {
        // Relaxed: a first guess.
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            // Relaxed: published by the exchange.
            self.places.at(number.into()).below.store(head as u32, Ordering::Relaxed);
            let pushed = (head & !u64::from(u32::MAX)) | u64::from(number + 1);
            // Release: pairs with the Acquire in `pop`.
            match self.free.compare_exchange_weak(head, pushed, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(actual) => head = actual,
            }
        }
    }
}

impl<T: Default> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("len", &self.len()).finish_non_exhaustive()
    }
}
