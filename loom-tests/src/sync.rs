//! The same names as the library's `sync`, made of loom's types.

pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use loom::sync::{Condvar, Mutex};
/// Not modelled: they only keep and make memory. (And loom's `Arc` cannot be a receiver.)
pub(crate) use std::sync::{Arc, OnceLock};

pub(crate) use loom::cell::UnsafeCell;

/// loom's, with a turn for the other threads before each access.
///
/// Plain loom explores fewer orders of accesses to one word than there are, and lets some broken protocols pass; a store
/// to another atomic right before makes it look at them.
#[derive(Debug)]
pub(crate) struct AtomicU32 {
    word: loom::sync::atomic::AtomicU32,
    turn: loom::sync::atomic::AtomicU32,
}

impl AtomicU32 {
    pub(crate) fn new(value: u32) -> Self {
        Self { word: loom::sync::atomic::AtomicU32::new(value), turn: loom::sync::atomic::AtomicU32::new(0) }
    }

    fn word(&self) -> &loom::sync::atomic::AtomicU32 {
        self.turn.store(0, Ordering::Relaxed);
        &self.word
    }

    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.word().load(order)
    }

    pub(crate) fn store(&self, value: u32, order: Ordering) {
        self.word().store(value, order);
    }

    pub(crate) fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.word().swap(value, order)
    }

    pub(crate) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.word().fetch_add(value, order)
    }

    pub(crate) fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.word().fetch_sub(value, order)
    }

    pub(crate) fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
        self.word().fetch_or(value, order)
    }

    pub(crate) fn fetch_max(&self, value: u32, order: Ordering) -> u32 {
        self.word().fetch_max(value, order)
    }

    pub(crate) fn compare_exchange(&self, now: u32, new: u32, ok: Ordering, err: Ordering) -> Result<u32, u32> {
        self.word().compare_exchange(now, new, ok, err)
    }

    pub(crate) fn compare_exchange_weak(&self, now: u32, new: u32, ok: Ordering, err: Ordering) -> Result<u32, u32> {
        self.word().compare_exchange_weak(now, new, ok, err)
    }
}

/// A stand-in: nothing that is retired is freed within a model, and pinning is free. The models of slots need no more; the
/// epoch itself gets a model of its own.
pub(crate) mod epoch {
    #[derive(Debug)]
    pub(crate) struct Guard;
}
