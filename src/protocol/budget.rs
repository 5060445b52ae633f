//! [`Budget`] and [`Reservation`]: what may be mapped (or open) is reserved before and given back after.
//!
//! A budget counts two things at once, bytes and items. A reservation is one item with its bytes; it is a value, so what
//! is reserved cannot be forgotten, nor given back twice. The count changes by one atomic step that never goes above the
//! limit ([`Meter::try_add`]); going above is a verb of its own ([`Budget::reserve_over`]), for
//! [`Overcommit::Allow`](crate::Overcommit).
//!
//! Between winning a victim and publishing what takes its place, bytes are nobody's: neither unused, so that an evictor
//! could find them, nor pinned. A thread in between says so ([`InTransit`]); who finds nothing to evict waits a moment for
//! those, before it calls the budget full of what is pinned.
//!
//! Ordering: who adds has to see that who gave back is done with it. Giving back is a Release, adding an Acquire; the
//! unmap comes before the one, the map after the other, so that at no moment more is mapped than was reserved.

use std::mem;

use crate::sync::{Arc, AtomicUsize, Ordering, fence};

/// One counted quantity with its limit and the most that it ever was.
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

    /// Adds `n` if the sum stays within the limit, in one step.
    fn try_add(&self, n: usize) -> bool {
        // Relaxed: a limit that is lowered at this moment is reached a moment later.
        let limit = self.limit.load(Ordering::Relaxed);
        // Relaxed: a first guess.
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let Some(sum) = used.checked_add(n).filter(|&sum| sum <= limit) else { return false };
            // Acquire: pairs with the Release in `sub`: what was given back is unmapped. Release: pairs with the fence in
            // `in_transit`: who finds the budget full of this sees the flight. Relaxed on failure: look again.
            match self.used.compare_exchange_weak(used, sum, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    self.note_peak(sum);
                    return true;
                }
                Err(actual) => used = actual,
            }
        }
    }

    fn add(&self, n: usize) {
        // AcqRel: as above.
        let before = self.used.fetch_add(n, Ordering::AcqRel);
        self.note_peak(before + n);
    }

    fn sub(&self, n: usize) {
        // Release: pairs with the Acquire in `try_add` and `add`.
        let before = self.used.fetch_sub(n, Ordering::Release);
        debug_assert!(before >= n, "gave back {n}, of {before}");
    }

    fn used(&self) -> usize {
        // Relaxed: for show, and for guesses.
        self.used.load(Ordering::Relaxed)
    }

    fn limit(&self) -> usize {
        // Relaxed: as above.
        self.limit.load(Ordering::Relaxed)
    }

    fn note_peak(&self, used: usize) {
        // Relaxed: for show.
        if used > self.peak.load(Ordering::Relaxed) {
            // Relaxed: as above; `max`, so that it never falls.
            self.peak.fetch_max(used, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Meter,
    items: Meter,
    /// Threads in flight.
    in_transit: AtomicUsize,
}

/// How much of a budget is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: usize,
    pub(crate) items: usize,
}

impl Budget {
    pub(crate) fn new(limit: Usage) -> Self {
        Self { bytes: Meter::new(limit.bytes), items: Meter::new(limit.items), in_transit: AtomicUsize::new(0) }
    }

    /// Takes effect on the next reservation; what is reserved stays.
    pub(crate) fn set_limit(&self, limit: Usage) {
        // Relaxed, twice: the two limits are independent, and nothing else is published with them.
        self.bytes.limit.store(limit.bytes, Ordering::Relaxed);
        self.items.limit.store(limit.items, Ordering::Relaxed);
    }

    pub(crate) fn limit(&self) -> Usage {
        Usage { bytes: self.bytes.limit(), items: self.items.limit() }
    }

    pub(crate) fn used(&self) -> Usage {
        Usage { bytes: self.bytes.used(), items: self.items.used() }
    }

    pub(crate) fn peak(&self) -> Usage {
        // Relaxed, twice: for show.
        Usage { bytes: self.bytes.peak.load(Ordering::Relaxed), items: self.items.peak.load(Ordering::Relaxed) }
    }

    /// Whether no more than the limit is in use now: not so after an overcommit, or when the limit was lowered.
    pub(crate) fn is_within(&self) -> bool {
        let (used, limit) = (self.used(), self.limit());
        used.bytes <= limit.bytes && used.items <= limit.items
    }

    /// From now until it is dropped, this thread holds bytes that are neither pinned nor to be evicted.
    pub(crate) fn enter_transit(&self) -> InTransit<'_> {
        // AcqRel: the flight begins before the victim is won, and ends after its bytes are published or given back, also
        // for those who look at the count.
        self.in_transit.fetch_add(1, Ordering::AcqRel);
        InTransit { budget: self }
    }

    /// Threads in flight.
    pub(crate) fn in_transit(&self) -> usize {
        // Acquire: pairs with the Release of the exchange that won a victim or reserved its bytes, in whatever way the caller
        // saw that: the flight, which had begun before, is counted until it lands.
        fence(Ordering::Acquire);
        // Acquire: pairs with the Release at the end of a flight: what landed is to be found, or given back.
        self.in_transit.load(Ordering::Acquire)
    }

    /// One item of `bytes`, if both are within their limits.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        if !self.items.try_add(1) {
            return None;
        }
        if !self.bytes.try_add(bytes) {
            self.items.sub(1);
            return None;
        }
        Some(Reservation { budget: Arc::clone(self), bytes })
    }

    /// One item of `bytes`, whatever the limits say.
    pub(crate) fn reserve_over(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.items.add(1);
        self.bytes.add(bytes);
        Reservation { budget: Arc::clone(self), bytes }
    }
}

