//! The machine as `protocol/` sees it: atomics, fences, cells, locks, and the door to the epoch.
//!
//! `loom-tests/` compiles the files of `protocol/` against a `sync` of its own with the same names, made of loom's
//! types. So this face stays narrow: it exports what is used and nothing else, cells are reached through
//! [`UnsafeCell::with`] and [`UnsafeCell::with_mut`], and there is no `const fn new`.

pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
pub(crate) use std::thread;

/// `std::cell::UnsafeCell` with loom's way of reaching in, so that a model sees each access.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// For reading. The caller's `unsafe` block says why nobody writes meanwhile.
    #[inline(always)]
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// For writing. The caller's `unsafe` block says why nobody else looks meanwhile.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// The epoch: what lets an evictor look at a slot that it does not own.
///
/// Memory handed to [`retire`](epoch::retire) is freed only when every [`Guard`](epoch::Guard) that existed at that
/// moment is gone. A hit never pins. The epoch holds *slots* back, never a mapping: those are unmapped at once by
/// whoever owns them.
pub(crate) mod epoch {
    pub(crate) use crossbeam_epoch::{Guard, pin};

    /// Frees `value` once nobody who is pinned now can still see it.
    pub(crate) fn retire<T: Send + 'static>(value: Box<T>) {
        let guard = pin();
        // `defer` wants a closure that may run on another thread: dropping a box of `Send` is one.
        guard.defer(move || drop(value));
    }

    /// Gives what this thread retired to the others, and frees what is old enough. For the collector.
    pub(crate) fn flush() {
        pin().flush();
    }
}

/// What is [retired](epoch::retire) when it is dropped: for what others may still be looking at.
#[derive(Debug)]
pub(crate) struct Retired<T: Send + 'static>(Option<Box<T>>);

impl<T: Send + 'static> Retired<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(Box::new(value)))
    }
}

impl<T: Send + 'static> std::ops::Deref for Retired<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("taken in drop only"),
        }
    }
}

impl<T: Send + 'static> Drop for Retired<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            epoch::retire(value);
        }
    }
}
