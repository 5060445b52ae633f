//! Small words of one atomic each, with their orderings: [`FencedU64`], [`UserCount`], [`ThreadIds`], [`Clock`].

use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering, ProcessU64, fence};

/// A number that somebody publishes now and then, and everybody reads.
#[derive(Debug)]
pub(crate) struct FencedU64(AtomicU64);

impl FencedU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    #[inline]
    pub(crate) fn load(&self) -> u64 {
        // Acquire: pairs with the Release in `store_then_fence`.
        self.0.load(Ordering::Acquire)
    }

    /// The number as somebody must see it who has made a place that [`store_then_fence`](Self::store_then_fence)'s caller looks for afterwards: one
    /// of the two sees what the other did.
    pub(crate) fn load_after_fence(&self) -> u64 {
        // SeqCst: pairs with the fence in `store_then_fence`. Either this load comes after that store, or that caller's look after the
        // making of our place.
        fence(Ordering::SeqCst);
        self.load()
    }

    pub(crate) fn store_then_fence(&self, value: u64) {
        // Release: pairs with the Acquire in `load`. A drain that follows carries it to the next loader of the slot.
        self.0.store(value, Ordering::Release);
        // SeqCst: pairs with the fence in `load_after_fence`.
        fence(Ordering::SeqCst);
    }
}

/// How many hold something, where the last one to leave has a duty.
#[derive(Debug)]
pub(crate) struct UserCount(AtomicUsize);

impl Default for UserCount {
    fn default() -> Self {
        Self(AtomicUsize::new(0))
    }
}

impl UserCount {
    pub(crate) fn enter(&self) {
        // Relaxed: what makes the new holder visible to the last one is said where they meet (a slot's word).
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this was the last one.
    #[must_use = "the last one has a duty"]
    pub(crate) fn leave(&self) -> bool {
        // AcqRel: the last one's duty comes after what all the others did.
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(before, 0, "more left than entered");
        before == 1
    }

    pub(crate) fn count(&self) -> usize {
        // Acquire: pairs with the Release in `leave`.
        self.0.load(Ordering::Acquire)
    }
}

/// ThreadIds below 64, each for one thread of the process at a time.
#[derive(Debug)]
pub(crate) struct ThreadIds(ProcessU64);

impl Default for ThreadIds {
    fn default() -> Self {
        Self(ProcessU64::new(0))
    }
}

impl ThreadIds {
    /// The smallest that nobody has; `None` if all are taken. What was done by whoever had it before is seen.
    pub(crate) fn take(&self) -> Option<u32> {
        // Relaxed: a first guess.
        let mut taken = self.0.load(Ordering::Relaxed);
        loop {
            let number = (!taken).trailing_zeros();
            if number == u64::BITS {
                return None;
            }
            // Acquire: pairs with the Release in `leave`. Relaxed on failure: nothing was taken.
            match self.0.compare_exchange_weak(taken, taken | 1 << number, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(number),
                Err(actual) => taken = actual,
            }
        }
    }

    /// For the next one, who sees what was done.
    pub(crate) fn leave(&self, number: u32) {
        // Release: pairs with the Acquire in `take`. (Its bit is set, so a subtraction takes that away and no other.)
        self.0.fetch_sub(1 << number, Ordering::Release);
    }
}

/// The policy's time. It goes on by one after a number of ticks, and orders nothing.
#[derive(Debug)]
pub(crate) struct Clock {
    now: AtomicU32,
    ticks: AtomicU32,
}

impl Default for Clock {
    fn default() -> Self {
        Self { now: AtomicU32::new(0), ticks: AtomicU32::new(0) }
    }
}

impl Clock {
    #[inline]
    pub(crate) fn now(&self) -> u32 {
        // Relaxed: an estimate.
        self.now.load(Ordering::Relaxed)
    }

    /// Some of the `period` ticks that make the time go on.
    pub(crate) fn tick(&self, ticks: u32, period: u32) {
        // Relaxed, all three: ticks that are lost when two come to the end at once are lost.
        if self.ticks.fetch_add(ticks, Ordering::Relaxed) >= period.saturating_sub(ticks) {
            self.ticks.store(0, Ordering::Relaxed);
            self.now.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, ThreadIds, UserCount};

    #[test]
    fn the_last_to_leave_is_told() {
        let holders = UserCount::default();
        holders.enter();
        holders.enter();
        assert_eq!((holders.leave(), holders.count(), holders.leave()), (false, 1, true));
    }

    #[test]
    fn a_number_is_for_one_at_a_time() {
        let numbers = ThreadIds::default();
        assert!((0..64).all(|number| numbers.take() == Some(number)));
        assert_eq!(numbers.take(), None);
        numbers.leave(40);
        numbers.leave(7);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(7), Some(40), None]);
    }

    #[test]
    fn time_goes_on_after_a_period() {
        let clock = Clock::default();
        (0..100).for_each(|_| clock.tick(1, 10));
        assert_eq!(clock.now(), 10);
        (0..3).for_each(|_| clock.tick(4, 10));
        assert_eq!(clock.now(), 11);
    }
}
