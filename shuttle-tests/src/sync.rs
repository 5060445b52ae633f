//! The library's `sync`, with the same names, built on shuttle's types: its scheduler chooses the thread at each step.
#![allow(unsafe_code)]

/// The library's epoch. All of shuttle's threads are one thread to it, so it frees memory only when none of them is
/// pinned.
#[path = "../../src/sync/epoch.rs"]
pub(crate) mod epoch;

use std::sync::atomic::{AtomicIsize, Ordering as StdOrdering};

pub(crate) use shuttle::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use shuttle::thread;
/// A `std` atomic: a thread of the process returns its id when it exits, outside every schedule.
pub(crate) use std::sync::atomic::AtomicU64 as ProcessU64;
// `std` types: neither waits for another thread in a way that the scheduler must know.
pub(crate) use std::sync::{Arc, OnceLock};

/// Aborts the process, as the library does.
pub(crate) fn abort(message: &str) -> ! {
    eprint!("{message}");
    std::process::abort()
}

/// Yields to the scheduler. All of shuttle's threads run on one OS thread, so a fence has nothing to order.
pub(crate) fn fence(_: Ordering) {
    thread::yield_now();
}

/// Barriers that yield to the scheduler, and have nothing to order, as [`fence`].
pub(crate) mod barrier {
    use shuttle::thread;

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Barrier;

    impl Barrier {
        pub(crate) fn best() -> Self {
            Self
        }

        pub(crate) fn light(self) {
            thread::yield_now();
        }

        pub(crate) fn heavy(self) -> bool {
            thread::yield_now();
            true
        }
    }
}

/// A cell that yields to the scheduler during each access, and asserts that no access conflicts with another.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T> {
    value: std::cell::UnsafeCell<T>,
    /// The number of readers in the cell, or −1 if a writer is in it.
    accesses: AtomicIsize,
}

impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: std::cell::UnsafeCell::new(value), accesses: AtomicIsize::new(0) }
    }

    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        assert!(self.accesses.fetch_add(1, StdOrdering::Relaxed) >= 0, "a cell is read while it is written");
        thread::yield_now();
        let result = read(self.value.get());
        self.accesses.fetch_sub(1, StdOrdering::Relaxed);
        result
    }

    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        assert_eq!(self.accesses.swap(-1, StdOrdering::Relaxed), 0, "a cell is written during another access");
        thread::yield_now();
        let result = write(self.value.get());
        self.accesses.store(0, StdOrdering::Relaxed);
        result
    }
}
