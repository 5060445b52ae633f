//! [`Budget`] and [`Reservation`]: a thread reserves before it maps (or opens), and releases after it unmaps (or
//! closes).
//!
//! A budget counts bytes and items. A [`Reservation`] is one item with its bytes. A single atomic step adds to a count
//! and never exceeds the limit ([`Meter::try_add`]). Only [`Budget::reserve_over`] exceeds it, for
//! [`Overcommit::Allow`](crate::Overcommit). Releasing bytes is a Release, and reserving them is an Acquire. So at no
//! moment are more bytes mapped than reserved.
//!
//! Between retiring a victim and publishing the region that replaces it, a thread holds bytes that are *in transit*: no
//! evicting thread can find them, and no client pins them. Such a thread is counted ([`InTransit`]). A thread that
//! finds no victim waits a short time for threads in transit before it reports that pinned regions fill the budget.

use std::mem;

use crate::sync::{Arc, AtomicUsize, Ordering, fence};

/// One counted quantity with its limit and its highest value so far.
#[derive(Debug)]
struct Meter {
    used: AtomicUsize,
    limit: AtomicUsize,
    peak: AtomicUsize,
}

impl Meter {
    fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit), peak: AtomicUsize::new(0) }
    }

    /// Adds `n` in one atomic step, and returns the sum. Returns `None`, and adds nothing, if the sum would exceed the
    /// limit. The caller notes the peak.
    fn try_add(&self, n: usize) -> Option<usize> {
        // Relaxed: a limit that another thread lowers at this moment takes effect on the next call.
        let limit = self.limit.load(Ordering::Relaxed);
        // Relaxed: a first guess.
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let sum = used.checked_add(n).filter(|&sum| sum <= limit)?;
            // Acquire: pairs with the Release in `sub`. The released bytes are unmapped.
            // Release: pairs with the fence in `in_transit`. A thread that finds the budget full because of this
            // addition also sees that this thread is in transit.
            // Relaxed on failure: the loop tries again.
            match self.used.compare_exchange_weak(used, sum, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(sum),
                Err(actual) => used = actual,
            }
        }
    }

    fn add(&self, n: usize) {
        // AcqRel: as in `try_add`.
        let before = self.used.fetch_add(n, Ordering::AcqRel);
        self.note_peak(before + n);
    }

    fn sub(&self, n: usize) {
        // Release: pairs with the Acquire in `try_add` and `add`. The released bytes are unmapped.
        let before = self.used.fetch_sub(n, Ordering::Release);
        debug_assert!(before >= n, "released {n} of {before}");
    }

    fn used(&self) -> usize {
        // Relaxed: for statistics and estimates.
        self.used.load(Ordering::Relaxed)
    }

    fn limit(&self) -> usize {
        // Relaxed: as in `used`.
        self.limit.load(Ordering::Relaxed)
    }

    fn note_peak(&self, used: usize) {
        // Relaxed: a statistic.
        if used > self.peak.load(Ordering::Relaxed) {
            // Relaxed: a statistic. A maximum, so that the peak never falls.
            self.peak.fetch_max(used, Ordering::Relaxed);
        }
    }
}

/// The limits on bytes and items, and the reserved amounts.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Meter,
    items: Meter,
    /// The number of [`InTransit`] values. A thread may nest them, so this is an upper bound of the threads.
    in_transit: AtomicUsize,
}

/// An amount of bytes and items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: usize,
    pub(crate) items: usize,
}

impl Budget {
    pub(crate) fn new(limit: Usage) -> Self {
        Self { bytes: Meter::new(limit.bytes), items: Meter::new(limit.items), in_transit: AtomicUsize::new(0) }
    }

    /// Changes the limits for later reservations. Existing reservations stay, even above the new limits.
    pub(crate) fn set_limit(&self, limit: Usage) {
        // Relaxed, twice: the two limits are independent and publish no other data.
        self.bytes.limit.store(limit.bytes, Ordering::Relaxed);
        self.items.limit.store(limit.items, Ordering::Relaxed);
    }

    pub(crate) fn limit(&self) -> Usage {
        Usage { bytes: self.bytes.limit(), items: self.items.limit() }
    }

    pub(crate) fn used(&self) -> Usage {
        Usage { bytes: self.bytes.used(), items: self.items.used() }
    }

    /// Returns the largest amounts that were reserved at one time, each quantity by itself.
    pub(crate) fn peak(&self) -> Usage {
        // Relaxed, twice: a statistic.
        Usage { bytes: self.bytes.peak.load(Ordering::Relaxed), items: self.items.peak.load(Ordering::Relaxed) }
    }

    /// Returns `true` if no more than the limit is reserved. An overcommit or a lowered limit makes it `false`.
    pub(crate) fn is_within(&self) -> bool {
        let (used, limit) = (self.used(), self.limit());
        used.bytes <= limit.bytes && used.items <= limit.items
    }

