//! The machine as shuttle plays it: what `src/sync.rs` offers, with a choice of the scheduler at each step.
#![allow(unsafe_code)]

/// The real epoch. It takes all of shuttle's threads for one, and so frees when none of them is pinned.
#[path = "../../src/sync/epoch.rs"]
pub(crate) mod epoch;

use std::sync::atomic::{AtomicIsize, Ordering as Real};

pub(crate) use shuttle::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use shuttle::thread;
/// A thread of the process leaves its number when no schedule runs any more.
pub(crate) use std::sync::atomic::AtomicU64 as ProcessU64;
// Neither waits for another thread in a way that the scheduler would have to know of.
pub(crate) use std::sync::{Arc, OnceLock};

/// All of shuttle's threads take turns on one, so there is nothing to order; but somebody else may go on here.
pub(crate) fn fence(_: Ordering) {
    thread::yield_now();
}

/// As a fence: nothing to order, and somebody else may go on.
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

/// A cell that lets others go on while somebody is in it, and notices if they come in.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T> {
    value: std::cell::UnsafeCell<T>,
    /// How many read it now; −1: somebody writes.
    inside: AtomicIsize,
}

impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: std::cell::UnsafeCell::new(value), inside: AtomicIsize::new(0) }
    }

    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        assert!(self.inside.fetch_add(1, Real::Relaxed) >= 0, "a cell is read while it is written");
        thread::yield_now();
        let result = read(self.value.get());
        self.inside.fetch_sub(1, Real::Relaxed);
        result
    }

    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        assert_eq!(self.inside.swap(-1, Real::Relaxed), 0, "a cell is written while others are in it");
        thread::yield_now();
        let result = write(self.value.get());
        self.inside.store(0, Real::Relaxed);
        result
    }
}