/// A thread that holds bytes which are neither pinned nor to be evicted; see the [module](self).
#[derive(Debug)]
pub(crate) struct InTransit<'b> {
    budget: &'b Budget,
}

impl InTransit<'_> {
    /// On the ground while `meanwhile` runs: the thread holds nothing then.
    pub(crate) fn pause<T>(&mut self, meanwhile: impl FnOnce() -> T) -> T {
        self.land();
        let result = meanwhile();
        // AcqRel: as in `enter_transit`.
        self.budget.in_transit.fetch_add(1, Ordering::AcqRel);
        result
    }

    fn land(&self) {
        // Release: pairs with the Acquire in `in_transit`.
        self.budget.in_transit.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for InTransit<'_> {
    fn drop(&mut self) {
        self.land();
    }
}

/// One item of a budget and its bytes; dropping it gives them back.
#[derive(Debug)]
#[must_use = "a reservation that is dropped is given back"]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes another's bytes over, without a moment in which a third could have them.
    pub(crate) fn absorb(&mut self, mut other: Reservation) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "two budgets");
        // Its bytes stay counted, as ours; when it drops, its item goes back and no bytes.
        self.bytes += mem::take(&mut other.bytes);
    }

    /// Gives back what is above `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.bytes.sub(surplus);
    }

    /// Reserves what is missing to `bytes`, within the limit.
    pub(crate) fn try_grow_to(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes);
        let grown = self.budget.bytes.try_add(missing);
        if grown {
            self.bytes += missing;
        }
        grown
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
    fn a_refused_reservation_leaves_nothing_behind() {
        let budget = budget(100, 2);
        let a = budget.reserve(60).expect("room");
        assert!(budget.reserve(41).is_none(), "over the bytes");
        assert_eq!(budget.used(), Usage { bytes: 60, items: 1 });
        let b = budget.reserve(40).expect("exactly full");
        assert!(budget.reserve(0).is_none(), "over the items");
        drop((a, b));
        assert_eq!(budget.used(), Usage::default());
        assert_eq!(budget.peak(), Usage { bytes: 100, items: 2 });
    }

    #[test]
    fn what_is_absorbed_is_counted_once() {
        let budget = budget(100, 3);
        let mut a = budget.reserve(30).expect("room");
        a.absorb(budget.reserve(50).expect("room"));
        assert_eq!((a.bytes(), budget.used()), (80, Usage { bytes: 80, items: 1 }));
        a.shrink_to(70);
        assert_eq!((a.bytes(), budget.used()), (70, Usage { bytes: 70, items: 1 }));
        assert!(a.try_grow_to(100) && !a.try_grow_to(101));
        assert_eq!(budget.used(), Usage { bytes: 100, items: 1 });
        drop(a);
        assert_eq!(budget.used(), Usage::default());
    }

    #[test]
    fn who_is_in_flight_is_counted() {
        let budget = budget(100, 10);
        let mut transit = budget.enter_transit();
        let other = budget.enter_transit();
        assert_eq!((budget.in_transit(), transit.pause(|| budget.in_transit()), budget.in_transit()), (2, 1, 2));
        drop((transit, other));
        assert_eq!(budget.in_transit(), 0);
    }

    #[test]
    fn a_lowered_limit_refuses_until_enough_came_back() {
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
    fn threads_never_exceed_the_limit() {
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