    /// Counts this thread as in transit until the returned value is dropped. Call it before retiring a victim.
    pub(crate) fn enter_transit(&self) -> InTransit<'_> {
        // The addition is sequenced before the victim's retirement (Release). So a thread that sees the retirement, and
        // then issues an Acquire fence, also sees the addition. AcqRel: stronger than this argument needs.
        self.in_transit.fetch_add(1, Ordering::AcqRel);
        InTransit { budget: self }
    }

    /// Returns an upper bound of the number of threads in transit.
    pub(crate) fn in_transit(&self) -> usize {
        // Acquire: pairs with the Release in `Slot::retire` and in `Meter::try_add`. The caller found a slot retired,
        // or the budget full, by a Relaxed load. The thread that did it had entered transit before, so the load below
        // counts it.
        fence(Ordering::Acquire);
        // Acquire: pairs with the Release in `InTransit::leave`. If a thread is no longer counted, its bytes are
        // published or released.
        self.in_transit.load(Ordering::Acquire)
    }

    /// Reserves one item with `bytes`. Returns `None`, and reserves nothing, if a limit would be exceeded.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let sum_of_items = self.items.try_add(1)?;
        let Some(sum_of_bytes) = self.bytes.try_add(bytes) else {
            self.items.sub(1);
            return None;
        };
        // A refused attempt counts in neither peak. Only one in progress on another thread may be in the sum of items.
        self.items.note_peak(sum_of_items);
        self.bytes.note_peak(sum_of_bytes);
        Some(Reservation { budget: Arc::clone(self), bytes })
    }

    /// Reserves one item with `bytes`, even above the limits.
    pub(crate) fn reserve_over(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.items.add(1);
        self.bytes.add(bytes);
        Reservation { budget: Arc::clone(self), bytes }
    }
}

/// Counts one thread as in transit until it is dropped.
#[derive(Debug)]
pub(crate) struct InTransit<'b> {
    budget: &'b Budget,
}

impl InTransit<'_> {
    /// Runs `wait` without counting this thread. The thread must hold no bytes in transit then.
    pub(crate) fn pause<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        self.leave();
        let result = wait();
        // AcqRel: as in `enter_transit`.
        self.budget.in_transit.fetch_add(1, Ordering::AcqRel);
        result
    }

    fn leave(&self) {
        // Release: pairs with the Acquire in `in_transit`. The bytes are published or released.
        self.budget.in_transit.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for InTransit<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One reserved item with its bytes. Dropping it releases both.
#[derive(Debug)]
#[must_use = "dropping a `Reservation` releases its bytes: keep it as long as they are mapped"]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves the bytes of `other` into this reservation, so that no other thread can reserve them in between.
    pub(crate) fn absorb(&mut self, mut other: Reservation) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "the reservations belong to different budgets");
        // The bytes stay counted. Dropping `other` releases its item and 0 bytes.
        self.bytes += mem::take(&mut other.bytes);
    }

    /// Releases the bytes above `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.bytes.sub(surplus);
    }

    /// Reserves the bytes missing to `bytes`. Returns `false`, and reserves nothing, if the limit would be exceeded.
    pub(crate) fn try_grow_to(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes);
        let Some(sum) = self.budget.bytes.try_add(missing) else { return false };
        self.budget.bytes.note_peak(sum);
        self.bytes += missing;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.bytes.sub(self.bytes);
        self.budget.items.sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Usage};
    use std::sync::Arc;

    fn budget(bytes: usize, items: usize) -> Arc<Budget> {
        Arc::new(Budget::new(Usage { bytes, items }))
    }

    #[test]
    fn refused_reservation_reserves_nothing() {
        let budget = budget(100, 2);
        let a = budget.reserve(60).expect("the bytes fit the limit");
        assert!(budget.reserve(41).is_none(), "41 bytes exceed the limit");
        assert_eq!(budget.used(), Usage { bytes: 60, items: 1 });
        assert_eq!(budget.peak(), budget.used(), "the refused attempt counts in the peak");
        let b = budget.reserve(40).expect("40 bytes reach the limit");
        assert!(budget.reserve(0).is_none(), "a third item exceeds the limit");
        drop((a, b));
        assert_eq!(budget.used(), Usage::default());
        assert_eq!(budget.peak(), Usage { bytes: 100, items: 2 });
    }

    #[test]
    fn absorbed_bytes_are_counted_once() {
        let budget = budget(100, 3);
        let mut a = budget.reserve(30).expect("the bytes fit the limit");
        a.absorb(budget.reserve(50).expect("the bytes fit the limit"));
        assert_eq!((a.bytes(), budget.used()), (80, Usage { bytes: 80, items: 1 }));
        a.shrink_to(70);
        assert_eq!((a.bytes(), budget.used()), (70, Usage { bytes: 70, items: 1 }));
        assert!(a.try_grow_to(100) && !a.try_grow_to(101));
        assert_eq!(budget.used(), Usage { bytes: 100, items: 1 });
        drop(a);
        assert_eq!(budget.used(), Usage::default());
    }

    #[test]
    fn in_transit_counts_threads_that_are_not_paused() {
        let budget = budget(100, 10);
        let mut transit = budget.enter_transit();
        let other = budget.enter_transit();
        assert_eq!((budget.in_transit(), transit.pause(|| budget.in_transit()), budget.in_transit()), (2, 1, 2));
        drop((transit, other));
        assert_eq!(budget.in_transit(), 0);
    }

    #[test]
    fn lowered_limit_refuses_until_enough_is_released() {
        let budget = budget(100, 10);
        let (a, b) = (budget.reserve(50), budget.reserve(50));
        budget.set_limit(Usage { bytes: 60, items: 10 });
        assert!(!budget.is_within() && budget.reserve(1).is_none());
        drop(a);
        assert!(budget.is_within() && budget.reserve(10).is_some());
        drop(b);
        drop(budget.reserve_over(1_000));
        assert_eq!((budget.used(), budget.peak().bytes), (Usage::default(), 1_000));
    }

    #[test]
    fn concurrent_reservations_never_exceed_the_limit() {
        let budget = budget(64, 8);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let budget = &budget;
                scope.spawn(move || {
                    for i in 0..20_000 {
                        if let Some(mut mine) = budget.reserve((thread * 7 + i) % 40) {
                            let _ = mine.try_grow_to(40);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.used(), Usage::default());
        assert!(budget.peak().bytes <= 64 && budget.peak().items <= 8, "{:?}", budget.peak());
    }
}
