//! The same names as the library's `sync`, made of loom's types.

use std::time::Duration;

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicPtr, Ordering, fence};
pub(crate) use loom::sync::{LockResult, Mutex, MutexGuard};
/// Not modelled: they only keep and make memory. (And loom's `Arc` cannot be a receiver.)
pub(crate) use std::sync::{Arc, OnceLock};

pub(crate) use crate::epoch;

pub(crate) use AtomicU64 as ProcessU64;

/// Whether memory was freed: loom does not see that. Dropping writes it, and each access of what it belongs to reads it.
#[derive(Debug)]
struct Mark(UnsafeCell<bool>);

// SAFETY: loom's cell checks every access itself.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

impl Default for Mark {
    fn default() -> Self {
        Self(UnsafeCell::new(false))
    }
}

impl Mark {
    fn assert_not_freed(&self) {
        // SAFETY: loom's cell checks that nobody writes meanwhile.
        assert!(!self.0.with(|is_freed| unsafe { *is_freed }), "touched after it was freed");
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: loom's cell checks that nobody looks meanwhile.
            self.0.with_mut(|is_freed| unsafe { *is_freed = true });
        }
    }
}

/// loom's, with a turn for the other threads before each access, and a mark.
///
/// Plain loom explores fewer orders of accesses to one word than there are, and lets some broken protocols pass; a store
/// to another atomic right before makes it look at them.
macro_rules! word {
    ($name:ident, $number:ident) => {
        #[derive(Debug)]
        pub(crate) struct $name {
            word: loom::sync::atomic::$name,
            turn: loom::sync::atomic::AtomicU8,
            mark: Mark,
        }

        #[allow(dead_code, reason = "not every word needs every verb")]
        impl $name {
            pub(crate) fn new(value: $number) -> Self {
                Self {
                    word: loom::sync::atomic::$name::new(value),
                    turn: loom::sync::atomic::AtomicU8::new(0),
                    mark: Mark::default(),
                }
            }

            fn word(&self) -> &loom::sync::atomic::$name {
                self.turn.store(0, Ordering::Relaxed);
                self.mark.assert_not_freed();
                &self.word
            }

            pub(crate) fn load(&self, order: Ordering) -> $number {
                self.word().load(order)
            }

            pub(crate) fn store(&self, value: $number, order: Ordering) {
                self.word().store(value, order);
            }

            pub(crate) fn swap(&self, value: $number, order: Ordering) -> $number {
                self.word().swap(value, order)
            }

            pub(crate) fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                self.word().fetch_add(value, order)
            }

            pub(crate) fn fetch_sub(&self, value: $number, order: Ordering) -> $number {
                self.word().fetch_sub(value, order)
            }

            pub(crate) fn fetch_or(&self, value: $number, order: Ordering) -> $number {
                self.word().fetch_or(value, order)
            }

            pub(crate) fn fetch_min(&self, value: $number, order: Ordering) -> $number {
                self.word().fetch_min(value, order)
            }

            pub(crate) fn fetch_max(&self, value: $number, order: Ordering) -> $number {
                self.word().fetch_max(value, order)
            }

            pub(crate) fn compare_exchange(
                &self,
                now: $number,
                new: $number,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$number, $number> {
                self.word().compare_exchange(now, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                now: $number,
                new: $number,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$number, $number> {
                self.word().compare_exchange_weak(now, new, success, failure)
            }
        }
    };
}

word!(AtomicU32, u32);
word!(AtomicU64, u64);
word!(AtomicUsize, usize);

/// loom's, except that time is always over at once: loom's own never is.
#[derive(Debug)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        Ok((guard, ()))
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Both barriers are fences, as the library has them where the system has nothing better; that the system's own are as strong is
/// the system's promise. Or there is none: the light one is nothing then, as with the system's own, and the heavy one is refused.
pub(crate) mod barrier {
    use std::cell::Cell;

    use super::{Ordering, fence};

    std::thread_local! {
        // loom runs all threads of a model on one.
        static IS_REFUSED: Cell<bool> = const { Cell::new(false) };
    }

    /// In what `explore` explores.
    pub(crate) fn refused(explore: impl FnOnce()) {
        IS_REFUSED.set(true);
        explore();
        IS_REFUSED.set(false);
    }

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Barrier {
        is_refused: bool,
    }

    impl Barrier {
        pub(crate) fn best() -> Self {
            Self { is_refused: IS_REFUSED.get() }
        }

        pub(crate) fn light(self) {
            if !self.is_refused {
                fence(Ordering::SeqCst);
            }
        }

        pub(crate) fn heavy(self) -> bool {
            if !self.is_refused {
                fence(Ordering::SeqCst);
            }
            !self.is_refused
        }
    }
}
