//! The library's `sync`, with the same names, built on loom's types.

use std::time::Duration;

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicPtr, Ordering, fence};
pub(crate) use loom::sync::{LockResult, Mutex, MutexGuard};
// Not modelled: these types only own and create memory. Loom's `Arc` cannot be a method receiver (`self: &Arc<Self>`).
pub(crate) use std::sync::{Arc, OnceLock};

pub(crate) use crate::epoch;

pub(crate) use AtomicU64 as ProcessU64;

/// Aborts the process, as the library does.
pub(crate) fn abort(message: &str) -> ! {
    eprint!("{message}");
    std::process::abort()
}

/// A flag that makes a use after free visible: loom itself does not track freed memory.
///
/// Dropping the flag writes it, and each access of the atomic that contains it reads it. Loom reports a read that races
/// with the write, and the assertion reports a read after it.
#[derive(Debug)]
struct FreedFlag(UnsafeCell<bool>);

// SAFETY: loom's cell checks every access itself.
unsafe impl Send for FreedFlag {}
// SAFETY: as above.
unsafe impl Sync for FreedFlag {}

impl Default for FreedFlag {
    fn default() -> Self {
        Self(UnsafeCell::new(false))
    }
}

impl FreedFlag {
    fn assert_not_freed(&self) {
        // SAFETY: loom's cell checks that no write is concurrent.
        assert!(!self.0.with(|is_freed| unsafe { *is_freed }), "accessed after it was freed");
    }
}

impl Drop for FreedFlag {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: loom's cell checks that no other access is concurrent.
            self.0.with_mut(|is_freed| unsafe { *is_freed = true });
        }
    }
}

/// Defines an atomic that wraps loom's, with a store to another atomic before each access, and a [`FreedFlag`].
///
/// Loom alone does not explore all orders of accesses to one atomic, so some broken protocols would pass. A store to
/// another atomic directly before each access adds a point where loom can switch threads.
macro_rules! atomic {
    ($name:ident, $number:ident) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            word: loom::sync::atomic::$name,
            switch_point: loom::sync::atomic::AtomicU8,
            freed: FreedFlag,
        }

        #[allow(dead_code, reason = "not every type is used with every operation")]
        impl $name {
            pub(crate) fn new(value: $number) -> Self {
                Self {
                    word: loom::sync::atomic::$name::new(value),
                    switch_point: loom::sync::atomic::AtomicU8::new(0),
                    freed: FreedFlag::default(),
                }
            }

            fn word(&self) -> &loom::sync::atomic::$name {
                self.switch_point.store(0, Ordering::Relaxed);
                self.freed.assert_not_freed();
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
                current: $number,
                new: $number,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$number, $number> {
                self.word().compare_exchange(current, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                current: $number,
                new: $number,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$number, $number> {
                self.word().compare_exchange_weak(current, new, success, failure)
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

/// Loom's `Condvar`, except that a wait with a timeout times out at once. In loom's own, such a wait never times out.
#[derive(Debug, Default)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        Ok((guard, ()))
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Both barriers are SeqCst fences, as in the library on systems without a process-wide barrier. The models do not
/// check that the OS's barrier is as strong; the OS guarantees that.
///
/// In a model under [`unavailable`](barrier::unavailable), the OS refuses the barrier. The light barrier is then no
/// instruction, as with the OS's own, and the heavy barrier fails.
pub(crate) mod barrier {
    use std::cell::Cell;

    use super::{Ordering, fence};

    std::thread_local! {
        // Loom runs all threads of a model on one OS thread.
        static IS_UNAVAILABLE: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `explore` with a barrier that the OS refuses.
    pub(crate) fn unavailable(explore: impl FnOnce()) {
        IS_UNAVAILABLE.set(true);
        explore();
        IS_UNAVAILABLE.set(false);
    }

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Barrier {
        is_unavailable: bool,
    }

    impl Barrier {
        pub(crate) fn best() -> Self {
            Self { is_unavailable: IS_UNAVAILABLE.get() }
        }

        pub(crate) fn light(self) {
            if !self.is_unavailable {
                fence(Ordering::SeqCst);
            }
        }

        pub(crate) fn heavy(self) -> bool {
            if !self.is_unavailable {
                fence(Ordering::SeqCst);
            }
            !self.is_unavailable
        }
    }
}
