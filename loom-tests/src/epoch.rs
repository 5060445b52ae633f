//! A model of the epoch: who is pinned says so in a flag of its own, and who retires memory looks at the flags.
//!
//! It never blocks: what cannot be freed at once is not freed in this execution. That memory is freed at some time after
//! all have unpinned is the real epoch's business, which stands in for this file in `epoch/`.

use std::any::Any;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicUsize, Ordering, fence};

/// Threads of a model that may pin.
const THREADS: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Epoch {
    is_pinned: [AtomicUsize; THREADS],
    /// Memory that was freed in this execution stays until its end, so that a late look at it reads its mark.
    graves: Mutex<Vec<Box<dyn Any + Send>>>,
}

#[derive(Debug)]
pub(crate) struct Guard {
    epoch: Arc<Epoch>,
    thread: usize,
}

impl Epoch {
    /// Pins the thread of this number.
    pub(crate) fn pin(self: &Arc<Self>, thread: usize) -> Guard {
        // Relaxed: the fence orders it.
        self.is_pinned[thread].store(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `retire`: either that thread sees this flag, or this one does not find what
        // was unlinked.
        fence(Ordering::SeqCst);
        Guard { epoch: Arc::clone(self), thread }
    }

    /// Frees what was unlinked if nobody is pinned, or keeps it to the end of the execution.
    pub(crate) fn retire<T: Send + 'static>(&self, unlinked: Box<T>) {
        // SeqCst: pairs with the fence in `pin`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release when a guard goes.
        if self.is_pinned.iter().all(|is_pinned| is_pinned.load(Ordering::Acquire) == 0) {
            self.free(unlinked);
        } else {
            self.bury(Box::into_raw(unlinked));
        }
    }

    /// Drops it, which marks its words; its memory stays to the end of the execution.
    pub(crate) fn free<T: Send + 'static>(&self, memory: Box<T>) {
        let memory = Box::into_raw(memory);
        // SAFETY: from a box; it is not dropped again, since `bury` takes it as bytes.
        unsafe { memory.drop_in_place() };
        self.bury(memory);
    }

    fn bury<T: Send + 'static>(&self, memory: *mut T) {
        // SAFETY: from a box of the same layout.
        let grave: Box<MaybeUninit<T>> = unsafe { Box::from_raw(memory.cast()) };
        self.graves.lock().expect("no panic").push(grave);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.epoch.is_pinned[self.thread].store(0, Ordering::Release);
    }
}
