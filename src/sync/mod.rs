//! The machine as `protocol/` sees it: atomics, fences, cells, locks, and the door to the epoch.
//!
//! `loom-tests/` compiles the files of `protocol/` against a `sync` of its own with the same names, made of loom's
//! types. So this face stays narrow: it exports what is used and nothing else, cells are reached through
//! [`UnsafeCell::with`] and [`UnsafeCell::with_mut`], and there is no `const fn new`.

pub(crate) mod barrier;
pub(crate) mod epoch;

/// Of a word that belongs to the process: no schedule of shuttle's begins or ends with it.
pub(crate) use std::sync::atomic::AtomicU64 as ProcessU64;
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
