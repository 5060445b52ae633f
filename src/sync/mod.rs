//! The primitives that `protocol/` is built from: atomics, fences, cells, locks, barriers and the epoch.
//!
//! `loom-tests/` compiles `protocol/`, and `shuttle-tests/` the whole cache, against a `sync` of their own, with the
//! same names and with the model checker's types. So this module exports only names that are used. Cells are accessed
//! through [`UnsafeCell::with`] and [`UnsafeCell::with_mut`], as loom requires, and there is no `const fn new`.

use std::io::{self, Write as _};
use std::process;

pub(crate) mod barrier;
pub(crate) mod epoch;

/// An atomic for state that belongs to the process. Such state outlives a schedule of shuttle, so shuttle does not
/// model it.
pub(crate) use std::sync::atomic::AtomicU64 as ProcessU64;
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
pub(crate) use std::thread;

/// `std::cell::UnsafeCell` with loom's access methods, so that a model checks each access.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Calls `read` with the cell's address. The caller's `unsafe` block must justify that no thread writes
    /// concurrently.
    #[inline(always)]
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// As [`with`](Self::with), but no other thread may access the cell concurrently.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// Prints `message` to standard error and aborts the process. Allocates nothing, and ignores an error of the output.
#[cold]
pub(crate) fn abort(message: &str) -> ! {
    let _ = io::stderr().write_all(message.as_bytes());
    process::abort()
}
