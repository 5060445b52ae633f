//! One-word atomics with fixed orderings: [`FencedU64`], [`UserCount`], [`ThreadIds`] and [`Clock`].

use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering, ProcessU64, fence};

/// A number that is stored seldom and loaded often, for example the length of a file.
///
/// A *storing thread* stores a new length, and then drains the slots that it finds in the file's table. A *loader*
/// makes a slot, and then loads the length. A SeqCst fence between the two steps of each thread prevents that both miss
/// the other's first step: the loader loads the new length, or the storing thread finds the new slot.
#[derive(Debug)]
pub(crate) struct FencedU64(AtomicU64);

impl FencedU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Returns the number, with all that happened before it was stored.
    #[inline]
    pub(crate) fn load(&self) -> u64 {
        // Acquire: pairs with the Release in `store_then_fence`.
        self.0.load(Ordering::Acquire)
    }

    /// Returns the number, for a loader that has made a slot.
    ///
    /// The loader either loads the number that [`store_then_fence`](Self::store_then_fence) stored, or a later one, or
    /// the storing thread then finds the loader's slot.
    pub(crate) fn load_after_fence(&self) -> u64 {
        // SeqCst: pairs with the fence in `store_then_fence`. It orders the slot's making before the load below.
        fence(Ordering::SeqCst);
        self.load()
    }

    /// Stores `value`, before the caller searches for slots that loaders made. See
    /// [`load_after_fence`](Self::load_after_fence).
    pub(crate) fn store_then_fence(&self, value: u64) {
        // Release: pairs with the Acquire in `load`, and publishes what the caller did before. For a slot that already
        // exists, the drain that follows (Release) publishes the value to the slot's next loader.
        self.0.store(value, Ordering::Release);
        // SeqCst: pairs with the fence in `load_after_fence`. It orders the store above before the caller's search.
        fence(Ordering::SeqCst);
    }
}

/// A count of users of an object. The last user to leave has a duty, for example to close the object.
#[derive(Debug, Default)]
pub(crate) struct UserCount(AtomicUsize);

impl UserCount {
    pub(crate) fn enter(&self) {
        // Relaxed: another atomic (a slot's word, or a lock) orders the new user against the last one to leave.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes a user. Returns `true` if it was the last one.
    #[must_use = "the last user has a duty: check for `true`"]
    pub(crate) fn leave(&self) -> bool {
        // AcqRel: pairs with itself. What all other users did happens before the duty of the last one.
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(before, 0, "`leave` was called more often than `enter`");
        before == 1
    }

    pub(crate) fn count(&self) -> usize {
        // Acquire: pairs with the Release in `leave`. If the count is 0, all that the users did is visible.
        self.0.load(Ordering::Acquire)
    }
}

/// Numbers below 64. Each belongs to at most one thread of the process at a time.
#[derive(Debug, Default)]
pub(crate) struct ThreadIds(ProcessU64);

impl ThreadIds {
    /// Takes the smallest free number. Returns `None` if all are taken. The caller sees what the number's former owner
    /// did.
    pub(crate) fn take(&self) -> Option<u32> {
        // Relaxed: a first guess.
        let mut taken = self.0.load(Ordering::Relaxed);
        loop {
            let number = (!taken).trailing_zeros();
            if number == u64::BITS {
                return None;
            }
            // Acquire: pairs with the Release in `leave`. Relaxed on failure: no number was taken.
            match self.0.compare_exchange_weak(taken, taken | 1 << number, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(number),
                Err(actual) => taken = actual,
            }
        }
    }

    /// Frees `number`, which the caller has taken. Its next owner sees what the caller did.
    pub(crate) fn leave(&self, number: u32) {
        // Release: pairs with the Acquire in `take`. The subtraction clears exactly this bit, since the bit is set.
        self.0.fetch_sub(1 << number, Ordering::Release);
    }
}

/// The policy's time, counted in periods of many ticks. It orders no memory accesses.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: AtomicU32,
    ticks: AtomicU32,
}

impl Clock {
    /// Returns the number of periods that have ended.
    #[inline]
    pub(crate) fn now(&self) -> u32 {
        // Relaxed: an estimate.
        self.now.load(Ordering::Relaxed)
    }

    /// Counts `ticks`, and ends the period if they complete `period` ticks. Ticks beyond the end of a period are
    /// dropped.
    pub(crate) fn tick(&self, ticks: u32, period: u32) {
        // Relaxed, all three: an estimate. If two threads end a period at once, some ticks are lost.
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
    fn leave_returns_true_for_the_last_user_only() {
        let users = UserCount::default();
        users.enter();
        users.enter();
        assert_eq!((users.leave(), users.count(), users.leave()), (false, 1, true));
    }

    #[test]
    fn take_returns_each_number_once_until_it_is_freed() {
        let ids = ThreadIds::default();
        assert!((0..64).all(|number| ids.take() == Some(number)));
        assert_eq!(ids.take(), None);
        ids.leave(40);
        ids.leave(7);
        assert_eq!([ids.take(), ids.take(), ids.take()], [Some(7), Some(40), None]);
    }

    #[test]
    fn clock_advances_by_one_after_each_period() {
        let clock = Clock::default();
        (0..100).for_each(|_| clock.tick(1, 10));
        assert_eq!(clock.now(), 10);
        (0..3).for_each(|_| clock.tick(4, 10));
        assert_eq!(clock.now(), 11);
    }
}
