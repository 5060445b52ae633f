//! [`Slab<T>`]: numbered entries that threads claim and release without a lock.
//!
//! Free entries are claimed again first, in last-in, first-out order. They form a stack whose head carries a counter
//! against ABA. So there are as many entries as were ever claimed at one time. They lie in segments that double in
//! size, so an entry does not move while the slab lives, claimed or free. Making a segment may wait for another thread
//! that makes the same one. To visit all entries, a thread visits each number below [`len`](Slab::len).

use std::array;

use crate::sync::{AtomicU32, AtomicU64, OnceLock, Ordering};

/// The first segment has 2⁴ entries, and each other twice as many as the one before.
const FIRST_BITS: u32 = 4;
const SEGMENTS: usize = (u32::BITS - FIRST_BITS + 1) as usize;

/// Numbered entries with a free list.
pub(crate) struct Slab<T> {
    segments: [OnceLock<Box<[Entry<T>]>>; SEGMENTS],
    /// The number of entries ever made.
    len: AtomicU32,
    /// The head of the free stack. Low half: 1 + the number of the top entry, or 0. High half: the count of pops.
    free: AtomicU64,
}

#[derive(Default)]
struct Entry<T> {
    item: T,
    /// While the entry is free: 1 + the number of the next free entry, or 0.
    next_free: AtomicU32,
}

impl<T: Default> Default for Slab<T> {
    fn default() -> Self {
        let segments = array::from_fn(|_| OnceLock::new());
        // The first entries exist from the start: the models do not see how `OnceLock` publishes those made later.
        let _ = segments[0].set(segment(0));
        Self { segments, len: AtomicU32::new(0), free: AtomicU64::new(0) }
    }
}

/// Makes the entries of a segment.
fn segment<T: Default>(segment: usize) -> Box<[Entry<T>]> {
    (0..1_u64 << (segment as u32 + FIRST_BITS)).map(|_| Entry::default()).collect()
}

/// Returns the segment of an entry, and the entry's place in it.
#[inline]
fn locate(number: u32) -> (usize, usize) {
    let position = u64::from(number) + (1 << FIRST_BITS);
    let bits = position.ilog2();
    ((bits - FIRST_BITS) as usize, (position - (1 << bits)) as usize)
}

impl<T: Default> Slab<T> {
    /// Claims an entry and returns its number. The entry belongs to the caller until [`release`](Self::release).
    pub(crate) fn claim(&self) -> u32 {
        self.pop().unwrap_or_else(|| {
            // Relaxed: the caller gets only the number. No other data is published with it.
            let number = self.len.fetch_add(1, Ordering::Relaxed);
            assert!(number < u32::MAX, "a slab has at most 2³² − 1 entries");
            number
        })
    }

    /// Returns the item of the entry, making the entry if it does not exist yet.
    pub(crate) fn at(&self, number: u32) -> &T {
        &self.entry(number).item
    }

    /// Returns the item of the entry, or `None` if the entry does not exist or another thread is just making it. Never
    /// waits.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let (segment, at) = locate(number);
        self.segments[segment].get().map(|entries| &entries[at].item)
    }

    fn entry(&self, number: u32) -> &Entry<T> {
        let (at_segment, at) = locate(number);
        &self.segments[at_segment].get_or_init(|| segment(at_segment))[at]
    }

    /// Returns the number of entries ever made, claimed or free.
    pub(crate) fn len(&self) -> u32 {
        // Relaxed: the load may miss an entry that another thread is making. A caller that must not miss an entry
        // issues a barrier first, which pairs with a barrier of the thread that claimed the entry (`hazard`).
        self.len.load(Ordering::Relaxed)
    }

    fn pop(&self) -> Option<u32> {
        // Acquire: pairs with the Release in `release`, which publishes `next_free`.
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let top = (head as u32).checked_sub(1)?;
            // Relaxed: if another thread pops this entry and frees it again, the value may be wrong. Then the count of
            // pops has changed, and the exchange fails.
            let next = self.entry(top).next_free.load(Ordering::Relaxed);
            let popped = (head >> 32).wrapping_add(1);
            // Acquire: pairs with the Release in `release`, for the entry's item. On failure, for the new `next_free`.
            match self.free.compare_exchange_weak(
                head,
                (popped << 32) | u64::from(next),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(top),
                Err(actual) => head = actual,
            }
        }
    }

    /// Releases the entry. The next thread that claims it sees what the caller did before.
    pub(crate) fn release(&self, number: u32) {
        // Relaxed: a first guess, which the exchange confirms.
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            // Relaxed: the exchange publishes it.
            self.entry(number).next_free.store(head as u32, Ordering::Relaxed);
            let pushed = (head & !u64::from(u32::MAX)) | u64::from(number + 1);
            // Release: pairs with the Acquire in `pop`. It publishes `next_free` and what the caller did with the item.
            match self.free.compare_exchange_weak(head, pushed, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(actual) => head = actual,
            }
        }
    }
}
